//! A blocking client of the control protocol, for the daemon and tools.
