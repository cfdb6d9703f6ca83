use vmstate::VmState;

#[derive(VmState)]
#[vmstate(name = "device", version = 1)]
struct DeviceState {
    #[vmstate(excused = " ")]
    cache: u8,
}

fn main() {}
