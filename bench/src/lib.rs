//! A load generator for servers that speak the y-websocket protocol.
//!
//! One thread drives thousands of sockets with real Yjs updates at scheduled times, recognises
//! each edit where it arrives, and reports latency from the schedule and the server's CPU per
//! delivered edit. The same binary holds the *floors*: bare relays that move the same bytes over
//! the same sockets and do nothing else, so a server's figures stand beside what the kernel alone
//! charges. It speaks the wire and knows no server's insides.

pub mod compare;
pub mod connection;
pub mod dialect;
pub mod floor;
pub mod generator;
pub mod join;
pub mod leave;
pub mod lib0;
pub mod machine;
pub mod process;
pub mod report;
pub mod run;
pub mod scenario;
pub mod schedule;
pub mod table;
pub mod tls;
pub mod tracker;
pub mod update;
pub mod websocket;
pub mod work;

/// What every fallible step of the tool returns: its errors are read by people, not matched on.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A sentence that says what failed.
#[derive(Debug)]
pub struct Error(String);

impl Error {
    /// An error that reads `message`.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<rustix::io::Errno> for Error {
    fn from(error: rustix::io::Errno) -> Self {
        Self(std::io::Error::from(error).to_string())
    }
}
