//! Shards on pinned cores: mailboxes, disk work and the clock, over glommio.
#![forbid(unsafe_code)]
