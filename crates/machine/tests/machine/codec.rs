//! The device-tree codec on its own: one blob for each tree, no tree for any other blob.

use machine::fdt::{self, FdtError, MAX_BYTES, MAX_DEPTH, Node};
use proptest::prelude::*;

use crate::common;

const HEADER: usize = 40;
const STRUCTURE: usize = 56;

fn tree() -> Node {
    Node::new("")
        .with_cells("#address-cells", &[1])
        .with_strings("compatible", &["a,b", "c"])
        .with_child(
            Node::new("one@1").with("bytes", [1, 2, 3]).with_flag("empty").with_u64("wide", 7),
        )
        .with_child(Node::new("two").with_strings("compatible", &["d"]).with_child(Node::new("x")))
}

fn be32(value: usize) -> [u8; 4] {
    (value as u32).to_be_bytes()
}

/// A blob with this structure block and strings block, and a header that fits them.
fn blob(structure: &[u8], strings: &[u8]) -> Vec<u8> {
    let total = STRUCTURE + structure.len() + strings.len();
    let mut blob = Vec::new();
    for field in [
        0xd00d_feed,
        total,
        STRUCTURE,
        STRUCTURE + structure.len(),
        HEADER,
        17,
        16,
        0,
        strings.len(),
        structure.len(),
    ] {
        blob.extend(be32(field));
    }
    blob.extend([0; 16]);
    blob.extend(structure);
    blob.extend(strings);
    blob
}

/// A structure block of these cells.
fn cells(cells: &[usize]) -> Vec<u8> {
    cells.iter().flat_map(|cell| be32(*cell)).collect()
}

const BEGIN: usize = 1;
const END_NODE: usize = 2;
const PROP: usize = 3;
const NOP: usize = 4;
const END: usize = 9;
/// The name `a`, padded.
const A: usize = 0x6100_0000;

#[test]
fn a_tree_comes_back() {
    let blob = fdt::write(&tree()).unwrap();
    assert_eq!(fdt::parse(&blob), Ok(tree()));
    assert_eq!(
        tree().child("one@1").unwrap().property("wide"),
        Some(&[0, 0, 0, 0, 0, 0, 0, 7][..])
    );
}

#[test]
fn every_cut_is_an_error() {
    let blob = fdt::write(&tree()).unwrap();
    for end in 0..blob.len() {
        assert!(fdt::parse(&blob[..end]).is_err(), "cut at {end}");
        // And with a header that agrees with the cut.
        let mut shorter = blob[..end].to_vec();
        if end >= 8 {
            shorter[4..8].copy_from_slice(&be32(end));
            assert!(fdt::parse(&shorter).is_err(), "cut at {end}, total size adjusted");
        }
    }
    let mut longer = blob;
    longer.push(0);
    assert!(fdt::parse(&longer).is_err());
}

#[test]
fn every_flipped_bit_is_an_error_or_another_tree() {
    let blob = fdt::write(&tree()).unwrap();
    for index in 0..blob.len() {
        for bit in 0..8 {
            let mut flipped = blob.clone();
            flipped[index] ^= 1 << bit;
            if let Ok(other) = fdt::parse(&flipped) {
                assert_ne!(other, tree(), "byte {index} bit {bit}");
                assert_eq!(fdt::write(&other), Ok(flipped), "byte {index} bit {bit}");
            }
        }
    }
}

#[test]
fn every_header_field_is_fixed() {
    let blob = fdt::write(&tree()).unwrap();
    for (index, name) in [
        (0, "magic"),
        (1, "totalsize"),
        (2, "off_dt_struct"),
        (3, "off_dt_strings"),
        (4, "off_mem_rsvmap"),
        (5, "version"),
        (6, "last_comp_version"),
        (7, "boot_cpuid_phys"),
        (8, "size_dt_strings"),
    ] {
        let mut wrong = blob.clone();
        wrong[index * 4 + 3] ^= 1;
        match fdt::parse(&wrong) {
            Err(FdtError::Header { field, .. }) => assert_eq!(field, name),
            other => panic!("{name}: {other:?}"),
        }
    }
    let mut wrong = blob.clone();
    wrong[36] = 0xff;
    assert!(matches!(
        fdt::parse(&wrong),
        Err(FdtError::Truncated { what: "the structure block", .. })
    ));
    let mut wrong = blob;
    wrong[HEADER + 9] = 1;
    assert_eq!(fdt::parse(&wrong), Err(FdtError::Reservation { offset: HEADER + 9 }));
}

