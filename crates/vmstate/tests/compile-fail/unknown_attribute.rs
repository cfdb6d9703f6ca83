use vmstate::VmState;

#[derive(VmState)]
#[vmstate(name = "device", version = 1)]
struct DeviceState {
    /// A register.
    #[vmstate(skip)]
    register: u8,
}

fn main() {}
