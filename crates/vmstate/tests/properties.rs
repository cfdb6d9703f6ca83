//! What holds for every state and for every sequence of bytes.

mod common;

use common::{Gadget, gadget};
use proptest::prelude::*;
use vmstate::{SavedSection, VmState};

/// Decoding with the type and without it agree, and what is accepted is exactly what encoding
/// writes.
fn agree(version: u32, data: Vec<u8>) -> Result<(), TestCaseError> {
    let section = SavedSection { name: "gadget".to_owned(), instance: 0, version, data };
    let typed = section.decode::<Gadget>();
    let untyped = Gadget::schema().values(version, &section.data);
    let from_pipe = Gadget::schema().read_body(version, &mut &section.data[..]);
    match (typed, untyped) {
        (Ok(state), Ok(values)) => {
            let again = SavedSection::encode("gadget", 0, &state);
            if version == Gadget::VERSION
                && values
                    .subsections
                    .iter()
                    .all(|(_, one)| one.name != "transfer" || one.version == 2)
            {
                prop_assert_eq!(&again.data, &section.data);
            }
            prop_assert_eq!(again.decode::<Gadget>().unwrap(), state);
            prop_assert_eq!(from_pipe.unwrap(), section.data);
        }
        (Err(typed), Err(untyped)) => {
            prop_assert_eq!(typed.path(), untyped.path());
            prop_assert_eq!(typed.offset(), untyped.offset());
            prop_assert_eq!(typed.kind().to_string(), untyped.kind().to_string());
        }
        // Only the type knows what is valid.
        (Err(typed), Ok(_)) => {
            prop_assert_eq!(typed.kind().to_string(), "invalid state");
        }
        (Ok(_), Err(untyped)) => prop_assert!(false, "only the schema refuses: {untyped}"),
    }
    Ok(())
}

proptest! {
    #[test]
    fn a_state_comes_back(state in gadget()) {
        let section = SavedSection::encode("gadget", 3, &state);
        let back = section.decode::<Gadget>().unwrap();
        prop_assert_eq!(&back, &Gadget { cache: 0, ..state });
    }

    #[test]
    fn random_bytes_do_no_harm(version in 1..=3u32, data in prop::collection::vec(any::<u8>(), 0..200)) {
        agree(version, data)?;
    }

    #[test]
    fn damaged_states_do_no_harm(
        state in gadget(),
        version in 1..=3u32,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut data = SavedSection::encode("gadget", 0, &state).data;
        for (index, byte) in damage {
            let at = index.index(data.len());
            data[at] = byte;
        }
        if let Some(cut) = cut {
            data.truncate(cut.index(data.len() + 1));
        }
        agree(version, data)?;
    }

    #[test]
    fn equal_states_have_no_differences(state in gadget()) {
        let data = SavedSection::encode("gadget", 0, &state).data;
        prop_assert_eq!(Gadget::schema().compare(3, &data, &data).unwrap(), []);
    }

    #[test]
    fn different_states_have_differences(one in gadget(), other in gadget()) {
        let encode = |state| SavedSection::encode("gadget", 0, state).data;
        let (left, right) = (encode(&one), encode(&other));
        let differences = Gadget::schema().compare(3, &left, &right).unwrap();
        prop_assert_eq!(differences.is_empty(), left == right);
    }
}
