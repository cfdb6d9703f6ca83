use vmstate::VmState;

#[derive(VmState)]
#[vmstate(name = "device", version = 2)]
struct DeviceState {
    /// A register.
    #[vmstate(since = 2)]
    register: u8,
}

fn main() {}
