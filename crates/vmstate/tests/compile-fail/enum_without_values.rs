use vmstate::VmState;

#[derive(VmState)]
#[repr(u8)]
enum Mode {
    Idle = 0,
    Busy,
}

fn main() {}
