//! A processor small enough to run one SIMD instruction: what the table promises, spelled out.

use super::super::{
    COMPARE_FLAGS, Operand, Shape, SimdEnv, SimdInstruction, StringResult, byte_mask, check_mxcsr,
    compare_strings, load_image, store_image,
};
use super::native::{MEMORY, Native, State};
use super::operands::Random;
use iced_x86::{Code, Mnemonic};

const ALL_STATUS_FLAGS: u64 = COMPARE_FLAGS;

/// The state that SIMD instructions read and change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    pub xmm: [u128; 16],
    /// By physical register.
    pub mm: [u64; 8],
    pub mxcsr: u32,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub flags: u64,
    pub memory: [u8; MEMORY],
    /// x87 TOP.
    pub top: u8,
    /// x87 tags as FXSAVE shows them: one bit per physical register, 1 for not empty.
    pub tags: u8,
}

impl Model {
    pub fn random(random: &mut Random, code: Code) -> Model {
        let mut memory = [0; MEMORY];
        for chunk in memory.chunks_exact_mut(16) {
            chunk.copy_from_slice(&random.register().to_le_bytes());
        }
        if code == Code::Ldmxcsr_m32 {
            // Half of the values have a reserved bit. Not bit 17: on the host it may be defined.
            let reserved = if random.below(2) == 0 { 0 } else { 0x4_0000 << random.below(14) };
            memory[16..20].copy_from_slice(&(random.mxcsr() | reserved).to_le_bytes());
        }
        let is_text = matches!(
            code.mnemonic(),
            Mnemonic::Pcmpestri | Mnemonic::Pcmpestrm | Mnemonic::Pcmpistri | Mnemonic::Pcmpistrm
        );
        if is_text {
            memory[16..32].copy_from_slice(&random.text().to_le_bytes());
        }
        let length = |random: &mut Random| {
            if is_text { random.length() } else { random.next() >> random.below(64) }
        };
        Model {
            xmm: std::array::from_fn(|_| if is_text { random.text() } else { random.register() }),
            mm: std::array::from_fn(|_| random.register() as u64),
            mxcsr: random.mxcsr(),
            rax: length(random),
            rcx: random.next(),
            rdx: length(random),
            flags: ALL_STATUS_FLAGS,
            memory,
            top: random.below(8) as u8,
            tags: random.next() as u8,
        }
    }

    /// Makes every NaN in XMM1, of the precision of this dot product, the same.
    pub fn forget_payloads(&mut self, code: Code) {
        let width = if code.mnemonic() == Mnemonic::Dpps { 32 } else { 64 };
        for place in (0..128).step_by(width) {
            let element = (self.xmm[1] >> place) as u64;
            let is_nan = if width == 32 {
                f32::from_bits(element as u32).is_nan()
            } else {
                f64::from_bits(element).is_nan()
            };
            if is_nan {
                self.xmm[1] |= (u128::from(u64::MAX) >> (64 - width)) << place;
            }
        }
    }

    /// What differs between this, the host's state, and Ferry's.
    pub fn differences(&self, here: &Model) -> Vec<String> {
        let Model { xmm, mm, mxcsr, rax, rcx, rdx, flags, memory, top, tags } = self;
        let mut found = Vec::new();
        let mut note = |name: String, host: u128, here: u128| {
            if host != here {
                found.push(format!("{name}: host {host:x}, here {here:x}"));
            }
        };
        for (index, (host, here)) in xmm.iter().zip(&here.xmm).enumerate() {
            note(format!("xmm{index}"), *host, *here);
        }
        for (index, (host, here)) in mm.iter().zip(&here.mm).enumerate() {
            note(format!("mm{index}"), (*host).into(), (*here).into());
        }
        for (index, (host, here)) in memory.iter().zip(&here.memory).enumerate() {
            note(format!("memory[{index}]"), (*host).into(), (*here).into());
        }
        note("mxcsr".into(), (*mxcsr).into(), here.mxcsr.into());
        note("rax".into(), (*rax).into(), here.rax.into());
        note("rcx".into(), (*rcx).into(), here.rcx.into());
        note("rdx".into(), (*rdx).into(), here.rdx.into());
        note("flags".into(), (*flags).into(), here.flags.into());
        note("top".into(), (*top).into(), here.top.into());
        note("tags".into(), (*tags).into(), here.tags.into());
        found
    }

    fn read(&self, operand: Operand, offset: usize) -> u128 {
        match operand {
            Operand::None => 0,
            Operand::Xmm(index) => self.xmm[usize::from(index)],
            Operand::XmmLow { index, bytes } => self.xmm[usize::from(index)] & low_mask(bytes),
            Operand::XmmHigh(index) => self.xmm[usize::from(index)] >> 64,
            Operand::Mmx(index) => self.mm[usize::from(index)].into(),
            Operand::Gpr { index, bytes } => {
                assert_eq!(index, 0);
                u128::from(self.rax) & low_mask(bytes)
            }
            Operand::Memory { bytes } => {
                let mut value = [0; 16];
                let bytes = usize::from(bytes);
                value[..bytes].copy_from_slice(&self.memory[offset..offset + bytes]);
                u128::from_le_bytes(value)
            }
        }
    }

