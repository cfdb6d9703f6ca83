use vmstate::VmState;

#[repr(C)]
struct HostTime {
    seconds: i64,
    nanoseconds: i64,
}

#[derive(VmState)]
#[vmstate(name = "device", version = 1)]
struct DeviceState {
    /// A time.
    time: HostTime,
}

fn main() {}
