//! What to connect to, and what to ask for.

use std::time::Duration;

/// The context that says what is allocated and what reads as zeros.
pub const ALLOCATION: &str = "base:allocation";

/// Most contexts of one connection.
pub const CONTEXTS_MAX: usize = 16;

/// The context under which QEMU exports the dirty bitmap `name`.
pub fn bitmap_context(name: &str) -> String {
    format!("qemu:dirty-bitmap:{name}")
}

/// What to connect to, and what to ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectOptions {
    /// Name of the export; empty for the server's default.
    pub export: String,
    /// Contexts whose extents will be asked for; at most [`CONTEXTS_MAX`]. One that the server does not know is left
    /// out of [`Export::contexts`](crate::Export::contexts).
    pub contexts: Vec<String>,
    /// How long a single send or receive may take before the server counts as gone; `None` waits for ever.
    pub timeout: Option<Duration>,
}

impl ConnectOptions {
    /// The export of this name with its allocation, and a time-out of 60 seconds.
    pub fn new(export: &str) -> Self {
        Self {
            export: export.to_owned(),
            contexts: vec![ALLOCATION.to_owned()],
            timeout: Some(Duration::from_mins(1)),
        }
    }

    /// The same with the dirty bitmap `name` of QEMU.
    #[must_use]
    pub fn with_bitmap(mut self, name: &str) -> Self {
        self.contexts.push(bitmap_context(name));
        self
    }
}
