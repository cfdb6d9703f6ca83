use vmstate::VmState;

#[derive(VmState)]
struct DeviceState {
    /// A register.
    register: u8,
}

fn main() {}
