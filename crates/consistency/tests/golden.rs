//! Evidence as it is stored with recovery points: what this version writes, and what every later one must read.
#![allow(clippy::unwrap_used)] // in helpers too

use std::fs;
use std::path::Path;

use vmkeep_consistency::{
    ConsistencyPolicy, DiskOutcome, DiskSnapshot, Evidence, EvidenceError, FreezeEvidence, GuestOs, Held,
    Millis, Mount, MountOutcome, OnGuestFailure, PowerState, ProvisioningState, ScriptOutcome, ScriptTrace,
    ScriptsEvidence, Simultaneity, SnapshotEvidence, ThawOutcome, VmState, VssEvidence, VssMode, Wanted,
    Writer, WriterState, decode, encode,
};

fn trace() -> ScriptTrace {
    ScriptTrace { runs: 2, took: Millis(1500), output: "at rest\n".to_owned(), output_dropped: 7 }
}

fn linux() -> Evidence {
    let mount = |path: &str, outcome| Mount { path: path.to_owned(), outcome };
    let failed = ScriptOutcome::Failed { code: 301, message: "exit status: 3".to_owned(), trace: trace() };
    Evidence {
        policy: ConsistencyPolicy::default(),
        vm: VmState {
            provisioning: ProvisioningState::Succeeded,
            power: PowerState::Running,
            os: GuestOs::Linux,
        },
        attempt: 1,
        command_age: Millis(20),
        vss: None,
        scripts: ScriptsEvidence::Configured { pre: ScriptOutcome::Succeeded(trace()), post: failed },
        freeze: FreezeEvidence::Done {
            mounts: vec![
                mount("/", MountOutcome::Frozen),
                mount("/boot/efi", MountOutcome::Skipped("vfat cannot be frozen".to_owned())),
                mount("/srv", MountOutcome::Failed("busy".to_owned())),
            ],
            held: Held::Unknown,
            thaw: ThawOutcome::Failed("no answer".to_owned()),
            frozen: Millis(210),
        },
        snapshot: SnapshotEvidence {
            simultaneity: Simultaneity::OneInstant,
            disks: vec![
                DiskSnapshot { disk: "disk0".to_owned(), outcome: DiskOutcome::Taken },
                DiskSnapshot { disk: "disk1".to_owned(), outcome: DiskOutcome::Failed("gone".to_owned()) },
            ],
        },
    }
}

fn windows() -> Evidence {
    let writer = |name: &str, state, last_error| Writer { name: name.to_owned(), state, last_error };
    Evidence {
        policy: ConsistencyPolicy {
            wanted: Wanted::Application,
            on_failure: OnGuestFailure::Refuse,
            ..ConsistencyPolicy::default()
        },
        vm: VmState {
            provisioning: ProvisioningState::Unavailable,
            power: PowerState::Paused,
            os: GuestOs::Windows,
        },
        vss: Some(VssEvidence {
            mode: VssMode::Copy,
            failure: None,
            writers: vec![
                writer("SqlServerWriter", WriterState::STABLE, 0),
                writer("System Writer", WriterState::FAILED_AT_FREEZE, 0x8004_23f2),
            ],
        }),
        scripts: ScriptsEvidence::NotConfigured { code: Some(316) },
        freeze: FreezeEvidence::LeftToScripts,
        ..linux()
    }
}

/// The stored bytes of that name, which are written when `VMKEEP_BLESS` is set and they are not there.
fn golden(name: &str, bytes: &[u8]) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/evidence").join(name);
    if std::env::var_os("VMKEEP_BLESS").is_some() && !path.exists() {
        fs::write(&path, bytes).unwrap();
    }
    let stored = fs::read(&path).unwrap();
    assert_eq!(String::from_utf8_lossy(bytes), String::from_utf8_lossy(&stored), "{name}");
    stored
}

#[test]
fn evidence_is_stored_as_ever() {
    for (name, evidence) in [("linux", linux()), ("windows", windows())] {
        let stored = golden(name, &encode(&evidence).unwrap());
        assert_eq!(decode(&stored).unwrap(), evidence, "{name}");
    }
}

#[test]
fn what_is_not_evidence_is_refused() {
    let stored = String::from_utf8(encode(&linux()).unwrap()).unwrap();
    let later = stored.replacen("\"version\":1", "\"version\":2", 1);
    assert!(matches!(decode(later.as_bytes()), Err(EvidenceError::Version(2))));
    let unknown = stored.replacen("\"attempt\"", "\"attemptt\"", 1);
    assert!(matches!(decode(unknown.as_bytes()), Err(EvidenceError::Damaged(_))));
    for end in 0..stored.len() {
        assert!(decode(&stored.as_bytes()[..end]).is_err(), "cut off after {end}");
    }
    let long = vec![b' '; vmkeep_consistency::EVIDENCE_BYTES_MAX + 1];
    assert!(matches!(decode(&long), Err(EvidenceError::TooLong(_))));
}
