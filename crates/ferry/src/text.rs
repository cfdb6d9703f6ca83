//! Numbers as people read them.

/// Bytes, such as `12.3 MiB`.
pub fn bytes(count: u64) -> String {
    machine::format_size(count)
}

/// Microseconds, as milliseconds or seconds.
pub fn time(microseconds: u64) -> String {
    if microseconds < 1_000_000 {
        format!("{:.1} ms", microseconds as f64 / 1e3)
    } else {
        format!("{:.2} s", microseconds as f64 / 1e6)
    }
}

/// A bar of some width, filled by a share of it.
pub fn bar(done: u64, of: u64, width: usize) -> String {
    let share = if of == 0 { 1.0 } else { done.min(of) as f64 / of as f64 };
    let filled = (share * width as f64).round() as usize;
    format!("[{}{}]", "#".repeat(filled), ".".repeat(width - filled))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_bars_read_well() {
        assert_eq!(time(1_500), "1.5 ms");
        assert_eq!(time(2_500_000), "2.50 s");
        assert_eq!(bar(1, 2, 8), "[####....]");
        assert_eq!(bar(9, 2, 4), "[####]");
        assert_eq!(bar(0, 0, 2), "[##]");
    }
}
