//! Checks of the host: what it is set to, what is wanted, why, and how to get there.
//!
//! [`Facts::gather`] reads the machine, and is the only thing here that does; [`evaluate`] judges
//! facts and is pure; [`text`] and [`json`] print what was found. Nothing is changed.

mod checks;
mod disk;
mod facts;
mod gather;
mod report;

pub use checks::{CERTIFICATE_LEFT_S_MIN, Check, Finding, Severity, Status, checks, evaluate};
pub use facts::{BlockDevice, Certificate, DiskProbe, Facts, RingProbe};
pub use report::{exit_code, json, text};
