use vmstate::VmState;

#[derive(VmState)]
#[vmstate(name = "device", version = 2)]
struct DeviceState {
    #[vmstate(excused = "filled again by the next access", since = 2, default = "0")]
    cache: u8,
}

fn main() {}
