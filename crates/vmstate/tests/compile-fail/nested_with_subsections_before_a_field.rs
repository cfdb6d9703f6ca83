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
    /// A struct with a subsection: whether it comes cannot be told from the next field.
    nested: Nested,
    /// A register.
    register: u8,
}

fn main() {}
