//! Tests of the log as a whole.

mod crash;
mod damage;
mod files;
mod inspection;
mod limits;
mod model;
mod rig;
mod unreadable;