    fn write(&mut self, operand: Operand, value: u128, offset: usize) {
        match operand {
            Operand::None => panic!("nowhere to write to"),
            Operand::Xmm(index) => self.xmm[usize::from(index)] = value,
            Operand::XmmLow { index, bytes } => {
                let register = &mut self.xmm[usize::from(index)];
                *register = *register & !low_mask(bytes) | value & low_mask(bytes);
            }
            Operand::XmmHigh(index) => {
                let register = &mut self.xmm[usize::from(index)];
                *register = *register & low_mask(8) | value << 64;
            }
            Operand::Mmx(index) => self.mm[usize::from(index)] = value as u64,
            Operand::Gpr { index, bytes } => {
                assert_eq!(index, 0);
                self.rax = (value & low_mask(bytes)) as u64;
            }
            Operand::Memory { bytes } => {
                let bytes = usize::from(bytes);
                self.memory[offset..offset + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
            }
        }
    }

    /// Runs an instruction; returns the signal by which a host would report its fault.
    pub fn run(&mut self, simd: &SimdInstruction, offset: usize) -> Option<i32> {
        if simd.aligned && !offset.is_multiple_of(16) {
            return Some(libc::SIGSEGV);
        }
        let mut env = SimdEnv::new(self.mxcsr);
        let mut result = None;
        match simd.shape {
            Shape::Copy { destination, source } => {
                result = Some((destination, self.read(source, offset)));
            }
            Shape::Compute { destination, source, run } => {
                let (old, source) = (self.read(destination, offset), self.read(source, offset));
                result = Some((destination, run(&mut env, old, source, simd.imm)));
            }
            Shape::Compare { left, source, run } => {
                let (left, source) = (self.read(left, offset), self.read(source, offset));
                let flags = run(&mut env, left, source, simd.imm) as u64;
                if !env.unmasked() {
                    self.flags = self.flags & !COMPARE_FLAGS | flags;
                }
            }
            Shape::Blend { destination, source, run } => {
                let (old, source) = (self.read(destination, offset), self.read(source, offset));
                result = Some((destination, run(old, source, self.xmm[0])));
            }
            Shape::CompareStrings { left, source, explicit, result } => {
                let (left, source) = (self.read(left, offset), self.read(source, offset));
                let lengths = explicit.map(|bytes| {
                    [self.rax, self.rdx].map(|length| match bytes {
                        4 => i64::from(length as i32),
                        _ => length as i64,
                    })
                });
                let found = compare_strings(left, source, lengths, simd.imm);
                match result {
                    StringResult::Index => self.rcx = found.index.into(),
                    StringResult::Mask => self.xmm[0] = found.mask,
                }
                self.flags = found.flags;
            }
            Shape::MaskedStore { data, mask, bytes } => {
                let (data, mask) = (self.read(data, offset), byte_mask(self.read(mask, offset)));
                for index in (0..usize::from(bytes)).filter(|index| mask >> index & 1 == 1) {
                    self.memory[offset + index] = data.to_le_bytes()[index];
                }
            }
            Shape::LoadMxcsr => {
                match check_mxcsr(self.read(Operand::Memory { bytes: 4 }, offset) as u32) {
                    Ok(value) => env = SimdEnv::new(value),
                    Err(_) => return Some(libc::SIGSEGV),
                }
            }
            Shape::StoreMxcsr => result = Some((Operand::Memory { bytes: 4 }, self.mxcsr.into())),
            Shape::Fence => {}
            Shape::Emms => (self.top, self.tags) = (0, 0),
        }
        assert!(simd.may_fault_simd || env.mxcsr == self.mxcsr || is_load_mxcsr(simd));
        self.mxcsr = env.mxcsr;
        if simd.mmx {
            (self.top, self.tags) = (0, 0xff);
        }
        if env.unmasked() {
            return Some(libc::SIGFPE);
        }
        if let Some((destination, value)) = result {
            self.write(destination, value, offset);
        }
        None
    }

    /// Runs the instruction that `native` has loaded on the host.
    pub fn run_native(&self, native: &mut Native, offset: usize) -> (Model, Option<i32>) {
        let mut state = State::new();
        self.store(&mut state);
        let fault = native.run(&mut state, offset);
        (Model::load(&state), fault)
    }

    fn store(&self, state: &mut State) {
        store_image(&mut state.image, self.mxcsr, &self.xmm);
        state.image[0..2].copy_from_slice(&0x37fu16.to_le_bytes());
        state.image[2..4].copy_from_slice(&(u16::from(self.top) << 11).to_le_bytes());
        state.image[4] = self.tags;
        for (register, value) in self.mm.iter().enumerate() {
            let slot = stack_slot(register, self.top);
            state.image[slot..slot + 8].copy_from_slice(&value.to_le_bytes());
        }
        (state.rax, state.rcx, state.rdx) = (self.rax, self.rcx, self.rdx);
        state.memory.0 = self.memory;
    }

    fn load(state: &State) -> Model {
        let mut xmm = [0; 16];
        let mxcsr = load_image(&state.image, &mut xmm).expect("the host set a reserved bit");
        let top = (u16::from_le_bytes([state.image[2], state.image[3]]) >> 11 & 7) as u8;
        Model {
            xmm,
            mm: std::array::from_fn(|register| {
                let slot = stack_slot(register, top);
                let mut bytes = [0; 8];
                bytes.copy_from_slice(&state.image[slot..slot + 8]);
                u64::from_le_bytes(bytes)
            }),
            mxcsr,
            rax: state.rax,
            rcx: state.rcx,
            rdx: state.rdx,
            flags: state.flags & COMPARE_FLAGS,
            memory: state.memory.0,
            top,
            tags: state.image[4],
        }
    }
}

/// Where the image holds a physical register: it is in stack order, MMX registers are not.
fn stack_slot(register: usize, top: u8) -> usize {
    32 + 16 * ((register + 8 - usize::from(top)) % 8)
}

fn low_mask(bytes: u8) -> u128 {
    if bytes >= 16 { u128::MAX } else { (1 << (8 * bytes)) - 1 }
}

fn is_load_mxcsr(simd: &SimdInstruction) -> bool {
    matches!(simd.shape, Shape::LoadMxcsr)
}
