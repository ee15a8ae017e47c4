//! What the labels of a point say to retention.

use vmkeep_model::{LabelError, Labels, PointNumber, RecoveryPoint, Timestamp};
use vmkeep_retention::{Point, PointKind};

/// Who made it: `scheduled`, `on-demand` or `imported`.
pub const KIND: &str = "kind";
/// Until when it is kept whatever its policy says, in milliseconds since 1970.
pub const EXPIRES: &str = "expires";
/// Under which policy it was made: name, `@`, version.
pub const POLICY: &str = "policy";
/// Stands before a tag of the user's.
pub const TAG: &str = "tag/";

/// The labels of a point that the schedule makes, under a version of a policy.
///
/// ```
/// use vmkeep_protect::labels;
///
/// let labels = labels::scheduled("daily", 3)?;
/// assert_eq!(labels.get("kind"), Some("scheduled"));
/// assert_eq!(labels.get("policy"), Some("daily@3"));
/// # Ok::<(), vmkeep_model::LabelError>(())
/// ```
pub fn scheduled(policy: &str, version: u32) -> Result<Labels, LabelError> {
    let mut labels = Labels::default();
    labels.insert(KIND, "scheduled")?;
    labels.insert(POLICY, format!("{policy}@{version}"))?;
    Ok(labels)
}

/// The labels of a point that somebody asks for, kept until `expires`; `None` is until somebody removes it.
pub fn on_demand(expires: Option<Timestamp>) -> Result<Labels, LabelError> {
    let mut labels = Labels::default();
    labels.insert(KIND, "on-demand")?;
    if let Some(expires) = expires {
        labels.insert(EXPIRES, expires.0.to_string())?;
    }
    Ok(labels)
}

/// A point as retention looks at it. What its labels do not say, or not in a way that is known, counts as what keeps it longest.
pub(crate) fn point(point: &RecoveryPoint, held: bool, policy: &str) -> Point {
    let labels = &point.labels;
    let kind = match labels.get(KIND) {
        Some("scheduled") => PointKind::Scheduled,
        Some("imported") => PointKind::Imported,
        _ => PointKind::OnDemand,
    };
    let made_under = labels.get(POLICY).and_then(|made| made.rsplit_once('@'));
    let version =
        made_under.filter(|(name, _)| *name == policy).and_then(|(_, version)| version.parse().ok());
    Point {
        kind,
        consistency: point.consistency,
        expires: labels.get(EXPIRES).and_then(|at| at.parse().ok()).map(Timestamp),
        held,
        policy_version: version,
        tags: labels.iter().filter_map(|(name, _)| name.strip_prefix(TAG)).map(str::to_owned).collect(),
        ..Point::scheduled(PointNumber(point.id.number.0), point.created)
    }
}
