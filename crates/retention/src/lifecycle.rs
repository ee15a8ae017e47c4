//! The life of a protected VM, from its first backup to the removal of its last point.
//!
//! | State | Backups | Points expire | Left by |
//! |---|---|---|---|
//! | unprotected | no | there are none | protect |
//! | protected | yes | by policy, all but the newest | stop, VM gone |
//! | VM gone | no | by policy, all but the newest | VM back, stop |
//! | stopped, retained | no | no | resume, delete |
//! | stopped as per policy | no | by policy, all but the newest | resume, retain, delete |
//! | soft-deleted | no | no | undelete, its end, purge |
//! | purged | no | there are none | protect, as a new line of points |

use std::fmt;

use thiserror::Error;
use vmkeep_model::{Timestamp, VmName};

use crate::civil::DAY_MS;
use crate::confirm::{self, Confirmation, Irreversible, NotConfirmed};
use crate::immutability::{Blocked, Change, Immutability, SoftDelete};

/// Where a VM's protection stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum State {
    /// It never was protected.
    #[default]
    Unprotected,
    /// Backups are made.
    Protected,
    /// It is protected, but there is no such VM any more.
    VmGone {
        /// Since when.
        since: Timestamp,
    },
    /// No backups; all points are kept for ever.
    StoppedRetain {
        /// Since when.
        since: Timestamp,
    },
    /// No backups; points expire by the policy it had.
    StoppedByPolicy {
        /// Since when.
        since: Timestamp,
    },
    /// Its points are deleted and can be had back for a while.
    SoftDeleted {
        /// Since when.
        since: Timestamp,
        /// They are gone from then on.
        until: Timestamp,
    },
    /// Its points are gone.
    Purged {
        /// Since when.
        since: Timestamp,
    },
}

/// A [`State`] without its times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StateKind {
    /// [`State::Unprotected`].
    Unprotected,
    /// [`State::Protected`].
    Protected,
    /// [`State::VmGone`].
    VmGone,
    /// [`State::StoppedRetain`].
    StoppedRetain,
    /// [`State::StoppedByPolicy`].
    StoppedByPolicy,
    /// [`State::SoftDeleted`].
    SoftDeleted,
    /// [`State::Purged`].
    Purged,
}

impl StateKind {
    /// Whether the policy removes points in this state.
    pub fn points_expire(self) -> bool {
        matches!(self, Self::Protected | Self::VmGone | Self::StoppedByPolicy)
    }

    /// Whether backups are made.
    pub fn backs_up(self) -> bool {
        self == Self::Protected
    }

    /// Whether points can be restored.
    pub fn restores(self) -> bool {
        !matches!(self, Self::Unprotected | Self::SoftDeleted | Self::Purged)
    }
}

impl fmt::Display for StateKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unprotected => "unprotected",
            Self::Protected => "protected",
            Self::VmGone => "protected, its VM gone",
            Self::StoppedRetain => "stopped, its points retained",
            Self::StoppedByPolicy => "stopped as per policy",
            Self::SoftDeleted => "soft-deleted",
            Self::Purged => "purged",
        })
    }
}

/// What happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// It is put under a policy.
    Protect,
    /// Its host no longer knows the VM.
    VmGone,
    /// A VM of the same name is there again, for the same vault.
    VmBack,
    /// Stop, and retain all points.
    StopRetain,
    /// Stop, and let points expire as per policy.
    StopByPolicy,
    /// Stop, and delete the points.
    StopDelete,
    /// Have deleted points back.
    Undelete,
    /// Back up again.
    Resume,
    /// Remove soft-deleted points before their time.
    Purge,
    /// Time has passed.
    Tick,
}

impl Event {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Protect,
        Self::VmGone,
        Self::VmBack,
        Self::StopRetain,
        Self::StopByPolicy,
        Self::StopDelete,
        Self::Undelete,
        Self::Resume,
        Self::Purge,
        Self::Tick,
    ];
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Protect => "protect",
            Self::VmGone => "VM gone",
            Self::VmBack => "VM back",
            Self::StopRetain => "stop and retain",
            Self::StopByPolicy => "stop as per policy",
            Self::StopDelete => "stop and delete",
            Self::Undelete => "undelete",
            Self::Resume => "resume",
            Self::Purge => "purge",
            Self::Tick => "tick",
        })
    }
}

