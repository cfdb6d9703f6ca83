//! Properties that every device must have, whatever a guest did to it before: a device that was
//! restored behaves like the one that was saved; a state that was damaged is refused, or is a
//! state like any other. Drives a device with random accesses, at random times.

use proptest::prelude::*;
use vmstate::SavedSection;

/// A device as these tests drive it.
pub(crate) trait Subject {
    /// A device at power-up.
    fn fresh() -> Self;

    /// Does access number `what` (taken modulo the number that the device knows), and tells
    /// everything that can be seen from outside after it.
    fn access(&mut self, now: u64, what: usize, value: u64) -> Vec<u64>;

    /// See the device.
    fn deadline(&self) -> Option<u64>;

    /// See the device.
    fn advance(&mut self, now: u64);

    /// The sections of its state.
    fn sections(&self) -> Vec<SavedSection>;

    /// Decodes the sections and restores from them; false if they are refused.
    fn restore(&mut self, sections: &[SavedSection]) -> bool;
}

/// Time that passes, and an access after it.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    wait: u64,
    /// The board calls late: once when the time has passed, not at each deadline.
    late: bool,
    what: usize,
    value: u64,
}

fn step() -> impl Strategy<Value = Step> {
    let wait = prop_oneof![Just(0), 0..20u64, 0..5_000u64, 0..3_000_000u64, 0..5_000_000_000u64];
    let value = prop_oneof![0..8u64, 0..256u64, any::<u32>().prop_map(u64::from), any::<u64>()];
    (wait, any::<bool>(), any::<usize>(), value).prop_map(|(wait, late, what, value)| Step {
        wait,
        late,
        what,
        value,
    })
}

pub(crate) fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 0..120)
}

/// Deadlines that are met in time; a device with more of them than this is then called late.
const PATIENCE: usize = 64;

fn run(device: &mut impl Subject, now: &mut u64, step: &Step) -> (Vec<u64>, Option<u64>) {
    let end = *now + step.wait;
    if !step.late {
        for _ in 0..PATIENCE {
            let Some(due) = device.deadline().filter(|due| *due <= end) else { break };
            *now = due.max(*now);
            device.advance(*now);
        }
    }
    *now = end;
    device.advance(end);
    let mut calls = 0;
    while device.deadline().is_some_and(|due| due <= end) {
        calls += 1;
        assert!(calls < 8, "a device that is called late catches up");
        device.advance(end);
    }
    let seen = device.access(end, step.what, step.value);
    (seen, device.deadline())
}

/// A device and its restored twin cannot be told apart.
pub(crate) fn moves_unseen<D: Subject>(before: &[Step], after: &[Step]) {
    let mut device = D::fresh();
    let mut now = 0;
    for step in before {
        run(&mut device, &mut now, step);
    }
    let mut twin = D::fresh();
    assert!(twin.restore(&device.sections()), "a state that was reached is accepted");
    assert_eq!(twin.sections(), device.sections());
    assert_eq!(twin.deadline(), device.deadline());
    let mut twin_now = now;
    for step in after {
        let seen = run(&mut device, &mut now, step);
        assert_eq!(run(&mut twin, &mut twin_now, step), seen, "{step:?}");
        assert_eq!(twin.sections(), device.sections(), "{step:?}");
    }
}

/// A damaged state changes nothing, or becomes a device that saves the same and works on.
pub(crate) fn withstands_damage<D: Subject>(
    before: &[Step],
    damage: &[(usize, u8)],
    after: &[Step],
) {
    let mut device = D::fresh();
    let mut now = 0;
    for step in before {
        run(&mut device, &mut now, step);
    }
    let unharmed = device.sections();
    let mut sections = unharmed.clone();
    for (place, bits) in damage {
        let index = place % sections.len();
        let data = &mut sections[index].data;
        let place = place / 7 % data.len();
        data[place] ^= bits;
    }
    if device.restore(&sections) {
        assert_eq!(device.sections(), sections);
    } else {
        assert_eq!(device.sections(), unharmed);
    }
    for step in after {
        run(&mut device, &mut now, step);
    }
}

/// Makes the two properties into tests of a device.
macro_rules! properties {
    ($device:ty) => {
        proptest::proptest! {
            #![proptest_config(proptest::test_runner::Config {
                cases: 200,
                failure_persistence: None,
                ..Default::default()
            })]

            #[test]
            fn a_move_cannot_be_seen(
                before in $crate::twin::steps(),
                after in $crate::twin::steps(),
            ) {
                $crate::twin::moves_unseen::<$device>(&before, &after);
            }

            #[test]
            fn a_damaged_state_is_refused_or_works(
                before in $crate::twin::steps(),
                damage in proptest::collection::vec(
                    (proptest::prelude::any::<usize>(), 1..=255u8),
                    1..4,
                ),
                after in $crate::twin::steps(),
            ) {
                $crate::twin::withstands_damage::<$device>(&before, &damage, &after);
            }
        }
    };
}
pub(crate) use properties;
