//! What a hostile or broken server may send.

#![allow(clippy::unwrap_used)] // helpers unwrap as tests do

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use proptest::prelude::*;
use vmkeep_disk::BlockRead;
use vmkeep_model::{ByteLen, ByteOffset};
use vmkeep_nbd::{
    Command, ConnectOptions, Connection, Cookie, Export, NbdDisk, NbdError, Negotiation, ProtocolError,
    Reply, Request, STATUS_BYTES_MAX, Session, fuzzing,
};

const READ: u64 = 1;
const STATUS: u64 = 2;

/// A session that asked for 8 KiB at 4096 (cookie 1) and for extents (cookie 2).
fn session(structured: bool) -> (Session, Vec<Cookie>) {
    let contexts = vec![(7, "base:allocation".to_owned())];
    let export = Export { len: ByteLen(1 << 40), structured, contexts, block_min: 1, read_max: 1 << 20 };
    let mut session = Session::new(export);
    let read = Request { command: Command::Read, offset: ByteOffset(4096), len: 8192 };
    let status = Request { command: Command::Status, offset: ByteOffset(0), len: 1 << 30 };
    let cookies = [read, status].map(|request| session.submit(request).unwrap().0).to_vec();
    (session, cookies)
}

fn chunk(cookie: u64, flags: u16, kind: u16, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len()).unwrap();
    let head = [&0x668e_33ef_u32.to_be_bytes()[..], &flags.to_be_bytes(), &kind.to_be_bytes()].concat();
    [&head[..], &cookie.to_be_bytes(), &len.to_be_bytes(), body].concat()
}

fn data(cookie: u64, flags: u16, at: u64, bytes: &[u8]) -> Vec<u8> {
    chunk(cookie, flags, 1, &[&at.to_be_bytes(), bytes].concat())
}

