//! Scripts inside a guest, read and run through its agent.

use std::io;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use vmkeep_consistency::script::{
    FileFacts, OUTPUT_BYTES_MAX, ScriptCommand, ScriptEnd, ScriptFiles, ScriptHost, ScriptRun,
};

use crate::error::QemuError;
use crate::guest_agent::{QemuAgent, as_io};

/// Where a guest's programs are.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How long a look at a file may take.
const LOOK_LIMIT: Duration = Duration::from_secs(10);
/// The agent tells of an end when it is asked, so it is asked this often.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// How long the end of a program that was killed is waited for.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// A program of the guest that has ended.
struct Ended {
    /// Exit code, or the signal.
    status: Result<i64, i64>,
    output: Vec<u8>,
    errors: Vec<u8>,
    is_truncated: bool,
}

impl QemuAgent {
    /// Starts a program at the head of a session of its own, and returns its process id.
    fn start(&self, words: &[&str], environment: &[String]) -> Result<i64, QemuError> {
        let mut env = vec![PATH.to_owned()];
        env.extend_from_slice(environment);
        let arguments = json!({ "path": "setsid", "arg": words, "env": env, "capture-output": true });
        let started = self.execute("guest-exec", arguments)?;
        Ok(started["pid"].as_i64().unwrap_or(0))
    }

    /// Waits for the end of a program; `None` when it did not come in time.
    #[allow(clippy::disallowed_methods)] // the protocol has no event for it
    fn wait(&self, pid: i64, limit: Duration) -> Result<Option<Ended>, QemuError> {
        let start = Instant::now();
        loop {
            let status = self.execute("guest-exec-status", json!({ "pid": pid }))?;
            if status["exited"] == true {
                return Ok(Some(ended(&status)));
            }
            if start.elapsed() >= limit {
                return Ok(None);
            }
            std::thread::sleep(ASK_EVERY);
        }
    }

    fn run_words(&self, words: &[&str], limit: Duration) -> io::Result<Ended> {
        let pid = self.start(words, &[]).map_err(as_io)?;
        self.wait(pid, limit).map_err(as_io)?.ok_or_else(|| io::ErrorKind::TimedOut.into())
    }
}

fn ended(status: &Value) -> Ended {
    let data =
        |field: &str| status[field].as_str().and_then(|text| BASE64.decode(text).ok()).unwrap_or_default();
    let code = status["exitcode"].as_i64();
    Ended {
        status: code.ok_or_else(|| status["signal"].as_i64().unwrap_or(0)),
        output: data("out-data"),
        errors: data("err-data"),
        is_truncated: status["out-truncated"] == true || status["err-truncated"] == true,
    }
}

/// `stat`'s raw mode in hexadecimal and the owner's user id.
fn facts(line: &str) -> Option<FileFacts> {
    let (mode, owner) = line.trim().split_once(' ')?;
    let mode = u32::from_str_radix(mode, 16).ok()?;
    Some(FileFacts { regular: mode & 0o170_000 == 0o100_000, mode: mode & 0o777, owner: owner.parse().ok()? })
}

fn not_told(ended: &Ended) -> io::Error {
    let said = String::from_utf8_lossy(&ended.errors).trim().to_owned();
    let kind = if said.contains("No such file") || said.contains("nonexistent") {
        io::ErrorKind::NotFound
    } else {
        io::ErrorKind::Other
    };
    io::Error::new(kind, said)
}

impl ScriptFiles for QemuAgent {
    fn facts(&self, path: &str) -> io::Result<FileFacts> {
        let ended = self.run_words(&["stat", "-L", "-c", "%f %u", "--", path], LOOK_LIMIT)?;
        let found = std::str::from_utf8(&ended.output).ok().and_then(facts);
        found.filter(|_| ended.status == Ok(0)).ok_or_else(|| not_told(&ended))
    }

    fn read(&self, path: &str, limit: usize) -> io::Result<(FileFacts, Vec<u8>)> {
        // One open file for both, so that it cannot be another in between.
        let program = format!("exec 3<\"$0\" && stat -L -c '%f %u' /proc/self/fd/3 && head -c {limit} <&3");
        let ended = self.run_words(&["sh", "-c", &program, path], LOOK_LIMIT)?;
        let line = ended.output.iter().position(|&byte| byte == b'\n');
        let split = line.filter(|_| ended.status == Ok(0) && !ended.is_truncated);
        let (line, rest) = ended.output.split_at(split.ok_or_else(|| not_told(&ended))?);
        let found = std::str::from_utf8(line).ok().and_then(facts).ok_or_else(|| not_told(&ended))?;
        Ok((found, rest[1..].to_vec()))
    }
}

impl ScriptHost for QemuAgent {
    /// Runs it in a session of its own, which is killed at the limit. A daemon that holds the script's output counts as
    /// the script: the agent waits for it too.
    fn run(&self, script: &ScriptCommand<'_>, limit: Duration) -> ScriptRun {
        let environment: Vec<String> =
            script.environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut words = vec![script.path];
        words.extend(script.params.iter().map(String::as_str));
        let ran = self.start(&words, &environment).and_then(|pid| match self.wait(pid, limit)? {
            Some(ended) => Ok((ended, false)),
            None => {
                let kill = format!("kill -KILL -- -{pid}");
                self.start(&["sh", "-c", &kill], &[])?;
                let nothing =
                    Ended { status: Err(9), output: Vec::new(), errors: Vec::new(), is_truncated: false };
                Ok((self.wait(pid, KILL_LIMIT)?.unwrap_or(nothing), true))
            }
        });
        let (ended, was_killed) = match ran {
            Ok(ran) => ran,
            Err(error) => return ScriptRun::failed(format!("the agent cannot run it: {error}")),
        };
        let mut output = [ended.output, ended.errors].concat();
        let surplus = output.len().saturating_sub(OUTPUT_BYTES_MAX);
        output.drain(..surplus);
        let end = match ended.status {
            _ if was_killed => ScriptEnd::TimedOut,
            Ok(0) => ScriptEnd::Succeeded,
            Ok(code) => ScriptEnd::Failed(format!("exit status: {code}")),
            Err(signal) => ScriptEnd::Failed(format!("signal: {signal}")),
        };
        ScriptRun { end, output, output_dropped: surplus as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stat_prints_is_read() {
        let script = FileFacts { regular: true, mode: 0o700, owner: 0 };
        assert_eq!(facts("81c0 0\n"), Some(script));
        assert_eq!(facts("41ed 1000").map(|facts| facts.regular), Some(false), "a folder");
        for wrong in ["", "81c0", "x 0", "81c0 -1", "81c0 0 0"] {
            assert_eq!(facts(wrong), None, "{wrong:?}");
        }
    }
}
