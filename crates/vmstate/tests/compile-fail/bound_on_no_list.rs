use vmstate::VmState;

#[derive(VmState)]
#[vmstate(name = "device", version = 1)]
struct DeviceState {
    /// A register.
    #[vmstate(max = 4)]
    register: [u8; 4],
}

fn main() {}
