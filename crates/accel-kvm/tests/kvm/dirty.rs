//! The dirty log: every page that the guest stored to, and no other.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use accel_kvm::{Capabilities, DirtyLogKind, KvmVcpu, bare};
use cpu::{CpuState, Exit, Vcpu};
use memory::{GuestRam, PAGE_SIZE};

use crate::guest::{Guest, TestBus, model};
use crate::{Test, basic, program};

pub const TESTS: &[Test] = &[
    basic("a bitmap that is cleared by hand logs a million stores", || {
        exact(DirtyLogKind::ClearBitmap, 500);
    }),
    basic("a bitmap that is cleared as it is read logs every store", || {
        exact(DirtyLogKind::Bitmap, 50);
    }),
    basic("rings log every store", || exact(DirtyLogKind::Ring, 50)),
    basic("a full ring is emptied within the run", full_ring),
    basic("the page walker's stores are in the log", page_walker),
    basic("a copy kept up by harvests beside the guest is whole", beside_the_guest),
    basic("stores while the log is off are not in it", off_and_on),
];

const BYTES: u64 = 32 << 20;
/// The area that the guest stores to: past the first MiB.
const AREA: u64 = 1 << 20;
const AREA_PAGES: u64 = 4096;
/// Marks an entry of a page table as used and written to.
const USED: u64 = 1 << 5 | 1 << 6;
const TABLES: [u64; 4] = [0x1000, 0x2000, 0x3000, 0x4000];

/// Stores to pages of the area that a generator picks, `RSI` at a time. `RBX` is the generator's
/// state; the end of each batch is a store to memory that is no RAM, which ring 3 may do too.
fn storing() -> &'static [u8] {
    program!(
        "mov r8, 6364136223846793005",
        "mov r9, 1442695040888963407",
        "mov edi, 0xfeb00ff0",
        "2: mov ecx, esi",
        "3: imul rbx, r8",
        "add rbx, r9",
        "mov rax, rbx",
        "shr rax, 33",
        "and eax, 0xfff",
        "shl eax, 12",
        "mov [rax + 0x100008], rbx",
        "dec ecx",
        "jnz 3b",
        "mov [rdi], esi",
        "jmp 2b",
    )
}

/// The page of the area that the generator picks next.
fn pick(generator: &mut u64) -> usize {
    *generator =
        generator.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*generator >> 33) as usize & (AREA_PAGES as usize - 1)
}

fn kinds() -> Vec<DirtyLogKind> {
    let capabilities = Capabilities::read().unwrap();
    let mut kinds = vec![DirtyLogKind::Bitmap];
    if capabilities.manual_dirty_clear {
        kinds.push(DirtyLogKind::ClearBitmap);
    }
    if capabilities.dirty_ring_bytes > 0 {
        kinds.push(DirtyLogKind::Ring);
    }
    kinds
}

/// Marks every entry of the page tables as used, so that the walker has nothing to store.
fn use_tables(ram: &GuestRam, used: bool) {
    for table in TABLES {
        for entry in (0..PAGE_SIZE as u64).step_by(8) {
            let mut bytes = [0; 8];
            ram.read(table + entry, &mut bytes).unwrap();
            let value = u64::from_le_bytes(bytes);
            let value = if used { value | USED } else { value & !USED };
            if value & 1 != 0 {
                ram.write(table + entry, &value.to_le_bytes()).unwrap();
            }
        }
    }
}

fn start(kind: DirtyLogKind, state: &CpuState, batch: u64) -> (Guest, KvmVcpu) {
    let guest = Guest::with_log(BYTES, kind, storing());
    use_tables(&guest.ram, true);
    let mut vcpu = guest.vcpu(0);
    let mut state = state.clone();
    state.general[3] = 1;
    state.general[6] = batch;
    vcpu.set_state(&state, 0).unwrap();
    (guest, vcpu)
}

fn harvest(guest: &Guest) -> BTreeSet<usize> {
    guest.kvm.harvest().unwrap();
    guest.ram.harvest().iter().collect()
}

/// Batches of a thousand stores from each ring: after each, the log holds exactly the pages of that batch. A KVM
/// without hardware behind it may count the page that ring 3 executes as stored to.
fn exact(kind: DirtyLogKind, batches: u32) {
    if !kinds().contains(&kind) {
        println!("this host has no such log");
        return;
    }
    let first_page = (AREA / PAGE_SIZE as u64) as usize;
    let code_page = (bare::CODE / PAGE_SIZE as u64) as usize;
    for (ring, state) in [(0, bare::ring_0(model())), (3, bare::ring_3(model()))] {
        let (guest, mut vcpu) = start(kind, &state, 1000);
        let mut bus = TestBus::default();
        guest.kvm.start_dirty_log().unwrap();
        guest.ram.harvest();
        let mut generator = 1;
        for batch in 0..batches {
            bus.run(&mut vcpu);
            bus.seen.clear();
            let stored: BTreeSet<usize> =
                (0..1000).map(|_| first_page + pick(&mut generator)).collect();
            let logged = harvest(&guest);
            let missing: Vec<_> = stored.difference(&logged).collect();
            let more: Vec<_> =
                logged.difference(&stored).filter(|page| **page != code_page).collect();
            assert!(
                missing.is_empty() && more.is_empty(),
                "ring {ring}, batch {batch}: missing {missing:?}, not stored to {more:?}"
            );
        }
    }
}

