//! Numbers as people read them.

use std::fmt::Write as _;

use control::Summary;

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

/// What a share of some times does not exceed (nearest rank); `None` if there are none. They are
/// sorted.
fn quantile(sorted: &[u64], per_cent: usize) -> Option<u64> {
    let rank = (sorted.len() * per_cent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

/// How the downtime and the total time of moves are distributed, as a table.
pub fn distributions(moves: &[&Summary]) -> String {
    let mut table = format!(
        "{:>9} {:>10} {:>10} {:>10} {:>10} {:>10}\n",
        "", "MIN", "MEDIAN", "90 %", "99 %", "MAX"
    );
    let downtime = |summary: &Summary| summary.downtime_us;
    let total = |summary: &Summary| summary.total_us;
    for (name, of) in [("downtime", downtime as fn(&Summary) -> u64), ("total", total)] {
        let mut times: Vec<u64> = moves.iter().map(|summary| of(summary)).collect();
        times.sort_unstable();
        let _ = write!(table, "{name:>9}");
        for per_cent in [0, 50, 90, 99, 100] {
            let shown = quantile(&times, per_cent).map_or_else(|| "-".to_owned(), time);
            let _ = write!(table, " {shown:>10}");
        }
        table.push('\n');
    }
    table
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

    #[test]
    fn quantiles_are_times_that_were_measured() {
        let hundred: Vec<u64> = (1..=100).collect();
        let all = |times: &[u64]| [0, 50, 90, 99, 100].map(|share| quantile(times, share));
        assert_eq!(all(&hundred), [1, 50, 90, 99, 100].map(Some));
        assert_eq!(all(&[3, 8, 9]), [3, 8, 9, 9, 9].map(Some));
        assert_eq!(all(&[]), [None; 5]);
    }
}
