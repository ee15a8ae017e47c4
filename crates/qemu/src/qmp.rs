//! QEMU's machine protocol.

use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::error::QemuError;
use crate::lines::{Deadline, Lines, result_of};

/// Most events that are kept; the oldest give way.
pub const EVENTS_MAX: usize = 1000;

/// Something that QEMU told without being asked. Unknown kinds are kept like others.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Such as `BLOCK_JOB_ERROR`.
    pub name: String,
    /// Its data, or null.
    pub data: Value,
    /// When it happened, since 1970 by the clock of QEMU's host; zero when QEMU does not know.
    pub at: Duration,
}

/// A connection to a QMP socket. QEMU serves one at a time on each socket.
#[derive(Debug)]
pub struct Qmp {
    lines: Lines,
    limit: Duration,
    next: u64,
    events: VecDeque<Event>,
    greeting: Value,
}

impl Qmp {
    /// Connects and leaves the mode of negotiation. Each command has `limit` to be answered.
    pub fn connect(path: &Path, limit: Duration) -> Result<Self, QemuError> {
        let mut lines = Lines::connect(path)?;
        let mut greeting = lines.next_value(
            "the greeting (one monitor connection at a time is served: is another backup running?)",
            Deadline::after(limit),
        )?;
        let Some(greeting) = greeting.get_mut("QMP").map(Value::take) else {
            return Err(lines.protocol("it does not greet as QMP does"));
        };
        let mut qmp = Self { lines, limit, next: 1, events: VecDeque::new(), greeting };
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// QEMU's version: major, minor, micro.
    pub fn version(&self) -> Option<[u64; 3]> {
        let version = self.greeting.get("version")?.get("qemu")?;
        let [major, minor, micro] = ["major", "minor", "micro"].map(|part| version.get(part)?.as_u64());
        Some([major?, minor?, micro?])
    }

    /// Runs a command and returns its result. Events that come meanwhile are kept.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, QemuError> {
        let id = self.next;
        self.next += 1;
        let message = json!({ "execute": command, "arguments": arguments, "id": id });
        self.lines.send(&[], &message, command, self.limit)?;
        let deadline = Deadline::after(self.limit);
        loop {
            let answer = self.lines.next_value(command, deadline)?;
            if !self.keep_event(&answer) && answer.get("id").and_then(Value::as_u64) == Some(id) {
                let result = result_of(answer, command);
                return result.unwrap_or_else(|| Err(self.lines.protocol("an answer without a result")));
            }
        }
    }

    /// Runs several actions of a transaction: all or none.
    pub(crate) fn transaction(&mut self, actions: Vec<Value>) -> Result<(), QemuError> {
        if actions.is_empty() {
            return Ok(());
        }
        self.execute("transaction", json!({ "actions": actions })).map(drop)
    }

    /// Waits for an event that `wanted` accepts, among those kept too, and takes it.
    pub fn wait_for(&mut self, wanted: impl Fn(&Event) -> bool, limit: Duration) -> Result<Event, QemuError> {
        let deadline = Deadline::after(limit);
        loop {
            if let Some(event) = self.events.iter().position(&wanted).and_then(|at| self.events.remove(at)) {
                return Ok(event);
            }
            let value = self.lines.next_value("an event", deadline)?;
            self.keep_event(&value);
        }
    }

    /// Takes the events that came so far, oldest first.
    pub fn take_events(&mut self) -> Vec<Event> {
        self.events.drain(..).collect()
    }

    /// Keeps an event that was taken.
    pub(crate) fn put_back(&mut self, event: Event) {
        self.events.push_front(event);
    }

    pub(crate) fn events(&self) -> impl Iterator<Item = &Event> {
        self.events.iter()
    }

    /// Drops the events of one kind that came so far.
    pub(crate) fn forget_events(&mut self, name: &str) {
        self.events.retain(|event| event.name != name);
    }

    fn keep_event(&mut self, value: &Value) -> bool {
        let Some(name) = value.get("event").and_then(Value::as_str) else { return false };
        if self.events.len() >= EVENTS_MAX {
            self.events.pop_front();
        }
        let data = value.get("data").cloned().unwrap_or(Value::Null);
        let part = |field: &str| value["timestamp"][field].as_u64().unwrap_or(0); // -1 for an unknown time
        let at = Duration::from_secs(part("seconds")) + Duration::from_micros(part("microseconds"));
        self.events.push_back(Event { name: name.to_owned(), data, at });
        true
    }
}
