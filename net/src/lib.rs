//! The hub spoken over the wire, and the program that runs it.
