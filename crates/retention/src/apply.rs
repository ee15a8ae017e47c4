//! Applying a plan: checked again against what is there now.

use thiserror::Error;
use vmkeep_model::{PointNumber, Timestamp};

use crate::plan::{Decision, Plan, PlanError, PlanSettings, plan_with};
use crate::point::Point;
use crate::policy::Policy;

/// What may be removed now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    /// The points to remove, in ascending order of time.
    pub remove: Vec<PointNumber>,
    /// Points that were to go and stay after all.
    pub spared: Vec<Spared>,
    /// Points that were to go and are gone already.
    pub gone: Vec<PointNumber>,
}

/// A point that stays although the plan let it go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spared {
    /// Which.
    pub number: PointNumber,
    /// Why, in words.
    pub why: String,
}

/// Why a plan is not applied.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ApplyError {
    /// The policy is another one by now.
    #[error("the policy has changed since the plan was made; plan again")]
    PolicyChanged,
    /// The clock went back behind the plan.
    #[error("the plan is from {planned} and now is {now}: the clock was set back; check it and plan again")]
    ClockWentBack {
        /// When it was made.
        planned: Timestamp,
        /// Now.
        now: Timestamp,
    },
    /// What is there now cannot be planned.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

impl Plan {
    /// Checks this plan against points, policy, time and settings as they are now: only what it and a plan made now both let go
    /// may be removed. A hold placed, a point made, a clock set or a state changed in between spares points; nothing is ever
    /// added.
    pub fn confirm_against(
        &self,
        points: &[Point],
        policy: &Policy,
        now: Timestamp,
        settings: &PlanSettings,
    ) -> Result<Removal, ApplyError> {
        if *policy != *self.policy() {
            return Err(ApplyError::PolicyChanged);
        }
        if now < self.now() {
            return Err(ApplyError::ClockWentBack { planned: self.now(), now });
        }
        let fresh = plan_with(points, policy, now, settings)?;
        let mut by_number: Vec<_> = fresh.verdicts().iter().collect();
        by_number.sort_unstable_by_key(|verdict| verdict.number);
        let mut removal = Removal { remove: Vec::new(), spared: Vec::new(), gone: Vec::new() };
        for planned in self.expired() {
            let number = planned.number;
            let found = by_number.binary_search_by_key(&number, |verdict| verdict.number).ok();
            match found.and_then(|at| by_number.get(at)) {
                None => removal.gone.push(number),
                Some(verdict) if verdict.time != planned.time => {
                    let why = format!("another point has its number now, made at {}", verdict.time);
                    removal.spared.push(Spared { number, why });
                }
                Some(verdict) if verdict.decision == Decision::Keep => {
                    let why = fresh.explain(verdict).into_iter().next().unwrap_or_default();
                    removal.spared.push(Spared { number, why });
                }
                Some(_) => removal.remove.push(number),
            }
        }
        Ok(removal)
    }
}
