//! Model-specific registers: which of the neutral state's KVM is asked for, and under which numbers.

use cpu::{CpuModel, CpuState, Feature, MachineCheckBank, msr};
use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::{MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, VcpuFd, VmFd};

use crate::KvmError;

const HAS_TSC_ADJUST: Feature = Feature { name: "tsc_adjust", leaf: 7, register: 1, bit: 1 };
const HAS_TSC_DEADLINE: Feature = Feature { name: "tsc_deadline", leaf: 1, register: 2, bit: 24 };

/// Which registers the model offers beyond those that every model has. The others are not asked of
/// KVM: the guest cannot reach them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offered {
    pub(crate) tsc_aux: bool,
    pub(crate) tsc_adjust: bool,
    pub(crate) tsc_deadline: bool,
}

impl Offered {
    pub(crate) fn by(model: &CpuModel) -> Self {
        Self {
            tsc_aux: model.has_tsc_aux(),
            tsc_adjust: model.has(&HAS_TSC_ADJUST),
            tsc_deadline: model.has(&HAS_TSC_DEADLINE),
        }
    }
}

/// A register's number and where the neutral state keeps it. EFER is among the special registers;
/// the TSC and its deadline have an order of their own.
fn each(offered: Offered, state: &mut CpuState, mut visit: impl FnMut(u32, &mut u64)) {
    let cpu::Msrs {
        efer: _,
        star,
        lstar,
        cstar,
        syscall_mask,
        kernel_gs_base,
        sysenter_cs,
        sysenter_esp,
        sysenter_eip,
        pat,
        mtrr_fixed,
        mtrr_default_type,
        mtrr_variable,
        misc_enable,
        tsc_aux,
        tsc_adjust,
        tsc_deadline: _,
        mcg_capabilities,
        mcg_status,
        mcg_control,
        machine_check_banks,
    } = &mut state.msrs;
    visit(msr::STAR, star);
    visit(msr::LSTAR, lstar);
    visit(msr::CSTAR, cstar);
    visit(msr::SYSCALL_MASK, syscall_mask);
    visit(msr::KERNEL_GS_BASE, kernel_gs_base);
    visit(msr::SYSENTER_CS, sysenter_cs);
    visit(msr::SYSENTER_ESP, sysenter_esp);
    visit(msr::SYSENTER_EIP, sysenter_eip);
    visit(msr::PAT, pat);
    for (number, value) in msr::MTRR_FIXED.into_iter().zip(mtrr_fixed) {
        visit(number, value);
    }
    for (number, range) in (msr::MTRR_VARIABLE_BASE..).step_by(2).zip(mtrr_variable) {
        visit(number, &mut range.base);
        visit(number + 1, &mut range.mask);
    }
    // The enables come after the ranges that they enable.
    visit(msr::MTRR_DEFAULT_TYPE, mtrr_default_type);
    visit(msr::MISC_ENABLE, misc_enable);
    if offered.tsc_aux {
        visit(msr::TSC_AUX, tsc_aux);
    }
    if offered.tsc_adjust {
        visit(msr::TSC_ADJUST, tsc_adjust);
    }
    // MCG_CTL is there if the capabilities say so (Intel SDM volume 3, section 16.3.1.1).
    if *mcg_capabilities & 1 << 8 != 0 {
        visit(msr::MCG_CTL, mcg_control);
    }
    visit(msr::MCG_STATUS, mcg_status);
    for (number, bank) in (msr::MC0_CTL..).step_by(4).zip(machine_check_banks) {
        let MachineCheckBank { control, status, address, miscellaneous } = bank;
        visit(number, control);
        visit(number + 1, status);
        visit(number + 2, address);
        visit(number + 3, miscellaneous);
    }
}

/// The registers that always read the same, whatever is written to them.
fn constants(model: &CpuModel) -> [(u32, u64); 2] {
    [
        (msr::MICROCODE_REVISION, model.microcode_revision()),
        (msr::MTRR_CAPABILITIES, msr::MTRR_CAPABILITIES_VALUE),
    ]
}
/// What else the software CPU lets a guest reach, and the state has elsewhere or not at all.
const ELSEWHERE: [u32; 8] = [
    msr::TSC,
    msr::APIC_BASE,
    msr::MCG_CAP,
    msr::EFER,
    msr::FS_BASE,
    msr::GS_BASE,
    msr::SYSTEM_CONFIGURATION,
    msr::INTERRUPT_PENDING,
];
/// First number and length of the ranges in which all of them lie.
const RANGES: [(u32, u32); 4] =
    [(0, 0x480), (msr::TSC_DEADLINE, 8), (0xc000_0080, 0x90), (0xc001_0010, 0x48)];