/// Many more stores in one run than a ring has entries. Where a vCPU runs on for long enough to
/// overflow the ring, every page counts as stored to; none is missing anywhere.
fn full_ring() {
    if !kinds().contains(&DirtyLogKind::Ring) {
        println!("this host has no rings");
        return;
    }
    let (guest, mut vcpu) = start(DirtyLogKind::Ring, &bare::ring_0(model()), 50_000);
    let mut bus = TestBus::default();
    guest.kvm.start_dirty_log().unwrap();
    guest.ram.harvest();
    let mut generator = 1;
    let first_page = (AREA / PAGE_SIZE as u64) as usize;
    for _ in 0..2 {
        bus.run(&mut vcpu);
        let stored: BTreeSet<usize> =
            (0..50_000).map(|_| first_page + pick(&mut generator)).collect();
        assert!(stored.len() > 4000);
        let logged = harvest(&guest);
        assert!(logged.is_superset(&stored));
        assert!(logged == stored || logged.len() == guest.ram.pages(), "{} pages", logged.len());
    }
}

fn page_walker() {
    for kind in kinds() {
        let (guest, mut vcpu) = start(kind, &bare::ring_3(model()), 10);
        let mut bus = TestBus::default();
        bus.run(&mut vcpu);
        use_tables(&guest.ram, false);
        // The processor may keep what it knows of the tables until CR3 is loaded.
        let state = vcpu.state(0).unwrap();
        vcpu.set_state(&state, 0).unwrap();
        guest.kvm.start_dirty_log().unwrap();
        guest.ram.harvest();
        bus.run(&mut vcpu);
        let logged = harvest(&guest);
        let bits = |address: u64| guest.long(address) & USED;
        for (table, entry) in [(1, 0x1000), (2, 0x2000), (3, 0x3000)] {
            if bits(entry) != 0 || (0..512).any(|index| bits(entry + 8 * index) != 0) {
                assert!(logged.contains(&table), "{kind:?}: table {table} in {logged:?}");
            }
        }
        assert_ne!(bits(0x1000), 0, "{kind:?}: the top entry was used");
        let dirty = (0..16).any(|index| guest.long(0x3000 + 8 * index) & 1 << 6 != 0);
        assert!(dirty, "{kind:?}: an entry was marked as written to");
    }
}

/// As a migration does it: harvest and copy while the guest stores, then once more at rest.
fn beside_the_guest() {
    for kind in kinds() {
        let (guest, mut vcpu) = start(kind, &bare::ring_3(model()), 20_000);
        guest.kvm.start_dirty_log().unwrap();
        guest.ram.harvest();
        let pages = guest.ram.pages();
        let mut copy = vec![[0u8; PAGE_SIZE]; pages];
        for (page, copy) in copy.iter_mut().enumerate() {
            guest.ram.read_page(page, copy);
        }
        let done = AtomicBool::new(false);
        let mut rounds = 0;
        thread::scope(|scope| {
            let running = scope.spawn(|| {
                let mut bus = TestBus::default();
                for _ in 0..5 {
                    bus.run(&mut vcpu);
                }
                done.store(true, Ordering::SeqCst);
            });
            loop {
                let last = done.load(Ordering::SeqCst);
                for page in harvest(&guest) {
                    guest.ram.read_page(page, &mut copy[page]);
                }
                rounds += 1;
                if last || running.is_finished() {
                    break;
                }
                // Between two harvests a migration sends pages; a guest whose every store is made
                // to fault again at once hardly gets on.
                thread::sleep(Duration::from_millis(1));
            }
            running.join().unwrap();
        });
        for page in harvest(&guest) {
            guest.ram.read_page(page, &mut copy[page]);
        }
        for (page, copy) in copy.iter().enumerate() {
            let mut now = [0; PAGE_SIZE];
            guest.ram.read_page(page, &mut now);
            assert!(now == *copy, "{kind:?}: page {page} is not what was copied ({rounds} rounds)");
        }
    }
}

fn off_and_on() {
    for kind in kinds() {
        let (guest, mut vcpu) = start(kind, &bare::ring_0(model()), 100);
        let mut bus = TestBus::default();
        bus.run(&mut vcpu);
        guest.ram.harvest();
        assert!(harvest(&guest).is_empty(), "{kind:?}: off");
        guest.kvm.start_dirty_log().unwrap();
        assert!(harvest(&guest).is_empty(), "{kind:?}: on, nothing stored");
        bus.run(&mut vcpu);
        guest.kvm.stop_dirty_log();
        bus.run(&mut vcpu);
        guest.kvm.start_dirty_log().unwrap();
        guest.ram.harvest();
        assert!(harvest(&guest).is_empty(), "{kind:?}: stored before it was on again");
        bus.run(&mut vcpu);
        assert!(!harvest(&guest).is_empty(), "{kind:?}: on again");
        assert_eq!(vcpu.run(&mut bus, 0).unwrap().exit, Exit::Attention);
    }
}
