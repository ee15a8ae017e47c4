//! A connection that several threads use: whoever waits for an answer and finds nobody reading, reads for all.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::NbdError;
use crate::negotiation::{Export, Negotiation};
use crate::options::ConnectOptions;
use crate::pending::Reply;
use crate::session::{Cookie, IN_FLIGHT_MAX, Request, Session};

/// Most bytes taken from the socket at once.
const BUFFER_BYTES: usize = 256 << 10;

/// A connection to an export.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    server: String,
    export: Export,
    shared: Mutex<Shared>,
    /// Somebody read: an answer may be there, or the place of the reader is free.
    progress: Condvar,
    /// Held while a request is written, so that requests do not mix.
    writing: Mutex<()>,
}

#[derive(Debug)]
struct Shared {
    session: Session,
    /// The buffer for reading; `None` while a thread reads.
    buffer: Option<Vec<u8>>,
    broken: Option<Arc<NbdError>>,
}

#[derive(Debug)]
enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = match self {
                Self::Unix(stream) => (&mut &*stream).read(buf),
                Self::Tcp(stream) => (&mut &*stream).read(buf),
            };
            match read {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }

    fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Unix(stream) => (&mut &*stream).write_all(bytes),
            Self::Tcp(stream) => (&mut &*stream).write_all(bytes),
        }
    }

    fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Unix(stream) => {
                stream.set_read_timeout(timeout).and_then(|()| stream.set_write_timeout(timeout))
            }
            Self::Tcp(stream) => {
                stream.set_nodelay(true)?;
                stream.set_read_timeout(timeout).and_then(|()| stream.set_write_timeout(timeout))
            }
        }
    }
}

impl Connection {
    /// Connects to a Unix socket and negotiates.
    pub fn unix(path: &Path, options: &ConnectOptions) -> Result<Self, NbdError> {
        let server = path.display().to_string();
        match UnixStream::connect(path) {
            Ok(stream) => Self::start(Stream::Unix(stream), server, options),
            Err(source) => Err(NbdError::Io { doing: "connect to", server, source }),
        }
    }

    /// Connects by TCP and negotiates. Nothing is encrypted: for the own host and for tunnels.
    pub fn tcp(address: impl ToSocketAddrs, options: &ConnectOptions) -> Result<Self, NbdError> {
        match TcpStream::connect(address) {
            Ok(stream) => {
                let server = stream.peer_addr().map_or_else(|_| "of TCP".to_owned(), |a| a.to_string());
                Self::start(Stream::Tcp(stream), server, options)
            }
            Err(source) => {
                Err(NbdError::Io { doing: "connect to", server: "at the TCP address".to_owned(), source })
            }
        }
    }

    /// Negotiates on a stream that is connected already.
    pub fn on(stream: UnixStream, options: &ConnectOptions) -> Result<Self, NbdError> {
        Self::start(Stream::Unix(stream), "of the stream".to_owned(), options)
    }

    fn start(stream: Stream, server: String, options: &ConnectOptions) -> Result<Self, NbdError> {
        let failed = |doing| {
            let server = server.clone();
            move |source| NbdError::Io { doing, server, source }
        };
        stream.set_timeout(options.timeout).map_err(failed("connect to"))?;
        let mut negotiation = Negotiation::new(options)?;
        let mut buffer = vec![0; BUFFER_BYTES];
        let export = loop {
            if let Some(export) = negotiation.export() {
                break export.clone();
            }
            let part = negotiation.missing().min(BUFFER_BYTES);
            let count = stream.read(&mut buffer[..part]).map_err(failed("receive from"))?;
            if count == 0 {
                return Err(NbdError::Closed { server });
            }
            let taken = negotiation.receive(&buffer[..count]);
            // What a refusal leaves to be sent is a farewell: nobody waits for it.
            let sent = stream.write_all(&negotiation.take_output()).map_err(failed("send to"));
            taken.and(sent)?;
        };
        let session = Session::new(export.clone());
        let shared = Mutex::new(Shared { session, buffer: Some(buffer), broken: None });
        Ok(Self { stream, server, export, shared, progress: Condvar::new(), writing: Mutex::new(()) })
    }

    /// What was agreed.
    pub fn export(&self) -> &Export {
        &self.export
    }

    /// Path or address of the server.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Sends a request; waits first when [`IN_FLIGHT_MAX`] are under way.
    pub fn submit(&self, request: Request) -> Result<Cookie, NbdError> {
        let sender = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut shared = self.shared();
        while shared.session.in_flight() >= IN_FLIGHT_MAX {
            shared = self.read_or_wait(shared)?;
        }
        Self::alive(&shared)?;
        let (cookie, bytes) = shared.session.submit(request)?;
        drop(shared);
        let sent = self.stream.write_all(&bytes);
        drop(sender);
        sent.map(|()| cookie).map_err(|source| {
            let server = self.server.clone();
            self.break_with(&mut self.shared(), NbdError::Io { doing: "send to", server, source })
        })
    }

    /// Waits for the answer to a request that was submitted here and whose answer was not taken yet.
    pub fn wait(&self, cookie: Cookie) -> Result<Reply, NbdError> {
        let mut shared = self.shared();
        loop {
            if let Some(reply) = shared.session.take(cookie) {
                return reply;
            }
            shared = self.read_or_wait(shared)?;
        }
    }

    /// Reads once from the socket, or waits until another thread has.
    fn read_or_wait<'a>(
        &'a self,
        mut shared: MutexGuard<'a, Shared>,
    ) -> Result<MutexGuard<'a, Shared>, NbdError> {
        Self::alive(&shared)?;
        let Some(mut buffer) = shared.buffer.take() else {
            return Ok(self.progress.wait(shared).unwrap_or_else(PoisonError::into_inner));
        };
        drop(shared);
        let read = self.stream.read(&mut buffer);
        let mut shared = self.shared();
        let server = || self.server.clone();
        let taken = match read {
            Ok(0) => Err(NbdError::Closed { server: server() }),
            Ok(count) => shared.session.receive(&buffer[..count]),
            Err(source) => Err(NbdError::Io { doing: "receive from", server: server(), source }),
        };
        shared.buffer = Some(buffer);
        self.progress.notify_all();
        match taken {
            Ok(()) => Ok(shared),
            Err(error) => Err(self.break_with(&mut shared, error)),
        }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn alive(shared: &Shared) -> Result<(), NbdError> {
        shared.broken.as_ref().map_or(Ok(()), |error| Err(NbdError::Broken(Arc::clone(error))))
    }

    /// Ends the connection for all threads with the first error, and returns it for this one.
    fn break_with(&self, shared: &mut Shared, error: NbdError) -> NbdError {
        let first = shared.broken.get_or_insert_with(|| Arc::new(error));
        self.progress.notify_all();
        NbdError::Broken(Arc::clone(first))
    }

    /// Tells the server that this is the end.
    pub fn close(self) -> Result<(), NbdError> {
        let sent = self.stream.write_all(&Session::disconnect());
        self.shared().broken = Some(Arc::new(NbdError::Closed { server: self.server.clone() }));
        sent.map_err(|source| NbdError::Io { doing: "send to", server: self.server.clone(), source })
    }
}

impl Drop for Connection {
    /// The server learns of the end; whether that reaches it, nobody waits for.
    fn drop(&mut self) {
        if self.shared().broken.is_none() {
            let _ = self.stream.write_all(&Session::disconnect());
        }
    }
}
