use vmstate::VmState;

#[derive(VmState)]
#[vmstate(name = "nested", version = 2)]
struct Nested {
    /// A register.
    register: u8,
    /// Another: nothing in the stream would say whether it is there.
    #[vmstate(since = 2, default = "0")]
    other: u8,
}

#[derive(VmState)]
#[vmstate(name = "device", version = 1)]
struct DeviceState {
    /// A struct.
    nested: Nested,
}

fn main() {}
