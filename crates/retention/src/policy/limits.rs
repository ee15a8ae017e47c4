//! What a policy may ask for, as data.

use std::ops::RangeInclusive;

/// Bounds that policies are checked against.
///
/// [`Limits::azure`] is what Azure's service and clients accept, so that a policy that passes can be sent there;
/// [`Limits::default`] leaves out what is only theirs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Count of the daily rule.
    pub daily: RangeInclusive<u32>,
    /// Count of the weekly rule.
    pub weekly: RangeInclusive<u32>,
    /// Count of the monthly rule.
    pub monthly: RangeInclusive<u32>,
    /// Count of the yearly rule.
    pub yearly: RangeInclusive<u32>,
    /// Most years that any point is kept.
    pub lifetime_years: u32,
    /// Most points of one VM.
    pub points: u32,
    /// Most VMs of one policy before it is advised to make another.
    pub vms_per_policy: u32,
    /// Most backups of one VM on one day, whoever asked for them.
    pub backups_per_day: u32,
    /// Hours between two runs of an hourly schedule.
    pub hourly_every: Vec<u32>,
    /// Hours of an hourly window.
    pub hourly_window: RangeInclusive<u32>,
    /// Latest start of an hourly window, in minutes after midnight.
    pub hourly_start_latest: u16,
    /// Times are multiples of so many minutes.
    pub minute_step: u16,
    /// The highest day of the month a rule may name.
    pub day_of_month: u8,
    /// Days of snapshots under a standard policy.
    pub snapshot_days_standard: RangeInclusive<u32>,
    /// Days of snapshots under a standard policy with a weekly schedule.
    pub snapshot_days_standard_weekly: RangeInclusive<u32>,
    /// Days of snapshots under an enhanced policy.
    pub snapshot_days_enhanced: RangeInclusive<u32>,
    /// Months after which a point may move to the archive at the soonest.
    pub archive_after_months: u32,
    /// Months that a point must still have to live when it moves.
    pub archive_remaining_months: u32,
    /// Days for which an archived point is paid for at least.
    pub archive_paid_days: u32,
    /// Whether each rule counts in its own unit (days, weeks, months, years) and goes with its schedule as Azure wants it.
    pub strict: bool,
}

impl Limits {
    /// Azure's, as its support matrix (learn.microsoft.com/azure/backup/backup-support-matrix-iaas), its PowerShell module and
    /// the Terraform provider have them.
    pub fn azure() -> Self {
        Self {
            daily: 7..=9999,
            weekly: 1..=5163,
            monthly: 1..=1188,
            yearly: 1..=99,
            lifetime_years: 99,
            points: 9999,
            vms_per_policy: 100,
            backups_per_day: 9,
            hourly_every: vec![4, 6, 8, 12],
            hourly_window: 4..=24,
            hourly_start_latest: 19 * 60 + 30,
            minute_step: 30,
            day_of_month: 28,
            snapshot_days_standard: 1..=5,
            snapshot_days_standard_weekly: 5..=5,
            snapshot_days_enhanced: 1..=30,
            archive_after_months: 3,
            archive_remaining_months: 6,
            archive_paid_days: 180,
            strict: true,
        }
    }
}

impl Default for Limits {
    /// Ours: a day at least, any minute, any hours, any day of the month; the same upper bounds.
    fn default() -> Self {
        Self {
            daily: 1..=9999,
            backups_per_day: 24,
            hourly_every: (1..=24).collect(),
            hourly_window: 1..=24,
            hourly_start_latest: 24 * 60 - 1,
            minute_step: 1,
            day_of_month: 31,
            snapshot_days_standard: 1..=30,
            snapshot_days_standard_weekly: 1..=30,
            points: 99_999,
            strict: false,
            ..Self::azure()
        }
    }
}
