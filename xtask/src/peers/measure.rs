//! Running a command and measuring it.

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::peer::Place;
use crate::failure::{At, Failure, Result};
use crate::process::shown;

/// What a run took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// From the start until everything written was on disk.
    pub(crate) wall: Duration,
    /// Time of all cores in the program and in the system for it.
    pub(crate) cpu: Duration,
    /// Most memory resident at a time.
    pub(crate) peak_kib: u64,
    /// Bytes by which the repository grew.
    pub(crate) added: i64,
    /// Of a backup of vmkeep, bytes in objects that hold data of the disk, as it says itself.
    pub(crate) data: Option<u64>,
}

impl Sample {
    pub(crate) fn added_mib(&self) -> f64 {
        mib(self.added)
    }
}

/// Bytes as MiB, for a person: 53 bits are enough.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn mib(bytes: i64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Measures commands that work in a place.
#[derive(Debug)]
pub(crate) struct Meter<'a> {
    place: &'a Place,
}

impl<'a> Meter<'a> {
    pub(crate) fn new(place: &'a Place) -> Self {
        Self { place }
    }

    /// Runs `command`, then `sync`, and measures both. What it prints goes to the log.
    pub(crate) fn run(&self, command: &Command) -> Result<Sample> {
        let text = shown(command);
        let before = bytes_in(&self.place.repository())?;
        let mut timed = self.timed(command)?;
        let log = self.place.log();
        let said_before = fs::metadata(&log).at(&log)?.len();
        flush()?;
        let start = Instant::now();
        let status = timed.status().map_err(|e| Failure::new(format!("cannot run {text}: {e}")))?;
        let wall = start.elapsed();
        if !status.success() {
            let last = self.said_since(said_before)?;
            let last = last.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
            return Err(Failure::new(format!("{text} failed ({status}; {last}); see {}", log.display())));
        }
        let after = bytes_in(&self.place.repository())?;
        let (cpu, peak_kib) = self.read_times()?;
        let data = data_stored(&self.said_since(said_before)?);
        Ok(Sample { wall, cpu, peak_kib, added: after.cast_signed() - before.cast_signed(), data })
    }

    /// What was written to the log after its first `start` bytes.
    fn said_since(&self, start: u64) -> Result<String> {
        let log = self.place.log();
        let bytes = fs::read(&log).at(&log)?;
        let start = usize::try_from(start).unwrap_or(usize::MAX).min(bytes.len());
        Ok(String::from_utf8_lossy(&bytes[start..]).into_owned())
    }

    /// The command under GNU time, which alone knows the peak memory.
    fn timed(&self, command: &Command) -> Result<Command> {
        let log = self.place.log();
        let file = OpenOptions::new().create(true).append(true).open(&log).at(&log)?;
        let mut timed = crate::process::command("time");
        timed.args(["-f", "%U %S %M", "-o"]).arg(self.place.times());
        timed.args(["sh", "-c", "\"$@\" && sync", "sh"]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                timed.env(name, value);
            }
        }
        if let Some(folder) = command.get_current_dir() {
            timed.current_dir(folder);
        }
        timed.stdout(file.try_clone().at(&log)?).stderr(file);
        Ok(timed)
    }

    fn read_times(&self) -> Result<(Duration, u64)> {
        let path = self.place.times();
        let text = fs::read_to_string(&path).at(&path)?;
        parse_times(&text).ok_or_else(|| Failure::new(format!("time wrote {text:?}")))
    }
}

/// The bytes of data in the summary of a backup of vmkeep: all that it stored less what is not data of disks.
fn data_stored(said: &str) -> Option<u64> {
    let summary = said.lines().rfind(|line| line.contains(r#""type":"summary""#))?;
    let number = |name: &str| -> Option<u64> {
        let (_, rest) = summary.split_once(&format!("\"{name}\":"))?;
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    number("bytes_stored")?.checked_sub(number("bytes_metadata")?)
}

/// User seconds, system seconds, KiB: the last line that `time` wrote.
fn parse_times(text: &str) -> Option<(Duration, u64)> {
    let mut words = text.lines().last()?.split(' ');
    let mut seconds = || Duration::try_from_secs_f64(words.next()?.parse().ok()?).ok();
    let cpu = seconds()? + seconds()?;
    Some((cpu, words.next()?.parse().ok()?))
}

/// Leaves nothing of an earlier run to be written within the next.
fn flush() -> Result<()> {
    crate::process::run(&mut crate::process::command("sync"))
}

/// Sum of the sizes of all files under `folder`; 0 when it is not there.
fn bytes_in(folder: &Path) -> Result<u64> {
    if !folder.exists() {
        return Ok(0);
    }
    let mut sum = 0;
    for entry in fs::read_dir(folder).at(folder)? {
        let path = entry.at(folder)?.path();
        let meta = fs::symlink_metadata(&path).at(&path)?;
        sum += if meta.is_dir() { bytes_in(&path)? } else { meta.len() };
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_time_counts() {
        let text = "Command exited with non-zero status 1\n1.50 0.25 20480\n";
        assert_eq!(parse_times(text), Some((Duration::from_millis(1750), 20_480)));
        assert_eq!(parse_times("nonsense\n"), None);
    }

    #[test]
    fn the_summary_says_what_is_data() {
        let said = "{\"type\":\"progress\"}\n\
            {\"type\":\"summary\",\"bytes_stored\":900,\"bytes_metadata\":850,\"disks\":[{\"bytes_stored\":7}]}\n";
        assert_eq!(data_stored(said), Some(50));
        assert_eq!(data_stored("nothing of the kind\n"), None);
    }
}
