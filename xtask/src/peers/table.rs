//! The table of medians, and that of the bars.

use std::fs;
use std::path::Path;

use super::bars::{Against, BARS};
use super::bounds::Bounds;
use super::measure::{Sample, mib};
use super::peer::Peer;
use super::{PHASES, Phase, Run};
use crate::disks::{image, path_of};
use crate::failure::{At, Result};

/// The medians of one tool in one phase.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) wall: f64,
    pub(crate) cpu: f64,
    pub(crate) peak_mib: f64,
    pub(crate) added_mib: f64,
    /// Bytes in data objects, where they are known.
    pub(crate) data: Option<f64>,
}

/// The whole report: machine, disks, versions, and a row per phase and tool.
pub(crate) fn markdown(peers: &[Peer], runs: &[Run], rounds: usize, disks: &Path) -> Result<String> {
    let mut lines = vec![machine(), disk_line(disks)?];
    let tools = peers.iter().filter(|peer| peer.bare_loop().is_none());
    let versions: Vec<String> = tools.map(Peer::version).collect::<Result<_>>()?;
    let mut versions: Vec<&str> = versions.iter().map(String::as_str).collect();
    versions.dedup();
    lines.push(format!(
        "{}; medians of {rounds} rounds, source in the page cache, `sync` within the time.",
        versions.join(", ")
    ));
    lines.push(
        "`x wall` and `x bytes` are against the fastest and the smallest of the tools beside vmkeep, which do not take \
         changed extents: those runs are against their scans of the same disk."
            .to_owned(),
    );
    lines.push(String::new());
    lines.push("| run | tool | wall s | x wall | CPU s | peak MiB | added MiB | x bytes |".to_owned());
    lines.push("|---|---|---:|---:|---:|---:|---:|---:|".to_owned());
    for phase in &PHASES {
        let against = against(peers, runs, phase);
        let is_backup = !matches!(phase.name, "restore" | "verify" | "sealed" | "structure");
        for peer in peers.iter().filter(|peer| peer.does(phase)) {
            let (title, name) = (phase.title, peer.name());
            let Some(row) = row(runs, &name, phase.name) else {
                lines.push(format!("| {title} | {name} | {} ||||||", failure(runs, &name, phase.name)));
                continue;
            };
            let writes = is_backup && peer.bare_loop().is_none();
            let size = if writes { format!("{:.1}", row.added_mib) } else { String::new() };
            lines.push(format!(
                "| {title} | {name} | {:.2} | {} | {:.1} | {:.0} | {size} | {} |",
                row.wall,
                ratio(row.wall, against.fastest),
                row.cpu,
                row.peak_mib,
                if writes { ratio(row.added_mib, against.smallest_mib) } else { String::new() },
            ));
        }
    }
    Ok(lines.join("\n"))
}

/// Every bar, how vmkeep does at it, and why it is there.
pub(crate) fn bars(peers: &[Peer], runs: &[Run], bounds: &Bounds) -> String {
    let mut lines = vec!["Bars".to_owned(), String::new()];
    for version in ["v1db", "v1"] {
        if let Some(alone) = bounds.alone(version) {
            let kib = |bytes: u64| bytes >> 10;
            lines.push(format!(
                "{version}: {} KiB in changed pages of {} blocks; alone they take {} KiB at level fast, {} at default, {} at \
                 best.",
                kib(alone.bytes),
                alone.blocks,
                kib(alone.at("fast")),
                kib(alone.at("default")),
                kib(alone.at("best")),
            ));
        }
    }
    lines.push(String::new());
    lines.push("| run | tool | what | measured | bar | met | stretch | met | why |".to_owned());
    lines.push("|---|---|---|---:|---:|---|---:|---|---|".to_owned());
    for bar in BARS {
        let phase = bar.phase.and_then(|name| PHASES.iter().find(|phase| phase.name == name));
        // Said once, with the first tool.
        let mut why = bar.why;
        for peer in peers {
            let Some(level) = peer.level().filter(|level| bar.is_for(level)) else { continue };
            let against = phase.map(|phase| Against { bounds: Some(bounds), ..against(peers, runs, phase) });
            let found = match phase {
                Some(phase) => row(runs, &peer.name(), phase.name),
                None => largest(runs, &peer.name()),
            };
            let judge = |row| bar.judge(&row, level, &against.unwrap_or_default());
            let (title, name, what) =
                (phase.map_or("every run", |phase| phase.title), peer.name(), bar.what());
            lines.push(match found.and_then(judge) {
                Some(verdict) => {
                    let (stretch, further) = verdict.stretch.unzip();
                    format!(
                        "| {title} | {name} | {what} | {} | {} | {} | {} | {} | {why} |",
                        verdict.measured,
                        verdict.limit,
                        yes_no(Some(verdict.is_met)),
                        stretch.unwrap_or_default(),
                        yes_no(further),
                    )
                }
                None => format!("| {title} | {name} | {what} | not measured ||||| {why} |"),
            });
            why = "";
        }
    }
    lines.push(String::new());
    lines.push(
        "Wall and requests of an unchanged increment by size of the disk and number of points: \
         `cargo bench -p vmkeep-benches --bench scale`, within 1.5 x (1.1 x) of each other."
            .to_owned(),
    );
    lines.join("\n")
}