/// What a step calls for, beside the new state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Backups begin.
    BackupsStart,
    /// Backups end.
    BackupsStop,
    /// The policy acts on the points again; those that are overdue go with the next plan.
    ExpiryResumes,
    /// The policy no longer acts on the points.
    ExpiryStops,
    /// The points are deleted, and can be had back.
    PointsDeleted {
        /// Until then.
        until: Timestamp,
    },
    /// The points are back.
    PointsRestored,
    /// The points are gone for good: forget them and let a sweep free their bytes.
    PointsRemoved,
}

/// What a step goes by.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Whose life it is.
    pub vm: &'a VmName,
    /// How many points there are.
    pub points: u64,
    /// The vault's soft delete.
    pub soft_delete: SoftDelete,
    /// The vault's immutability.
    pub immutability: Immutability,
    /// That what cannot be undone is wanted.
    pub confirmation: Option<&'a Confirmation>,
    /// Now.
    pub now: Timestamp,
}

/// A step that does not happen.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LifecycleError {
    /// There is no such step from here.
    #[error("{event} is not possible while the VM is {state}; {advice}")]
    NotFromHere {
        /// Where it stands.
        state: StateKind,
        /// What was wanted.
        event: Event,
        /// What is possible.
        advice: &'static str,
    },
    /// Soft-deleted points do not go before their time while soft delete is on.
    #[error("soft-deleted points stay until {until} while soft delete is {soft_delete}")]
    SoftDeleteIsOn {
        /// Until when.
        until: Timestamp,
        /// How.
        soft_delete: SoftDelete,
    },
    /// The time for it is over.
    #[error("the points could be had back until {until}")]
    TooLate {
        /// When it ended.
        until: Timestamp,
    },
    /// Immutability forbids it.
    #[error(transparent)]
    Blocked(#[from] Blocked),
    /// It cannot be undone and was not confirmed.
    #[error(transparent)]
    NotConfirmed(#[from] NotConfirmed),
}

/// The state after, and what it calls for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Where the VM's protection stands now.
    pub state: State,
    /// What is to be done, in order.
    pub effects: Vec<Effect>,
}

impl State {
    /// Without its times.
    pub fn kind(self) -> StateKind {
        match self {
            Self::Unprotected => StateKind::Unprotected,
            Self::Protected => StateKind::Protected,
            Self::VmGone { .. } => StateKind::VmGone,
            Self::StoppedRetain { .. } => StateKind::StoppedRetain,
            Self::StoppedByPolicy { .. } => StateKind::StoppedByPolicy,
            Self::SoftDeleted { .. } => StateKind::SoftDeleted,
            Self::Purged { .. } => StateKind::Purged,
        }
    }

    /// What cannot be undone about `event`, to be shown and confirmed before it.
    pub fn irreversible(self, event: Event, context: &Context<'_>) -> Option<Irreversible> {
        let vm = context.vm.clone();
        match (self, event) {
            (
                Self::Protected
                | Self::VmGone { .. }
                | Self::StoppedRetain { .. }
                | Self::StoppedByPolicy { .. },
                Event::StopDelete,
            ) if context.soft_delete == SoftDelete::Disabled => {
                Some(Irreversible::DeleteForGood { vm, points: context.points })
            }
            (Self::SoftDeleted { until, .. }, Event::Purge) => Some(Irreversible::Purge { vm, until }),
            _ => None,
        }
    }

