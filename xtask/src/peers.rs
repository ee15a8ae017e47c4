//! `cargo xtask peers`: vmkeep beside restic, borg and rustic on the disks of `cargo xtask disks`.
//!
//! Every tool starts with an empty repository and takes the versions in turn; a version lies in the page cache
//! before each run, and the time of a run ends when everything written is on disk. The tools take turns within a
//! round, and the table has the medians of the rounds. A second table sets them against the bars.

mod bars;
mod bounds;
mod measure;
mod opening;
mod peer;
mod table;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::args::Args;
use crate::disks::{image, path_of};
use crate::failure::{At, Failure, Result};
use crate::process;
use crate::tools;
use bounds::Bounds;
use measure::{Meter, Sample};
use peer::{Peer, Place};

/// Something that every tool does with the disks.
#[derive(Debug)]
pub(crate) struct Phase {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// The phase of the other tools that counts beside it.
    pub(crate) beside: &'static str,
    /// Whether it is told what changed, which vmkeep alone can be. A failure is a line of the table then.
    pub(crate) is_tracked: bool,
    /// Whether it goes on from the first full on a copy of its own.
    is_aside: bool,
}

const fn phase(name: &'static str, title: &'static str) -> Phase {
    Phase { name, title, beside: name, is_tracked: false, is_aside: false }
}

impl Phase {
    const fn aside(self) -> Self {
        Self { is_aside: true, ..self }
    }

    const fn tracked(self, beside: &'static str) -> Self {
        Self { is_tracked: true, beside, ..self }
    }

    /// The version of the disk that it backs up.
    fn version(&self) -> &'static str {
        match self.name {
            "full" => "v0",
            "v1t" => "v1",
            "v3m" | "v3t" => "v3",
            other => other,
        }
    }
}

/// What is measured, in the order in which it is run.
pub(crate) const PHASES: [Phase; 12] = [
    phase("full", "first full (v0)"),
    phase("v1db", "database churn (v1db)").aside(),
    phase("v1t", "changed extents given (v1)").tracked("v1").aside(),
    phase("v1", "1 % scattered (v1)"),
    phase("v2", "80 MiB contiguous (v2)"),
    phase("restore", "restore of v2"),
    phase("verify", "verify, every byte"),
    phase("sealed", "verify, stored bytes"),
    phase("structure", "verify, structure"),
    phase("v3", "unchanged, new mtime (v3)"),
    phase("v3m", "unchanged, same mtime (v3m)"),
    phase("v3t", "unchanged, tracking (v3)").tracked("v3"),
];

/// A phase of a tool, once.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) peer: String,
    pub(crate) phase: &'static str,
    /// Or why there is none.
    pub(crate) sample: std::result::Result<Sample, String>,
}

pub(crate) fn run(mut args: Args) -> Result<()> {
    let disks = folder(&args.position("DISKDIR")?)?;
    let work = PathBuf::from(args.position("WORKDIR")?);
    let rounds: usize = args.number("rounds", 3)?;
    let only = args.option("only").map(|names| names.split(',').map(ToOwned::to_owned).collect::<Vec<_>>());
    let rustic = args.option("rustic").map(PathBuf::from).or_else(|| process::find("rustic"));
    args.end()?;
    if rounds == 0 {
        return Err(Failure::new("--rounds is at least 1"));
    }
    fs::create_dir_all(&work).at(&work)?;
    let place = Place::new(work.canonicalize().at(&work)?);

    let peers = peers(rustic, only.as_deref())?;
    let bounds = bounds(&peers, &disks, &place)?;
    let mut runs = Vec::new();
    for round in 1..=rounds {
        for peer in &peers {
            println!("round {round}: {}", peer.name());
            round_of(peer, &disks, &place, &mut runs)?;
        }
    }
    place.clear()?;
    fs::remove_dir_all(place.changes()).at(&place.changes())?;
    println!("\n{}", table::markdown(&peers, &runs, rounds, &disks)?);
    if let Some(program) = peers.iter().find_map(Peer::vmkeep) {
        println!("\n{}", opening::line(program, &place.opening())?);
    }
    println!("\n{}", table::bars(&peers, &runs, &bounds));
    Ok(())
}

/// What the disks cost at least, when vmkeep is among the tools.
fn bounds(peers: &[Peer], disks: &Path, place: &Place) -> Result<Bounds> {
    fs::create_dir_all(place.changes()).at(&place.changes())?;
    match peers.iter().find_map(Peer::bare_loop) {
        Some(program) => {
            println!("what changed, and what it costs alone");
            Bounds::find(program, disks, &place.changes())
        }
        None => Ok(Bounds::default()),
    }
}

fn folder(path: &str) -> Result<PathBuf> {
    Path::new(path).canonicalize().at(Path::new(path))
}

