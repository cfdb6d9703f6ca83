//! What `asm/integer.s` is to leave, from the definition of each instruction (Intel SDM volume 2).

use super::programs::Observations;

const CF: u64 = 0x001;
const PF: u64 = 0x004;
const AF: u64 = 0x010;
const ZF: u64 = 0x040;
const SF: u64 = 0x080;
const OF: u64 = 0x800;
const ALL: u64 = CF | PF | AF | ZF | SF | OF;
const LOGIC: u64 = ALL & !AF;
const SHIFT: u64 = CF | PF | ZF | SF;

const OPERANDS: [[u64; 3]; 9] = [
    [0, 0, 0],
    [1, 1, 0xffff_ffff_ffff_ffff],
    [0xffff_ffff_ffff_ffff, 1, 0x5555_5555_5555_5555],
    [0x7fff_ffff_7fff_7f7f, 0x0000_0001_0001_0101, 0],
    [0x8000_0000_8000_8080, 0x8000_0000_8000_8080, 0x1111_1111_1111_1111],
    [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210, 0x0f0f_0f0f_0f0f_0f0f],
    [0x0000_0000_ffff_ffff, 0xffff_ffff_0000_001f, 0x8000_0000_0000_0000],
    [0xaaaa_aaaa_aaaa_aa0f, 0x3333_3333_3333_3307, 0x7777_7777_7777_7777],
    [0x0000_0000_0000_000a, 0x0000_0000_0000_003f, 0x0000_0000_0000_0003],
];

/// Registers and flags.
#[derive(Clone, Copy)]
struct State {
    rax: u64,
    rbx: u64,
    rdx: u64,
    flags: u64,
}

/// What an instruction does at a width in bits.
type Model = fn(&mut State, u32);
/// The same, of one of a family.
type BoxedModel = Box<dyn Fn(&mut State, u32)>;

fn mask(bits: u32) -> u64 {
    u64::MAX >> (64 - bits)
}

fn sign(value: u64, bits: u32) -> bool {
    value >> (bits - 1) & 1 != 0
}

/// A value as a signed number.
fn signed(value: u64, bits: u32) -> i128 {
    let value = i128::from(value & mask(bits));
    if sign(value as u64, bits) { value - (1 << bits) } else { value }
}

/// A register after its low bits were written: 32 bits clear the rest.
fn merged(old: u64, value: u64, bits: u32) -> u64 {
    let value = value & mask(bits);
    if bits >= 32 { value } else { old & !mask(bits) | value }
}

impl State {
    fn a(&self, bits: u32) -> u64 {
        self.rax & mask(bits)
    }

    fn b(&self, bits: u32) -> u64 {
        self.rbx & mask(bits)
    }

    fn carry(&self) -> u64 {
        self.flags & CF
    }

    fn set_a(&mut self, value: u64, bits: u32) {
        self.rax = merged(self.rax, value, bits);
    }

    fn set(&mut self, flag: u64, value: bool) {
        self.flags = if value { self.flags | flag } else { self.flags & !flag };
    }

    fn set_result_flags(&mut self, value: u64, bits: u32) {
        self.set(ZF, value & mask(bits) == 0);
        self.set(SF, sign(value & mask(bits), bits));
        self.set(PF, (value as u8).count_ones().is_multiple_of(2));
    }

    fn add(&mut self, a: u64, b: u64, carry: u64, bits: u32) -> u64 {
        let exact = u128::from(a) + u128::from(b) + u128::from(carry);
        let signed_sum = signed(a, bits) + signed(b, bits) + i128::from(carry);
        let value = exact as u64 & mask(bits);
        self.set(CF, exact > u128::from(mask(bits)));
        self.set(OF, signed_sum != signed(value, bits));
        self.set(AF, (a & 0xf) + (b & 0xf) + carry > 0xf);
        self.set_result_flags(value, bits);
        value
    }

    fn subtract(&mut self, a: u64, b: u64, borrow: u64, bits: u32) -> u64 {
        let value = a.wrapping_sub(b).wrapping_sub(borrow) & mask(bits);
        let exact = signed(a, bits) - signed(b, bits) - i128::from(borrow);
        self.set(CF, u128::from(a) < u128::from(b) + u128::from(borrow));
        self.set(OF, exact != signed(value, bits));
        self.set(AF, (a & 0xf) < (b & 0xf) + borrow);
        self.set_result_flags(value, bits);
        value
    }

    fn logic(&mut self, value: u64, bits: u32) -> u64 {
        self.set(CF, false);
        self.set(OF, false);
        self.set_result_flags(value, bits);
        value
    }

