//! One line for node-problem-detector, which runs a custom plugin and reads its standard output.
//!
//! It takes exit 0 for well, 1 for a problem and all else for unknown, which are our exit codes as they are, and cuts the
//! message at 80 bytes (`max_output_length` in its `pkg/custompluginmonitor/types/config.go`).

use super::{Answer, text};

/// Renders a report.
pub fn render(answer: &Answer<'_>) -> String {
    text::verdict_line(answer.facts, answer.report) + "\n"
}
