//! Disks that another program exports by NBD, the protocol of network block devices.
//!
//! [`NbdDisk`] reads an export as a disk (a [`BlockRead`](vmkeep_disk::BlockRead)), with the holes that the server
//! knows, and lists what a QEMU dirty bitmap holds:
//!
//! ```no_run
//! use vmkeep_disk::BlockRead;
//! use vmkeep_model::ByteOffset;
//! use vmkeep_nbd::{ConnectOptions, NbdDisk};
//!
//! let options = ConnectOptions::new("disk0").with_bitmap("vmkeep-1");
//! let disk = NbdDisk::connect_unix("/run/backup.sock".as_ref(), &options)?;
//! for changed in disk.dirty_extents("vmkeep-1")?.iter() {
//!     let mut data = vec![0; usize::try_from(changed.len().0)?];
//!     disk.read_at(changed.start(), &mut data)?;
//! }
//! disk.close()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The protocol itself is two machines that do no I/O, [`Negotiation`] and [`Session`]: bytes that came in, bytes to
//! send, answers by cookie. They serve other kinds of streams as well:
//!
//! ```
//! use vmkeep_nbd::{ConnectOptions, Negotiation};
//!
//! let mut negotiation = Negotiation::new(&ConnectOptions::new("disk0"))?;
//! negotiation.receive(b"NBDMAGICIHAVEOPT\x00\x03")?; // a server that speaks fixed newstyle greets
//! let hello = negotiation.take_output();
//! assert_eq!(hello[..12], *b"\x00\x00\x00\x03IHAVEOPT");
//! # Ok::<(), vmkeep_nbd::NbdError>(())
//! ```
//!
//! # What holds
//! - No answer of a server makes this crate panic, loop or take more memory than the requests in flight plus
//!   [`STATUS_BYTES_MAX`]: a server that breaks the protocol ends the connection with a [`ProtocolError`].
//! - Every byte that a read returns came in an answer to that read, once.
//! - Only what the server says reads as zeros is a hole; only what it says is clean is left out of dirty extents.
//! - One connection may be used by several threads; none is started.
//!
//! # What it does not do
//! It encrypts nothing (TLS is not spoken), writes nothing, and speaks no extended headers. An export must not change
//! while it is read: export a snapshot.
//!
//! The protocol: <https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md>; the names of QEMU's contexts:
//! <https://www.qemu.org/docs/master/interop/nbd.html>.

mod disk;
mod options;

mod connection;
mod negotiation;
mod pending;
mod session;
mod wire;

mod error;
#[doc(hidden)]
pub mod fuzzing;

pub use connection::Connection;
pub use disk::{EXTENTS_MAX, NbdDisk};
pub use error::{NbdError, ProtocolError};
pub use negotiation::{Export, Negotiation};
pub use options::{ALLOCATION, CONTEXTS_MAX, ConnectOptions, bitmap_context};
pub use pending::{Reply, Status, StatusRun};
pub use session::{Command, Cookie, IN_FLIGHT_MAX, Request, Session};
pub use wire::{READ_BYTES_MAX, STATUS_BYTES_MAX};
