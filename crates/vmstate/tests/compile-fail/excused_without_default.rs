use vmstate::VmState;

struct Cache(u8);

#[derive(VmState)]
#[vmstate(name = "device", version = 1)]
struct DeviceState {
    #[vmstate(excused = "filled again by the next access")]
    cache: Cache,
}

fn main() {}
