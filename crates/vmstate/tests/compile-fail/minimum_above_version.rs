use vmstate::VmState;

#[derive(VmState)]
#[vmstate(name = "device", version = 1, minimum_version = 2)]
struct DeviceState {
    /// A register.
    register: u8,
}

fn main() {}
