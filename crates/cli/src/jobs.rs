//! The jobs of `vmkeep run`: how each VM is backed up, in a TOML file.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use clap::Parser;
use serde::Deserialize;
use vmkeep::model::{CancelToken, VmName};

use crate::args::{BackupArgs, Job};
use crate::error::Error;

/// How often a wait looks whether it is over.
const LOOK: Duration = Duration::from_millis(100);

/// What is known of a VM.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JobText {
    disks: Vec<String>,
    #[serde(default)]
    options: Vec<String>,
}

/// A file of jobs that was read.
#[derive(Debug)]
pub(crate) struct Jobs {
    path: PathBuf,
    words: BTreeMap<VmName, Vec<OsString>>,
}

impl Jobs {
    /// Reads the jobs and tries whether their words are understood.
    pub(crate) fn read(path: &Path, vault: &Path) -> Result<Self, Error> {
        let wrong = |what: String| Error::Content { path: path.to_owned(), what };
        let text = fs::read_to_string(path).map_err(|source| Error::File {
            what: "read jobs",
            path: path.to_owned(),
            source,
        })?;
        let texts: BTreeMap<String, JobText> = toml::from_str(&text).map_err(|e| wrong(e.to_string()))?;
        let mut jobs = Self { path: path.to_owned(), words: BTreeMap::new() };
        for (name, job) in texts {
            let vm: VmName = name.parse().map_err(|e: vmkeep::model::NameError| wrong(e.to_string()))?;
            let mut words: Vec<OsString> = vec![
                "--vault".into(),
                vault.into(),
                "--vm".into(),
                name.clone().into(),
                "--scheduled".into(),
            ];
            words.extend(job.disks.into_iter().flat_map(|disk| ["--disk".into(), disk.into()]));
            words.extend(job.options.into_iter().map(OsString::from));
            parse(&words).map_err(|why| wrong(format!("[{name}] {why}")))?;
            jobs.words.insert(vm, words);
        }
        Ok(jobs)
    }

    /// The VMs that have one.
    pub(crate) fn vms(&self) -> impl Iterator<Item = &VmName> {
        self.words.keys()
    }

    /// The backup of a VM; `None` without a job.
    pub(crate) fn backup(&self, vm: &VmName) -> Option<BackupArgs> {
        self.words.get(vm).and_then(|words| parse(words).ok())
    }

    /// Waits until no other process does the jobs of this file; they are ours until the lock is dropped.
    pub(crate) fn lock(&self, cancel: &CancelToken) -> Result<File, Error> {
        let failed = |source| Error::File { what: "lock", path: self.path.clone(), source };
        let file = File::open(&self.path).map_err(failed)?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => cancel.check()?,
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
            thread::park_timeout(LOOK);
        }
    }
}

/// Waits for so many milliseconds, or until Ctrl-C.
pub(crate) fn wait(cancel: &CancelToken, millis: i64) {
    let looks = millis.max(0) / i64::try_from(LOOK.as_millis()).unwrap_or(1);
    for _ in 0..=looks {
        if cancel.is_cancelled() {
            return;
        }
        thread::park_timeout(LOOK);
    }
}

fn parse(words: &[OsString]) -> Result<BackupArgs, String> {
    let parsed = Job::try_parse_from(words).map_err(|error| {
        let text = error.render().to_string();
        let message = text.trim_start_matches("error: ").split("\n\n").next().unwrap_or_default();
        message.trim_end().to_owned()
    });
    parsed.map(|job| job.backup)
}
