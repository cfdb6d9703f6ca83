use vmstate::VmState;

#[derive(VmState)]
#[vmstate(name = "part", version = 1)]
struct Part {
    /// A register.
    register: u8,
}

#[derive(VmState)]
#[vmstate(name = "device", version = 1)]
struct DeviceState {
    /// There if it is needed.
    #[vmstate(subsection = "part")]
    one: Option<Part>,
    /// There if it is needed.
    #[vmstate(subsection = "part")]
    other: Option<Part>,
}

fn main() {}
