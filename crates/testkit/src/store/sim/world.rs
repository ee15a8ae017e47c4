//! Whose turn it is, and what becomes of a call.

use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use futures::executor::block_on;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutPayload};

use super::dice::Dice;
use super::log::{self, Fate, SimEvent};
use super::{Odds, ProcessId, Step};
use crate::store::{Action, Call, Verdict};

/// How many steps later, at most, something is done that is done later.
const LATER_MAX: u64 = 60;

pub(super) struct World {
    pub(super) inner: Arc<dyn ObjectStore>,
    odds: Odds,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    dice: Dice,
    steps: u64,
    processes: Vec<Host>,
    later: Vec<Later>,
    log: Vec<SimEvent>,
}

struct Host {
    name: String,
    at: At,
    stopped: bool,
    killed: bool,
}

/// Where a process is.
enum At {
    /// Between two calls.
    Running,
    /// At a call, which is this and would write that.
    Waiting(String, Option<Effect>),
    /// Told what becomes of its call, and not yet awake.
    Told(Verdict),
    Ended,
}

/// What a call changes, to be done again or later.
#[derive(Clone)]
enum Effect {
    Put(Path, PutPayload, PutMode),
    Delete(Path),
}

struct Later {
    /// The step at which it is done.
    due: u64,
    event: SimEvent,
    effect: Effect,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("odds", &self.odds).finish_non_exhaustive()
    }
}

impl World {
    pub(super) fn new(inner: Arc<dyn ObjectStore>, seed: u64, odds: Odds) -> Self {
        let state = State { dice: Dice::new(seed), steps: 0, processes: vec![], later: vec![], log: vec![] };
        Self { inner, odds, state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn register(&self, name: &str) -> ProcessId {
        let mut state = self.lock();
        let host = Host { name: name.to_owned(), at: At::Running, stopped: false, killed: false };
        state.processes.push(host);
        ProcessId(state.processes.len() - 1)
    }

    pub(super) fn end(&self, process: ProcessId) {
        self.lock().processes[process.0].at = At::Ended;
        self.changed.notify_all();
    }

    /// Called by a process: returns when it is its turn.
    pub(super) fn wait_for_turn(&self, process: ProcessId, call: &Call<'_>) -> Verdict {
        let mut state = self.lock();
        if state.processes[process.0].killed {
            return Verdict::Refuse(broken("the host was killed"));
        }
        let wrong = match state.processes[process.0].at {
            At::Running => None,
            At::Ended => Some("has ended and makes a call"),
            At::Waiting(..) | At::Told(_) => Some("makes two calls at once"),
        };
        if let Some(wrong) = wrong {
            drop(state);
            panic!("a simulated process {wrong}: {}", log::describe(call));
        }
        state.processes[process.0].at = At::Waiting(log::describe(call), Effect::of(call));
        self.changed.notify_all();
        loop {
            state = self.wait(state);
            let at = &mut state.processes[process.0].at;
            if matches!(at, At::Told(_))
                && let At::Told(verdict) = std::mem::replace(at, At::Running)
            {
                return verdict;
            }
        }
    }

    /// The process whose turn it is heard from the store.
    pub(super) fn answered(&self, outcome: Result<u64, &Error>) {
        if let Some(event) = self.lock().log.last_mut() {
            event.answer = Some(log::answer(outcome));
        }
    }

    /// The state when every process waits at a call or has ended.
    fn quiet(&self) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        while state.processes.iter().any(|host| matches!(host.at, At::Running | At::Told(_))) {
            state = self.wait(state);
        }
        state
    }

    pub(super) fn step(&self) -> Step {
        let mut state = self.quiet();
        let state = &mut *state;
        state.steps += 1;
        while let Some(due) = state.next_due(state.steps) {
            state.apply(&*self.inner, due);
        }
        let stopped = state.waiting(true);
        if state.dice.chance(self.odds.resume)
            && let Some(process) = state.dice.pick(&stopped)
        {
            state.resume(process);
        }
        let ready = state.waiting(false);
        let Some(process) = state.dice.pick(&ready) else {
            return if state.waiting(true).is_empty() { Step::Ended } else { Step::Stuck };
        };
        if state.dice.chance(self.odds.stop) {
            state.processes[process.0].stopped = true;
            state.happened(process, Fate::Stopped);
            return Step::Stopped(process);
        }
        let fate = state.fate(process, &self.odds);
        self.tell(state, process, fate);
        Step::Called(process)
    }

    /// Decides about the call that `process` waits at. It goes on when the lock is let go of.
    fn tell(&self, state: &mut State, process: ProcessId, fate: Fate) {
        state.happened(process, fate);
        let verdict = match fate {
            Fate::AnswerLost => Verdict::LoseAnswer(broken("no answer")),
            Fate::KilledAfter => Verdict::LoseAnswer(broken("the host was killed")),
            Fate::Killed => Verdict::Refuse(broken("the host was killed")),
            Fate::Failed | Fate::Late => Verdict::Refuse(broken("no connection")),
            Fate::Passed | Fate::Again | Fate::Stopped | Fate::Resumed => Verdict::Pass,
        };
        state.processes[process.0].at = At::Told(verdict);
        self.changed.notify_all();
    }

    pub(super) fn go_on_or_kill(&self) {
        let mut state = self.quiet();
        let stopped = state.waiting(true);
        let Some(process) = state.dice.pick(&stopped) else { return };
        if self.odds.resume > 0 && state.dice.chance(500) {
            state.resume(process);
        } else {
            drop(state);
            self.kill(process);
        }
    }

    pub(super) fn kill(&self, process: ProcessId) {
        let mut state = self.quiet();
        if matches!(state.processes[process.0].at, At::Ended) {
            return;
        }
        state.processes[process.0].killed = true;
        let fate = if state.dice.chance(500) { Fate::KilledAfter } else { Fate::Killed };
        self.tell(&mut state, process, fate);
        while !matches!(state.processes[process.0].at, At::Ended) {
            state = self.wait(state);
        }
    }

    pub(super) fn stop(&self, process: ProcessId) {
        let mut state = self.quiet();
        state.processes[process.0].stopped = true;
        state.happened(process, Fate::Stopped);
    }

    pub(super) fn resume(&self, process: ProcessId) {
        self.quiet().resume(process);
    }

    pub(super) fn settle(&self) {
        let mut state = self.quiet();
        while let Some(due) = state.next_due(u64::MAX) {
            state.apply(&*self.inner, due);
        }
    }

    pub(super) fn log_from(&self, from: usize) -> Vec<SimEvent> {
        self.quiet().log.iter().skip(from).cloned().collect()
    }
}

impl State {
    /// Those that wait at a call and are (or are not) stopped.
    fn waiting(&self, stopped: bool) -> Vec<ProcessId> {
        let waits = |host: &Host| matches!(host.at, At::Waiting(..)) && host.stopped == stopped;
        (0..).zip(&self.processes).filter(|(_, host)| waits(host)).map(|(id, _)| ProcessId(id)).collect()
    }

