//! `VMSnapshotScriptPluginConfig.json`, strictly read.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use thiserror::Error;

/// Longest settings file in bytes.
pub const SETTINGS_BYTES_MAX: usize = 64 * 1024;
/// Most retries of a script.
pub const RETRIES_MAX: u32 = 100;
/// Longest time for all runs of a script: longer ones are shortened to it.
pub const TIMEOUT_MAX: Duration = Duration::from_mins(30);

/// What is wrong with scripts, with Azure's names and numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
#[allow(missing_docs)] // the names say it, and are not ours
pub enum ScriptErrorCode {
    FailedPrepostPreScriptFailed = 300,
    FailedPrepostPostScriptFailed,
    FailedPrepostPreScriptNotFound,
    FailedPrepostPostScriptNotFound,
    FailedPrepostPluginhostConfigParsing,
    FailedPrepostPluginConfigParsing,
    FailedPrepostPreScriptPermissionError,
    FailedPrepostPostScriptPermissionError,
    FailedPrepostPreScriptTimeout,
    FailedPrepostPostScriptTimeout,
    FailedPrepostPluginhostPreTimeout,
    FailedPrepostPluginhostPostTimeout,
    FailedPrepostCheckSumMismatch,
    FailedPrepostPluginhostConfigNotFound,
    FailedPrepostPluginhostConfigPermissionError,
    FailedPrepostPluginhostConfigOwnershipError,
    FailedPrepostPluginConfigNotFound,
    FailedPrepostPluginConfigPermissionError,
    FailedPrepostPluginConfigOwnershipError,
}

impl ScriptErrorCode {
    /// The number, 300 to 318.
    pub fn number(self) -> u16 {
        self as u16
    }

    /// The name in Azure's documentation, where it has one.
    pub fn documented_name(self) -> Option<&'static str> {
        Some(match self {
            Self::FailedPrepostPreScriptFailed => "Pre-ScriptExecutionFailed",
            Self::FailedPrepostPostScriptFailed => "Post-ScriptExecutionFailed",
            Self::FailedPrepostPreScriptNotFound => "Pre-ScriptNotFound",
            Self::FailedPrepostPostScriptNotFound => "Post-ScriptNotFound",
            Self::FailedPrepostPluginhostConfigParsing => "IncorrectPluginhostFile",
            Self::FailedPrepostPluginConfigParsing => "IncorrectJSONConfigFile",
            Self::FailedPrepostPreScriptPermissionError => "InsufficientPermissionforPre-Script",
            Self::FailedPrepostPostScriptPermissionError => "InsufficientPermissionforPost-Script",
            Self::FailedPrepostPreScriptTimeout => "Pre-ScriptTimeout",
            Self::FailedPrepostPostScriptTimeout => "Post-ScriptTimeout",
            _ => return None,
        })
    }

    /// Whether scripts count as not configured with it, rather than as failed: 304, 305, 313, 314 and 316.
    pub fn means_not_configured(self) -> bool {
        matches!(self.number(), 304 | 305 | 313 | 314 | 316)
    }
}

impl fmt::Display for ScriptErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.documented_name() {
            Some(name) => write!(f, "{name} ({})", self.number()),
            None => write!(f, "{self:?} ({})", self.number()),
        }
    }
}

/// What the owner configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScriptSettings {
    /// Name of the plugin; says nothing here.
    pub plugin_name: Option<String>,
    /// Path of the pre-script.
    pub pre_script: String,
    /// Path of the post-script.
    pub post_script: String,
    /// Its arguments.
    pub pre_params: Vec<String>,
    /// Its arguments.
    pub post_params: Vec<String>,
    /// How often the pre-script is run again when it fails.
    pub pre_retries: u32,
    /// How often the post-script is run again when it fails.
    pub post_retries: u32,
    /// For all runs of one script together.
    pub timeout: Duration,
    /// Whether a failure lowers the level instead of preventing the point.
    pub continue_on_failure: bool,
    /// Whether file systems are frozen between the scripts.
    pub fs_freeze: bool,
    /// Read and kept; the runner waits for the end itself and does not poll.
    pub poll_seconds: u8,
    /// Of the application; shown, nothing else.
    pub app_name: Option<String>,
}

