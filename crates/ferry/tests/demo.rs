//! The demo, as a user runs it.

use std::process::Command;

#[test]
fn a_guest_is_moved_ten_times_and_finds_nothing_wrong() {
    let output = Command::new(env!("CARGO_BIN_EXE_ferry")).args(["demo"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    assert!(text.contains("It found nothing wrong."), "{text}");
    for number in 1..=10 {
        assert!(text.contains(&format!("move {number}: ")), "{text}");
    }
    // The table has a line for every move.
    let lines = text.lines().filter(|line| line.contains("MiB") && !line.contains("in all"));
    assert!(lines.count() >= 10, "{text}");
}
