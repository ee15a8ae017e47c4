//! What can go wrong with a server.

use std::io;
use std::sync::Arc;

use thiserror::Error;
use vmkeep_model::Extent;

use crate::session::Command;

/// Why an export cannot be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NbdError {
    /// The connection failed, or took longer than its time-out.
    #[error("cannot {doing} the NBD server {server}")]
    Io {
        /// `connect to`, `send to`, `receive from`.
        doing: &'static str,
        /// Path or address of the server.
        server: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The server closed the connection while something was outstanding.
    #[error("the NBD server {server} closed the connection")]
    Closed {
        /// Path or address of the server.
        server: String,
    },
    /// The server sent what the protocol does not allow. The connection is of no use any more.
    #[error("the NBD server breaks the protocol")]
    Protocol(#[from] ProtocolError),
    /// The server refused the export, or an option without which there is no going on.
    #[error("the NBD server refuses {option} ({code:#x}){}", if message.is_empty() { String::new() } else { format!(": {message}") })]
    Refused {
        /// The option it refused.
        option: &'static str,
        /// The server's error, by the protocol's numbers of option replies.
        code: u32,
        /// What it said, cut short.
        message: String,
    },
    /// One request failed; the connection goes on.
    #[error("the NBD server cannot {command} {at}: error {code}{}", if message.is_empty() { String::new() } else { format!(", {message}") })]
    Request {
        /// What was asked for.
        command: Command,
        /// Where.
        at: Extent,
        /// The server's error, by the protocol's numbers (5 is an I/O error, 28 no space).
        code: u32,
        /// What it said, cut short.
        message: String,
    },
    /// The connection failed earlier, maybe in another thread.
    #[error("the connection to the NBD server failed before")]
    Broken(#[source] Arc<NbdError>),
    /// The export lacks a context: a bitmap that is not there, or a server without structured replies.
    #[error("the export has no context {context:?}; check the name of the bitmap and that it is exported")]
    NoContext {
        /// Its name.
        context: String,
    },
    /// A request that the protocol cannot carry.
    #[error("{reason}")]
    BadRequest {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// More extents than are kept in memory.
    #[error("{context:?} has more than {max} extents; treat the whole disk as changed")]
    TooManyExtents {
        /// The context.
        context: String,
        /// The bound.
        max: usize,
    },
}

/// What a server did that the protocol does not allow, or that no honest server does.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// The first bytes are not those of an NBD server of the fixed newstyle.
    #[error("it does not greet as an NBD server of the fixed newstyle does")]
    Greeting,
    /// A magic number is wrong.
    #[error("{what} has a wrong magic number, {found:#x}")]
    Magic {
        /// Where.
        what: &'static str,
        /// What stands there.
        found: u64,
    },
    /// A length does not fit what it is the length of.
    #[error("{what} of {len} bytes")]
    Length {
        /// What was announced.
        what: &'static str,
        /// Its length in bytes.
        len: u64,
    },
    /// An answer to something that was not asked.
    #[error("{what} that was not asked for: {number:#x}")]
    NotAsked {
        /// What it is.
        what: &'static str,
        /// Its number.
        number: u64,
    },
    /// Answers that do not end.
    #[error("more than {max} {what}")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// The bound.
        max: usize,
    },
    /// Data outside what was asked for, or twice.
    #[error("data at {at} is outside of what was asked for, or came twice")]
    Misplaced {
        /// Where.
        at: Extent,
    },
    /// The end of an answer of which parts are missing.
    #[error("an answer ended without {what}")]
    Incomplete {
        /// What is missing.
        what: &'static str,
    },
    /// The export's sizes contradict one another or the protocol.
    #[error("impossible {what}: {value}")]
    Size {
        /// Which size.
        what: &'static str,
        /// Its value.
        value: u64,
    },
}