#[test]
fn what_our_writer_would_not_write_is_named() {
    let cases: [(&str, Vec<usize>, &[u8], FdtError); 15] = [
        ("no root", vec![END], b"", token(STRUCTURE, END, "the root node")),
        (
            "root with a name",
            vec![BEGIN, A, END_NODE, END],
            b"",
            FdtError::NodeName { path: "/".into(), name: "a".into() },
        ),
        (
            "child without a name",
            vec![BEGIN, 0, BEGIN, 0, END_NODE, END_NODE, END],
            b"",
            FdtError::NodeName { path: "/".into(), name: String::new() },
        ),
        (
            "name with padding",
            vec![BEGIN, 1],
            b"",
            FdtError::Padding { offset: STRUCTURE + 7, found: 1 },
        ),
        (
            "NOP",
            vec![BEGIN, 0, NOP, END_NODE, END],
            b"",
            token(STRUCTURE + 8, NOP, "anything but a NOP"),
        ),
        (
            "token that there is not",
            vec![BEGIN, 0, 5],
            b"",
            token(STRUCTURE + 8, 5, "a property, a node or the end of one"),
        ),
        (
            "property after a node",
            vec![BEGIN, 0, BEGIN, A, END_NODE, PROP, 0, 0, END_NODE, END],
            b"p\0",
            token(STRUCTURE + 20, PROP, "a node or the end of one (properties come before nodes)"),
        ),
        (
            "same node twice",
            vec![BEGIN, 0, BEGIN, A, END_NODE, BEGIN, A, END_NODE, END_NODE, END],
            b"",
            FdtError::DuplicateNode { path: "/a".into() },
        ),
        (
            "same property twice",
            vec![BEGIN, 0, PROP, 0, 0, PROP, 0, 0, END_NODE, END],
            b"p\0",
            FdtError::DuplicateProperty { path: "/".into(), name: "p".into() },
        ),
        (
            "same string twice",
            vec![BEGIN, 0, PROP, 0, 0, BEGIN, A, PROP, 0, 2, END_NODE, END_NODE, END],
            b"p\0p\0",
            FdtError::DuplicateString { name: "p".into() },
        ),
        (
            "name inside another",
            vec![BEGIN, 0, PROP, 0, 0, PROP, 0, 1, END_NODE, END],
            b"pq\0",
            FdtError::NameOffset { offset: STRUCTURE + 28, found: 1, next: 3 },
        ),
        (
            "strings out of order",
            vec![BEGIN, 0, PROP, 0, 2, PROP, 0, 0, END_NODE, END],
            b"p\0q\0",
            FdtError::NameOffset { offset: STRUCTURE + 16, found: 2, next: 0 },
        ),
        (
            "string without a user",
            vec![BEGIN, 0, PROP, 0, 0, END_NODE, END],
            b"p\0q\0",
            FdtError::UnusedStrings { bytes: 2 },
        ),
        (
            "name that is none",
            vec![BEGIN, 0, PROP, 0, 0, END_NODE, END],
            b"p q\0",
            FdtError::PropertyName { path: "/".into(), name: "p q".into() },
        ),
        (
            "bytes after the end",
            vec![BEGIN, 0, END_NODE, END, END],
            b"",
            FdtError::TrailingStructure { bytes: 4 },
        ),
    ];
    for (what, structure, strings, error) in cases {
        assert_eq!(fdt::parse(&blob(&cells(&structure), strings)), Err(error), "{what}");
    }
    // Of a name as long as the blob, a message shows the start.
    match fdt::parse(&blob(&cells(&[BEGIN, 0, PROP, 0, 0, END_NODE, END]), &[b'p'; 1 << 19])) {
        Err(FdtError::Truncated { what, .. }) => assert_eq!(what, "the strings block"),
        other => panic!("{other:?}"),
    }
    let long = [vec![b'p'; 1 << 19], vec![0]].concat();
    match fdt::parse(&blob(&cells(&[BEGIN, 0, PROP, 0, 0, END_NODE, END]), &long)) {
        Err(FdtError::PropertyName { name, .. }) => assert_eq!(name, "p".repeat(64)),
        other => panic!("{other:?}"),
    }
    // A value longer than what is there must not be allocated, let alone read.
    let huge = cells(&[BEGIN, 0, PROP, 0xffff_fff0, 0, END_NODE, END]);
    assert!(matches!(
        fdt::parse(&blob(&huge, b"p\0")),
        Err(FdtError::Truncated { what: "a property's value", .. })
    ));
}