    /// The next state.
    ///
    /// ```
    /// # use vmkeep_retention::{Context, Effect, Event, Immutability, SoftDelete, State};
    /// # use vmkeep_model::Timestamp;
    /// let vm = "web".parse()?;
    /// let context = Context {
    ///     vm: &vm,
    ///     points: 30,
    ///     soft_delete: SoftDelete::default(),
    ///     immutability: Immutability::Disabled,
    ///     confirmation: None,
    ///     now: Timestamp(0),
    /// };
    /// let deleted = State::Protected.step(Event::StopDelete, &context)?;
    /// let until = Timestamp(14 * 86_400_000);
    /// assert_eq!(deleted.effects, [Effect::BackupsStop, Effect::ExpiryStops, Effect::PointsDeleted { until }]);
    /// assert!(deleted.state.step(Event::Protect, &context).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn step(self, event: Event, context: &Context<'_>) -> Result<Step, LifecycleError> {
        let since = context.now;
        let state = match (self, event) {
            (Self::Unprotected | Self::Purged { .. }, Event::Protect)
            | (Self::StoppedRetain { .. } | Self::StoppedByPolicy { .. }, Event::Resume)
            | (Self::VmGone { .. }, Event::VmBack) => Self::Protected,
            (Self::Protected, Event::VmGone) => Self::VmGone { since },
            (Self::Protected | Self::VmGone { .. } | Self::StoppedByPolicy { .. }, Event::StopRetain) => {
                Self::StoppedRetain { since }
            }
            (Self::Protected | Self::VmGone { .. }, Event::StopByPolicy) => Self::StoppedByPolicy { since },
            (
                Self::Protected
                | Self::VmGone { .. }
                | Self::StoppedRetain { .. }
                | Self::StoppedByPolicy { .. },
                Event::StopDelete,
            ) => self.delete(context)?,
            (Self::SoftDeleted { until, .. }, Event::Undelete) if context.now < until => {
                Self::StoppedRetain { since }
            }
            (Self::SoftDeleted { until, .. }, Event::Undelete) => {
                return Err(LifecycleError::TooLate { until });
            }
            (Self::SoftDeleted { until, .. }, Event::Tick) if context.now >= until => Self::Purged { since },
            (Self::SoftDeleted { until, .. }, Event::Purge) => self.purge(until, context)?,
            // A VM that comes or goes changes nothing where no backups are made of it.
            (_, Event::Tick)
            | (Self::Protected, Event::VmBack)
            | (
                Self::VmGone { .. }
                | Self::StoppedRetain { .. }
                | Self::StoppedByPolicy { .. }
                | Self::SoftDeleted { .. }
                | Self::Purged { .. }
                | Self::Unprotected,
                Event::VmGone | Event::VmBack,
            ) => self,
            _ => return Err(self.refused(event)),
        };
        Ok(Step { effects: effects(self.kind(), state), state })
    }

    fn delete(self, context: &Context<'_>) -> Result<Self, LifecycleError> {
        context.immutability.allows(Change::StopWithDelete)?;
        let since = context.now;
        match context.soft_delete.days() {
            Some(days) => {
                let until = Timestamp(since.0.saturating_add(i64::from(days) * DAY_MS));
                Ok(Self::SoftDeleted { since, until })
            }
            None => {
                if let Some(what) = self.irreversible(Event::StopDelete, context) {
                    confirm::require(&what, context.confirmation)?;
                }
                Ok(Self::Purged { since })
            }
        }
    }

    fn purge(self, until: Timestamp, context: &Context<'_>) -> Result<Self, LifecycleError> {
        context.immutability.allows(Change::Purge)?;
        if context.soft_delete != SoftDelete::Disabled {
            return Err(LifecycleError::SoftDeleteIsOn { until, soft_delete: context.soft_delete });
        }
        if let Some(what) = self.irreversible(Event::Purge, context) {
            confirm::require(&what, context.confirmation)?;
        }
        Ok(Self::Purged { since: context.now })
    }

    fn refused(self, event: Event) -> LifecycleError {
        let advice = match self.kind() {
            StateKind::Unprotected => "protect it first",
            StateKind::Protected | StateKind::VmGone => "stop its protection first",
            StateKind::StoppedRetain | StateKind::StoppedByPolicy => "resume it first, or delete it",
            StateKind::SoftDeleted => "undelete it first",
            StateKind::Purged => "protect it again, which begins a new line of points",
        };
        LifecycleError::NotFromHere { state: self.kind(), event, advice }
    }
}

fn effects(from: StateKind, to: State) -> Vec<Effect> {
    let kind = to.kind();
    let mut effects = Vec::new();
    match (from.backs_up(), kind.backs_up()) {
        (false, true) => effects.push(Effect::BackupsStart),
        (true, false) => effects.push(Effect::BackupsStop),
        _ => {}
    }
    let had_points = !matches!(from, StateKind::Unprotected | StateKind::Purged);
    match (from.points_expire(), kind.points_expire()) {
        (false, true) if had_points => effects.push(Effect::ExpiryResumes),
        (true, false) => effects.push(Effect::ExpiryStops),
        _ => {}
    }
    match to {
        State::SoftDeleted { until, .. } if from != StateKind::SoftDeleted => {
            effects.push(Effect::PointsDeleted { until });
        }
        State::Purged { .. } if from != StateKind::Purged => effects.push(Effect::PointsRemoved),
        _ if from == StateKind::SoftDeleted && kind != StateKind::SoftDeleted => {
            effects.push(Effect::PointsRestored);
        }
        _ => {}
    }
    effects
}
