use vmstate::VmState;

#[derive(VmState)]
#[vmstate(name = "nothing", version = 1)]
struct Nothing {}

#[derive(VmState)]
#[vmstate(name = "device", version = 1)]
struct DeviceState {
    /// Elements without a byte: any number of them costs nothing to send.
    #[vmstate(max = 1_000_000)]
    list: Vec<Nothing>,
}

fn main() {}
