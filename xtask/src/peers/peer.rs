//! The tools and their command lines.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Phase;
use crate::failure::{At, Failure, Result};
use crate::process;

/// Where a tool works: all of it is thrown away between two tools.
#[derive(Debug)]
pub(crate) struct Place {
    work: PathBuf,
}

impl Place {
    pub(crate) fn new(work: PathBuf) -> Self {
        Self { work }
    }

    /// The disk to back up.
    pub(crate) fn source(&self) -> PathBuf {
        self.work.join("source/disk.raw")
    }

    pub(crate) fn repository(&self) -> PathBuf {
        self.work.join("state/repository")
    }

    /// What a tool keeps outside its repository.
    fn home(&self) -> PathBuf {
        self.work.join("state/home")
    }

    fn key(&self) -> PathBuf {
        self.home().join("key")
    }

    /// Files that say what changed from one version to another; they stay for all tools.
    pub(crate) fn changes(&self) -> PathBuf {
        self.work.join("changes")
    }

    /// For vaults without a backup.
    pub(crate) fn opening(&self) -> PathBuf {
        self.work.join("opening")
    }

    fn target(&self) -> PathBuf {
        self.work.join("restored")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.work.join("peers.log")
    }

    pub(crate) fn times(&self) -> PathBuf {
        self.work.join("times")
    }

    pub(crate) fn make(&self) -> Result<()> {
        for folder in ["source", "state/home", "restored"].map(|name| self.work.join(name)) {
            fs::create_dir_all(&folder).at(&folder)?;
        }
        Ok(())
    }

    pub(crate) fn clear(&self) -> Result<()> {
        for name in ["source", "state", "aside", "restored"] {
            remove_folder(&self.work.join(name))?;
        }
        Ok(())
    }

    /// Keeps a copy of repository and home, to come back to.
    pub(crate) fn set_aside(&self) -> Result<()> {
        let mut copy = process::command("cp");
        process::output(copy.arg("-a").arg(self.work.join("state")).arg(self.work.join("aside"))).map(drop)
    }

    pub(crate) fn take_back(&self) -> Result<()> {
        let state = self.work.join("state");
        remove_folder(&state)?;
        fs::rename(self.work.join("aside"), &state).at(&state)
    }

    /// The disk that was restored: some tools repeat the whole path of the source.
    pub(crate) fn restored(&self) -> Result<PathBuf> {
        let mut todo = vec![self.target()];
        while let Some(folder) = todo.pop() {
            for entry in fs::read_dir(&folder).at(&folder)? {
                let path = entry.at(&folder)?.path();
                match path.is_dir() {
                    true => todo.push(path),
                    false if path.file_name() == Some(OsStr::new("disk.raw")) => return Ok(path),
                    false => {}
                }
            }
        }
        Err(Failure::new(format!("nothing was restored; see {}", self.log().display())))
    }

    pub(crate) fn clear_restored(&self) -> Result<()> {
        remove_folder(&self.target())?;
        fs::create_dir_all(self.target()).at(&self.target())
    }
}

fn remove_folder(path: &Path) -> Result<()> {
    if path.exists() { fs::remove_dir_all(path).at(path) } else { Ok(()) }
}

/// A tool, with the settings it is measured with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Restic,
    /// Chunks of 4 MiB at fixed places, zstd 3.
    Borg,
    Rustic(PathBuf),
    Vmkeep {
        program: PathBuf,
        level: &'static str,
    },
    /// Reading and hashing the disk and nothing else: no tool, but what a scan is measured against.
    BareLoop(PathBuf),
}

