use vmstate::VmState;

#[derive(VmState)]
#[vmstate(name = "part", version = 1)]
struct Part {
    /// A register.
    register: u8,
}

#[derive(VmState)]
#[vmstate(name = "nested", version = 1)]
struct Nested {
    /// There if it is needed.
    #[vmstate(subsection = "part")]
    part: Option<Part>,
}

#[derive(VmState)]
#[vmstate(name = "device", version = 1)]
struct DeviceState {
    /// Structs with a subsection each: whose it is cannot be told.
    nested: [Nested; 2],
}

fn main() {}
