//! The agent's few log lines, on the guest's console, where the host keeps the tail for its error messages.

use std::io::Write;

/// Longest line, in bytes: what reaches the console may quote a container.
const MAX_LINE: usize = 1024;

/// Something the operator should see: the agent goes on, without a part.
pub fn warning(message: &str) {
    write_line("warning", message);
}

/// The cause of the agent's end, or of a request's failure that is the guest's own fault.
pub fn error(message: &str) {
    write_line("error", message);
}

fn write_line(level: &str, message: &str) {
    let line = format!("vruntime-agent: {level}: {}\n", bounded(&escaped(message)));
    // Nothing is left to tell if even the console is gone.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// One line without control bytes, whatever the message quotes.
fn escaped(message: &str) -> String {
    message
        .chars()
        .flat_map(|c| {
            if c.is_control() {
                c.escape_default().collect()
            } else {
                vec![c]
            }
        })
        .collect()
}

fn bounded(line: &str) -> &str {
    &line[..line.floor_char_boundary(MAX_LINE)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_bytes_are_escaped() {
        assert_eq!(escaped("a\nb\u{1b}[1m\0é"), "a\\nb\\u{1b}[1m\\u{0}é");
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        let line = bounded(&"é".repeat(MAX_LINE)).to_owned();
        assert_eq!(line.len(), MAX_LINE);
        assert!(bounded(&format!("a{}", "é".repeat(MAX_LINE))).len() < MAX_LINE);
    }
}
