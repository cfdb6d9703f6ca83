use vmstate::VmState;

#[derive(VmState)]
#[vmstate(name = "device", version = 1)]
struct DeviceState {
    /// A register.
    register: std::collections::HashMap<u8, u8>,
}

fn main() {}
