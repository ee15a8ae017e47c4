//! The order of a backup with scripts, without any of its doing.

use super::ScriptErrorCode;

/// What the rules of a job are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowRules {
    /// `continueBackupOnFailure`.
    pub continue_on_failure: bool,
    /// `fsFreezeEnabled`.
    pub fs_freeze: bool,
    /// Disks in the snapshot: with one, a failure falls back to a crash-consistent point.
    pub disks: usize,
}

/// What a look at settings and scripts found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precheck {
    /// Both scripts can be run.
    Clean,
    /// They cannot.
    Failed(ScriptErrorCode),
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlowAction {
    /// Run the pre-script.
    RunPre,
    /// Freeze file systems.
    Freeze,
    /// Take the snapshot.
    Snapshot,
    /// Thaw file systems.
    Thaw,
    /// Run the post-script.
    RunPost,
    /// Nothing: it is over.
    End,
}

/// What came of the last action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlowEvent {
    /// It succeeded.
    Succeeded,
    /// It failed.
    Failed,
}

/// A backup with scripts, step by step: do [`action`](Self::action), tell [`advance`](Self::advance) what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    rules: FlowRules,
    has_scripts: bool,
    action: FlowAction,
}

impl Flow {
    /// A job after its pre-check.
    pub fn new(rules: FlowRules, precheck: Precheck) -> Self {
        let mut flow = Self { rules, has_scripts: precheck == Precheck::Clean, action: FlowAction::RunPre };
        flow.action = match precheck {
            Precheck::Clean => FlowAction::RunPre,
            Precheck::Failed(code) if code.means_not_configured() => FlowAction::Freeze,
            Precheck::Failed(_) if flow.goes_on() => FlowAction::Freeze,
            Precheck::Failed(_) => FlowAction::End,
        };
        flow
    }

    fn goes_on(&self) -> bool {
        self.rules.continue_on_failure || self.rules.disks == 1
    }

    /// What to do now.
    pub fn action(&self) -> FlowAction {
        self.action
    }

    /// Whether the post-script is still to run or running, on whatever path.
    pub fn owes_post(&self) -> bool {
        self.has_scripts && self.action != FlowAction::End
    }

    /// Goes on after the action.
    #[must_use]
    pub fn advance(mut self, event: FlowEvent) -> Self {
        let post = if self.has_scripts { FlowAction::RunPost } else { FlowAction::End };
        let onward = if self.rules.fs_freeze { FlowAction::Freeze } else { FlowAction::Snapshot };
        // Without freeze the pre-script alone would have made the data consistent.
        let goes_on = self.goes_on() && (self.rules.fs_freeze || self.rules.disks == 1);
        self.action = match (self.action, event) {
            (FlowAction::RunPre, FlowEvent::Failed) if !goes_on => post,
            (FlowAction::RunPre, _) => onward,
            // Also after a freeze that failed: the point is crash-consistent and says so.
            (FlowAction::Freeze, _) => FlowAction::Snapshot,
            (FlowAction::Snapshot, _) => FlowAction::Thaw, // idempotent, so also when nothing is frozen
            (FlowAction::Thaw, _) => post,
            (FlowAction::RunPost | FlowAction::End, _) => FlowAction::End,
        };
        self
    }
}
