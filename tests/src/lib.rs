//! Tests that need the whole house: the simulator.

pub mod sim;