impl Peer {
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Restic => "restic".to_owned(),
            Self::Borg => "borg".to_owned(),
            Self::Rustic(_) => "rustic".to_owned(),
            Self::Vmkeep { level, .. } => format!("vmkeep-{level}"),
            Self::BareLoop(_) => "bare loop".to_owned(),
        }
    }

    /// Its level, when it is vmkeep.
    pub(crate) fn level(&self) -> Option<&'static str> {
        if let Self::Vmkeep { level, .. } = self { Some(level) } else { None }
    }

    /// The program, when it is vmkeep.
    pub(crate) fn vmkeep(&self) -> Option<&Path> {
        if let Self::Vmkeep { program, .. } = self { Some(program) } else { None }
    }

    /// The program of the bare loop, when it is that.
    pub(crate) fn bare_loop(&self) -> Option<&Path> {
        if let Self::BareLoop(program) = self { Some(program) } else { None }
    }

    /// Whether it is a tool that vmkeep is set beside.
    pub(crate) fn is_rival(&self) -> bool {
        !matches!(self, Self::Vmkeep { .. } | Self::BareLoop(_))
    }

    /// Whether it takes part in a phase.
    pub(crate) fn does(&self, phase: &Phase) -> bool {
        match self {
            Self::BareLoop(_) => phase.name == "v3",
            Self::Vmkeep { .. } => true,
            // These two know no depth between structure and content.
            Self::Restic | Self::Rustic(_) => !phase.is_tracked && phase.name != "sealed",
            Self::Borg => !phase.is_tracked,
        }
    }

    /// Name and version as the tool says it.
    pub(crate) fn version(&self) -> Result<String> {
        let mut command = self.program();
        let said = process::output(command.arg(if *self == Self::Restic { "version" } else { "--version" }))?;
        let line = said.lines().next().unwrap_or_default();
        // restic goes on with the compiler it was built by.
        Ok(line.split(" compiled with").next().unwrap_or(line).to_owned())
    }

    /// Makes an empty repository.
    pub(crate) fn init(&self, place: &Place) -> Result<()> {
        let mut command = self.at(place);
        match self {
            Self::Restic => command.args(["init", "--repository-version", "2"]),
            Self::Borg => command.args(["init", "-e", "repokey-blake2"]).arg(place.repository()),
            Self::Rustic(_) => command.arg("init"),
            Self::Vmkeep { .. } => vault(command.arg("init"), place),
            Self::BareLoop(_) => return Ok(()),
        };
        process::output(&mut command).map(drop)
    }

    /// Backs up the source; `name` is new for each backup. `changes` is a file that says where the source differs from what
    /// was backed up before, for who takes such a thing.
    pub(crate) fn backup(&self, place: &Place, name: &str, changes: Option<&Path>) -> Command {
        let mut command = self.at(place);
        let source = place.source();
        match self {
            Self::Restic | Self::Rustic(_) => command.arg("backup").arg(source),
            Self::Borg => {
                command.args(["create", "--sparse", "-C", "zstd,3", "--chunker-params", "fixed,4194304"]);
                command.arg(archive(place, name)).arg(source)
            }
            Self::Vmkeep { level, .. } => {
                let disk = format!("disk={},role=os", source.display());
                vault(command.arg("backup"), place)
                    .args(["--vm", "vm", "--disk", &disk, "--level", level, "--json"]);
                if let Some(changes) = changes {
                    command.arg("--changed-extents").arg(changes);
                }
                &mut command
            }
            Self::BareLoop(_) => command.arg("scan").arg(source),
        };
        command
    }

    /// Restores the newest backup, which is `v2`.
    pub(crate) fn restore(&self, place: &Place) -> Command {
        let mut command = self.at(place);
        let target = place.target();
        match self {
            Self::Restic => {
                command.args(["restore", "latest", "--target"]).arg(target);
                if self.knows(&["restore", "--help"], "--sparse") {
                    command.arg("--sparse")
                } else {
                    &mut command
                }
            }
            Self::Borg => command.current_dir(target).args(["extract", "--sparse"]).arg(archive(place, "v2")),
            Self::Rustic(_) => {
                command.arg("restore");
                if self.knows(&["restore", "--help"], "--sparse") {
                    command.args(["--sparse", "by-content"]);
                }
                command.arg("latest").arg(target)
            }
            Self::Vmkeep { .. } => vault(command.arg("restore"), place)
                .args(["vm@latest", "--format", "raw", "--to"])
                .arg(target),
            Self::BareLoop(_) => &mut command,
        };
        command
    }

    /// Looks for damage: every byte of the content (`verify`), that what is stored is as it was written (`sealed`), or that
    /// everything is there that should be (`structure`).
    pub(crate) fn verify(&self, place: &Place, depth: &str) -> Command {
        let mut command = self.at(place);
        match (self, depth) {
            (Self::Restic | Self::Rustic(_), "structure") => command.arg("check"),
            (Self::Restic | Self::Rustic(_), _) => command.args(["check", "--read-data"]),
            (Self::Borg, depth) => {
                let depth = match depth {
                    "structure" => "--archives-only",
                    "sealed" => "--repository-only",
                    _ => "--verify-data",
                };
                command.args(["check", depth]).arg(place.repository())
            }
            (Self::Vmkeep { .. }, depth) => {
                let depth = if depth == "verify" { "blocks" } else { depth };
                vault(command.arg("verify"), place).args(["--depth", depth])
            }
            (Self::BareLoop(_), _) => &mut command,
        };
        command
    }

    fn program(&self) -> Command {
        match self {
            Self::Restic => process::command("restic"),
            Self::Borg => process::command("borg"),
            Self::Rustic(program) | Self::Vmkeep { program, .. } | Self::BareLoop(program) => {
                process::command(&program.to_string_lossy())
            }
        }
    }

    /// The program, told where its repository and its home are.
    fn at(&self, place: &Place) -> Command {
        let mut command = self.program();
        let home = place.home();
        for variable in ["HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "RESTIC_CACHE_DIR", "BORG_BASE_DIR"] {
            command.env(variable, &home);
        }
        match self {
            Self::Restic => {
                command.env("RESTIC_PASSWORD", "x").args(["-q", "-r"]).arg(place.repository());
            }
            Self::Rustic(_) => {
                command
                    .env("RUSTIC_PASSWORD", "x")
                    .args(["--log-level", "error", "-r"])
                    .arg(place.repository());
            }
            Self::Borg => {
                command.env("BORG_PASSPHRASE", "x");
            }
            Self::Vmkeep { .. } | Self::BareLoop(_) => {}
        }
        command
    }

    /// Whether the help of a subcommand names an option: older versions lack some.
    fn knows(&self, words: &[&str], option: &str) -> bool {
        process::output(self.program().args(words)).is_ok_and(|help| help.contains(option))
    }
}

fn vault<'a>(command: &'a mut Command, place: &Place) -> &'a mut Command {
    command.arg("--vault").arg(place.repository()).arg("--key-file").arg(place.key())
}

fn archive(place: &Place, name: &str) -> String {
    format!("{}::{name}", place.repository().display())
}
