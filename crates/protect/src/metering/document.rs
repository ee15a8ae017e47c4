//! Notes of the ledger, as they are stored.

use serde::{Deserialize, Serialize};
use vmkeep_billing::{Agent, DiskSize, EventKind, Selection};
use vmkeep_model::{DiskRole, RecoveryPoint};
use vmkeep_vault::LineageUsage;

use crate::note::StateNote;

const VERSION: u32 = 1;

/// One of the two is there.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reading: Option<Reading>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    restored: Option<Restored>,
}

/// What a note says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// What was found in the vault.
    Reading(Reading),
    /// Something was restored.
    Restored(Restored),
}

impl Entry {
    /// As it is stored.
    pub(super) fn encode(&self) -> Result<Vec<u8>, String> {
        let document = match self.clone() {
            Self::Reading(reading) => Document { reading: Some(reading), ..Document::default() },
            Self::Restored(restored) => Document { restored: Some(restored), ..Document::default() },
        };
        serde_json::to_vec(&Document { version: VERSION, ..document }).map_err(|e| e.to_string())
    }

    /// The VM that it is of.
    pub(super) fn vm(&self) -> &str {
        match self {
            Self::Reading(Reading { vm, .. }) | Self::Restored(Restored { vm, .. }) => vm,
        }
    }

    /// What it says, to a person.
    pub(super) fn words(&self) -> (&'static str, String) {
        match self {
            Self::Reading(reading) => {
                let (new, bytes) = (reading.backups.len(), reading.bytes);
                ("metered", format!("metered {bytes} bytes of {}, {new} new points", reading.vm))
            }
            Self::Restored(Restored { vm, point, bytes, .. }) => {
                ("restored", format!("restored {vm}@{point}, {bytes} bytes written"))
            }
        }
    }

    /// From what is stored.
    pub(super) fn decode(body: &[u8]) -> Result<Self, String> {
        let document: Document = serde_json::from_slice(body).map_err(|e| e.to_string())?;
        match document {
            Document { version: VERSION, reading: Some(reading), restored: None } => {
                Ok(Self::Reading(reading))
            }
            Document { version: VERSION, reading: None, restored: Some(restored) } => {
                Ok(Self::Restored(restored))
            }
            Document { version: VERSION, .. } => {
                Err("a metering note that says one thing is wanted".to_owned())
            }
            Document { version, .. } => Err(format!("version {version} of a metering note")),
        }
    }
}

