//! What each instruction does, by family. A handler changes nothing before it can no longer fault.

pub(crate) mod arithmetic;
pub(crate) mod bits;
pub(crate) mod control;
pub(crate) mod data;
pub(crate) mod far;
pub(crate) mod multiply;
pub(crate) mod operand;
pub(crate) mod shift;
pub(crate) mod stack;
pub(crate) mod string;
pub(crate) mod system;
