//! The loop that runs blocks, and takes signals and interrupts between them.

use std::sync::Arc;

use cpu::flags as f;
use cpu::{AcceleratorError, Activity, Bus, CpuState, Exit, InterruptShadow, Ran, Signal, Vcpu};

use crate::block::Block;
use crate::core::{BLOCK_RIP, Core};
use crate::decode::NoBlock;
use crate::fault::{DEBUG, Fault};

const JUMP_ENTRIES: usize = 8192;
const NMI_VECTOR: u8 = 2;
const DR6_SINGLE_STEP: u64 = 1 << 14;

struct Jump {
    linear: u64,
    /// Code mode and privilege; see [`Core::jump_key`].
    key: u32,
    epoch: u64,
    block: Option<Arc<Block>>,
}

/// One vCPU of the software CPU.
pub struct SoftVcpu {
    core: Box<Core>,
    /// Blocks by linear address, while the translations and the code are what they were.
    jumps: Box<[Jump]>,
}

// A raw pointer in the core is set only while `run` is on the stack.
#[expect(unsafe_code, reason = "the core names the block that runs by pointer")]
// SAFETY: outside `run`, which holds `&mut self`, `block` is null and `current` is never followed;
// everything else in a core is `Send`.
unsafe impl Send for SoftVcpu {}

impl SoftVcpu {
    pub(crate) fn new(core: Core) -> Self {
        let empty = || Jump { linear: 0, key: 0, epoch: 0, block: None };
        Self { core: Box::new(core), jumps: (0..JUMP_ENTRIES).map(|_| empty()).collect() }
    }

    /// What has to happen between two instructions. `Some` ends the run.
    #[inline(never)]
    fn attend(&mut self, bus: &mut dyn Bus, executed: u64) -> Option<Exit> {
        let core = &mut *self.core;
        core.stop = false;
        core.executed = executed;
        core.extra = 0;
        if core.ram.any_hit() {
            for page in core.ram.take_hits() {
                core.code.drop_page(&core.ram, page);
            }
        }
        if core.init_pending || core.startup_pending.is_some() {
            let state = core.signalled_state(0);
            core.load(&state, 0);
            core.stop = false;
        }
        match core.activity {
            Activity::Shutdown => return Some(Exit::Shutdown),
            Activity::WaitForStartup => return Some(Exit::Idle),
            Activity::Running | Activity::Halted => {}
        }
        while core.exception.present || core.interrupt.present {
            core.activity = Activity::Running;
            core.deliver_pending();
            core.stop = false;
        }
        if core.shadow == InterruptShadow::None {
            if core.nmi_pending && !core.nmi_blocked {
                core.nmi_pending = false;
                core.nmi_blocked = true;
                core.activity = Activity::Running;
                core.deliver_external(NMI_VECTOR);
                core.stop = false;
            } else if core.flag(f::IF) && bus.interrupt_pending() {
                core.activity = Activity::Running;
                if let Some(vector) = bus.acknowledge_interrupt(executed) {
                    core.deliver_external(vector);
                    core.stop = false;
                }
            }
        }
        core.update_epoch();
        if core.activity == Activity::Shutdown {
            return Some(Exit::Shutdown);
        }
        if bus.attention() {
            core.stop = true;
            return Some(Exit::Attention);
        }
        if core.activity == Activity::Halted {
            core.stop = true;
            return Some(Exit::Idle);
        }
        if core.yielded {
            core.yielded = false;
            core.stop = true;
            return Some(Exit::Yield);
        }
        None
    }

    /// Finds the block at RIP through the jump cache; the entry keeps it alive.
    #[inline(always)]
    fn next_block(&mut self) -> Result<*const Block, NoBlock> {
        let core = &mut *self.core;
        let linear = core.code_linear(core.rip);
        let entry = &mut self.jumps[(linear ^ linear >> 13) as usize % JUMP_ENTRIES];
        if entry.linear == linear
            && entry.epoch == core.epoch
            && entry.key == core.jump_key
            && let Some(block) = &entry.block
        {
            return Ok(Arc::as_ptr(block));
        }
        let block = core.find_block()?;
        core.update_epoch();
        *entry = Jump { linear, key: core.jump_key, epoch: core.epoch, block: None };
        Ok(Arc::as_ptr(entry.block.insert(block)))
    }

