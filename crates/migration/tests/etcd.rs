//! The record in a real etcd, started here on loopback with a folder of its own.

mod support;

use std::thread;
use std::time::Duration;

use migration::arbiter::{Arbiter, EtcdArbiter, Hold, Ownership, Swap};
use migration::handover::{OwnerId, Record, RecordState};
use migration::{Cancel, Settings, Settled, Silent, Standing, migrate, receive, settle};
use support::arbiter::VM;
use support::*;
use testkit::{Etcd, Faults, Side, faulty};
use transport::Channel;

/// etcd, and what the processes of these tests keep beside it.
struct Fixture {
    etcd: Etcd,
}

impl Fixture {
    fn start(name: &str) -> Option<Self> {
        Some(Self { etcd: Etcd::start(&format!("migration-{name}"))? })
    }

    fn kill(&mut self) {
        self.etcd.kill();
    }

    fn restart(&mut self) {
        self.etcd.restart();
    }

    fn arbiter(&self) -> EtcdArbiter {
        self.arbiter_of("one-host")
    }

    /// Every folder is a host of its own, as far as locks go.
    fn arbiter_of(&self, host: &str) -> EtcdArbiter {
        let folder = self.etcd.folder().join(host);
        EtcdArbiter::new(VM, &self.etcd.address(), &folder).unwrap()
    }

    fn pair(&self) -> (Ownership, Ownership) {
        let here = Ownership::start(Box::new(self.arbiter()), false).unwrap();
        let arbiter = self.arbiter();
        let there =
            Ownership::arriving(&arbiter.host(), move || Ok(Box::new(arbiter) as Box<dyn Arbiter>));
        (here, there)
    }

