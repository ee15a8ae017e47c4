//! Asking a long walk to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use thiserror::Error;

/// The walk was asked to stop and did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("cancelled")]
pub struct Cancelled;

/// A flag shared between whoever may ask a walk to stop and the walk.
///
/// Cheap to clone; every clone sees the same flag. Once set it stays set.
#[derive(Clone, Debug, Default)]
pub struct CancelToken {
    flag: Arc<AtomicBool>,
    parent: Option<Arc<CancelToken>>,
}

impl CancelToken {
    /// A token that nobody has set.
    pub fn new() -> Self {
        Self::default()
    }

    /// A token for a part of the work: it is set when this one is, and by itself without this one.
    ///
    /// ```
    /// use vmkeep_model::CancelToken;
    ///
    /// let whole = CancelToken::new();
    /// let (one, other) = (whole.child(), whole.child());
    /// one.cancel();
    /// assert!(one.is_cancelled() && !whole.is_cancelled());
    /// whole.cancel();
    /// assert!(other.is_cancelled());
    /// ```
    #[must_use]
    pub fn child(&self) -> Self {
        Self { flag: Arc::default(), parent: Some(Arc::new(self.clone())) }
    }

    /// Asks the walk to stop at its next check. May be called from a signal handler thread, and twice.
    pub fn cancel(&self) {
        self.flag.store(true, Ordering::Release);
    }

    /// Whether somebody asked.
    pub fn is_cancelled(&self) -> bool {
        self.flag.load(Ordering::Acquire) || self.parent.as_ref().is_some_and(|parent| parent.is_cancelled())
    }

    /// `Err(Cancelled)` once somebody asked: `token.check()?` between two steps.
    pub fn check(&self) -> Result<(), Cancelled> {
        if self.is_cancelled() { Err(Cancelled) } else { Ok(()) }
    }
}
