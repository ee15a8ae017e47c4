//! Why a point stays or goes, as values and in words.

use std::fmt;

use vmkeep_model::Timestamp;

use crate::civil::Day;
use crate::lifecycle::StateKind;
use crate::policy::keep::{Bucket, Count};
use crate::policy::{Policy, Retention};

/// A rule of the calendar, from the weakest to the strongest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RuleName {
    /// Every scheduled point.
    Every,
    /// One a day.
    Daily,
    /// Some days of the week.
    Weekly,
    /// Some days of the month.
    Monthly,
    /// Some days of the year.
    Yearly,
}

impl RuleName {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Every => "every",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Yearly => "yearly",
        }
    }
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// When a point goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Expiry {
    /// From this instant on.
    At(Timestamp),
    /// When enough newer points have come.
    WhenReplaced,
    /// Not before somebody does something.
    Never,
}

/// One reason why a point stays or goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A rule of the calendar tags it.
    Tag {
        /// Which.
        rule: RuleName,
        /// The tagged day that it stands for.
        slot: Day,
        /// Whether it stands for a day whose own backup is missing.
        late: bool,
        /// Until when that keeps it.
        until: Timestamp,
    },
    /// It is the newest of its period, and that period is among those that are counted.
    Counted {
        /// What is counted.
        bucket: Bucket,
        /// It is the so many-th, from 1.
        nth: u64,
    },
    /// It is the oldest of all, while a rule has fewer points than it may keep.
    Oldest {
        /// Whose rule.
        bucket: Bucket,
    },
    /// It is of the time just past.
    Within {
        /// One of each such period; of [`Bucket::Last`], each.
        bucket: Bucket,
    },
    /// It has all tags of a list.
    TagList {
        /// Which list of the policy, from 0.
        list: u32,
    },
    /// It has its own expiry.
    Own {
        /// Which; `None` is for ever.
        until: Option<Timestamp>,
    },
    /// Somebody holds it.
    Held,
    /// It is immutable.
    Immutable {
        /// Until when.
        until: Timestamp,
    },
    /// Every point is kept that long.
    Minimum {
        /// Until when.
        until: Timestamp,
    },
    /// It is the newest point, which no policy removes.
    Newest,
    /// Nothing expires in this state of protection.
    Stopped {
        /// Which.
        state: StateKind,
    },
    /// No rule keeps it.
    NoRule,
    /// Its backup failed: it restores nothing.
    Incomplete,
}

impl Reason {
    /// When it stops keeping the point; of what never kept it, the beginning of time.
    pub fn ends(&self) -> Expiry {
        match *self {
            Self::Tag { until, .. } | Self::Immutable { until } | Self::Minimum { until } => {
                Expiry::At(until)
            }
            Self::Own { until } => until.map_or(Expiry::Never, Expiry::At),
            Self::Held | Self::Stopped { .. } | Self::TagList { .. } => Expiry::Never,
            Self::Counted { .. } | Self::Oldest { .. } | Self::Within { .. } | Self::Newest => {
                Expiry::WhenReplaced
            }
            Self::NoRule | Self::Incomplete => Expiry::At(Timestamp(i64::MIN)),
        }
    }

    /// Whether it keeps the point at `now`. What is kept until an instant goes at that instant.
    pub fn keeps(&self, now: Timestamp) -> bool {
        match self.ends() {
            Expiry::At(until) => until > now,
            Expiry::WhenReplaced | Expiry::Never => true,
        }
    }

    /// Which of two reasons that end together governs: the higher.
    pub(super) fn rank(&self) -> u8 {
        match self {
            Self::NoRule | Self::Incomplete => 0,
            Self::Newest | Self::Stopped { .. } => 1,
            Self::Tag { rule, .. } => 2 + *rule as u8,
            Self::Counted { bucket, .. } | Self::Oldest { bucket } | Self::Within { bucket } => {
                2 + *bucket as u8
            }
            Self::TagList { .. } => 8,
            Self::Own { .. } => 9,
            Self::Minimum { .. } => 10,
            Self::Immutable { .. } => 11,
            Self::Held => 12,
        }
    }

    /// In words, with dates in the policy's zone.
    pub fn words(&self, policy: &Policy, now: Timestamp) -> String {
        let zone = &policy.zone;
        let upto = |until: Timestamp| {
            let verb = if until > now { "until" } else { "that ended" };
            format!("{verb} {}", zone.show(until))
        };
        match *self {
            Self::Tag { rule, slot, late, until } => {
                let span = span_of(policy, rule);
                let missed =
                    if late { format!(", standing for {slot}, which has no point") } else { String::new() };
                format!("{rule} rule{missed}: kept for {span}, {}", upto(until))
            }
            Self::Counted { bucket, nth } => {
                let of = match keep_rules(policy, bucket) {
                    Count::Most(n) => format!(" of {n}"),
                    Count::All | Count::Off => String::new(),
                };
                format!("{} rule: number {nth}{of}, newest first", bucket.name())
            }
            Self::Oldest { bucket } => {
                format!(
                    "{} rule: the oldest point, while fewer are there than the rule may keep",
                    bucket.name()
                )
            }
            Self::Within { bucket } => {
                let span = match &policy.retention {
                    Retention::Keep(rules) => {
                        rules.within(bucket).map_or_else(String::new, |w| w.to_string())
                    }
                    Retention::Calendar(_) => String::new(),
                };
                format!("{} rule: made within {span}", bucket.within_name())
            }
            Self::TagList { list } => match &policy.retention {
                Retention::Keep(rules) => {
                    let list = usize::try_from(list).ok().and_then(|list| rules.tags.get(list));
                    format!("has the tags {}", list.map_or_else(String::new, |tags| tags.join(", ")))
                }
                Retention::Calendar(_) => "has tags".to_owned(),
            },
            Self::Own { until: Some(until) } => format!("its own expiry: kept {}", upto(until)),
            Self::Own { until: None } => {
                "made on demand without an expiry: kept until somebody removes it".to_owned()
            }
            Self::Held => "held: nothing removes it until the hold is released".to_owned(),
            Self::Immutable { until } => format!("immutable {}", upto(until)),
            Self::Minimum { until } => format!("minimum retention: kept {}", upto(until)),
            Self::Newest => {
                "the newest point: no policy removes it; ask for that by pruning to zero".to_owned()
            }
            Self::Stopped { state } => format!("protection is {state}: nothing expires"),
            Self::NoRule => "no rule of the policy keeps it".to_owned(),
            Self::Incomplete => "its backup failed: it restores nothing".to_owned(),
        }
    }
}

fn keep_rules(policy: &Policy, bucket: Bucket) -> Count {
    match &policy.retention {
        Retention::Keep(rules) => rules.count(bucket),
        Retention::Calendar(_) => Count::Off,
    }
}

fn span_of(policy: &Policy, rule: RuleName) -> String {
    let Retention::Calendar(rules) = &policy.retention else { return String::new() };
    let span = match rule {
        RuleName::Every => rules.every,
        RuleName::Daily => rules.daily,
        RuleName::Weekly => rules.weekly.map(|r| r.keep),
        RuleName::Monthly => rules.monthly.map(|r| r.keep),
        RuleName::Yearly => rules.yearly.map(|r| r.keep),
    };
    span.map_or_else(|| "a day, as every scheduled point is".to_owned(), |span| span.to_string())
}
