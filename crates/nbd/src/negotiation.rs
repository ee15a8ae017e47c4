//! From the greeting to the export: the fixed newstyle negotiation.
//!
//! ```text
//! server                        client
//!   NBDMAGIC IHAVEOPT flags  ->
//!                            <-   flags, STRUCTURED_REPLY
//!   ack, or unsupported      ->
//!                            <-   SET_META_CONTEXT             (when there are contexts to ask for)
//!   context id name ..., ack ->
//!                            <-   GO
//!   info ..., ack            ->                                 transmission begins
//! ```

use vmkeep_model::ByteLen;

use crate::error::{NbdError, ProtocolError};
use crate::options::{CONTEXTS_MAX, ConnectOptions};
use crate::wire::{self, Fields, index};

/// What was agreed with the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// Size in bytes, below 2^63.
    pub len: ByteLen,
    /// Whether answers come in chunks. Without it there are no contexts.
    pub structured: bool,
    /// The contexts that the server has of those asked for: its number for each, and its name.
    pub contexts: Vec<(u32, String)>,
    /// Reads must begin and end at multiples of it: a power of two, 1 to 65,536.
    pub block_min: u32,
    /// Longest read in bytes, at least `block_min` and a multiple of it.
    pub read_max: u32,
}

/// The negotiation of one connection, without its I/O.
#[derive(Debug)]
pub struct Negotiation {
    export_name: String,
    wanted: Vec<String>,
    state: State,
    /// The part of a message that has come.
    gathered: Vec<u8>,
    output: Vec<u8>,
    replies: usize,
    len: Option<u64>,
    agreed: Export,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Greeting,
    /// The head of an answer to this option.
    Head(u32),
    /// The body of an answer to this option, of this type and length.
    Body(u32, u32, u32),
    Done,
}

const HEAD_BYTES: usize = 20;

impl Negotiation {
    /// Begins; the server speaks first.
    pub fn new(options: &ConnectOptions) -> Result<Self, NbdError> {
        let bad = |reason| Err(NbdError::BadRequest { reason });
        let longest = options.contexts.iter().map(String::len).chain([options.export.len()]).max();
        if longest.unwrap_or(0) > wire::TEXT_BYTES_MAX {
            return bad("a name of an export or context is longer than 4096 bytes");
        }
        if options.contexts.len() > CONTEXTS_MAX {
            return bad("more than 16 contexts are asked for");
        }
        Ok(Self {
            export_name: options.export.clone(),
            wanted: options.contexts.clone(),
            state: State::Greeting,
            gathered: Vec::new(),
            output: Vec::new(),
            replies: 0,
            len: None,
            agreed: Export {
                len: ByteLen(0),
                structured: false,
                contexts: Vec::new(),
                block_min: 1,
                read_max: wire::READ_BYTES_MAX,
            },
        })
    }

    /// Bytes to send now.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// What was agreed, once the negotiation is over.
    pub fn export(&self) -> Option<&Export> {
        matches!(self.state, State::Done).then_some(&self.agreed)
    }

    /// Bytes that the next message lacks; 0 when the negotiation is over. Whoever reads no more than that leaves what
    /// follows to the [`Session`](crate::Session).
    pub fn missing(&self) -> usize {
        self.message_bytes().saturating_sub(self.gathered.len())
    }

    fn message_bytes(&self) -> usize {
        match self.state {
            State::Greeting => 18,
            State::Head(_) => HEAD_BYTES,
            State::Body(_, _, len) => index(len),
            State::Done => 0,
        }
    }

    /// Takes bytes from the server. Bytes after the end of the negotiation are an error: see [`missing`](Self::missing).
    pub fn receive(&mut self, mut input: &[u8]) -> Result<(), NbdError> {
        while !input.is_empty() {
            let (now, rest) = input.split_at(input.len().min(self.missing()));
            if now.is_empty() {
                return Err(ProtocolError::NotAsked { what: "bytes", number: 0 }.into());
            }
            self.gathered.extend_from_slice(now);
            input = rest;
            while self.missing() == 0 && !matches!(self.state, State::Done) {
                let message = std::mem::take(&mut self.gathered);
                self.step(&message)?;
            }
        }
        Ok(())
    }

    fn step(&mut self, message: &[u8]) -> Result<(), NbdError> {
        match self.state {
            State::Greeting => self.greeted(message),
            State::Head(option) => self.head(option, message),
            State::Body(option, kind, _) => self.body(option, kind, message),
            State::Done => Ok(()),
        }
    }

    fn greeted(&mut self, message: &[u8]) -> Result<(), NbdError> {
        let mut fields = Fields(message);
        let magics = (fields.bytes::<8>(), fields.bytes::<8>());
        let flags = fields.u16().unwrap_or(0);
        if magics != (Some(wire::GREETING), Some(wire::OPTION_MAGIC))
            || flags & wire::FLAG_FIXED_NEWSTYLE == 0
        {
            return Err(ProtocolError::Greeting.into());
        }
        let answer = u32::from(wire::FLAG_FIXED_NEWSTYLE | flags & wire::FLAG_NO_ZEROES);
        self.output.extend_from_slice(&answer.to_be_bytes());
        self.ask(wire::OPT_STRUCTURED_REPLY, &[]);
        Ok(())
    }

    fn ask(&mut self, option: u32, data: &[u8]) {
        self.send_option(option, data);
        self.replies = 0;
        self.state = State::Head(option);
    }

    fn send_option(&mut self, option: u32, data: &[u8]) {
        self.output.extend_from_slice(wire::OPTION_MAGIC);
        self.output.extend_from_slice(&option.to_be_bytes());
        self.output.extend_from_slice(&length_of(data));
        self.output.extend_from_slice(data);
    }