    /// Runs a block, or as much of it as `limit` instructions allow. Returns how many ran.
    #[inline(always)]
    #[expect(unsafe_code, reason = "the jump cache entry keeps the block alive")]
    fn run_block(&mut self, bus: &mut dyn Bus, block: *const Block, limit: u64) -> u64 {
        let core = &mut *self.core;
        // SAFETY: the pointer comes from an entry of the jump cache, which changes only in
        // `next_block`, not while the block runs; blocks are immutable.
        let running = unsafe { &*block };
        let start = core.rip;
        core.block = block;
        core.budget = limit;
        core.extra = 0;
        core.set_register(BLOCK_RIP, start);
        let count = (running.ops.len() as u64).min(limit) as usize;
        let ops = &running.ops[..count];
        // A handler that branches sets RIP; all others leave it at the next instruction.
        let last = &ops[count - 1];
        core.rip = start.wrapping_add(u64::from(last.next));
        let mut ran = count;
        for (index, op) in ops.iter().enumerate() {
            core.current = op;
            if (op.run)(core, bus, op).is_err() {
                core.rip = start.wrapping_add(u64::from(op.start));
                core.block = std::ptr::null();
                core.shadow = InterruptShadow::None;
                core.deliver_fault();
                core.stop = true;
                return index as u64 + 1 + core.extra;
            }
            if core.stop {
                ran = index + 1;
                if ran < count {
                    core.rip = start.wrapping_add(u64::from(op.next));
                }
                break;
            }
        }
        core.block = std::ptr::null();
        ran as u64 + core.extra
    }

    /// Runs one instruction where the next one differs from the rest: in an interrupt shadow, or
    /// with the trap flag set.
    fn single(&mut self, bus: &mut dyn Bus, block: *const Block) -> u64 {
        let shadow = self.core.shadow;
        let stepping = self.core.flag(f::TF);
        self.core.shadow = InterruptShadow::None;
        self.core.steps_out = false;
        let ran = self.run_block(bus, block, 1);
        let core = &mut *self.core;
        // A shadow does not prolong itself.
        if shadow != InterruptShadow::None && core.shadow == InterruptShadow::Sti {
            core.shadow = InterruptShadow::None;
        }
        // MOV SS holds the step off as well. What delivered an exception or entered the kernel has
        // cleared the flag and takes no step; a POPF that cleared it does.
        let stepped = stepping && (core.flag(f::TF) || core.steps_out);
        if stepped && shadow != InterruptShadow::MovSs {
            core.dr6 |= DR6_SINGLE_STEP;
            core.fault = Fault { vector: DEBUG, error_code: None, address: 0 };
            core.deliver_trap();
        }
        core.stop = true;
        ran
    }
}

impl Vcpu for SoftVcpu {
    fn run(&mut self, bus: &mut dyn Bus, budget: u64) -> Result<Ran, AcceleratorError> {
        let mut executed = 0;
        self.core.stop = true;
        self.core.note_watch();
        loop {
            if self.core.stop
                && let Some(exit) = self.attend(bus, executed)
            {
                return Ok(Ran { exit, instructions: executed });
            }
            if executed >= budget {
                return Ok(Ran { exit: Exit::Budget, instructions: executed });
            }
            self.core.executed = executed;
            match self.next_block() {
                Ok(block) => {
                    let special =
                        self.core.shadow != InterruptShadow::None || self.core.flag(f::TF);
                    executed += if special {
                        self.single(bus, block)
                    } else {
                        self.run_block(bus, block, budget - executed)
                    };
                }
                Err(NoBlock::Trap) => {
                    self.core.shadow = InterruptShadow::None;
                    self.core.deliver_fault();
                    self.core.stop = true;
                    executed += 1;
                }
                Err(NoBlock::NotRam(physical)) => {
                    let rip = self.core.rip;
                    return Err(AcceleratorError::Run {
                        vcpu: self.core.topology.apic_id,
                        rip,
                        reason: format!("it fetches from {physical:#x}, which is no RAM"),
                    });
                }
            }
        }
    }

    fn state(&self, tsc: u64) -> Result<CpuState, AcceleratorError> {
        Ok(self.core.signalled_state(tsc))
    }

    fn set_state(&mut self, state: &CpuState, tsc: u64) -> Result<(), AcceleratorError> {
        self.core.accepts(state)?;
        self.core.load(state, tsc);
        Ok(())
    }

    fn signal(&mut self, signal: Signal) {
        match signal {
            Signal::Nmi => self.core.nmi_pending = true,
            Signal::Init => {
                self.core.init_pending = true;
                self.core.startup_pending = None;
            }
            Signal::Startup(vector) => self.core.startup_pending = Some(vector),
        }
        self.core.stop = true;
    }

    fn is_idle(&self) -> bool {
        let core = &*self.core;
        let signalled = core.init_pending
            || core.startup_pending.is_some()
            || core.nmi_pending && !core.nmi_blocked;
        matches!(core.activity, Activity::Halted | Activity::WaitForStartup) && !signalled
    }

    fn wakes(&self, interrupt_pending: bool) -> bool {
        interrupt_pending && self.core.activity == Activity::Halted && self.core.flag(f::IF)
    }

    fn forget_dirty(&mut self) {
        self.core.tlbs.flush();
    }
}