fn token(offset: usize, token: usize, expected: &'static str) -> FdtError {
    FdtError::Token { offset, token: token as u32, expected }
}

#[test]
fn depth_is_bounded() {
    let nested = |levels: usize| {
        (1..levels).fold(Node::new("x"), |inner, _| Node::new("x").with_child(inner))
    };
    let rooted = |levels: usize| Node { name: String::new(), ..nested(levels) };
    let deepest = rooted(MAX_DEPTH);
    assert_eq!(fdt::parse(&fdt::write(&deepest).unwrap()), Ok(deepest));
    assert!(matches!(fdt::write(&rooted(MAX_DEPTH + 1)), Err(FdtError::TooDeep { .. })));

    let mut structure = vec![BEGIN, 0];
    structure.extend([BEGIN, A].repeat(100_000));
    assert!(matches!(
        fdt::parse(&blob(&cells(&structure), b"")),
        Err(FdtError::TooDeep { path }) if path == "/a".repeat(MAX_DEPTH)
    ));
}

#[test]
fn size_is_bounded() {
    let with = |bytes: usize| Node::new("").with("x", vec![0; bytes]);
    let overhead = fdt::write(&with(0)).unwrap().len();
    let largest = (MAX_BYTES - overhead) / 4 * 4;
    let blob = fdt::write(&with(largest)).unwrap();
    assert_eq!(fdt::parse(&blob), Ok(with(largest)));
    assert!(matches!(fdt::write(&with(largest + 4)), Err(FdtError::TooLarge { .. })));
    assert!(matches!(fdt::write(&with(MAX_BYTES)), Err(FdtError::TooLarge { .. })));
    assert_eq!(
        fdt::parse(&vec![0; MAX_BYTES + 1]),
        Err(FdtError::TooLarge { bytes: MAX_BYTES + 1 })
    );
}

#[test]
fn a_tree_that_has_no_blob_is_not_written() {
    let long = "x".repeat(32);
    for name in ["", "@1", "a@", "1a", "a b", "a/b", "a@b@c", "é", &long, &format!("a@{long}")] {
        assert!(
            matches!(
                fdt::write(&Node::new("").with_child(Node::new(name))),
                Err(FdtError::NodeName { .. })
            ),
            "{name:?}"
        );
    }
    for name in ["", "a b", "a@b", "a\0", "é", &long] {
        assert!(
            matches!(
                fdt::write(&Node::new("").with_flag(name)),
                Err(FdtError::PropertyName { .. })
            ),
            "{name:?}"
        );
    }
    assert!(matches!(fdt::write(&Node::new("a")), Err(FdtError::NodeName { .. })));
    let twice = Node::new("").with_flag("a").with_flag("a");
    assert!(matches!(fdt::write(&twice), Err(FdtError::DuplicateProperty { .. })));
    let twice = Node::new("").with_child(Node::new("a")).with_child(Node::new("a"));
    assert!(matches!(fdt::write(&twice), Err(FdtError::DuplicateNode { .. })));
}

