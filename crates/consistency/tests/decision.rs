//! The decision: every documented row, and what holds for all evidence.
//!
//! Rows are those of Azure's overview of VM backup
//! (<https://learn.microsoft.com/azure/backup/backup-azure-vms-introduction>), with the choices of this library.

mod strategy;

use proptest::prelude::*;
use vmkeep_consistency::{
    BackOff, ConsistencyPolicy, Decision, DiskOutcome, DiskSnapshot, EVIDENCE_BYTES_MAX, Evidence,
    FreezeEvidence, GuestOs, Held, Millis, Mount, MountOutcome, NotNow, OnGuestFailure, PowerState,
    ProvisioningState, Reason, Refusal, ScriptOutcome, ScriptTrace, ScriptsEvidence, Simultaneity,
    SnapshotEvidence, ThawOutcome, VmState, VssEvidence, VssMode, Wanted, Writer, WriterState, decide,
    decode, encode, promise,
};
use vmkeep_model::ConsistencyLevel::{self, Application, Crash, FileSystem};

fn ok() -> ScriptOutcome {
    ScriptOutcome::Succeeded(ScriptTrace::default())
}

fn failed(code: u16) -> ScriptOutcome {
    ScriptOutcome::Failed { code, message: "exit code 1".to_owned(), trace: ScriptTrace::default() }
}

fn writer(name: &str, state: WriterState, last_error: u32) -> Writer {
    Writer { name: name.to_owned(), state, last_error }
}

fn frozen() -> FreezeEvidence {
    FreezeEvidence::Done {
        mounts: vec![Mount { path: "/".to_owned(), outcome: MountOutcome::Frozen }],
        held: Held::Yes,
        thaw: ThawOutcome::Thawed,
        frozen: Millis(80),
    }
}

fn disk(name: &str) -> DiskSnapshot {
    DiskSnapshot { disk: name.to_owned(), outcome: DiskOutcome::Taken }
}

/// A running Linux guest of two disks, its file systems frozen, without scripts.
fn linux() -> Evidence {
    Evidence {
        policy: ConsistencyPolicy::default(),
        vm: VmState {
            provisioning: ProvisioningState::Succeeded,
            power: PowerState::Running,
            os: GuestOs::Linux,
        },
        attempt: 0,
        command_age: Millis(1000),
        vss: None,
        scripts: ScriptsEvidence::NotConfigured { code: None },
        freeze: frozen(),
        snapshot: SnapshotEvidence {
            simultaneity: Simultaneity::OneInstant,
            disks: vec![disk("os"), disk("data")],
        },
    }
}

fn windows(writers: Vec<Writer>) -> Evidence {
    let mut evidence = linux();
    evidence.vm.os = GuestOs::Windows;
    evidence.freeze = FreezeEvidence::NotTried;
    evidence.vss = Some(VssEvidence { mode: VssMode::Full, failure: None, writers });
    evidence
}

fn with(mut evidence: Evidence, change: impl FnOnce(&mut Evidence)) -> Evidence {
    change(&mut evidence);
    evidence
}

fn scripts(pre: ScriptOutcome, post: ScriptOutcome) -> Evidence {
    with(linux(), |e| e.scripts = ScriptsEvidence::Configured { pre, post })
}

