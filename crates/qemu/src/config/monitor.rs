//! QEMU's monitor protocol, QMP: requests and answers, a JSON object on each line (QEMU,
//! "QEMU Machine Protocol Specification").

use std::io::{self, BufRead, Read, Write};

use serde_json::{Value, json};
use thiserror::Error;

/// Bytes of a line at most. The longest answer that is asked for here has some 10 KiB.
const MAX_LINE: u64 = 4 << 20;

/// A monitor did not answer as it should.
#[derive(Debug, Error)]
pub enum MonitorError {
    /// The connection broke, or nothing came in time.
    #[error("QEMU's monitor does not answer")]
    Io(#[from] io::Error),
    /// The other side ended the connection.
    #[error("QEMU's monitor closed the connection")]
    Closed,
    /// It greets as something else.
    #[error("that is no QMP monitor: it does not greet as one")]
    Greeting,
    /// What came is no line of JSON, or longer than any answer.
    #[error("QEMU's monitor says something that is no answer")]
    Line,
    /// An answer is not of the form that its command has.
    #[error("QEMU's answer to {command} is not understood")]
    Answer {
        /// The command.
        command: String,
    },
    /// A command was refused that every QEMU has.
    #[error("QEMU refuses {command}: {reason}")]
    Refused {
        /// The command.
        command: String,
        /// QEMU's words.
        reason: String,
    },
}

/// What a command gives, or QEMU's words if it refuses.
pub type Answer = Result<Value, String>;

/// Somebody who carries out a monitor's commands.
pub trait Ask {
    /// Carries one out.
    ///
    /// # Errors
    /// If there is no answer.
    fn ask(&mut self, command: &str, arguments: Value) -> Result<Answer, MonitorError>;
}

/// A connection to a monitor.
pub struct Monitor<R, W> {
    reader: R,
    writer: W,
    requests: u64,
}

impl<R: BufRead, W: Write> Monitor<R, W> {
    /// Waits for the greeting, and lets the monitor take commands.
    ///
    /// # Errors
    /// If the other side is no monitor.
    pub fn new(reader: R, writer: W) -> Result<Self, MonitorError> {
        let mut monitor = Self { reader, writer, requests: 0 };
        let greeting = monitor.line().map_err(|error| match error {
            MonitorError::Line => MonitorError::Greeting,
            other => other,
        })?;
        if greeting.get("QMP").is_none() {
            return Err(MonitorError::Greeting);
        }
        let command = "qmp_capabilities";
        monitor
            .ask(command, json!({}))?
            .map_err(|reason| MonitorError::Refused { command: command.to_owned(), reason })?;
        Ok(monitor)
    }

    fn line(&mut self) -> Result<Value, MonitorError> {
        let mut line = Vec::new();
        (&mut self.reader).take(MAX_LINE).read_until(b'\n', &mut line)?;
        match line.last() {
            None => Err(MonitorError::Closed),
            Some(b'\n') => serde_json::from_slice(&line).map_err(|_| MonitorError::Line),
            Some(_) => Err(MonitorError::Line),
        }
    }
}

impl<R: BufRead, W: Write> Ask for Monitor<R, W> {
    fn ask(&mut self, command: &str, arguments: Value) -> Result<Answer, MonitorError> {
        self.requests += 1;
        let request = json!({ "execute": command, "arguments": arguments, "id": self.requests });
        self.writer.write_all(format!("{request}\n").as_bytes())?;
        self.writer.flush()?;
        loop {
            let mut line = self.line()?;
            if line.get("event").is_some() {
                continue;
            }
            if line.get("id") != Some(&json!(self.requests)) {
                return Err(MonitorError::Answer { command: command.to_owned() });
            }
            if let Some(answer) = line.get_mut("return") {
                return Ok(Ok(answer.take()));
            }
            return match line.pointer("/error/desc").and_then(Value::as_str) {
                Some(reason) => Ok(Err(reason.to_owned())),
                None => Err(MonitorError::Answer { command: command.to_owned() }),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREETING: &str = "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n";
    const READY: &str = "{\"return\": {}, \"id\": 1}\r\n";

    fn talk(answers: &str) -> (Result<Answer, MonitorError>, String) {
        let mut said = Vec::new();
        let answer = Monitor::new(answers.as_bytes(), &mut said)
            .and_then(|mut monitor| monitor.ask("query-name", json!({})));
        (answer, String::from_utf8(said).unwrap())
    }

    #[test]
    fn events_are_passed_over_and_answers_belong_to_their_request() {
        let event = "{\"event\": \"RTC_CHANGE\", \"data\": {}}\r\n";
        let answer = "{\"return\": {\"name\": \"web\"}, \"id\": 2}\r\n";
        let (answer, said) = talk(&[GREETING, READY, event, answer].concat());
        assert_eq!(answer.unwrap(), Ok(json!({ "name": "web" })));
        let requests: Vec<Value> =
            said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(requests[0]["execute"], "qmp_capabilities");
        assert_eq!(requests[1]["execute"], "query-name");
        let other = "{\"return\": {}, \"id\": 7}\r\n";
        let (answer, _) = talk(&[GREETING, READY, other].concat());
        assert!(matches!(answer, Err(MonitorError::Answer { .. })));
    }

    #[test]
    fn a_refusal_is_given_in_qemus_words() {
        let refusal =
            "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"no\"}, \"id\": 2}\n";
        assert_eq!(talk(&[GREETING, READY, refusal].concat()).0.unwrap(), Err("no".to_owned()));
        let refusal = "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}, \"id\": 1}\n";
        let (answer, _) = talk(&[GREETING, refusal].concat());
        assert_eq!(answer.unwrap_err().to_string(), "QEMU refuses qmp_capabilities: no");
    }

    #[test]
    fn what_is_no_monitor_is_an_error() {
        for (answers, expected) in [
            ("", "closed the connection"),
            ("SSH-2.0-x\r\n", "no QMP monitor"),
            ("{}\n", "no QMP monitor"),
            (GREETING, "closed the connection"),
        ] {
            let error = talk(answers).0.unwrap_err().to_string();
            assert!(error.contains(expected), "{answers}: {error}");
        }
        for line in ["{\"return\"\n", "{\"id\": 2}\n", "{\"id\": 2", "\u{1}\n", "[]\n", "7\n"] {
            assert!(talk(&[GREETING, READY, line].concat()).0.is_err(), "{line}");
        }
        let endless = "x".repeat(MAX_LINE as usize + 9);
        assert!(matches!(talk(&[GREETING, READY, &endless].concat()).0, Err(MonitorError::Line)));
    }
}