/// A settings file is not taken (305).
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// Longer than [`SETTINGS_BYTES_MAX`].
    #[error("script settings of {0} bytes; {SETTINGS_BYTES_MAX} is the most")]
    TooLong(usize),
    /// Not the JSON it should be.
    #[error("script settings are not as documented")]
    Json(#[source] serde_json::Error),
    /// A value that makes no sense.
    #[error("script settings: {field} is {value}; {wanted}")]
    Value {
        /// The field.
        field: &'static str,
        /// What it is.
        value: String,
        /// What it may be.
        wanted: &'static str,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Document {
    plugin_name: Option<String>,
    pre_script_location: String,
    post_script_location: String,
    #[serde(default)]
    pre_script_params: Vec<String>,
    #[serde(default)]
    post_script_params: Vec<String>,
    #[serde(default)]
    pre_script_no_of_retries: u32,
    #[serde(default)]
    post_script_no_of_retries: u32,
    timeout_in_seconds: Option<u64>,
    continue_backup_on_failure: Option<bool>,
    fs_freeze_enabled: Option<bool>,
    #[serde(rename = "ScriptsExecutionPollTimeSeconds")]
    poll_seconds: Option<i64>,
    app_name: Option<String>,
}

impl ScriptSettings {
    /// Reads the file's bytes.
    ///
    /// # Errors
    /// When they are not as documented; scripts count as not configured then.
    pub fn parse(bytes: &[u8]) -> Result<Self, SettingsError> {
        if bytes.len() > SETTINGS_BYTES_MAX {
            return Err(SettingsError::TooLong(bytes.len()));
        }
        let read: Document = serde_json::from_slice(bytes).map_err(SettingsError::Json)?;
        for (field, path) in [
            ("preScriptLocation", &read.pre_script_location),
            ("postScriptLocation", &read.post_script_location),
        ] {
            // An empty path, as in the file that Azure ships, is a script that is not found.
            if !path.is_empty() && !path.starts_with('/') || path.contains('\0') {
                return Err(value(field, path, "give an absolute path"));
            }
        }
        for (field, retries) in [
            ("preScriptNoOfRetries", read.pre_script_no_of_retries),
            ("postScriptNoOfRetries", read.post_script_no_of_retries),
        ] {
            if retries > RETRIES_MAX {
                return Err(value(field, &retries, "at most 100"));
            }
        }
        let seconds = read.timeout_in_seconds.unwrap_or(10);
        if seconds == 0 {
            return Err(value("timeoutInSeconds", &seconds, "1 to 1800"));
        }
        let poll =
            read.poll_seconds.and_then(|poll| u8::try_from(poll).ok()).filter(|poll| (1..=5).contains(poll));
        Ok(Self {
            plugin_name: read.plugin_name,
            pre_script: read.pre_script_location,
            post_script: read.post_script_location,
            pre_params: read.pre_script_params,
            post_params: read.post_script_params,
            pre_retries: read.pre_script_no_of_retries,
            post_retries: read.post_script_no_of_retries,
            timeout: Duration::from_secs(seconds).min(TIMEOUT_MAX),
            continue_on_failure: read.continue_backup_on_failure.unwrap_or(true),
            fs_freeze: read.fs_freeze_enabled.unwrap_or(true),
            poll_seconds: poll.unwrap_or(3),
            app_name: read.app_name,
        })
    }
}

fn value(field: &'static str, value: &dyn fmt::Display, wanted: &'static str) -> SettingsError {
    SettingsError::Value { field, value: value.to_string(), wanted }
}
