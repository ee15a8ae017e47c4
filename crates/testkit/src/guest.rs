//! A guest in a few numbers: two disks with write caches, a journalling file system, and a database with a log.
//!
//! Disk 0 holds the file system: per file an inode, a journal slot and two data slots. Disk 1 holds the database: table
//! pages, a ring of log records, a header. Every write and flush goes to a trace, so that the disks can be looked at as
//! they were at any instant, with any part of the writes that were not flushed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

use vmkeep_consistency::{
    AgentError, Before, DiskOutcome, DiskSnapshot, FreezeReport, FreezeState, GuestAgent, Mount,
    MountOutcome, OnGuestFailure, ScriptOutcome, ScriptTrace, Scripts, ScriptsEvidence, Simultaneity,
    SnapshotEvidence, Snapshotter,
};

const FILES: usize = 3;
const KEYS: usize = 4;
const LOG_SLOTS: u64 = 5;

/// A block's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    FsHeader,
    Inode(usize),
    Journal(usize),
    Data(usize, u64),
    DbHeader,
    Table(usize),
    Log(u64),
}

impl Place {
    fn disk(self) -> usize {
        match self {
            Self::FsHeader | Self::Inode(_) | Self::Journal(_) | Self::Data(..) => 0,
            Self::DbHeader | Self::Table(_) | Self::Log(_) => 1,
        }
    }
}

/// A log record: which transaction, and what it set two keys to.
type Record = [(usize, u64); 2];

/// A block's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    /// Version of a file, value of a key, or for headers: 1 in use, 0 at rest.
    Number(u64),
    Log(u64, Record),
    /// Everything up to this transaction is in the tables; and whether the database is open.
    Checkpoint(u64, bool),
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Write(Place, Block),
    Flush(usize),
    FileSynced(usize, u64),
    Committed(u64),
}

/// A running guest.
#[derive(Debug, Default)]
pub struct SimGuest {
    trace: RefCell<Vec<Event>>,
    frozen: Cell<bool>,
    in_use: Cell<bool>,
    db_at_rest: Cell<bool>,
    cached: RefCell<[u64; FILES]>,
    written: RefCell<[u64; FILES]>,
    rows: RefCell<[u64; KEYS]>,
    last: Cell<u64>,
    checkpoint: Cell<u64>,
    snapshot_at: Cell<Option<usize>>,
    blocked: Cell<u64>,
}

/// What a restored guest finds after its recovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Whether the file system had to replay its journal.
    pub replayed: bool,
    /// Version of each file.
    pub files: [u64; FILES],
    /// Whether a file's data is not what its inode says.
    pub torn: bool,
    /// Whether the database had to read its log.
    pub db_recovered: bool,
    /// The transaction it came to.
    pub transaction: u64,
    /// The rows.
    pub rows: [u64; KEYS],
}

/// What had been promised to programs at an instant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acknowledged {
    /// Version of each file that was synced.
    pub files: [u64; FILES],
    /// The last transaction that was committed.
    pub transaction: u64,
}

impl SimGuest {
    /// Writes a new version of `file` into the page cache. `false` when the guest is frozen and the writer waits.
    pub fn write_file(&self, file: usize) -> bool {
        if !self.may_write() {
            return false;
        }
        self.cached.borrow_mut()[file % FILES] += 1;
        true
    }

    /// Makes `file` durable.
    pub fn sync_file(&self, file: usize) -> bool {
        if !self.may_write() {
            return false;
        }
        self.sync(file % FILES);
        true
    }

    /// Moves 1 from one row to another in a transaction, then notes its number in file 0 and syncs that.
    pub fn transact(&self, from: usize, to: usize) -> bool {
        if !self.may_write() {
            return false;
        }
        let number = self.last.get() + 1;
        if self.db_at_rest.get() || number - self.checkpoint.get() > LOG_SLOTS {
            self.checkpoint(true);
        }
        let record = {
            let mut rows = self.rows.borrow_mut();
            let (from, to) = (from % KEYS, to % KEYS);
            rows[from] = rows[from].wrapping_sub(1);
            rows[to] = rows[to].wrapping_add(1);
            [(from, rows[from]), (to, rows[to])]
        };
        self.write(Place::Log(number % LOG_SLOTS), Block::Log(number, record));
        self.flush(1);
        self.last.set(number);
        self.note(Event::Committed(number));
        for (key, value) in record {
            self.write(Place::Table(key), Block::Number(value)); // not flushed
        }
        self.cached.borrow_mut()[0] = number;
        self.sync(0);
        true
    }

