//! How well VMs are protected, as metrics: the text format that Prometheus reads
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
//!
//! Gauges in base units, seconds and bytes. A VM for which something is not known has no sample of it: a missing number is not 0.

use std::fmt::Write;

use vmkeep_model::{ConsistencyLevel, Timestamp};

use crate::Health;
use crate::status::{Level, Reason, Verdict, Verified};

/// A metric of VMs: its name, what it is, and its value of a VM that has one.
type Metric = (&'static str, &'static str, fn(&Health) -> Option<String>);

const OF_VMS: [Metric; 13] = [
    ("vmkeep_vm_status", "How well the VM is protected: 0 ok, 1 warning, 2 critical.", |health| {
        Some(level(health.verdict.level).to_string())
    }),
    (
        "vmkeep_vm_backed_up",
        "1 when backups of the VM are expected, 0 when it is stopped, deleted or closed.",
        |health| {
            let idle = |reason: &Reason| matches!(reason, Reason::NotBackedUp(_) | Reason::Closed);
            Some(u8::from(!health.verdict.reasons.iter().any(idle)).to_string())
        },
    ),
    ("vmkeep_vm_last_point_number", "Number of the newest point that can be restored.", |health| {
        Some(health.glance.as_ref()?.newest.as_ref()?.id.number.0.to_string())
    }),
    ("vmkeep_vm_last_point_timestamp_seconds", "When the newest point was begun, in Unix time.", |health| {
        Some(seconds(health.glance.as_ref()?.newest.as_ref()?.created.0))
    }),
    (
        "vmkeep_vm_last_point_consistency",
        "What the newest point is worth: 0 crash, 1 file system, 2 application.",
        |health| {
            Some(match health.glance.as_ref()?.newest.as_ref()?.consistency {
                ConsistencyLevel::Crash => "0".to_owned(),
                ConsistencyLevel::FileSystem => "1".to_owned(),
                ConsistencyLevel::Application => "2".to_owned(),
            })
        },
    ),
    (
        "vmkeep_vm_consistency_weaker",
        "1 when the newest point is worth less than the one before.",
        |health| {
            health.glance.as_ref()?.newest.as_ref()?;
            let weaker = |reason: &Reason| matches!(reason, Reason::Weaker { .. });
            Some(u8::from(health.verdict.reasons.iter().any(weaker)).to_string())
        },
    ),
    (
        "vmkeep_vm_overdue_seconds",
        "How long ago a point was due that is not there; 0 when none is.",
        |health| {
            let is_unknown = |reason: &Reason| {
                matches!(
                    reason,
                    Reason::NotJudged
                        | Reason::Unknown { .. }
                        | Reason::FromTheFuture { .. }
                        | Reason::NoPoint
                        | Reason::NoPointYet { .. }
                        | Reason::NothingKept
                )
            };
            if health.verdict.reasons.iter().any(is_unknown) {
                return None;
            }
            let late = health.verdict.reasons.iter().find_map(|reason| match reason {
                Reason::Overdue { late_ms, .. } => Some(*late_ms),
                Reason::TooOld { age_ms, max_ms } => Some(age_ms.saturating_sub(*max_ms)),
                _ => None,
            });
            Some(seconds(late.unwrap_or(0)))
        },
    ),
    (
        "vmkeep_vm_points",
        "Points in the vault, forgotten ones among them until a sweep removes them.",
        |health| Some(health.glance.as_ref()?.points.to_string()),
    ),
    ("vmkeep_vm_unreadable_points", "Points newer than the newest good one that do not open.", |health| {
        Some(health.glance.as_ref()?.unreadable.len().to_string())
    }),
    (
        "vmkeep_vm_suspect_marks",
        "Changes that tracking was found to have missed since the newest point.",
        |health| Some(health.glance.as_ref()?.suspects.len().to_string()),
    ),
    ("vmkeep_vm_data_bytes", "Data in the newest point, blocks of zeros left out.", |health| {
        Some(health.data()?.0.to_string())
    }),
    (
        "vmkeep_vm_growth_bytes",
        "How much more data that is than in the older point it is compared with.",
        |health| Some(health.growth?.bytes.to_string()),
    ),
    ("vmkeep_vm_growth_window_seconds", "Time between these two points.", |health| {
        Some(seconds(health.growth?.window_ms))
    }),
];

/// The metrics of some VMs at `now`, and of their vault: the text of a file for the textfile collector of `node_exporter`.
pub fn exposition(health: &[Health], vault: &Verdict, verified: Option<Verified>, now: Timestamp) -> String {
    let mut text = String::new();
    let worst = health.iter().map(|health| health.verdict.level).chain([vault.level]).max();
    let mut of_vault = vec![
        (
            "vmkeep_status",
            "The worst of all: 0 ok, 1 warning, 2 critical.",
            level(worst.unwrap_or_default()).to_string(),
        ),
        ("vmkeep_status_timestamp_seconds", "When this was found out, in Unix time.", seconds(now.0)),
        ("vmkeep_vms", "VMs that this is about.", health.len().to_string()),
    ];
    if let Some(Verified { until, damaged }) = verified {
        let what = "All that is older was verified, in Unix time.";
        of_vault.extend(until.map(|until| ("vmkeep_verified_timestamp_seconds", what, seconds(until.0))));
        of_vault.push((
            "vmkeep_damaged_objects",
            "Objects that verification found damaged.",
            damaged.to_string(),
        ));
    }
    for (name, help, value) in of_vault {
        head(&mut text, name, help);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name} {value}");
    }
    for (name, help, value) in OF_VMS {
        let mut samples = health.iter().filter_map(|health| Some((health, value(health)?))).peekable();
        if samples.peek().is_some() {
            head(&mut text, name, help);
        }
        for (health, value) in samples {
            let _ = writeln!(text, "{name}{{vm=\"{}\"}} {value}", escaped(health.vm.as_str()));
        }
    }
    head(
        &mut text,
        "vmkeep_vm_info",
        "Always 1: the policy that the VM is under, and where its protection stands.",
    );
    for Health { vm, policy, state, .. } in health {
        let (vm, policy) = (escaped(vm.as_str()), escaped(policy.as_deref().unwrap_or_default()));
        let state = escaped(&state.kind().to_string());
        let _ = writeln!(text, "vmkeep_vm_info{{vm=\"{vm}\",policy=\"{policy}\",state=\"{state}\"}} 1");
    }
    text
}

fn head(text: &mut String, name: &str, help: &str) {
    let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n");
}

fn level(level: Level) -> u8 {
    match level {
        Level::Ok => 0,
        Level::Warning => 1,
        Level::Critical => 2,
    }
}

/// Milliseconds in seconds, exactly.
fn seconds(millis: i64) -> String {
    let sign = if millis < 0 { "-" } else { "" };
    let millis = millis.unsigned_abs();
    match millis % 1000 {
        0 => format!("{sign}{}", millis / 1000),
        rest => format!("{sign}{}.{rest:03}", millis / 1000),
    }
}

/// A label's value: what stands between its quotation marks.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_exact() {
        for (millis, text) in [
            (0, "0"),
            (999, "0.999"),
            (1500, "1.500"),
            (-1, "-0.001"),
            (1_767_225_600_000, "1767225600"),
            (i64::MIN, "-9223372036854775.808"),
        ] {
            assert_eq!(seconds(millis), text);
        }
    }

    #[test]
    fn a_label_ends_where_it_should() {
        assert_eq!(escaped("a\"} 1\nb\\n"), "a\\\"} 1\\nb\\\\n");
        assert_eq!(escaped("Прод {x=\"y\"}"), "Прод {x=\\\"y\\\"}");
    }
}
