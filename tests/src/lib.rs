//! Tests of the whole hub: the real program, real clients, simulated and real faults.
#![forbid(unsafe_code)]
