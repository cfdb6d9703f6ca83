use vmstate::VmState;

#[derive(VmState)]
union Either {
    byte: u8,
    word: u16,
}

fn main() {}
