//! HTTP/1.1 heads, bodies and connections, without I/O.
#![forbid(unsafe_code)]
