//! The simulator: shards, disk, network and clients in one thread, in virtual time, from one seed.
//!
//! Every shard is the real one over the real engine; only what surrounds them is made up: time, the
//! network, the disk and the people. What goes wrong is drawn from the seed, and the same seed does
//! the same again.

mod client;
mod damage;
pub(crate) mod document;
mod effects;
pub(crate) mod frames;
mod hearsay;
mod hostile;
mod identity;
mod log;
mod network;
mod node;
mod oracle;
mod people;
mod plan;
mod process;
mod quiet;
pub(crate) mod rng;
mod run;
mod runtime;
mod shrink;
mod wire;
mod world;

pub use plan::Mix;
pub use quiet::{QuietStore, quiet_store};
pub use run::{
    Outcome, SEEDS, SEEDS_OF_FIRST_FAULTS, SEEDS_WITHOUT_HEARSAY, SEEDS_WITHOUT_IDENTITY, mix, run,
};
pub use shrink::shrink;

#[cfg(test)]
mod tests;