    fn shift(&mut self, kind: Shift, count: u64, bits: u32) {
        let count = count & if bits == 64 { 63 } else { 31 };
        let mut value = self.a(bits);
        for _ in 0..count {
            let before = sign(value, bits);
            let low = value & 1 != 0;
            let carry = self.carry();
            let top = |bit: bool| u64::from(bit) << (bits - 1);
            match kind {
                Shift::Left => {
                    value = value << 1 & mask(bits);
                    self.set(CF, before);
                }
                Shift::Right | Shift::RightSigned => {
                    value = value >> 1 | top(matches!(kind, Shift::RightSigned) && before);
                    self.set(CF, low);
                }
                Shift::RotateLeft => {
                    value = (value << 1 | u64::from(before)) & mask(bits);
                    self.set(CF, before);
                }
                Shift::RotateRight => {
                    value = value >> 1 | top(low);
                    self.set(CF, low);
                }
                Shift::CarryLeft => {
                    value = (value << 1 | carry) & mask(bits);
                    self.set(CF, before);
                }
                Shift::CarryRight => {
                    value = value >> 1 | top(carry != 0);
                    self.set(CF, low);
                }
            }
            // Defined for a count of one only; for others the row's mask leaves it out. Shifts
            // compare the sign before and after, which for left ones is the carry.
            self.set(OF, before != sign(value, bits));
            if matches!(kind, Shift::Left | Shift::Right | Shift::RightSigned) {
                self.set_result_flags(value, bits);
            }
        }
        self.set_a(value, bits);
    }

    /// The flags of a product that fits or does not.
    fn product(&mut self, fits: bool) {
        self.set(CF, !fits);
        self.set(OF, !fits);
    }

    /// Puts a product of twice the width where MUL and IMUL put it.
    fn set_wide(&mut self, value: u128, bits: u32) {
        if bits == 8 {
            self.set_a(value as u64, 16);
        } else {
            self.set_a(value as u64, bits);
            self.rdx = merged(self.rdx, (value >> bits) as u64, bits);
        }
    }
}

#[derive(Clone, Copy)]
enum Shift {
    Left,
    Right,
    RightSigned,
    RotateLeft,
    RotateRight,
    CarryLeft,
    CarryRight,
}

const SHIFTS: [(&str, Shift); 7] = [
    ("shl", Shift::Left),
    ("shr", Shift::Right),
    ("sar", Shift::RightSigned),
    ("rol", Shift::RotateLeft),
    ("ror", Shift::RotateRight),
    ("rcl", Shift::CarryLeft),
    ("rcr", Shift::CarryRight),
];

const WIDTHS: [u32; 4] = [8, 16, 32, 64];

struct Row {
    name: String,
    bits: u32,
    flags: u64,
    model: BoxedModel,
}