fn protocol_error(input: &[u8]) -> ProtocolError {
    let (mut session, _) = session(true);
    match session.receive(input) {
        Err(NbdError::Protocol(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn chunks_in_any_order_and_holes_make_one_read() {
    let (mut session, cookies) = session(true);
    let hole = [&8192_u64.to_be_bytes()[..], &1000_u32.to_be_bytes()].concat();
    session.receive(&data(READ, 0, 9192, &[9; 3096])).unwrap();
    session.receive(&chunk(READ, 0, 2, &hole)).unwrap();
    assert!(session.take(cookies[0]).is_none());
    session.receive(&data(READ, 1, 4096, &[4; 4096])).unwrap();
    let Some(Ok(Reply::Read(bytes))) = session.take(cookies[0]) else { panic!("no answer") };
    assert_eq!(bytes, [vec![4; 4096], vec![0; 1000], vec![9; 3096]].concat());
}

#[test]
fn answers_to_nothing_are_refused() {
    assert!(matches!(
        protocol_error(&data(99, 1, 4096, &[0; 8192])),
        ProtocolError::NotAsked { number: 99, .. }
    ));
    let twice = [data(READ, 1, 4096, &[0; 8192]), data(READ, 1, 4096, &[0; 8192])].concat();
    assert!(matches!(protocol_error(&twice), ProtocolError::NotAsked { number: READ, .. }));
    assert!(matches!(protocol_error(&[0xff; 16]), ProtocolError::Magic { .. }));
    assert!(matches!(protocol_error(&chunk(READ, 1, 77, &[])), ProtocolError::NotAsked { number: 77, .. }));
    assert!(matches!(protocol_error(&chunk(STATUS, 1, 5, &[0; 12])), ProtocolError::NotAsked { .. }));
}

#[test]
fn data_outside_or_twice_is_refused() {
    for (at, len) in [(0, 8), (4095, 8192), (4097, 8192), (12_288, 1), (u64::MAX, 8), (u64::MAX - 4, 8)] {
        let error = protocol_error(&data(READ, 0, at, &vec![0; len]));
        assert!(matches!(error, ProtocolError::Misplaced { .. }), "{at} {len}: {error:?}");
    }
    let overlap = [data(READ, 0, 5000, &[0; 100]), data(READ, 0, 5099, &[0; 100])].concat();
    assert!(matches!(protocol_error(&overlap), ProtocolError::Misplaced { .. }));
}

#[test]
fn a_read_with_a_gap_is_no_answer() {
    assert!(matches!(protocol_error(&data(READ, 1, 4096, &[0; 8191])), ProtocolError::Incomplete { .. }));
    assert!(matches!(protocol_error(&chunk(READ, 1, 0, &[])), ProtocolError::Incomplete { .. }));
    assert!(matches!(protocol_error(&chunk(STATUS, 1, 0, &[])), ProtocolError::Incomplete { .. }));
}

#[test]
fn lengths_are_refused_before_their_bytes_come() {
    for (cookie, kind, len) in [
        (READ, 1, 8),
        (READ, 1, 8192 + 9),
        (READ, 1, u32::MAX),
        (READ, 2, 13),
        (READ, 0, 1),
        (READ, 5, 12),
        (STATUS, 1, 12),
        (STATUS, 5, 4),
        (STATUS, 5, 13),
        (STATUS, 5, STATUS_BYTES_MAX + 8),
        (READ, 0x8001, 3),
        (READ, 0x8001, 1 << 20),
    ] {
        let mut head = chunk(cookie, 0, kind, &[]);
        head.truncate(16);
        head.extend_from_slice(&len.to_be_bytes());
        let error = protocol_error(&head);
        assert!(matches!(error, ProtocolError::Length { .. }), "{kind} {len}: {error:?}");
    }
}

#[test]
fn chunks_without_end_are_cut_off() {
    let many = chunk(READ, 0, 0x8001, &[0, 0, 0, 5, 0, 0]).repeat(1000);
    assert!(matches!(protocol_error(&many), ProtocolError::TooMany { .. }));
    let extents = chunk(STATUS, 0, 5, &[0, 0, 0, 7, 0, 0, 1, 0, 0, 0, 0, 0]);
    assert!(matches!(protocol_error(&extents.repeat(2)), ProtocolError::TooMany { .. }));
    let empty = chunk(STATUS, 1, 5, &[0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert!(matches!(protocol_error(&empty), ProtocolError::Length { len: 0, .. }));
}

#[test]
fn an_error_ends_its_request_only() {
    let (mut session, cookies) = session(true);
    let text = [&[0, 0, 0, 5, 0, 9][..], b"disk\x1bgone"].concat();
    session.receive(&chunk(READ, 1, 0x8001, &text)).unwrap();
    let error = session.take(cookies[0]).unwrap().unwrap_err();
    assert!(
        matches!(&error, NbdError::Request { code: 5, message, .. } if message == "disk gone"),
        "{error:?}"
    );
    let runs = [7_u32, 4096, 0, u32::MAX, 3].map(u32::to_be_bytes).concat();
    session.receive(&chunk(STATUS, 1, 5, &runs)).unwrap();
    let Some(Ok(Reply::Status(statuses))) = session.take(cookies[1]) else { panic!("no answer") };
    let runs: Vec<_> = statuses[0].runs.iter().map(|r| (r.len, r.flags)).collect();
    assert_eq!(runs, [(4096, 0), ((1 << 30) - 4096, 3)]);
}

#[test]
fn simple_answers_serve_servers_without_chunks_only() {
    let simple = [&0x6744_6698_u32.to_be_bytes()[..], &[0; 4], &READ.to_be_bytes(), &[6; 8192]].concat();
    let (mut session, cookies) = session(false);
    for byte in &simple {
        session.receive(&[*byte]).unwrap();
    }
    assert!(matches!(session.take(cookies[0]), Some(Ok(Reply::Read(bytes))) if bytes == [6; 8192]));
    assert!(matches!(protocol_error(&simple), ProtocolError::Incomplete { .. }));
}

fn option_reply(option: u32, kind: u32, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len()).unwrap();
    let magic = 0x0003_e889_0455_65a9_u64.to_be_bytes();
    [&magic[..], &option.to_be_bytes(), &kind.to_be_bytes(), &len.to_be_bytes(), body].concat()
}

/// What a server says that has structured replies, up to the answers about contexts.
fn greeting() -> Vec<u8> {
    [&b"NBDMAGICIHAVEOPT\x00\x03"[..], &option_reply(8, 1, &[])].concat()
}

fn negotiation_error(input: &[u8]) -> NbdError {
    let mut negotiation = Negotiation::new(&ConnectOptions::new("disk")).unwrap();
    negotiation.receive(input).expect_err("hostile")
}

#[test]
fn a_negotiation_without_end_or_sense_is_refused() {
    for greeting in [
        &b"NBDMAGICIHAVEOPT\x00\x00"[..],
        b"HTTP/1.1 400 Bad Request",
        b"NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53\x00\x00",
    ] {
        assert!(matches!(negotiation_error(greeting), NbdError::Protocol(ProtocolError::Greeting)));
    }
    let context = |id: u8, name: &[u8]| option_reply(10, 4, &[&[0, 0, 0, id], name].concat());
    let once = [greeting(), context(1, b"base:allocation")].concat();
    for second in [context(2, b"base:allocation"), context(1, b"other"), option_reply(9, 1, &[])] {
        let error = negotiation_error(&[once.clone(), second].concat());
        assert!(matches!(error, NbdError::Protocol(ProtocolError::NotAsked { .. })), "{error:?}");
    }
    let go = [once, option_reply(10, 1, &[])].concat();
    let endless = [go.clone(), option_reply(7, 3, &[0, 1, 65]).repeat(1000)].concat();
    assert!(matches!(negotiation_error(&endless), NbdError::Protocol(ProtocolError::TooMany { .. })));
    let no_size = [go.clone(), option_reply(7, 1, &[])].concat();
    assert!(matches!(negotiation_error(&no_size), NbdError::Protocol(ProtocolError::Incomplete { .. })));
    let huge = [
        &go[..],
        &option_reply(7, 3, &[&[0, 0][..], &[0xff; 8], &[0, 1]].concat()),
        &option_reply(7, 1, &[]),
    ]
    .concat();
    assert!(matches!(negotiation_error(&huge), NbdError::Protocol(ProtocolError::Size { .. })));
    let block = [go.clone(), option_reply(7, 3, &[0, 3, 0, 0, 0, 3, 0, 0, 0, 3, 0, 0, 1, 0])].concat();
    assert!(matches!(negotiation_error(&block), NbdError::Protocol(ProtocolError::Size { .. })));
    let mut long = option_reply(7, 3, &[]);
    long.truncate(16);
    long.extend_from_slice(&[0xff; 4]);
    let error = negotiation_error(&[go, long].concat());
    assert!(matches!(error, NbdError::Protocol(ProtocolError::Length { .. })), "{error:?}");
}

#[test]
fn a_silent_server_times_out_and_one_that_hangs_up_is_an_error() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let options = ConnectOptions { timeout: Some(Duration::from_millis(20)), ..ConnectOptions::new("") };
    let error = Connection::on(ours, &options).unwrap_err();
    assert!(matches!(error, NbdError::Io { doing: "receive from", .. }), "{error:?}");
    drop(theirs);
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    assert!(matches!(Connection::on(ours, &options), Err(NbdError::Closed { .. })));
}

#[test]
fn after_a_broken_answer_the_connection_is_of_no_use_and_says_why() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let info = [&[0, 0][..], &(1_u64 << 20).to_be_bytes(), &[0, 1]].concat();
    let said =
        [&greeting()[..], &option_reply(10, 1, &[]), &option_reply(7, 3, &info), &option_reply(7, 1, &[])];
    theirs.write_all(&said.concat()).unwrap();
    let disk = NbdDisk::new(Connection::on(ours, &ConnectOptions::new("")).unwrap());
    theirs.write_all(&data(55, 1, 0, &[0; 512])).unwrap();
    for _ in 0..2 {
        assert!(disk.read_at(ByteOffset(0), &mut [0; 512]).is_err());
    }
    drop(disk);
    let mut rest = Vec::new();
    theirs.read_to_end(&mut rest).unwrap();
    let reads = rest.windows(4).filter(|w| *w == 0x2560_9513_u32.to_be_bytes()).count();
    assert_eq!(reads, 1, "nothing is sent on a broken connection");
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..400), honest in 0_usize..100) {
        fuzzing::nbd_session(&bytes);
        fuzzing::nbd_negotiation(&bytes);
        let mut said = greeting();
        said.truncate(honest);
        said.append(&mut bytes);
        fuzzing::nbd_negotiation(&said);
    }

    #[test]
    fn cut_answers_read_the_same(cuts in prop::collection::vec(4097_u64..12_288, 0..6), part in 1_usize..50) {
        let mut ends: Vec<u64> = cuts.into_iter().chain([4096, 12_288]).collect();
        ends.sort_unstable();
        ends.dedup();
        let model: Vec<u8> = (4096_u64..12_288).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let mut said = Vec::new();
        for pair in ends.windows(2).rev() {
            let range = usize::try_from(pair[0] - 4096).unwrap()..usize::try_from(pair[1] - 4096).unwrap();
            said.extend(data(READ, u16::from(pair[0] == 4096), pair[0], &model[range]));
        }
        let (mut session, cookies) = session(true);
        said.chunks(part).try_for_each(|input| session.receive(input)).unwrap();
        let Some(Ok(Reply::Read(bytes))) = session.take(cookies[0]) else { panic!("no answer") };
        prop_assert_eq!(bytes, model);
    }
}
