//! Tests that need the whole house: the simulator, and what a fuzzer calls.

pub mod allocations;
pub mod fuzz;
pub mod sim;