    /// What etcd says, once it answers: on a busy host it takes its time.
    fn record(&self) -> Record {
        let mut arbiter = self.arbiter();
        loop {
            if let Ok(found) = arbiter.read() {
                return found.expect("there is a record");
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

fn owner(host: &str, number: u8) -> OwnerId {
    OwnerId::new(host, [number; 16])
}

#[test]
fn one_of_two_swaps_wins_and_the_record_outlives_a_crash() {
    let Some(mut etcd) = Fixture::start("swap") else { return };
    let (mut one, mut two) = (etcd.arbiter(), etcd.arbiter());
    assert_eq!(one.read().unwrap(), None);
    let first = Record::first(VM, owner("a", 1));
    let other = Record::first(VM, owner("b", 2));
    assert!(matches!(one.compare_and_swap(None, &first), Swap::Swapped));
    let Swap::Lost(Some(found)) = two.compare_and_swap(None, &other) else { panic!() };
    assert_eq!(found, first);
    let Swap::Lost(Some(found)) = two.compare_and_swap(Some(&other), &first) else { panic!() };
    assert_eq!(found, first);
    let granted = first.next(owner("b", 2), RecordState::Granted { from: first.owner.clone() });
    assert!(matches!(two.compare_and_swap(Some(&first), &granted), Swap::Swapped));
    assert!(matches!(one.compare_and_swap(Some(&first), &other), Swap::Lost(_)));

    // Many at once: each epoch is given out once.
    let wins: usize = thread::scope(|scope| {
        let racers: Vec<_> = (0..8u8)
            .map(|number| {
                let mut arbiter = etcd.arbiter();
                scope.spawn(move || {
                    let mut wins = 0;
                    while wins < 5 {
                        let found = arbiter.read().unwrap().unwrap();
                        let new = found.next(owner("racer", number), RecordState::Owned);
                        if let Swap::Swapped = arbiter.compare_and_swap(Some(&found), &new) {
                            wins += 1;
                        }
                    }
                    wins
                })
            })
            .collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).sum()
    });
    assert_eq!(wins, 40);
    let last = etcd.record();
    assert_eq!(last.epoch, granted.epoch + 40);
    etcd.kill();
    assert!(one.read().is_err());
    assert!(matches!(one.compare_and_swap(Some(&last), &first), Swap::Refused(_)));
    etcd.restart();
    assert_eq!(etcd.record(), last);
}

#[test]
fn who_is_alive_is_seen_and_the_dead_are_known_on_their_own_host_only() {
    let Some(etcd) = Fixture::start("alive") else { return };
    let mut living = Ownership::start(Box::new(etcd.arbiter()), false).unwrap();
    assert_eq!(etcd.arbiter().alive().unwrap(), [living.me().to_string()]);
    // On its own host its lock is seen, and elsewhere its lease.
    for host in ["one-host", "other-host"] {
        for by_force in [false, true] {
            let arbiter = Box::new(etcd.arbiter_of(host));
            let refused = Ownership::start(arbiter, by_force).unwrap_err();
            let source = std::error::Error::source(&refused).unwrap().to_string();
            assert!(source.contains("the machine is in use"), "{source}");
        }
    }
    let record = living.read().unwrap().unwrap();
    assert!(record.is_owned_by(living.me()));
    // It dies without a word to the record.
    drop(living);
    assert_eq!(etcd.arbiter().alive().unwrap(), Vec::<String>::new());
    // Had it been killed, its lease would still be there: of no weight on its own host.
    let mut lease = etcd.arbiter_of("a folder that nobody looks at");
    lease.hold(Hold::Beside, &owner(&etcd.arbiter().host(), 7)).unwrap();
    assert_eq!(etcd.arbiter().alive().unwrap().len(), 1);
    let again = Ownership::start(Box::new(etcd.arbiter()), false).unwrap();
    assert_eq!(etcd.record().epoch, record.epoch + 1);
    drop(again);
    let mut elsewhere = etcd.arbiter_of("other-host");
    let stranger = owner("stranger", 9);
    let alive = elsewhere.hold(Hold::Alone { by_force: true }, &stranger).unwrap_err().to_string();
    assert!(alive.contains("is alive"), "{alive}");
    drop(lease);
    let hold = |by_force| Hold::Alone { by_force };
    let refused = elsewhere.hold(hold(false), &stranger).unwrap_err().to_string();
    assert!(refused.contains("--take-ownership"), "{refused}");
    elsewhere.hold(hold(true), &stranger).unwrap();
    elsewhere.let_go();
    let again = Ownership::start(Box::new(etcd.arbiter()), false).unwrap();
    assert_eq!(etcd.record().epoch, record.epoch + 2);
    again.end().unwrap();
    assert_eq!(etcd.record().state, RecordState::Free);
}

const IDLE: Load = Load { working_set: 2, rate: 0 };

#[test]
fn a_guest_moves_and_the_record_follows() {
    let Some(etcd) = Fixture::start("move") else { return };
    let guests = RunningGuests::default();
    let mut machine = Machine::new(24, 3, IDLE, &guests).started();
    let mut target = Target::new(&guests);
    let (mut here, mut there) = etcd.pair();
    let (near, far) = Channel::pair().unwrap();
    thread::scope(|scope| {
        let far = scope.spawn(|| {
            receive(&mut target, far, &mut there, &settings(), &mut Silent, &Cancel::new())
        });
        migrate(&mut machine, near, &mut here, &settings(), &mut Silent, &Cancel::new()).unwrap();
        far.join().unwrap().unwrap();
    });
    assert!(etcd.record().is_owned_by(there.me()));
    assert_eq!(etcd.arbiter().alive().unwrap(), [there.me().to_string()]);
    target.take().check_alive();
}

#[test]
fn an_etcd_that_dies_at_the_grant_decides_it_when_it_is_back() {
    let Some(mut etcd) = Fixture::start("dies") else { return };
    let guests = RunningGuests::default();
    let mut machine = Machine::new(24, 3, IDLE, &guests).started();
    let mut target = Target::new(&guests);
    let (mut here, mut there) = etcd.pair();
    let (near, far) = Channel::pair().unwrap();
    let settings = Settings { decide_timeout: Duration::from_millis(500), ..settings() };
    // The channel stalls where the grant is sent: at the destination only the record can tell.
    let quick = Settings { switchover_timeout: Duration::from_millis(700), ..settings.clone() };
    let grant = 9 + 32 + there.me().to_string().len() as u64;
    let length = {
        let (guests, record) = (RunningGuests::default(), support::arbiter::Keeper::default());
        let mut machine = Machine::new(24, 3, IDLE, &guests).started();
        let mut target = Target::new(&guests);
        let (near, far) = Channel::pair().unwrap();
        let (near, traffic) = faulty(near, Faults::default());
        let (mut here, mut there) = (record.owner(), record.arriving());
        thread::scope(|scope| {
            scope.spawn(|| {
                receive(&mut target, far, &mut there, &settings, &mut Silent, &Cancel::new())
            });
            migrate(&mut machine, near, &mut here, &settings, &mut Silent, &Cancel::new()).unwrap();
        });
        traffic.sent()
    };
    let stall = Side { stall_after: Some(length - grant), ..Side::default() };
    let (near, traffic) = faulty(near, Faults { sent: stall, ..Faults::default() });
    let (source, destination) = thread::scope(|scope| {
        let far = scope
            .spawn(|| receive(&mut target, far, &mut there, &quick, &mut Silent, &Cancel::new()));
        let near = scope
            .spawn(|| migrate(&mut machine, near, &mut here, &quick, &mut Silent, &Cancel::new()));
        let granted = |etcd: &Fixture| matches!(etcd.record().state, RecordState::Granted { .. });
        while traffic.sent() < length - grant || !granted(&etcd) {
            thread::sleep(Duration::from_millis(1));
        }
        etcd.kill();
        let source = near.join().unwrap().unwrap_err();
        assert_eq!(source.standing, Standing::Unconfirmed, "{source}");
        etcd.restart();
        (source, far.join().unwrap())
    });
    destination.unwrap();
    println!("{source}");
    assert_eq!(guests.count(), 1);
    assert_eq!(settle(&mut machine, &mut here, true, None), Settled::Gone);
    assert!(etcd.record().is_owned_by(there.me()));
    target.take().check_alive();
}
