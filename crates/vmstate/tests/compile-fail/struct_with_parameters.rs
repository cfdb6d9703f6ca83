use vmstate::VmState;

#[derive(VmState)]
#[vmstate(name = "device", version = 1)]
struct DeviceState<T> {
    /// A register.
    register: T,
}

fn main() {}
