use vmstate::VmState;

#[derive(VmState)]
#[vmstate(name = "device", version = 2)]
struct DeviceState {
    /// A register.
    #[vmstate(since = 3, default = "0")]
    register: u8,
}

fn main() {}