fn yes_no(met: Option<bool>) -> &'static str {
    met.map(|met| if met { "yes" } else { "**no**" }).unwrap_or_default()
}

/// What vmkeep's runs in `phase` are set against.
fn against(peers: &[Peer], runs: &[Run], phase: &Phase) -> Against<'static> {
    let best = |value: fn(&Row) -> f64| {
        let rivals = peers.iter().filter(|peer| peer.is_rival());
        let rows = rivals.filter_map(|peer| row(runs, &peer.name(), phase.beside));
        rows.map(|row| value(&row)).min_by(f64::total_cmp)
    };
    let bare_loop = peers.iter().find(|peer| peer.bare_loop().is_some());
    let bare_loop = bare_loop.and_then(|peer| row(runs, &peer.name(), phase.beside)).map(|row| row.wall);
    Against {
        fastest: best(|row| row.wall),
        smallest_mib: best(|row| row.added_mib),
        bare_loop,
        bounds: None,
    }
}

/// Why a tool has no figures in a phase.
fn failure<'r>(runs: &'r [Run], peer: &str, phase: &str) -> &'r str {
    let mut failed = runs.iter().filter(|run| run.peer == peer && run.phase == phase);
    failed.find_map(|run| run.sample.as_ref().err()).map_or("not run", String::as_str)
}

/// A row of the largest values of all phases of a tool.
fn largest(runs: &[Run], peer: &str) -> Option<Row> {
    let rows = PHASES.iter().filter_map(|phase| row(runs, peer, phase.name));
    rows.max_by(|one, other| one.peak_mib.total_cmp(&other.peak_mib))
}

fn ratio(value: f64, best: Option<f64>) -> String {
    best.filter(|&best| best > 0.0).map(|best| format!("{:.2}", value / best)).unwrap_or_default()
}

fn row(runs: &[Run], peer: &str, phase: &str) -> Option<Row> {
    let runs = runs.iter().filter(|run| run.peer == peer && run.phase == phase);
    let samples: Vec<&Sample> = runs.filter_map(|run| run.sample.as_ref().ok()).collect();
    let of = |value: fn(&Sample) -> f64| median(samples.iter().map(|sample| value(sample)).collect());
    let data = samples.iter().filter_map(|sample| sample.data).max();
    Some(Row {
        wall: of(|sample| sample.wall.as_secs_f64())?,
        cpu: of(|sample| sample.cpu.as_secs_f64())?,
        peak_mib: of(|sample| mib(i64::try_from(sample.peak_kib * 1024).unwrap_or(i64::MAX)))?,
        added_mib: of(Sample::added_mib)?,
        data: data.map(|bytes| mib(i64::try_from(bytes).unwrap_or(i64::MAX)) * f64::from(1 << 20)),
    })
}

/// The middle value, or the mean of the two in the middle.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = values[(values.len() - 1) / 2];
    Some(f64::midpoint(lower, upper))
}

fn disk_line(disks: &Path) -> Result<String> {
    let path = path_of(disks, "v0");
    let (len, allocated) = (fs::metadata(&path).at(&path)?.len(), image::allocated(&path)?);
    Ok(format!("Disk: {} GiB, {} MiB of it allocated.", len >> 30, allocated >> 20))
}

/// Processor, threads and memory, as far as the system says.
fn machine() -> String {
    let field = |file: &str, name: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.split_once(':'));
        line.map(|(_, value)| value.trim().to_owned())
    };
    let processor = field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown processor".to_owned());
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let memory =
        field("/proc/meminfo", "MemTotal").and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
    let memory = memory.map(|kib| format!(", {} GiB of memory", (kib + (1 << 19)) >> 20)).unwrap_or_default();
    format!("Machine: {processor}, {threads} threads{memory}.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