/// The tools to run, installed or built.
fn peers(rustic: Option<PathBuf>, only: Option<&[String]>) -> Result<Vec<Peer>> {
    let mut peers = vec![Peer::Restic, Peer::Borg];
    match rustic {
        Some(program) => peers.push(Peer::Rustic(program)),
        None => println!("no rustic here (cargo install rustic-rs, then --rustic PROGRAM): left out"),
    }
    let vmkeep = process::workspace().join("target/release/vmkeep");
    peers.extend(["fast", "default", "best"].map(|level| Peer::Vmkeep { program: vmkeep.clone(), level }));
    if let Some(names) = only {
        // `vmkeep` stands for all its levels.
        let is_named =
            |peer: &Peer, name: &String| *name == peer.name() || (name == "vmkeep" && peer.level().is_some());
        if let Some(unknown) = names.iter().find(|name| !peers.iter().any(|peer| is_named(peer, name))) {
            let known: Vec<String> = peers.iter().map(Peer::name).collect();
            return Err(Failure::new(format!("no tool {unknown}; there are: {}", known.join(", "))));
        }
        peers.retain(|peer| names.iter().any(|name| is_named(peer, name)));
    }
    let wanted = |tool: &tools::Tool| match tool.program {
        "restic" => peers.contains(&Peer::Restic),
        "borg" => peers.contains(&Peer::Borg),
        _ => true,
    };
    tools::ensure(&tools::PEER_TOOLS.into_iter().filter(wanted).collect::<Vec<_>>())?;
    if peers.iter().any(|peer| peer.level().is_some()) {
        process::run(&mut process::cargo(&["build", "--release", "-p", "vmkeep-cli"]))?;
        // Apart from the other, which is to be built as it is shipped.
        let bounds = ["build", "--release", "-p", "vmkeep-benches", "--bin", "vmkeep-bounds"];
        process::run(&mut process::cargo(&bounds))?;
        peers.push(Peer::BareLoop(process::workspace().join("target/release/vmkeep-bounds")));
    }
    Ok(peers)
}

/// All phases of one tool, from an empty repository on.
fn round_of(peer: &Peer, disks: &Path, place: &Place, runs: &mut Vec<Run>) -> Result<()> {
    place.clear()?;
    place.make()?;
    peer.init(place)?;
    let meter = Meter::new(place);
    for phase in PHASES.iter().filter(|phase| peer.does(phase)) {
        if phase.is_aside {
            place.set_aside()?;
        }
        let sample = match phase.name {
            "restore" => restored(peer, disks, place, &meter),
            "verify" | "sealed" | "structure" => meter.run(&peer.verify(place, phase.name)),
            _ => backed_up(peer, disks, phase, place, &meter),
        };
        if phase.is_aside {
            place.take_back()?;
        }
        let sample = match sample {
            Ok(sample) => Ok(sample),
            Err(failure) if phase.is_tracked => Err(failure.to_string()),
            Err(failure) => return Err(failure),
        };
        let name = phase.name;
        match &sample {
            Ok(sample) => {
                let (wall, added) = (sample.wall.as_secs_f64(), sample.added_mib());
                println!("  {name:<8} {wall:>8.2} s  {added:>8.1} MiB added");
            }
            Err(failure) => println!("  {name:<8} {failure}"),
        }
        runs.push(Run { peer: peer.name(), phase: name, sample });
    }
    Ok(())
}

fn backed_up(peer: &Peer, disks: &Path, phase: &Phase, place: &Place, meter: &Meter<'_>) -> Result<Sample> {
    let version = phase.version();
    let source = place.source();
    if phase.name != "v3m" {
        if source.exists() {
            fs::remove_file(&source).at(&source)?;
        }
        fs::hard_link(path_of(disks, version), &source).at(&path_of(disks, version))?;
    }
    if phase.name == "v3" {
        // Defeats shortcuts by modification time: the image is unchanged, but does not look it.
        let file = fs::File::open(&source).at(&source)?;
        let modified = file.metadata().and_then(|m| m.modified()).at(&source)?;
        file.set_modified(modified + Duration::from_secs(1)).at(&source)?;
    }
    image::warm(&source)?;
    let changes = phase.is_tracked.then(|| bounds::list(&place.changes(), version));
    meter.run(&peer.backup(place, phase.name, changes.as_deref()))
}

/// Restores what was backed up last, and compares it.
fn restored(peer: &Peer, disks: &Path, place: &Place, meter: &Meter<'_>) -> Result<Sample> {
    let sample = meter.run(&peer.restore(place))?;
    let found = place.restored()?;
    let difference = image::compare(&found, &path_of(disks, "v2"))?;
    if difference != image::Difference::default() {
        let pages = difference.pages;
        return Err(Failure::new(format!(
            "{}: the restored disk differs from v2 in {pages} pages",
            peer.name()
        )));
    }
    println!("  restored identical, takes {} MiB", image::allocated(&found)? >> 20);
    place.clear_restored()?;
    Ok(sample)
}