#[track_caller]
fn check(evidence: Evidence, level: ConsistencyLevel, reason: Reason) {
    match decide(&evidence) {
        Decision::Point(verdict) => {
            assert_eq!(verdict.level, level, "{:?}", verdict.reasons);
            assert!(verdict.reasons.contains(&reason), "{reason:?} in {:?}", verdict.reasons);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_documented_row_has_its_level() {
    let stable = || writer("SqlServerWriter", WriterState::STABLE, 0);
    let bad = || writer("System Writer", WriterState::FAILED_AT_FREEZE, 0x8004_23f2);
    check(windows(vec![stable(), stable()]), Application, Reason::WritersSucceeded);
    check(
        windows(vec![stable(), bad()]),
        FileSystem,
        Reason::WritersFailed(vec!["System Writer".to_owned()]),
    );
    check(scripts(ok(), ok()), Application, Reason::ScriptsSucceeded);
    check(linux(), FileSystem, Reason::NoScripts(None));
    check(scripts(failed(300), ok()), FileSystem, Reason::PreScript(300));
    check(scripts(ok(), failed(309)), FileSystem, Reason::PostScript(309));
    for power in [PowerState::Stopped, PowerState::Deallocated, PowerState::Paused] {
        check(with(linux(), |e| e.vm.power = power), Crash, Reason::NotRunning(power));
    }
    for state in [ProvisioningState::Unavailable, ProvisioningState::Failed] {
        check(with(linux(), |e| e.vm.provisioning = state), Crash, Reason::Provisioning(state));
    }
    check(with(scripts(ok(), ok()), |e| e.policy.wanted = Wanted::CrashOnly), Crash, Reason::CrashOnlyPolicy);
    for code in [304, 305, 313, 314, 316] {
        let evidence = with(linux(), |e| e.scripts = ScriptsEvidence::NotConfigured { code: Some(code) });
        check(evidence, FileSystem, Reason::NoScripts(Some(code)));
    }
}

#[test]
fn what_did_not_hold_lowers_the_level_and_is_named() {
    let hung = with(linux(), |e| e.freeze = FreezeEvidence::Failed("no answer in 10 s".to_owned()));
    check(hung, Crash, Reason::NotFrozen("no answer in 10 s".to_owned()));
    let early = with(scripts(ok(), ok()), |e| {
        if let FreezeEvidence::Done { held, thaw, .. } = &mut e.freeze {
            (*held, *thaw) = (Held::No, ThawOutcome::AlreadyThawed);
        }
    });
    check(early, Crash, Reason::FreezeNotHeld);
    let mount = |path: &str, outcome| Mount { path: path.to_owned(), outcome };
    let one_bad = with(linux(), |e| {
        if let FreezeEvidence::Done { mounts, .. } = &mut e.freeze {
            mounts.push(mount("/data", MountOutcome::Failed("busy".to_owned())));
        }
    });
    check(one_bad, Crash, Reason::MountsFailed(vec!["/data".to_owned()]));
    let left_out = with(linux(), |e| {
        if let FreezeEvidence::Done { mounts, .. } = &mut e.freeze {
            mounts.push(mount("/boot/efi", MountOutcome::Skipped("vfat".to_owned())));
        }
    });
    check(left_out, FileSystem, Reason::MountsSkipped(vec!["/boot/efi".to_owned()]));
    let no_shadow = with(windows(vec![]), |e| e.vss.as_mut().unwrap().failure = Some("timeout".to_owned()));
    check(no_shadow, Crash, Reason::NoShadowCopy("timeout".to_owned()));
    check(windows(vec![]), FileSystem, Reason::WritersUnknown);
    let left_to_scripts = with(scripts(ok(), ok()), |e| e.freeze = FreezeEvidence::LeftToScripts);
    check(left_to_scripts, Application, Reason::LeftToScripts);
    check(
        with(linux(), |e| e.snapshot.simultaneity = Simultaneity::EachItsOwn),
        FileSystem,
        Reason::DisksApart,
    );
}

#[test]
fn creating_and_deleting_wait_and_then_give_up() {
    for state in [ProvisioningState::Creating, ProvisioningState::Deleting] {
        let mut attempt = 0;
        loop {
            let evidence = with(linux(), |e| (e.vm.provisioning, e.attempt) = (state, attempt));
            match decide(&evidence) {
                Decision::NotNow { why, retry_after } => {
                    assert_eq!(why, NotNow::Provisioning(state));
                    assert_eq!(Some(retry_after), BackOff::DEFAULT.after(attempt));
                }
                other => {
                    assert_eq!(other, Decision::Refused(Refusal::StillChanging { state, attempts: 8 }));
                    break;
                }
            }
            attempt += 1;
        }
        assert_eq!(attempt, 7);
    }
}

#[test]
fn refusals_say_what_to_do() {
    let refused = |evidence: &Evidence| match decide(evidence) {
        Decision::Refused(refusal) => refusal,
        other => panic!("{other:?}"),
    };
    let changing = refused(&with(linux(), |e| e.vm.power = PowerState::Changing));
    assert_eq!(changing, Refusal::NotInDesirableState);
    let late = refused(&with(linux(), |e| e.command_age = Millis(140 * 60_000 + 1)));
    assert!(late.to_string().ends_with("start the backup again"), "{late}");
    let full = refused(&with(linux(), |e| {
        e.snapshot.disks[1].outcome = DiskOutcome::Failed("snapshot limit".to_owned());
    }));
    assert_eq!(full, Refusal::DisksFailed(vec!["data".to_owned()]));
    let strict = refused(&with(scripts(failed(300), ok()), |e| e.policy.on_failure = OnGuestFailure::Refuse));
    assert_eq!(strict, Refusal::ScriptFailed { code: 300 });
    let below = refused(&with(linux(), |e| e.policy.wanted = Wanted::Application));
    assert!(below.to_string().contains("no scripts are configured"), "{below}");
    let nothing = refused(&with(linux(), |e| e.snapshot.disks[0].outcome = DiskOutcome::NotTried));
    assert_eq!(nothing, Refusal::NoSnapshot { script: None });
}

#[test]
fn a_vm_of_one_disk_tries_again_and_then_falls_back() {
    let strict = |attempt| {
        with(scripts(failed(300), ok()), |e| {
            e.policy.on_failure = OnGuestFailure::Refuse;
            e.snapshot.disks.truncate(1);
            e.attempt = attempt;
        })
    };
    assert!(matches!(decide(&strict(0)), Decision::NotNow { why: NotNow::BeforeFallback, .. }));
    check(strict(1), Crash, Reason::SingleDiskFallback);
    check(strict(1), Crash, Reason::PreScript(300));
}

#[test]
fn promises_differ_where_levels_do() {
    assert_eq!(promise(FileSystem).at_boot, promise(Application).at_boot);
    assert_ne!(promise(Crash).at_boot, promise(FileSystem).at_boot);
    assert_ne!(promise(FileSystem).applications, promise(Application).applications);
}

#[test]
fn hostile_bytes_are_errors() {
    let good = encode(&linux()).unwrap();
    assert_eq!(decode(&good).unwrap(), linux());
    for cut in 0..good.len() {
        assert!(decode(&good[..cut]).is_err(), "cut to {cut}");
    }
    assert!(decode(&[&good[..], b"x"].concat()).is_err(), "more after it");
    assert!(decode(&vec![b' '; EVIDENCE_BYTES_MAX + 1]).is_err());
    assert!(decode(&vec![b'['; EVIDENCE_BYTES_MAX]).is_err(), "deep nesting");
    let newer = String::from_utf8(good.clone()).unwrap().replace("\"version\":1", "\"version\":2");
    assert!(decode(newer.as_bytes()).unwrap_err().to_string().contains("newer"));
    let long = with(linux(), |e| e.snapshot.disks[0].disk = "x".repeat(EVIDENCE_BYTES_MAX));
    assert!(encode(&long).is_err());
}

fn rank(decision: &Decision) -> u8 {
    match decision {
        Decision::Refused(_) | Decision::NotNow { .. } => 0,
        Decision::Point(verdict) => 1 + verdict.level as u8,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn every_evidence_has_a_decision_with_reasons(evidence in strategy::evidence()) {
        if let Decision::Point(verdict) = decide(&evidence) {
            prop_assert!(!verdict.reasons.is_empty());
            prop_assert!(evidence.snapshot.disks.iter().all(|disk| disk.outcome == DiskOutcome::Taken));
        }
        prop_assert_eq!(decide(&evidence), decide(&evidence));
    }

    #[test]
    fn better_evidence_never_gives_a_worse_level(evidence in strategy::evidence()) {
        let before = decide(&evidence);
        for better in strategy::improvements(&evidence) {
            let after = decide(&better);
            prop_assert!(rank(&after) >= rank(&before), "{before:?} became {after:?} with {better:?}");
        }
    }

    #[test]
    fn evidence_survives_its_encoding(evidence in strategy::evidence()) {
        prop_assert_eq!(decode(&encode(&evidence).unwrap()).unwrap(), evidence);
    }

    #[test]
    fn flipped_bytes_never_panic(evidence in strategy::evidence(), at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut bytes = encode(&evidence).unwrap();
        let at = at.index(bytes.len());
        bytes[at] = to;
        let _ = decode(&bytes);
    }

    #[test]
    fn waits_are_bounded_and_never_shrink(first in 0..u64::MAX, longest in any::<u64>(), attempts in 0..200_u32) {
        let back_off = BackOff { first: Millis(first), longest: Millis(longest), attempts };
        let waits: Vec<Millis> = (0..).map_while(|failed| back_off.after(failed)).collect();
        prop_assert_eq!(waits.len(), attempts.saturating_sub(1) as usize);
        prop_assert!(waits.is_sorted());
        prop_assert!(waits.iter().all(|wait| *wait <= back_off.longest));
    }
}
