//! What vmkeep is to reach in the comparison, and whether it does.
//!
//! The measured limits of the machine that the reasons name (two threads of an Intel Xeon, virtual): zstd 1 with all else
//! 0.39 GB/s a thread and 0.87 on two, zstd 3 0.26 and 0.52; reading the page cache 10 to 13 GB/s; keyed BLAKE3 4.5 GB/s,
//! xxh3 25, AES-256-GCM 2.8.

use super::bounds::Bounds;
use super::measure::mib;
use super::table::Row;

/// What a bar is set on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Measure {
    /// At most so many times the time of the fastest other tool.
    Wall,
    /// At most so many times the bytes of the smallest other tool.
    Bytes,
    /// At most so many times the changed pages compressed alone, after [`PER_BLOCK`] and [`PER_POINT`] are taken off.
    PagesAlone,
    /// At least so much of the rate of the bare loop.
    BareLoop,
    /// At most so many MiB resident.
    Peak,
    /// At most so many bytes in data objects.
    Data,
}

/// A bar, and one further up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bar {
    /// The phase it is about; `None` for all together.
    pub(crate) phase: Option<&'static str>,
    /// The level it is about; `None` for all.
    level: Option<&'static str>,
    pub(crate) measure: Measure,
    limit: f64,
    stretch: Option<f64>,
    pub(crate) why: &'static str,
}

/// Bytes that a changed block may take beside its pages: its entry in the map, in the change list and in the footer.
const PER_BLOCK: u64 = 48;
/// Bytes that a point may take beside its blocks: its record, keys, and nodes of the map above the changed ones.
const PER_POINT: u64 = 64 << 10;

const fn bar(
    phase: &'static str,
    measure: Measure,
    limit: f64,
    stretch: Option<f64>,
    why: &'static str,
) -> Bar {
    Bar { phase: Some(phase), level: None, measure, limit, stretch, why }
}

impl Bar {
    const fn at(self, level: &'static str) -> Self {
        Self { level: Some(level), ..self }
    }
}

const COMPRESSES: &str = "zstd bounds a first full: 0.87 GB/s at level 1 on two threads, all else included";
const SCANS: &str =
    "a scan reads and hashes what the disk has, at most 4.5 GB/s a thread; the others cut it into chunks too";
const PAGES: &str =
    "only pages that changed need be stored; 48 B a block and 64 KiB a point are the map and the records";

/// Every bar of the comparison.
pub(crate) const BARS: [Bar; 18] = [
    bar("full", Measure::Wall, 0.45, Some(0.3), COMPRESSES).at("fast"),
    bar("full", Measure::Bytes, 1.2, Some(1.16), "zstd 1 in frames of 256 KiB, and no chunks shared")
        .at("fast"),
    bar("full", Measure::Wall, 0.65, Some(0.45), COMPRESSES).at("best"),
    bar("full", Measure::Bytes, 1.06, Some(1.03), "zstd 5 in frames of 1 MiB, and no chunks shared")
        .at("best"),
    bar("v1db", Measure::Wall, 0.25, Some(0.12), SCANS),
    bar("v1db", Measure::PagesAlone, 1.15, None, PAGES),
    bar(
        "v1t",
        Measure::Wall,
        0.08,
        Some(0.03),
        "only blocks with a changed page are read, 1.1 of 3.7 GiB, and few bytes of them stored",
    ),
    bar("v1", Measure::Wall, 0.25, Some(0.12), SCANS),
    bar("v1", Measure::PagesAlone, 1.15, None, PAGES),
    bar("v2", Measure::Wall, 0.3, Some(0.15), SCANS),
    bar("v2", Measure::Bytes, 1.05, None, "new files are whole new blocks, which all tools store alike"),
    bar(
        "restore",
        Measure::Wall,
        0.6,
        Some(0.4),
        "reading, opening, unpacking and writing overlap; holes are not written",
    ),
    bar("verify", Measure::Wall, 0.5, Some(0.35), "AES-256-GCM 2.8 GB/s a thread over what is stored"),
    bar("v3", Measure::Wall, 0.25, Some(0.15), SCANS),
    bar(
        "v3",
        Measure::BareLoop,
        0.75,
        Some(0.9),
        "read into a reused buffer and keyed BLAKE3 per 64 KiB, same threads, same run",
    ),
    bar(
        "v3t",
        Measure::Wall,
        0.05,
        Some(0.02),
        "nothing to read but an audit; against the scans of the others",
    ),
    bar("v3t", Measure::Data, 0.0, None, "nothing changed, so no object with data of the disk"),
    Bar {
        phase: None,
        level: None,
        measure: Measure::Peak,
        limit: 256.0,
        stretch: Some(128.0),
        why: "the largest of all runs; a host of VMs has little to spare",
    },
];

/// What a run is set against.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Against<'a> {
    /// Best time and least bytes of the other tools.
    pub(crate) fastest: Option<f64>,
    pub(crate) smallest_mib: Option<f64>,
    /// Time of the bare loop.
    pub(crate) bare_loop: Option<f64>,
    pub(crate) bounds: Option<&'a Bounds>,
}

