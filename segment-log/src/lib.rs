//! An append-only log of records in segments, acknowledged only when durable.
