use vmstate::VmState;

#[derive(VmState)]
#[vmstate(name = "device", version = 1)]
struct DeviceState {
    /// A register.
    register: Option<u8>,
}

fn main() {}
