//! QMP and agent sockets behind which something else answers.

#![allow(clippy::unwrap_used)] // helpers unwrap as tests do

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};
use vmkeep_qemu::{Agent, LINE_BYTES_MAX, QemuError, Qmp};

const LIMIT: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(30);
const GREETING: &str =
    r#"{"QMP": {"version": {"qemu": {"major": 9, "minor": 1, "micro": 0}}, "capabilities": []}}"#;

/// What one end of a fake sees and says.
struct Peer {
    input: BufReader<UnixStream>,
}

impl Peer {
    fn say(&mut self, text: &str) {
        let _ = self.input.get_mut().write_all(text.as_bytes());
    }

    /// The next command, and its number.
    fn hear(&mut self) -> Value {
        let mut line = Vec::new();
        self.input.read_until(b'\n', &mut line).unwrap();
        let text: Vec<u8> = line.into_iter().filter(|&b| b != 0xff).collect();
        serde_json::from_slice(&text).unwrap_or(Value::Null)
    }

    fn answer(&mut self, result: &Value) {
        let id = self.hear()["id"].clone();
        self.say(&format!("{}\n", json!({ "return": result, "id": id })));
    }

    /// Answers the synchronisation of an agent, behind what it had left to say.
    fn synchronize(&mut self, leftover: &str) {
        let id = self.hear()["arguments"]["id"].clone();
        self.say(leftover);
        self.input.get_mut().write_all(b"\xff").unwrap();
        self.say(&format!("{}\n", json!({ "return": id })));
    }
}

fn fake(script: impl FnOnce(&mut Peer) + Send + 'static) -> (tempfile::TempDir, PathBuf, JoinHandle<()>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sock");
    let listener = UnixListener::bind(&path).unwrap();
    let thread = std::thread::spawn(move || {
        let mut peer = Peer { input: BufReader::new(listener.accept().unwrap().0) };
        script(&mut peer);
        // The other side hangs up when it is done.
        let mut rest = Vec::new();
        let _ = peer.input.read_until(0, &mut rest);
    });
    (folder, path, thread)
}

#[test]
fn events_of_any_kind_are_kept_and_answers_to_others_skipped() {
    let (_folder, path, thread) = fake(|peer| {
        peer.say(&format!("{GREETING}\r\n"));
        peer.answer(&json!({}));
        peer.say("{\"event\": \"NEVER_HEARD_OF\", \"data\": {\"a\": [1]}, \"more\": 1}\n\n{\"return\": 5, \"id\": 77}\n");
        peer.answer(&json!("done"));
        let id = peer.hear()["id"].clone();
        peer.say(&format!(
            "{}\n",
            json!({ "id": id, "error": { "class": "CommandNotFound", "desc": "what" } })
        ));
    });
    let mut qmp = Qmp::connect(&path, LIMIT).unwrap();
    assert_eq!(qmp.version(), Some([9, 1, 0]));
    assert_eq!(qmp.execute("something", json!({})).unwrap(), "done");
    let events = qmp.take_events();
    assert_eq!(
        (events.len(), &*events[0].name, &events[0].data),
        (1, "NEVER_HEARD_OF", &json!({ "a": [1] }))
    );
    let refused = qmp.execute("other", json!({}));
    assert!(matches!(refused, Err(QemuError::Refused { class, .. }) if class == "CommandNotFound"));
    drop(qmp);
    thread.join().unwrap();
}

#[test]
fn what_is_not_the_protocol_is_refused() {
    for greeting in ["HTTP/1.1 400\n", "{\"QMP\"\n", "{}\n", "[[[[\n"] {
        let (_folder, path, _) = fake(move |peer| peer.say(greeting));
        let error = Qmp::connect(&path, LIMIT);
        assert!(matches!(error, Err(QemuError::Protocol { .. })), "{greeting}: {error:?}");
    }
}

#[test]
fn a_line_without_end_is_cut_off() {
    let (_folder, path, _) = fake(|peer| {
        for _ in 0..=LINE_BYTES_MAX / 65_536 {
            peer.say(&"[".repeat(65_536));
        }
    });
    assert!(matches!(Qmp::connect(&path, LIMIT), Err(QemuError::Protocol { .. })));
}

#[test]
fn nobody_who_answers_is_a_time_out() {
    let (_folder, path, _) = fake(|_| {});
    assert!(matches!(Qmp::connect(&path, SHORT), Err(QemuError::TimedOut { .. })));
    let (_folder, path, _) = fake(|_| {});
    assert!(matches!(Agent::connect(&path, SHORT), Err(QemuError::TimedOut { .. })));
}

#[test]
fn a_late_answer_is_not_taken_for_another() {
    let (_folder, path, thread) = fake(|peer| {
        peer.synchronize("{\"return\": \"of someone before\"}\n{\"ret");
        peer.answer(&json!([{ "mountpoint": "/", "type": "ext4" }, { "name": "x" }]));
        assert_eq!(peer.hear()["execute"], "guest-fsfreeze-freeze");
        // No answer in time; it comes when the next command is under way.
        peer.synchronize("{\"return\": 4}\n");
        assert_eq!(peer.hear()["execute"], "guest-fsfreeze-thaw");
        peer.say("{\"return\": 1}\n");
    });
    let mut agent = Agent::connect(&path, Duration::from_millis(200)).unwrap();
    assert!(matches!(agent.freeze(), Err(QemuError::TimedOut { .. })));
    assert_eq!(agent.thaw().unwrap(), 1);
    drop(agent);
    thread.join().unwrap();
}
