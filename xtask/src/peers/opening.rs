//! What a passphrase costs, which the comparison leaves out: vmkeep is opened by a key file there.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::failure::{At, Result};
use crate::process;

const TIMES: usize = 3;

/// Opens an empty vault in `folder` by a key file and another by a passphrase, and says how long each takes.
pub(crate) fn line(program: &Path, folder: &Path) -> Result<String> {
    fs::create_dir_all(folder).at(folder)?;
    let passphrase = folder.join("passphrase");
    fs::write(&passphrase, "correct horse battery staple\n").at(&passphrase)?;
    let by_key = opened(program, &folder.join("one"), "--key-file", &folder.join("key"))?;
    let by_passphrase = opened(program, &folder.join("two"), "--passphrase-file", &passphrase)?;
    fs::remove_dir_all(folder).at(folder)?;
    Ok(format!(
        "vmkeep was opened by a key file ({:.3} s for a command that does nothing else); a passphrase takes {:.3} s.",
        by_key.as_secs_f64(),
        by_passphrase.as_secs_f64(),
    ))
}

/// The median time of listing an empty vault.
fn opened(program: &Path, vault: &Path, option: &str, key: &Path) -> Result<Duration> {
    let command = |word: &str| {
        let mut command = process::command(&program.to_string_lossy());
        command.arg(word).arg("--vault").arg(vault).arg(option).arg(key);
        command
    };
    process::output(&mut command("init"))?;
    let mut times = Vec::new();
    for _ in 0..TIMES {
        let start = Instant::now();
        process::output(&mut command("points"))?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    Ok(times[TIMES / 2])
}