    /// Puts the database at rest, as a pre-script does.
    pub fn rest(&self) {
        if self.may_write() {
            self.checkpoint(false);
        }
    }

    /// How often a program had to wait because the guest was frozen.
    pub fn blocked(&self) -> u64 {
        self.blocked.get()
    }

    /// Instants so far: before and after each event.
    pub fn instants(&self) -> usize {
        self.trace.borrow().len() + 1
    }

    /// The instant of the last snapshot.
    pub fn snapshot_at(&self) -> Option<usize> {
        self.snapshot_at.get()
    }

    /// What the page cache says now.
    pub fn cached(&self) -> [u64; FILES] {
        *self.cached.borrow()
    }

    /// The rows after each transaction, from none on.
    pub fn history(&self) -> Vec<[u64; KEYS]> {
        let mut states = vec![[0; KEYS]];
        for event in self.trace.borrow().iter() {
            if let Event::Write(_, Block::Log(_, record)) = event {
                let mut rows = states[states.len() - 1];
                for (key, value) in record {
                    rows[*key] = *value;
                }
                states.push(rows);
            }
        }
        states
    }

    /// What had been promised at `instant`.
    pub fn acknowledged(&self, instant: usize) -> Acknowledged {
        let mut promised = Acknowledged::default();
        for event in &self.trace.borrow()[..instant] {
            match event {
                Event::FileSynced(file, version) => promised.files[*file] = *version,
                Event::Committed(number) => promised.transaction = *number,
                Event::Write(..) | Event::Flush(_) => {}
            }
        }
        promised
    }

    /// Boots from snapshots of the disks at their `instants`, with those unflushed writes that `survives` picks.
    pub fn boot(&self, instants: [usize; 2], mut survives: impl FnMut() -> bool) -> Recovered {
        let mut blocks = BTreeMap::new();
        for (disk, instant) in instants.into_iter().enumerate() {
            let mut cache = Vec::new();
            for event in &self.trace.borrow()[..instant] {
                match event {
                    Event::Write(place, block) if place.disk() == disk => cache.push((*place, *block)),
                    Event::Flush(flushed) if *flushed == disk => blocks.extend(cache.drain(..)),
                    _ => {}
                }
            }
            blocks.extend(cache.into_iter().filter(|_| survives()));
        }
        recover(&blocks)
    }

    fn may_write(&self) -> bool {
        if self.frozen.get() {
            self.blocked.set(self.blocked.get() + 1);
        }
        !self.frozen.get()
    }

    fn note(&self, event: Event) {
        self.trace.borrow_mut().push(event);
    }

    fn write(&self, place: Place, block: Block) {
        assert!(!self.frozen.get(), "nothing is written to a frozen guest");
        self.note(Event::Write(place, block));
    }

    fn flush(&self, disk: usize) {
        self.note(Event::Flush(disk));
    }

    fn sync(&self, file: usize) {
        let version = self.cached.borrow()[file];
        if !self.in_use.replace(true) {
            self.write(Place::FsHeader, Block::Number(1));
            self.flush(0);
        }
        let written = self.written.borrow()[file];
        if version != written {
            // Never the slot that the journal points to.
            self.write(Place::Data(file, self.slot(file) ^ 1), Block::Number(version));
            self.flush(0);
            self.write(Place::Journal(file), Block::Number(version));
            self.flush(0);
            self.written.borrow_mut()[file] = version;
            self.write(Place::Inode(file), Block::Number(version)); // not flushed
        }
        self.note(Event::FileSynced(file, version));
    }

    fn slot(&self, file: usize) -> u64 {
        let last = self.trace.borrow().iter().rev().find_map(|event| match event {
            Event::Write(Place::Data(of, slot), _) if *of == file => Some(*slot),
            _ => None,
        });
        last.unwrap_or(1)
    }

