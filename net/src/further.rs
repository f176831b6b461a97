//! Protocols beside those of IoT Hub that the program can be built with: one line for each. `docs/add-a-protocol.md` says what
//! it takes to make one.

use std::fmt;
use std::hash::{Hash, Hasher};

use crate::binding::{Binding, Context};

/// The further protocols of this program, each behind a Cargo feature. None of them is spoken unless `serve` is told its port.
pub static FURTHER: &[Further] = &[
    #[cfg(feature = "stomp")]
    crate::binding::stomp::FURTHER,
];

/// A protocol that has a port of its own, inside TLS.
pub struct Further {
    /// The scheme of its addresses, which names it in settings, log lines and `run/hub.json`; unique.
    pub scheme: &'static str,
    /// Its name for people.
    pub title: &'static str,
    /// Makes the binding of a connection whose peer is about to say its first word.
    pub open: fn(&Context<'_>) -> Box<dyn Binding>,
}

impl Further {
    /// The protocol of this scheme, if the program was built with it.
    pub fn find(scheme: &str) -> Option<&'static Self> {
        FURTHER.iter().find(|protocol| protocol.scheme == scheme)
    }
}

impl PartialEq for Further {
    fn eq(&self, other: &Self) -> bool {
        self.scheme == other.scheme
    }
}

impl Eq for Further {}

impl Hash for Further {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.scheme.hash(state);
    }
}

impl fmt::Debug for Further {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.scheme)
    }
}