/// Lets a guest reach the registers that a state carries, and no others: an access to any other
/// raises #GP, as on the software CPU, instead of changing what a move would leave behind.
pub(crate) fn confine(vm: &VmFd, model: &CpuModel) -> Result<(), KvmError> {
    let offered = Offered::by(model);
    let mut allowed: Vec<u32> = ELSEWHERE.to_vec();
    allowed.extend(constants(model).map(|(number, _)| number));
    each(offered, &mut CpuState::at_reset(model, 0), |number, _| allowed.push(number));
    if offered.tsc_deadline {
        allowed.push(msr::TSC_DEADLINE);
    }
    let bitmaps = RANGES.map(|(first, count)| {
        let mut bitmap = vec![0u8; count as usize / 8];
        for offset in allowed.iter().map(|number| number.wrapping_sub(first)) {
            if offset < count {
                bitmap[offset as usize / 8] |= 1 << (offset % 8);
            }
        }
        bitmap
    });
    let ranges: Vec<MsrFilterRange<'_>> = RANGES
        .into_iter()
        .zip(&bitmaps)
        .map(|((base, msr_count), bitmap)| MsrFilterRange {
            flags: MsrFilterRangeFlags::READ | MsrFilterRangeFlags::WRITE,
            base,
            msr_count,
            bitmap,
        })
        .collect();
    vm.set_msr_filter(MsrFilterDefaultAction::DENY, &ranges)
        .map_err(KvmError::call("KVM_X86_SET_MSR_FILTER"))
}

/// Sets the registers that never change, where the host has another value by itself.
pub(crate) fn set_constants(vcpu: &VcpuFd, model: &CpuModel) -> Result<(), KvmError> {
    for (number, value) in constants(model) {
        if read(vcpu, number)? != value {
            write(vcpu, number, value)?;
        }
        let there = read(vcpu, number)?;
        if there != value {
            return Err(KvmError::State(format!(
                "msr {number:#x} reads as {there:#x} instead of {value:#x}"
            )));
        }
    }
    Ok(())
}

fn list(entries: &[kvm_msr_entry]) -> Result<Msrs, KvmError> {
    Msrs::from_entries(entries)
        .map_err(|_| KvmError::State("there are too many model-specific registers".to_owned()))
}

fn entry(index: u32, data: u64) -> kvm_msr_entry {
    kvm_msr_entry { index, data, ..kvm_msr_entry::default() }
}

/// Sets registers, in order.
fn set(vcpu: &VcpuFd, entries: &[kvm_msr_entry]) -> Result<(), KvmError> {
    let done = vcpu.set_msrs(&list(entries)?).map_err(KvmError::call("KVM_SET_MSRS"))?;
    match entries.get(done) {
        None => Ok(()),
        Some(refused) => Err(KvmError::State(format!(
            "msr {:#x} does not take {:#x}",
            refused.index, refused.data
        ))),
    }
}

/// Reads registers, in order.
fn get(vcpu: &VcpuFd, entries: &[kvm_msr_entry]) -> Result<Msrs, KvmError> {
    let mut msrs = list(entries)?;
    let done = vcpu.get_msrs(&mut msrs).map_err(KvmError::call("KVM_GET_MSRS"))?;
    match entries.get(done) {
        None => Ok(msrs),
        Some(refused) => Err(KvmError::State(format!("msr {:#x} cannot be read", refused.index))),
    }
}

/// Sets every register that the state and the model share.
pub(crate) fn set_all(vcpu: &VcpuFd, offered: Offered, state: &CpuState) -> Result<(), KvmError> {
    let mut entries = Vec::new();
    each(offered, &mut state.clone(), |index, value| entries.push(entry(index, *value)));
    set(vcpu, &entries)
}

/// Reads them into `state`, whose machine-check banks are as many as the model's.
pub(crate) fn get_all(
    vcpu: &VcpuFd,
    offered: Offered,
    state: &mut CpuState,
) -> Result<(), KvmError> {
    let mut entries = Vec::new();
    each(offered, state, |index, _| entries.push(entry(index, 0)));
    let read = get(vcpu, &entries)?;
    let mut values = read.as_slice().iter();
    each(offered, state, |_, value| {
        *value = values.next().map_or(*value, |entry| entry.data);
    });
    Ok(())
}

/// One register's value.
pub(crate) fn read(vcpu: &VcpuFd, index: u32) -> Result<u64, KvmError> {
    let read = get(vcpu, &[entry(index, 0)])?;
    Ok(read.as_slice().first().map_or(0, |entry| entry.data))
}

/// Sets one register.
pub(crate) fn write(vcpu: &VcpuFd, index: u32, value: u64) -> Result<(), KvmError> {
    set(vcpu, &[entry(index, value)])
}

/// The TSC deadline. KVM takes it only once the local APIC's timer is in that mode.
pub(crate) fn deadline(vcpu: &VcpuFd) -> Result<u64, KvmError> {
    read(vcpu, msr::TSC_DEADLINE)
}

pub(crate) fn set_deadline(vcpu: &VcpuFd, value: u64) -> Result<(), KvmError> {
    write(vcpu, msr::TSC_DEADLINE, value)
}
