use vmstate::VmState;

#[derive(VmState)]
#[vmstate(name = "device", version = 1)]
struct DeviceState {
    /// There if it is needed.
    #[vmstate(subsection = "part")]
    part: Option<u8>,
}

fn main() {}
