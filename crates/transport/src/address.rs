//! Where a channel leads, as an operator writes it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Where a channel leads.
///
/// ```
/// use transport::Address;
/// let address: Address = "tcp:[::1]:4444".parse()?;
/// assert_eq!(address, Address::Tcp { host: "::1".to_owned(), port: 4444 });
/// assert_eq!(address.to_string(), "tcp:[::1]:4444");
/// # Ok::<(), transport::AddressError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `tcp:HOST:PORT`; an IPv6 address stands in brackets. Port 0 lets a listener choose.
    Tcp {
        /// Host name or address, without brackets.
        host: String,
        /// Port number.
        port: u16,
    },
    /// `unix:PATH`, a stream socket.
    Unix(PathBuf),
    /// `exec:COMMAND`, the standard input or output of a command run by `/bin/sh -c`.
    Exec(String),
    /// `file:PATH`.
    File(PathBuf),
    /// `fd:N`, a file descriptor that this process was started with.
    Fd(i32),
}

/// A text that is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no address: {reason}")]
pub struct AddressError {
    text: String,
    reason: &'static str,
}

impl Address {
    /// True if both sides can talk: `tcp:` and `unix:`.
    pub fn is_two_way(&self) -> bool {
        matches!(self, Self::Tcp { .. } | Self::Unix(_))
    }
}

fn tcp(rest: &str) -> Result<Address, &'static str> {
    let (host, port) = if let Some(bracketed) = rest.strip_prefix('[') {
        let (host, after) = bracketed.split_once(']').ok_or("the bracket is not closed")?;
        (host, after.strip_prefix(':').ok_or("a port must follow the bracket")?)
    } else {
        let (host, port) = rest.rsplit_once(':').ok_or("tcp needs HOST:PORT")?;
        if host.contains(':') {
            return Err("an IPv6 address must stand in brackets");
        }
        (host, port)
    };
    if host.is_empty() {
        return Err("the host is empty");
    }
    // `u16::from_str` takes a leading plus sign; a port has none.
    if !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("the port is no number");
    }
    let port = port.parse().map_err(|_| "the port is no number from 0 to 65535")?;
    Ok(Address::Tcp { host: host.to_owned(), port })
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let error = |reason| AddressError { text: text.to_owned(), reason };
        let (kind, rest) = text
            .split_once(':')
            .ok_or_else(|| error("it must start with tcp:, unix:, exec:, file: or fd:"))?;
        if rest.is_empty() {
            return Err(error("nothing follows the colon"));
        }
        if rest.contains('\0') {
            return Err(error("it holds a zero byte"));
        }
        match kind {
            "tcp" => tcp(rest).map_err(error),
            "unix" => Ok(Self::Unix(rest.into())),
            "exec" => Ok(Self::Exec(rest.to_owned())),
            "file" => Ok(Self::File(rest.into())),
            "fd" => match rest.parse() {
                Ok(number) if number >= 0 => Ok(Self::Fd(number)),
                _ => Err(error("fd needs the number of a file descriptor")),
            },
            _ => Err(error("it must start with tcp:, unix:, exec:, file: or fd:")),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => {
                write!(formatter, "tcp:[{host}]:{port}")
            }
            Self::Tcp { host, port } => write!(formatter, "tcp:{host}:{port}"),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
            Self::Exec(command) => write!(formatter, "exec:{command}"),
            Self::File(path) => write!(formatter, "file:{}", path.display()),
            Self::Fd(number) => write!(formatter, "fd:{number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_prints_as_it_was_written() {
        for text in [
            "tcp:localhost:0",
            "tcp:10.0.0.1:65535",
            "tcp:[fe80::1]:4444",
            "unix:/run/ferry/a.sock",
            "exec:ssh host 'ferry receive fd:0'",
            "file:/tmp/x:y",
            "fd:3",
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_its_reason() {
        for (text, reason) in [
            ("localhost", "it must start with"),
            ("rdma:host:1", "it must start with"),
            ("tcp:", "nothing follows"),
            ("tcp:host", "needs HOST:PORT"),
            ("tcp::1", "the host is empty"),
            ("tcp:::1:80", "in brackets"),
            ("tcp:[::1]80", "must follow the bracket"),
            ("tcp:[::1", "not closed"),
            ("tcp:host:65536", "0 to 65535"),
            ("tcp:host:+1", "no number"),
            ("tcp:host:", "0 to 65535"),
            ("fd:-1", "file descriptor"),
            ("fd:x", "file descriptor"),
            ("file:a\0b", "zero byte"),
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
