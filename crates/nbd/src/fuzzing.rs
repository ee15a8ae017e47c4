//! Entry points for a fuzzer: what a hostile server may send, as plain functions that must never panic.
//!
//! The test `fuzz_corpora` replays what was found.

use vmkeep_model::{ByteLen, ByteOffset};

use crate::{Command, ConnectOptions, Export, Negotiation, Reply, Request, Session};

/// A function that takes any bytes.
pub type Target = fn(&[u8]);

/// Every function here by its name, which is also that of its fuzz target and of its corpus.
pub const TARGETS: [(&str, Target); 2] = [("nbd_negotiation", nbd_negotiation), ("nbd_session", nbd_session)];

/// All that a server says up to the export, and then answers to reads.
pub fn nbd_negotiation(data: &[u8]) {
    let options = ConnectOptions::new("disk").with_bitmap("b");
    let mut negotiation = Negotiation::new(&options).expect("short names");
    for byte in data {
        if negotiation.receive(&[*byte]).is_err() {
            return;
        }
        if let Some(export) = negotiation.export() {
            assert!(export.read_max >= export.block_min && export.contexts.len() <= options.contexts.len());
            return;
        }
        assert!(negotiation.missing() > 0);
    }
}

/// Answers to requests of both kinds, to a server with chunks and to one without.
pub fn nbd_session(data: &[u8]) {
    for structured in [false, true] {
        let contexts = if structured { vec![(1, "a".to_owned()), (2, "b".to_owned())] } else { Vec::new() };
        let export = Export { len: ByteLen(1 << 40), structured, contexts, block_min: 1, read_max: 1 << 20 };
        let mut session = Session::new(export);
        let mut cookies = Vec::new();
        for (command, len) in [(Command::Read, 4096), (Command::Read, 70_000), (Command::Status, 1 << 30)] {
            let request = Request { command, offset: ByteOffset(512), len };
            cookies.extend(session.submit(request).ok().map(|(cookie, _)| (cookie, request)));
        }
        let ended = data.chunks(7).try_for_each(|part| session.receive(part)).is_err();
        for (cookie, request) in cookies {
            match session.take(cookie) {
                Some(Ok(Reply::Read(bytes))) => assert_eq!(bytes.len() as u64, u64::from(request.len)),
                Some(Ok(Reply::Status(statuses))) => {
                    for status in statuses {
                        let sum: u64 = status.runs.iter().map(|r| u64::from(r.len)).sum();
                        assert!(sum > 0 && sum <= u64::from(request.len));
                    }
                }
                Some(Err(_)) => {}
                None => assert!(ended || session.in_flight() > 0),
            }
        }
    }
}