    fn event(&self, process: ProcessId, fate: Fate) -> SimEvent {
        let host = &self.processes[process.0];
        let call = if let At::Waiting(call, _) = &host.at { call.clone() } else { String::new() };
        SimEvent { process, name: host.name.clone(), call, fate, answer: None }
    }

    fn happened(&mut self, process: ProcessId, fate: Fate) {
        let event = self.event(process, fate);
        self.log.push(event);
    }

    fn resume(&mut self, process: ProcessId) {
        self.processes[process.0].stopped = false;
        self.happened(process, Fate::Resumed);
    }

    /// Draws what becomes of the call that `process` waits at, and of what it does later.
    fn fate(&mut self, process: ProcessId, odds: &Odds) -> Fate {
        let effect = match &self.processes[process.0].at {
            At::Waiting(_, effect) => effect.clone(),
            _ => None,
        };
        let roll = self.dice.below(1000);
        let mut end = 0;
        let mut within = |odds: u32| {
            end += u64::from(odds);
            roll < end
        };
        let fate = if within(odds.fail) {
            Fate::Failed
        } else if within(odds.lose_answer) {
            Fate::AnswerLost
        } else if within(odds.late) {
            // A read has nothing to do later.
            if effect.is_some() { Fate::Late } else { Fate::Failed }
        } else {
            Fate::Passed
        };
        let repeats = fate == Fate::Passed && self.dice.chance(odds.repeat);
        if let Some(effect) = effect.filter(|_| repeats || fate == Fate::Late) {
            let due = self.steps + 1 + self.dice.below(LATER_MAX);
            let event = self.event(process, Fate::Again);
            self.later.push(Later { due, event, effect });
        }
        fate
    }

    /// Takes out the first of what is due at `step`.
    fn next_due(&mut self, step: u64) -> Option<Later> {
        let due = (0..self.later.len()).filter(|&n| self.later[n].due <= step);
        let first = due.min_by_key(|&n| self.later[n].due)?;
        Some(self.later.remove(first))
    }

    fn apply(&mut self, store: &dyn ObjectStore, Later { mut event, effect, .. }: Later) {
        let outcome = match effect {
            Effect::Put(path, payload, mode) => {
                block_on(store.put_opts(&path, payload, mode.into())).map(drop)
            }
            Effect::Delete(path) => block_on(store.delete(&path)),
        };
        event.answer = Some(log::answer(outcome.as_ref().map(|()| 0)));
        self.log.push(event);
    }
}

impl Effect {
    fn of(call: &Call<'_>) -> Option<Self> {
        match call.action {
            Action::Put(payload) => {
                let mode = if call.if_absent { PutMode::Create } else { PutMode::Overwrite };
                Some(Self::Put(call.path.clone(), payload.clone(), mode))
            }
            Action::Delete => Some(Self::Delete(call.path.clone())),
            _ => None,
        }
    }
}

fn broken(text: &str) -> Error {
    let source = Box::new(io::Error::new(io::ErrorKind::ConnectionReset, text));
    Error::Generic { store: "SimStore", source }
}