/// A restore that succeeded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Restored {
    pub(super) vm: String,
    pub(super) lineage: String,
    /// Which point, by number.
    pub(super) point: u64,
    /// Bytes that were written to the target.
    pub(super) bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reading {
    pub(super) vm: String,
    pub(super) lineage: String,
    /// Points that are new, by number.
    pub(super) backups: Vec<Backup>,
    /// Bytes that the line of points takes in the vault.
    pub(super) bytes: u64,
    /// Whether backups of it are to be expected: not of an older line of points, nor of a VM whose protection was stopped.
    pub(super) protected: bool,
    /// Where protection stands; absent for a VM that is under no policy.
    pub(super) state: Option<StateNote>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Backup {
    pub(super) point: u64,
    pub(super) at: i64,
    pub(super) disks: Vec<Disk>,
    /// Bytes that its session wrote and that were there at the reading: they count from the time of the point on.
    pub(super) bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Disk {
    pub(super) role: Role,
    /// Bytes of blocks that are not zero; absent for a temporary disk, which nobody looked into.
    pub(super) nonzero: Option<u64>,
    /// Bytes that its file systems said they use; absent when that was not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) filesystem: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Role {
    Os,
    Data,
    Temporary,
}

impl From<DiskRole> for Role {
    fn from(role: DiskRole) -> Self {
        match role {
            DiskRole::Os => Self::Os,
            DiskRole::Data => Self::Data,
            DiskRole::Temporary => Self::Temporary,
        }
    }
}

impl From<Role> for DiskRole {
    fn from(role: Role) -> Self {
        match role {
            Role::Os => Self::Os,
            Role::Data => Self::Data,
            Role::Temporary => Self::Temporary,
        }
    }
}

impl Backup {
    pub(super) fn new(point: &RecoveryPoint, usage: &LineageUsage) -> Self {
        let disk = |disk: &vmkeep_model::DiskRecord| Disk {
            role: disk.description.role.into(),
            nonzero: disk.stored.as_ref().map(|stored| stored.allocated.0),
            filesystem: disk.stored.as_ref().and_then(|stored| Some(stored.used.as_ref()?.bytes.0)),
        };
        Self {
            point: point.id.number.0,
            at: point.created.0,
            disks: point.disks.iter().map(disk).collect(),
            bytes: usage.sessions.get(&point.session).copied().unwrap_or(0),
        }
    }
}
impl Backup {
    pub(super) fn event(&self) -> EventKind {
        let disk = |disk: &Disk| DiskSize {
            role: disk.role.into(),
            selection: Selection::Included,
            nonzero_bytes: disk.nonzero,
            filesystem_bytes: disk.filesystem,
        };
        EventKind::Backup { disks: self.disks.iter().map(disk).collect(), agent: Agent::Used }
    }
}

#[cfg(test)]
mod tests {
    use vmkeep_model::{LineageId, Timestamp};

    use super::super::metered::Standings;
    use super::*;

    /// What is stored today, and must be read for ever.
    const STORED: &str = concat!(
        r#"{"version":1,"reading":{"vm":"web-01","lineage":"07070707070707070707070707070707","backups":["#,
        r#"{"point":3,"at":1767225600000,"disks":[{"role":"os","nonzero":65536,"filesystem":4096},{"role":"temporary","nonzero":null}],"#,
        r#""bytes":700}],"bytes":4096,"protected":false,"state":{"is":"soft-deleted","since":1,"until":2}}}"#
    );
    const RESTORED: &str = r#"{"version":1,"restored":{"vm":"web-01","lineage":"07070707070707070707070707070707","point":3,"bytes":65536}}"#;

    #[test]
    fn notes_are_stored_as_ever() {
        let disk = |role, nonzero, filesystem| Disk { role, nonzero, filesystem };
        let disks = vec![disk(Role::Os, Some(65_536), Some(4_096)), disk(Role::Temporary, None, None)];
        let lineage = LineageId([7; 16]).to_string();
        let reading = Entry::Reading(Reading {
            vm: "web-01".to_owned(),
            lineage: lineage.clone(),
            backups: vec![Backup { point: 3, at: 1_767_225_600_000, disks, bytes: 700 }],
            bytes: 4096,
            protected: false,
            state: Some(StateNote::SoftDeleted { since: 1, until: 2 }),
        });
        let restored =
            Entry::Restored(Restored { vm: "web-01".to_owned(), lineage, point: 3, bytes: 65_536 });
        for (entry, stored) in [(reading, STORED), (restored, RESTORED)] {
            assert_eq!(std::str::from_utf8(&entry.encode().unwrap()).unwrap(), stored);
            assert_eq!(Entry::decode(stored.as_bytes()).unwrap(), entry);
        }
        for wrong in [
            STORED.replacen("\"protected\"", "\"protekted\"", 1),
            STORED.replacen("\"bytes\":4096,", "", 1),
            STORED.replacen("\"reading\"", "\"raeding\"", 1),
            RESTORED.replacen("\"version\":1", "\"version\":1,\"more\":1", 1),
            format!("{},{}", &STORED[..STORED.len() - 1], &RESTORED[13..]),
            "{\"version\":1}".to_owned(),
        ] {
            assert!(Entry::decode(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_notes_cannot_say_is_refused() {
        let taken = |body: &str| {
            let mut standings = Standings::default();
            standings.take(Timestamp(5), &Entry::decode(body.as_bytes())?).map(drop)
        };
        taken(STORED).unwrap();
        taken(RESTORED).unwrap();
        for (was, becomes) in [
            ("\"version\":1", "\"version\":2"),
            ("web-01", "a/b"),
            ("07070707", "xyz"),
            ("\"point\":3", "\"point\":0"),
        ] {
            let told = taken(&STORED.replacen(was, becomes, 1));
            assert!(told.is_err(), "{becomes}");
        }
        taken(&RESTORED.replacen("07070707", "xyz", 1)).unwrap_err();
    }
}