    fn checkpoint(&self, stays_open: bool) {
        self.flush(1); // the table pages first
        self.checkpoint.set(self.last.get());
        self.write(Place::DbHeader, Block::Checkpoint(self.last.get(), stays_open));
        self.flush(1);
        self.db_at_rest.set(!stays_open);
    }
}

fn recover(blocks: &BTreeMap<Place, Block>) -> Recovered {
    let number = |place| match blocks.get(&place) {
        Some(Block::Number(number)) => *number,
        _ => 0,
    };
    let replayed = number(Place::FsHeader) == 1;
    let files = std::array::from_fn(|file| {
        let inode = number(Place::Inode(file));
        if replayed { inode.max(number(Place::Journal(file))) } else { inode }
    });
    let torn = (0..FILES).any(|file| {
        files[file] != 0 && ![0, 1].iter().any(|slot| number(Place::Data(file, *slot)) == files[file])
    });
    let (mut transaction, db_recovered) = match blocks.get(&Place::DbHeader) {
        Some(Block::Checkpoint(number, open)) => (*number, *open),
        _ => (0, true),
    };
    let mut rows: [u64; KEYS] = std::array::from_fn(|key| number(Place::Table(key)));
    if db_recovered {
        while let Some(Block::Log(number, record)) = blocks.get(&Place::Log((transaction + 1) % LOG_SLOTS)) {
            if *number != transaction + 1 {
                break;
            }
            for (key, value) in record {
                rows[*key] = *value;
            }
            transaction = *number;
        }
    }
    Recovered { replayed, files, torn, db_recovered, transaction, rows }
}

impl GuestAgent for SimGuest {
    fn freeze(&self, _timeout: Duration) -> Result<FreezeReport, AgentError> {
        if self.frozen.get() {
            return Err(AgentError::Refused("frozen already".to_owned()));
        }
        (0..FILES).for_each(|file| self.sync(file));
        self.flush(0);
        self.write(Place::FsHeader, Block::Number(0));
        self.flush(0);
        self.flush(1);
        self.in_use.set(false);
        self.frozen.set(true);
        let mounts =
            ["/data", "/"].map(|path| Mount { path: path.to_owned(), outcome: MountOutcome::Frozen });
        Ok(FreezeReport { mounts: mounts.to_vec(), vss: None })
    }

    fn thaw(&self, _timeout: Duration) -> Result<usize, AgentError> {
        Ok(if self.frozen.replace(false) { 2 } else { 0 })
    }

    fn status(&self, _timeout: Duration) -> Result<FreezeState, AgentError> {
        Ok(if self.frozen.get() { FreezeState::Frozen } else { FreezeState::Thawed })
    }
}

impl Snapshotter for SimGuest {
    fn disks(&self) -> Vec<String> {
        ["os", "data"].map(str::to_owned).to_vec()
    }

    fn snapshot(&self) -> SnapshotEvidence {
        self.snapshot_at.set(Some(self.trace.borrow().len()));
        self.transact(0, 1); // programs do not wait for us, unless they are frozen
        let disks = self.disks().into_iter();
        SnapshotEvidence {
            simultaneity: Simultaneity::OneInstant,
            disks: disks.map(|disk| DiskSnapshot { disk, outcome: DiskOutcome::Taken }).collect(),
        }
    }
}

/// Scripts that put the database of a [`SimGuest`] at rest.
#[derive(Debug)]
pub struct RestScripts<'a>(pub &'a SimGuest);

impl Scripts for RestScripts<'_> {
    fn before(&mut self, _disks: usize) -> Before {
        self.0.rest();
        Before::Freeze
    }

    fn after(&mut self) {}

    fn evidence(&self) -> ScriptsEvidence {
        let outcome = || ScriptOutcome::Succeeded(ScriptTrace::default());
        ScriptsEvidence::Configured { pre: outcome(), post: outcome() }
    }

    fn on_failure(&self) -> OnGuestFailure {
        OnGuestFailure::Degrade
    }
}
