//! Entry points for a fuzzer: what somebody may call a policy, as plain functions that must never panic.
//!
//! The test `fuzz_corpora` replays what was found.

use vmkeep_model::{PointNumber, Timestamp};

use crate::azure::AzurePolicy;
use crate::{Limits, Point, Policy, PolicySpec, plan, runs};

/// A function that takes any bytes.
pub type Target = fn(&[u8]);

/// Every function here by its name, which is also that of its fuzz target and of its corpus.
pub const TARGETS: [(&str, Target); 2] = [("policy_toml", policy_toml), ("policy_azure", policy_azure)];

/// 2026-01-01, 01:30 UTC.
const BEGIN: i64 = 1_767_231_000_000;

/// A policy in TOML: read, written, read again; and where it holds, used.
pub fn policy_toml(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(spec) = PolicySpec::from_toml(text) else { return };
    // Spans may be out of range before they are checked, and are written as they are.
    assert_eq!(PolicySpec::from_toml(&spec.to_toml()).as_ref(), Ok(&spec));
    use_it(spec, &Limits::default());
}

/// A policy of Azure: its fields survive, its policy is read, and what is written says the same.
pub fn policy_azure(data: &[u8]) {
    let Ok(document) = AzurePolicy::parse(data) else { return };
    let again = AzurePolicy::parse(document.to_json().as_bytes()).expect("what was written is JSON");
    assert_eq!(again.document(), document.document());
    let _ = document.remarks().len();
    let Ok(spec) = document.spec() else { return };
    assert_eq!(
        document.with_spec(&spec).map(|same| same.document().clone()).as_ref(),
        Ok(document.document())
    );
    use_it(spec, &Limits::azure());
}

/// Runs and a plan of a policy that holds.
fn use_it(spec: PolicySpec, limits: &Limits) {
    let Ok(policy) = Policy::new(spec, limits) else { return };
    let times: Vec<Timestamp> =
        runs(&policy.schedule, &policy.zone, Timestamp(BEGIN)).take(12).map(|run| run.at).collect();
    assert!(times.is_sorted_by(|a, b| a < b));
    let points: Vec<Point> =
        (1..).zip(&times).map(|(number, at)| Point::scheduled(PointNumber(number), *at)).collect();
    let now = Timestamp(BEGIN + 400 * 86_400_000);
    let planned = plan(&points, &policy, now).expect("their numbers differ and their times are in range");
    // The newest point stays, whatever the policy.
    assert!(planned.expired().count() < points.len().max(1));
}
