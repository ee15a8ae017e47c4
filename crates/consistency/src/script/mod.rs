//! Pre- and post-scripts as Azure's Linux framework has them, from its own settings file.
//!
//! # Where this differs from Azure on purpose
//! - A retry runs the script again; Azure's agent reads the same exit code again.
//! - A time-out (for all runs together, as documented) kills the script's process group; Azure leaves it running.
//! - Output is drained and its end kept; Azure's pipes fill up and block the script.
//! - The script is executed, so its shebang counts; Azure runs `sh SCRIPT`.
//! - `VMKEEP_VM`, `VMKEEP_JOB` and `VMKEEP_PHASE` are in its environment; Azure passes nothing.
//! - An owner other than the expected one is 318; Azure's agent says 317 for it. Both count alike.
//! - Unknown fields, fields given twice and values out of range are 305 instead of being ignored (but for the poll time).
//! - There is one runner and no plugin host, so 304 and 310 to 315 do not come from here.
//! - A post-script that fails under `fsFreezeEnabled: false` makes a crash-consistent point, not an error.

mod files;
mod flow;
#[cfg(unix)]
mod local;
mod runner;
mod settings;

#[cfg(unix)]
pub use files::SystemFiles;
pub use files::{FileFacts, ScriptFiles};
pub use flow::{Flow, FlowAction, FlowEvent, FlowRules, Precheck};
pub use runner::{
    OUTPUT_BYTES_MAX, ScriptCommand, ScriptContext, ScriptEnd, ScriptHost, ScriptRun, ScriptRunner,
};
pub use settings::{
    RETRIES_MAX, SETTINGS_BYTES_MAX, ScriptErrorCode, ScriptSettings, SettingsError, TIMEOUT_MAX,
};