#[test]
fn source_shows_values_as_what_they_look_like() {
    for (value, text) in [
        (&b""[..], ""),
        (b"a\0", "\"a\""),
        (b"a\0b c\0", "\"a\", \"b c\""),
        (b"a\\\"b\0", "\"a\\\\\\\"b\""),
        (b"\0", "[00]"),
        (b"a\0\0", "[61 00 00]"),
        (b"\0\0\0\x10", "<0x10>"),
        (b"\0\0\0\x01\xff\xff\xff\xff", "<0x1 0xffffffff>"),
        (b"\x01", "[01]"),
        (b"a\x01b", "[61 01 62]"),
    ] {
        assert_eq!(fdt::format_value(value), text);
    }
    let source = fdt::to_source(&fdt::write(&tree()).unwrap()).unwrap();
    let expected = "/dts-v1/;\n\n/ {\n\t#address-cells = <0x1>;\n\tcompatible = \"a,b\", \"c\";\n\n\
                    \tone@1 {\n\t\tbytes = [01 02 03];\n\t\tempty;\n\t\twide = <0x0 0x7>;\n\t};\n\n\
                    \ttwo {\n\t\tcompatible = \"d\";\n\n\t\tx {\n\t\t};\n\t};\n};\n";
    assert_eq!(source, expected);
    assert!(fdt::to_source(b"nothing of the kind").is_err());
}

/// Another project's writer makes the same bytes of the same tree.
#[test]
fn vm_fdt_writes_the_same_blob() {
    fn walk(writer: &mut vm_fdt::FdtWriter, node: &Node) {
        let handle = writer.begin_node(&node.name).unwrap();
        for (name, value) in &node.properties {
            writer.property(name, value).unwrap();
        }
        node.children.iter().for_each(|child| walk(writer, child));
        writer.end_node(handle).unwrap();
    }
    let microvm = common::microvm(machine::VirtioInterface::Legacy);
    for config in [common::small(), common::full(), microvm] {
        let blob = config.to_fdt().unwrap();
        let mut writer = vm_fdt::FdtWriter::new().unwrap();
        walk(&mut writer, &fdt::parse(&blob).unwrap());
        assert_eq!(writer.finish().unwrap(), blob);
    }
}

fn any_node() -> impl Strategy<Value = Node> {
    let properties = || {
        prop::collection::btree_map(
            "[a-z#?,+._-]{1,31}",
            prop::collection::vec(any::<u8>(), 0..20),
            0..5,
        )
    };
    let node = |name: String, properties: std::collections::BTreeMap<_, _>, children| Node {
        name,
        properties: properties.into_iter().collect(),
        children,
    };
    let named = "[a-zA-Z][a-z0-9,._+-]{0,30}(@[a-f0-9,]{1,31})?";
    let leaf = (named, properties()).prop_map(move |(name, p)| node(name, p, Vec::new()));
    let inner = leaf.prop_recursive(6, 40, 6, move |inner| {
        (named, properties(), prop::collection::vec(inner, 0..6)).prop_map(
            move |(name, p, mut children)| {
                children.sort_by(|a: &Node, b| b.name.cmp(&a.name));
                children.dedup_by(|a, b| a.name == b.name);
                node(name, p, children)
            },
        )
    });
    inner.prop_map(|node| Node { name: String::new(), ..node })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_tree_comes_back(tree in any_node()) {
        let blob = fdt::write(&tree).unwrap();
        prop_assert_eq!(fdt::parse(&blob), Ok(tree));
    }

    #[test]
    fn any_bytes_are_an_error_or_canonical(
        structure in prop::collection::vec(
            prop_oneof![Just(BEGIN), Just(END_NODE), Just(PROP), Just(END), Just(0), Just(A), Just(2), any::<u32>().prop_map(|x| x as usize)],
            0..24,
        ),
        strings in prop::collection::vec(prop_oneof![Just(0), Just(b'p'), any::<u8>()], 0..8),
    ) {
        let mut tokens = vec![BEGIN, 0];
        tokens.extend(structure);
        let blob = blob(&cells(&tokens), &strings);
        if let Ok(tree) = fdt::parse(&blob) {
            prop_assert_eq!(fdt::write(&tree), Ok(blob));
        }
    }
}
