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
    part: Option<Part>,
    /// A register.
    register: u8,
}

fn main() {}
