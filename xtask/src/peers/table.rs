//! The table of medians.

use std::fs;
use std::path::Path;

use super::measure::mib;
use super::peer::Peer;
use super::{PHASES, Run};
use crate::disks::{image, path_of};
use crate::failure::{At, Result};

/// The medians of one tool in one phase.
#[derive(Clone, Copy, Debug)]
struct Row {
    wall: f64,
    cpu: f64,
    peak_mib: f64,
    added_mib: f64,
}

/// The whole report: machine, disks, versions, and a row per phase and tool.
pub(crate) fn markdown(peers: &[Peer], runs: &[Run], rounds: usize, disks: &Path) -> Result<String> {
    let mut lines = vec![machine(), disk_line(disks)?];
    let versions: Vec<String> = peers.iter().map(Peer::version).collect::<Result<_>>()?;
    let mut versions: Vec<&str> = versions.iter().map(String::as_str).collect();
    versions.dedup();
    lines.push(format!(
        "{}; medians of {rounds} rounds, source in the page cache, `sync` within the time.",
        versions.join(", ")
    ));
    lines.push(
        "`x wall` and `x bytes` are against the fastest and the smallest of the tools beside vmkeep."
            .to_owned(),
    );
    lines.push(String::new());
    lines.push("| run | tool | wall s | x wall | CPU s | peak MiB | added MiB | x bytes |".to_owned());
    lines.push("|---|---|---:|---:|---:|---:|---:|---:|".to_owned());
    for (phase, title) in PHASES {
        let rows: Vec<(&Peer, Row)> =
            peers.iter().filter_map(|p| Some((p, row(runs, &p.name(), phase)?))).collect();
        let best = |value: fn(&Row) -> f64| {
            rows.iter().filter(|(p, _)| !p.is_ours()).map(|(_, row)| value(row)).min_by(f64::total_cmp)
        };
        let (fastest, smallest) = (best(|row| row.wall), best(|row| row.added_mib));
        let writes = !matches!(phase, "restore" | "verify");
        for (peer, row) in &rows {
            let size = if writes { format!("{:.1}", row.added_mib) } else { String::new() };
            lines.push(format!(
                "| {title} | {} | {:.2} | {} | {:.1} | {:.0} | {size} | {} |",
                peer.name(),
                row.wall,
                ratio(row.wall, fastest),
                row.cpu,
                row.peak_mib,
                if writes { ratio(row.added_mib, smallest) } else { String::new() },
            ));
        }
    }
    Ok(lines.join("\n"))
}

fn ratio(value: f64, best: Option<f64>) -> String {
    best.filter(|&best| best > 0.0).map(|best| format!("{:.2}", value / best)).unwrap_or_default()
}

fn row(runs: &[Run], peer: &str, phase: &str) -> Option<Row> {
    let of = |value: fn(&Run) -> f64| {
        median(runs.iter().filter(|run| run.peer == peer && run.phase == phase).map(value).collect())
    };
    Some(Row {
        wall: of(|run| run.sample.wall.as_secs_f64())?,
        cpu: of(|run| run.sample.cpu.as_secs_f64())?,
        peak_mib: of(|run| mib(i64::try_from(run.sample.peak_kib * 1024).unwrap_or(i64::MAX)))?,
        added_mib: of(|run| run.sample.added_mib())?,
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