/// How a run does at a bar.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Verdict {
    /// What was measured, as the bar has it.
    pub(crate) measured: String,
    pub(crate) limit: String,
    pub(crate) is_met: bool,
    /// The further one, and whether that is met.
    pub(crate) stretch: Option<(String, bool)>,
}

impl Bar {
    /// Whether it is to be met at `level`.
    pub(crate) fn is_for(&self, level: &str) -> bool {
        self.level.is_none_or(|name| name == level)
    }

    /// What is measured, in words.
    pub(crate) fn what(&self) -> &'static str {
        match self.measure {
            Measure::Wall => "wall, x fastest",
            Measure::Bytes => "bytes, x smallest",
            Measure::PagesAlone => "bytes, x changed pages alone",
            Measure::BareLoop => "rate, of the bare loop",
            Measure::Peak => "peak MiB",
            Measure::Data => "bytes of data objects",
        }
    }

    /// Sets `row`, runs at `level` in the bar's phase, against it; `None` when there is nothing to set it against.
    pub(crate) fn judge(&self, row: &Row, level: &str, against: &Against<'_>) -> Option<Verdict> {
        let positive = |value: Option<f64>| value.filter(|&value| value > 0.0);
        let value = match self.measure {
            Measure::Wall => row.wall / positive(against.fastest)?,
            Measure::Bytes => row.added_mib / positive(against.smallest_mib)?,
            Measure::PagesAlone => {
                let alone = against.bounds?.alone(self.phase?)?;
                let beside = as_mib(alone.blocks * PER_BLOCK + PER_POINT);
                (row.added_mib - beside).max(0.0) / positive(Some(as_mib(alone.at(level))))?
            }
            Measure::BareLoop => positive(against.bare_loop)? / row.wall,
            Measure::Peak => row.peak_mib,
            Measure::Data => row.data?,
        };
        let meets = |limit: f64| {
            if self.measure == Measure::BareLoop { value >= limit } else { value <= limit }
        };
        Some(Verdict {
            measured: self.shown(value),
            limit: self.shown(self.limit),
            is_met: meets(self.limit),
            stretch: self.stretch.map(|limit| (self.shown(limit), meets(limit))),
        })
    }

    fn shown(&self, value: f64) -> String {
        match self.measure {
            Measure::BareLoop => format!("{:.0} %", value * 100.0),
            Measure::Peak | Measure::Data => format!("{value:.0}"),
            Measure::Wall if self.limit < 0.1 => format!("{value:.3}"),
            Measure::Wall | Measure::Bytes | Measure::PagesAlone => format!("{value:.2}"),
        }
    }
}

fn as_mib(bytes: u64) -> f64 {
    mib(i64::try_from(bytes).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::PHASES;

    fn row(wall: f64) -> Row {
        Row { wall, cpu: wall, peak_mib: 100.0, added_mib: 10.0, data: Some(0.0) }
    }

    fn find(phase: &str, measure: Measure) -> Bar {
        BARS.into_iter().find(|bar| bar.phase == Some(phase) && bar.measure == measure).unwrap()
    }

    #[test]
    fn every_bar_is_about_a_phase_and_its_stretch_lies_further() {
        for bar in BARS {
            assert!(bar.phase.is_none_or(|name| PHASES.iter().any(|phase| phase.name == name)), "{bar:?}");
            let further = |stretch| {
                if bar.measure == Measure::BareLoop { stretch > bar.limit } else { stretch < bar.limit }
            };
            assert!(bar.stretch.is_none_or(further), "{bar:?}");
        }
    }

    #[test]
    fn times_are_set_against_the_fastest_and_rates_against_the_bare_loop() {
        let against = Against { fastest: Some(10.0), bare_loop: Some(0.8), ..Against::default() };
        let wall = find("v3", Measure::Wall).judge(&row(2.0), "fast", &against).unwrap();
        assert_eq!((wall.measured.as_str(), wall.is_met), ("0.20", true));
        assert_eq!(wall.stretch, Some(("0.15".to_owned(), false)));
        let rate = |wall| find("v3", Measure::BareLoop).judge(&row(wall), "fast", &against).unwrap();
        assert_eq!((rate(1.0).measured.as_str(), rate(1.0).is_met), ("80 %", true));
        assert!(!rate(1.1).is_met);
    }

    #[test]
    fn nothing_to_set_against_is_no_verdict() {
        for bar in BARS.into_iter().filter(|bar| !matches!(bar.measure, Measure::Peak | Measure::Data)) {
            assert_eq!(bar.judge(&row(1.0), "fast", &Against::default()), None);
        }
    }

    #[test]
    fn a_bar_of_one_level_is_not_about_another() {
        let full: Vec<_> = BARS.into_iter().filter(|bar| bar.phase == Some("full")).collect();
        let count = |level| full.iter().filter(|bar| bar.is_for(level)).count();
        assert_eq!(["fast", "default", "best"].map(count), [2, 0, 2]);
    }
}