/// The rows of the table in `asm/integer.s`, in its order.
fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut add = |name: &str, widths: &[u32], flags: u64, model: Model| {
        for bits in widths {
            let (name, model) = (format!("{name} {bits}"), Box::new(model));
            rows.push(Row { name, bits: *bits, flags, model });
        }
    };
    add("add", &WIDTHS, ALL, |s, w| {
        let value = s.add(s.a(w), s.b(w), 0, w);
        s.set_a(value, w);
    });
    add("adc", &WIDTHS, ALL, |s, w| {
        let value = s.add(s.a(w), s.b(w), s.carry(), w);
        s.set_a(value, w);
    });
    add("sub", &WIDTHS, ALL, |s, w| {
        let value = s.subtract(s.a(w), s.b(w), 0, w);
        s.set_a(value, w);
    });
    add("sbb", &WIDTHS, ALL, |s, w| {
        let value = s.subtract(s.a(w), s.b(w), s.carry(), w);
        s.set_a(value, w);
    });
    add("and", &WIDTHS, LOGIC, |s, w| {
        let value = s.logic(s.a(w) & s.b(w), w);
        s.set_a(value, w);
    });
    add("or", &WIDTHS, LOGIC, |s, w| {
        let value = s.logic(s.a(w) | s.b(w), w);
        s.set_a(value, w);
    });
    add("xor", &WIDTHS, LOGIC, |s, w| {
        let value = s.logic(s.a(w) ^ s.b(w), w);
        s.set_a(value, w);
    });
    add("cmp", &WIDTHS, ALL, |s, w| {
        s.subtract(s.a(w), s.b(w), 0, w);
    });
    add("test", &WIDTHS, LOGIC, |s, w| {
        s.logic(s.a(w) & s.b(w), w);
    });
    add("inc", &WIDTHS, ALL, |s, w| {
        let carry = s.carry();
        let value = s.add(s.a(w), 1, 0, w);
        s.set(CF, carry != 0);
        s.set_a(value, w);
    });
    add("dec", &WIDTHS, ALL, |s, w| {
        let carry = s.carry();
        let value = s.subtract(s.a(w), 1, 0, w);
        s.set(CF, carry != 0);
        s.set_a(value, w);
    });
    add("neg", &WIDTHS, ALL, |s, w| {
        let value = s.subtract(0, s.a(w), 0, w);
        s.set_a(value, w);
    });
    add("not", &WIDTHS, ALL, |s, w| s.set_a(!s.a(w), w));
    for (by_one, flags) in [(false, [SHIFT, CF]), (true, [LOGIC, CF | OF])] {
        for (index, (name, kind)) in SHIFTS.into_iter().enumerate() {
            for bits in WIDTHS {
                rows.push(Row {
                    name: format!("{name} {bits} by {}", if by_one { "one" } else { "cl" }),
                    bits,
                    flags: flags[usize::from(index >= 3)],
                    model: Box::new(move |s, w| {
                        let count = if by_one { 1 } else { s.rbx & 0xff };
                        s.shift(kind, count, w);
                    }),
                });
            }
        }
    }
    let mut add = |name: &str, widths: &[u32], flags: u64, model: Model| {
        for bits in widths {
            let (name, model) = (format!("{name} {bits}"), Box::new(model));
            rows.push(Row { name, bits: *bits, flags, model });
        }
    };
    add("shld", &[32, 64], SHIFT, |s, w| {
        let value = s.a(w) << 7 | s.b(w) >> (w - 7);
        s.set(CF, s.a(w) >> (w - 7) & 1 != 0);
        s.set_result_flags(value, w);
        s.set_a(value, w);
    });
    add("shrd", &[32, 64], SHIFT, |s, w| {
        let value = s.a(w) >> 7 | s.b(w) << (w - 7);
        s.set(CF, s.a(w) >> 6 & 1 != 0);
        s.set_result_flags(value, w);
        s.set_a(value, w);
    });
    add("mul", &WIDTHS, CF | OF, |s, w| {
        let value = u128::from(s.a(w)) * u128::from(s.b(w));
        s.product(value >> w == 0);
        s.set_wide(value, w);
    });
    add("imul", &WIDTHS, CF | OF, |s, w| {
        let value = signed(s.a(w), w) * signed(s.b(w), w);
        s.product(value == signed(value as u64, w));
        s.set_wide(value as u128, w);
    });
    add("imul of two", &WIDTHS[1..], CF | OF, |s, w| {
        let value = signed(s.a(w), w) * signed(s.b(w), w);
        s.product(value == signed(value as u64, w));
        s.set_a(value as u64, w);
    });
    add("xadd", &WIDTHS, ALL, |s, w| {
        let value = s.add(s.a(w), s.b(w), 0, w);
        s.set_a(value, w);
    });
    add("xchg", &WIDTHS, ALL, |s, w| s.set_a(s.b(w), w));
    add("bt", &WIDTHS[1..], CF, |s, w| {
        s.set(CF, s.a(w) >> (s.b(w) % u64::from(w)) & 1 != 0);
    });
    add("bts", &WIDTHS[1..], CF, |s, w| {
        let bit = 1 << (s.b(w) % u64::from(w));
        s.set(CF, s.a(w) & bit != 0);
        s.set_a(s.a(w) | bit, w);
    });
    add("btr", &WIDTHS[1..], CF, |s, w| {
        let bit = 1 << (s.b(w) % u64::from(w));
        s.set(CF, s.a(w) & bit != 0);
        s.set_a(s.a(w) & !bit, w);
    });
    add("btc", &WIDTHS[1..], CF, |s, w| {
        let bit = 1 << (s.b(w) % u64::from(w));
        s.set(CF, s.a(w) & bit != 0);
        s.set_a(s.a(w) ^ bit, w);
    });
    add("bswap", &[32], ALL, |s, _| s.rax = u64::from((s.rax as u32).swap_bytes()));
    add("bswap", &[64], ALL, |s, _| s.rax = s.rax.swap_bytes());
    add("cbw", &[16], ALL, |s, w| s.set_a(s.rax as i8 as u64, w));
    add("cwde", &[32], ALL, |s, w| s.set_a(s.rax as i16 as u64, w));
    add("cdqe", &[64], ALL, |s, w| s.set_a(s.rax as i32 as u64, w));
    add("cwd and on", &WIDTHS[1..], ALL, |s, w| {
        let value = if sign(s.a(w), w) { u64::MAX } else { 0 };
        s.rdx = merged(s.rdx, value, w);
    });
    add("movzx bl", &[32], ALL, |s, _| s.rax = s.rbx & 0xff);
    add("movzx bx", &[64], ALL, |s, _| s.rax = s.rbx & 0xffff);
    add("movsx bl", &[32], ALL, |s, w| s.set_a(s.rbx as i8 as u64, w));
    add("movsx bx", &[64], ALL, |s, w| s.set_a(s.rbx as i16 as u64, w));
    add("movsxd", &[64], ALL, |s, w| s.set_a(s.rbx as i32 as u64, w));
    rows
}

/// RAX, RDX and flags after each row, pair of operands and carry.
pub fn expected() -> Observations {
    let mut expected = Vec::new();
    for row in rows() {
        for [rax, rbx, rdx] in OPERANDS {
            for carry in 0..2 {
                let mut state = State { rax, rbx, rdx, flags: carry };
                (row.model)(&mut state, row.bits);
                let name = format!("{} of {rax:#x} and {rbx:#x} with carry {carry}", row.name);
                for value in [state.rax, state.rdx, state.flags & row.flags] {
                    expected.push((name.clone(), value));
                }
            }
        }
    }
    expected
}
