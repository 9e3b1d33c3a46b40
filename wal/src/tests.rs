//! Tests of the log as a whole.

mod crash;
mod damage;
mod files;
mod limits;
mod model;
mod rig;
