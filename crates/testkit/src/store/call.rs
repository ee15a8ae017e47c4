//! One call on its way to a store, and who may decide about it.

use std::fmt;
use std::future::Future;

use object_store::path::Path;
use object_store::{Error, PutPayload, Result};

/// What kind of request a call is, as a store would bill it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RequestKind {
    /// Writing an object, or a step of writing it in parts.
    Put,
    /// Reading an object or a range of it.
    Get,
    /// Asking for an object's size.
    Head,
    /// Listing a prefix.
    List,
    /// Deleting an object.
    Delete,
    /// Copying or renaming an object within the store.
    Copy,
}

/// What a call does.
#[derive(Clone, Copy, Debug)]
pub enum Action<'a> {
    /// Writes an object in one request.
    Put(&'a PutPayload),
    /// Begins writing an object in parts.
    BeginUpload,
    /// Sends one part.
    PutPart(&'a PutPayload),
    /// Makes the parts sent so far an object; `len` is their sum.
    CompleteUpload {
        /// Bytes in all parts.
        len: u64,
    },
    /// Drops the parts sent so far.
    AbortUpload {
        /// Bytes in all parts.
        len: u64,
    },
    /// Reads an object, or as many ranges of it.
    Get {
        /// Number of ranges; 1 for a whole object.
        ranges: u64,
    },
    /// Asks for an object's size.
    Head,
    /// Lists what is under the path.
    List,
    /// Deletes the object.
    Delete,
    /// Copies the object to another place.
    Copy(&'a Path),
    /// Moves the object to another place.
    Rename(&'a Path),
}

/// A call on its way to a store.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The object, the source of a copy, or the prefix of a list (empty for the whole store).
    pub path: &'a Path,
    /// What is to be done.
    pub action: Action<'a>,
    /// Whether it is a put that must not replace an object.
    pub if_absent: bool,
}

impl<'a> Call<'a> {
    pub(super) fn new(path: &'a Path, action: Action<'a>) -> Self {
        Self { path, action, if_absent: false }
    }

    /// What a store would bill it as.
    pub fn kind(&self) -> RequestKind {
        match self.action {
            Action::Put(_)
            | Action::BeginUpload
            | Action::PutPart(_)
            | Action::CompleteUpload { .. }
            | Action::AbortUpload { .. } => RequestKind::Put,
            Action::Get { .. } => RequestKind::Get,
            Action::Head => RequestKind::Head,
            Action::List => RequestKind::List,
            Action::Delete => RequestKind::Delete,
            Action::Copy(_) | Action::Rename(_) => RequestKind::Copy,
        }
    }

    /// How many requests it is.
    pub fn requests(&self) -> u64 {
        if let Action::Get { ranges } = self.action { ranges } else { 1 }
    }

    /// The bytes it sends, `None` when it sends none.
    pub fn payload(&self) -> Option<&PutPayload> {
        if let Action::Put(payload) | Action::PutPart(payload) = self.action { Some(payload) } else { None }
    }

    /// Number of bytes it sends.
    pub fn bytes_sent(&self) -> u64 {
        self.payload().map_or(0, |p| p.content_length() as u64)
    }
}

/// What becomes of a call.
#[derive(Debug)]
pub enum Verdict {
    /// It reaches the store, and the caller gets the store's answer.
    Pass,
    /// It does not reach the store; the caller gets this error.
    Refuse(Error),
    /// It reaches the store, but the caller gets this error in place of the answer.
    LoseAnswer(Error),
}

/// Sits between a caller and a store.
///
/// # Contract
/// - [`before`](Self::before) is called once per call, in the order in which the calls begin.
/// - [`after`](Self::after) is called once for every call that reached the store, before the caller gets to know
///   the outcome. For a list it is called at once, with no bytes.
/// - Both may be called by several threads at a time.
pub trait Tap: fmt::Debug + fmt::Display + Send + Sync + 'static {
    /// Decides about a call.
    fn before(&self, call: &Call<'_>) -> Verdict;

    /// Hears what the store answered: the number of bytes read, or its error.
    fn after(&self, _call: &Call<'_>, _outcome: Result<u64, &Error>) {}
}

/// Takes one call through a tap. `bytes_read` says how many bytes an answer holds.
pub(super) async fn through<R: Send>(
    tap: &dyn Tap,
    call: Call<'_>,
    bytes_read: impl FnOnce(&R) -> u64 + Send,
    work: impl Future<Output = Result<R>> + Send,
) -> Result<R> {
    match tap.before(&call) {
        Verdict::Refuse(error) => Err(error),
        verdict => finish(tap, call, verdict, bytes_read, work).await,
    }
}

/// The second half of [`through`], for a call that was not refused.
pub(super) async fn finish<R: Send>(
    tap: &dyn Tap,
    call: Call<'_>,
    verdict: Verdict,
    bytes_read: impl FnOnce(&R) -> u64 + Send,
    work: impl Future<Output = Result<R>> + Send,
) -> Result<R> {
    let answer = work.await;
    tap.after(&call, answer.as_ref().map(bytes_read));
    match verdict {
        Verdict::Pass => answer,
        Verdict::Refuse(error) | Verdict::LoseAnswer(error) => Err(error),
    }
}
