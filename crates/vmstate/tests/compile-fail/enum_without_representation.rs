use vmstate::VmState;

#[derive(VmState)]
enum Mode {
    Idle = 0,
    Busy = 1,
}

fn main() {}
