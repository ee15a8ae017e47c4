//! `cargo xtask peers`: vmkeep beside restic, borg and rustic on the disks of `cargo xtask disks`.
//!
//! Every tool starts with an empty repository and takes the versions in turn; a version lies in the page cache
//! before each run, and the time of a run ends when everything written is on disk. The tools take turns within a
//! round, and the table has the medians of the rounds.

mod measure;
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
use measure::{Meter, Sample};
use peer::{Peer, Place};

/// What is measured, in the order in which it is run. `v1db` goes on from the first full on a copy of its own.
pub(crate) const PHASES: [(&str, &str); 8] = [
    ("full", "first full (v0)"),
    ("v1db", "database churn (v1db)"),
    ("v1", "1 % scattered (v1)"),
    ("v2", "80 MiB contiguous (v2)"),
    ("restore", "restore of v2"),
    ("verify", "verify, every byte"),
    ("v3", "unchanged, new mtime (v3)"),
    ("v3m", "unchanged, same mtime (v3m)"),
];

/// A phase of a tool, once.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) peer: String,
    pub(crate) phase: &'static str,
    pub(crate) sample: Sample,
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
    let mut runs = Vec::new();
    for round in 1..=rounds {
        for peer in &peers {
            println!("round {round}: {}", peer.name());
            round_of(peer, &disks, &place, &mut runs)?;
        }
    }
    place.clear()?;
    println!("\n{}", table::markdown(&peers, &runs, rounds, &disks)?);
    Ok(())
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
    peers.extend(["fast", "best"].map(|level| Peer::Vmkeep { program: vmkeep.clone(), level }));
    if let Some(names) = only {
        let known: Vec<String> = peers.iter().map(Peer::name).collect();
        if let Some(unknown) = names.iter().find(|name| !known.contains(name)) {
            return Err(Failure::new(format!("no tool {unknown}; there are: {}", known.join(", "))));
        }
        peers.retain(|peer| names.contains(&peer.name()));
    }
    let wanted = |tool: &tools::Tool| match tool.program {
        "restic" => peers.contains(&Peer::Restic),
        "borg" => peers.contains(&Peer::Borg),
        _ => true,
    };
    tools::ensure(&tools::PEER_TOOLS.into_iter().filter(wanted).collect::<Vec<_>>())?;
    if peers.iter().any(|peer| matches!(peer, Peer::Vmkeep { .. })) {
        process::run(&mut process::cargo(&["build", "--release", "-p", "vmkeep-cli"]))?;
    }
    Ok(peers)
}

/// All phases of one tool, from an empty repository on.
fn round_of(peer: &Peer, disks: &Path, place: &Place, runs: &mut Vec<Run>) -> Result<()> {
    place.clear()?;
    place.make()?;
    peer.init(place)?;
    let meter = Meter::new(place);
    for (phase, _) in PHASES {
        let sample = match phase {
            "restore" => restored(peer, disks, place, &meter)?,
            "verify" => meter.run(&peer.verify(place))?,
            "v1db" => {
                place.set_aside()?;
                let sample = backed_up(peer, disks, phase, place, &meter)?;
                place.take_back()?;
                sample
            }
            _ => backed_up(peer, disks, phase, place, &meter)?,
        };
        println!("  {phase:<8} {:>8.2} s  {:>8.1} MiB added", sample.wall.as_secs_f64(), sample.added_mib());
        runs.push(Run { peer: peer.name(), phase, sample });
    }
    Ok(())
}

fn backed_up(peer: &Peer, disks: &Path, phase: &str, place: &Place, meter: &Meter<'_>) -> Result<Sample> {
    let version = match phase {
        "full" => "v0",
        "v3m" => "v3",
        other => other,
    };
    let source = place.source();
    if phase != "v3m" {
        if source.exists() {
            fs::remove_file(&source).at(&source)?;
        }
        fs::hard_link(path_of(disks, version), &source).at(&path_of(disks, version))?;
    }
    if phase == "v3" {
        // Defeats shortcuts by modification time: the image is unchanged, but does not look it.
        let file = fs::File::open(&source).at(&source)?;
        let modified = file.metadata().and_then(|m| m.modified()).at(&source)?;
        file.set_modified(modified + Duration::from_secs(1)).at(&source)?;
    }
    image::warm(&source)?;
    meter.run(&peer.backup(place, phase))
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