    fn head(&mut self, option: u32, message: &[u8]) -> Result<(), NbdError> {
        let mut fields = Fields(message);
        let magic = fields.u64().unwrap_or(0);
        let (answered, kind) = (fields.u32().unwrap_or(0), fields.u32().unwrap_or(0));
        let len = fields.u32().unwrap_or(0);
        if magic != wire::OPTION_REPLY_MAGIC {
            return Err(ProtocolError::Magic { what: "the answer to an option", found: magic }.into());
        }
        if answered != option {
            return Err(
                ProtocolError::NotAsked { what: "an answer to an option", number: answered.into() }.into()
            );
        }
        if len > wire::OPTION_BYTES_MAX {
            return Err(ProtocolError::Length { what: "an answer to an option", len: len.into() }.into());
        }
        self.replies += 1;
        if self.replies > wire::OPTION_REPLIES_MAX {
            let max = wire::OPTION_REPLIES_MAX;
            return Err(ProtocolError::TooMany { what: "answers to one option", max }.into());
        }
        self.state = State::Body(option, kind, len);
        Ok(())
    }

    fn body(&mut self, option: u32, kind: u32, body: &[u8]) -> Result<(), NbdError> {
        self.state = State::Head(option);
        match (option, kind) {
            (wire::OPT_STRUCTURED_REPLY, wire::REP_ACK) => {
                self.agreed.structured = true;
                if self.wanted.is_empty() { self.go() } else { self.ask_for_contexts() }
            }
            (wire::OPT_STRUCTURED_REPLY, kind) if kind & wire::REP_ERROR != 0 => self.go(),
            (wire::OPT_SET_META_CONTEXT, wire::REP_META_CONTEXT) => return self.context(body),
            (wire::OPT_SET_META_CONTEXT, wire::REP_ACK | wire::REP_ERR_UNSUP) => self.go(),
            (wire::OPT_GO, wire::REP_INFO) => return self.info(body),
            (wire::OPT_GO, wire::REP_ACK) => return self.finish(),
            (_, code) if code & wire::REP_ERROR != 0 => {
                self.send_option(wire::OPT_ABORT, &[]);
                let option = if option == wire::OPT_GO { "the export" } else { "contexts" };
                return Err(NbdError::Refused { option, code, message: wire::text(body) });
            }
            (_, kind) => {
                return Err(
                    ProtocolError::NotAsked { what: "an answer to an option", number: kind.into() }.into()
                );
            }
        }
        Ok(())
    }

    fn ask_for_contexts(&mut self) {
        let mut data = named(&self.export_name);
        data.extend_from_slice(&u32::try_from(self.wanted.len()).unwrap_or(u32::MAX).to_be_bytes());
        for context in &self.wanted {
            data.extend_from_slice(&named(context));
        }
        self.ask(wire::OPT_SET_META_CONTEXT, &data);
    }

    fn go(&mut self) {
        let mut data = named(&self.export_name);
        data.extend_from_slice(&1_u16.to_be_bytes());
        data.extend_from_slice(&wire::INFO_BLOCK_SIZE.to_be_bytes());
        self.ask(wire::OPT_GO, &data);
    }

    fn context(&mut self, body: &[u8]) -> Result<(), NbdError> {
        let mut fields = Fields(body);
        let id = fields.u32().ok_or(ProtocolError::Length { what: "a context", len: body.len() as u64 })?;
        let name = self.wanted.iter().find(|name| name.as_bytes() == fields.0);
        let known = &self.agreed.contexts;
        match name {
            Some(name) if !known.iter().any(|(other_id, other)| *other_id == id || other == name) => {
                self.agreed.contexts.push((id, name.clone()));
                Ok(())
            }
            _ => Err(ProtocolError::NotAsked { what: "a context", number: id.into() }.into()),
        }
    }

    fn info(&mut self, body: &[u8]) -> Result<(), NbdError> {
        let wrong = || ProtocolError::Length { what: "information on an export", len: body.len() as u64 };
        let mut fields = Fields(body);
        match fields.u16().ok_or_else(wrong)? {
            wire::INFO_EXPORT if body.len() == 12 => self.len = fields.u64(),
            wire::INFO_BLOCK_SIZE if body.len() == 14 => {
                let (Some(min), Some(_), Some(max)) = (fields.u32(), fields.u32(), fields.u32()) else {
                    return Err(wrong().into());
                };
                if !min.is_power_of_two() || min > 1 << 16 {
                    return Err(ProtocolError::Size { what: "smallest block", value: min.into() }.into());
                }
                let max = max.min(wire::READ_BYTES_MAX) / min * min;
                if max == 0 {
                    return Err(ProtocolError::Size { what: "largest block", value: max.into() }.into());
                }
                (self.agreed.block_min, self.agreed.read_max) = (min, max);
            }
            wire::INFO_EXPORT | wire::INFO_BLOCK_SIZE => return Err(wrong().into()),
            _ => {} // a name or description, which nobody asked for and which does no harm
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), NbdError> {
        let len = self.len.ok_or(ProtocolError::Incomplete { what: "the size of the export" })?;
        if i64::try_from(len).is_err() {
            return Err(ProtocolError::Size { what: "size of the export", value: len }.into());
        }
        self.agreed.len = ByteLen(len);
        self.state = State::Done;
        Ok(())
    }
}

/// A text behind its length.
fn named(text: &str) -> Vec<u8> {
    [&length_of(text.as_bytes()), text.as_bytes()].concat()
}

/// The length of something whose parts were bounded by [`Negotiation::new`].
fn length_of(data: &[u8]) -> [u8; 4] {
    u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes()
}
