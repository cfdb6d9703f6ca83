//! Placeholder.

mod simd;
