//! Evidence of every kind, and evidence that is the same or better in every part.

use proptest::prelude::*;
use vmkeep_consistency::{
    ConsistencyPolicy, DiskOutcome, DiskSnapshot, Evidence, FreezeEvidence, GuestOs, Held, Millis, Mount,
    MountOutcome, OnGuestFailure, PowerState, ProvisioningState, ScriptOutcome, ScriptTrace, ScriptsEvidence,
    Simultaneity, SnapshotEvidence, ThawOutcome, VmState, VssEvidence, VssMode, Wanted, Writer, WriterState,
};

pub(crate) fn evidence() -> impl Strategy<Value = Evidence> {
    (policy(), vm(), 0..12_u32, 0..300_u64, prop::option::of(vss()), scripts(), freeze(), snapshot())
        .prop_map(|(policy, vm, attempt, minutes, vss, scripts, freeze, snapshot)| Evidence {
            policy,
            vm,
            attempt,
            command_age: Millis(minutes * 60_000),
            vss,
            scripts,
            freeze,
            snapshot,
        })
}

fn policy() -> impl Strategy<Value = ConsistencyPolicy> {
    let wanted =
        prop::sample::select(vec![Wanted::Best, Wanted::Application, Wanted::FileSystem, Wanted::CrashOnly]);
    let on_failure = prop::sample::select(vec![OnGuestFailure::Degrade, OnGuestFailure::Refuse]);
    (wanted, on_failure, 0..3_u32).prop_map(|(wanted, on_failure, attempts_before_fallback)| {
        ConsistencyPolicy { wanted, on_failure, attempts_before_fallback, ..ConsistencyPolicy::default() }
    })
}

fn vm() -> impl Strategy<Value = VmState> {
    use PowerState::{Changing, Deallocated, Paused, Running, Stopped};
    use ProvisioningState::{Creating, Deleting, Failed, Succeeded, Unavailable};
    (
        prop::sample::select(vec![Succeeded, Succeeded, Succeeded, Creating, Deleting, Unavailable, Failed]),
        prop::sample::select(vec![Running, Running, Running, Paused, Stopped, Deallocated, Changing]),
        prop::sample::select(vec![GuestOs::Windows, GuestOs::Linux, GuestOs::Other]),
    )
        .prop_map(|(provisioning, power, os)| VmState { provisioning, power, os })
}

fn vss() -> impl Strategy<Value = VssEvidence> {
    let writer = (0..17_u8, prop::sample::select(vec![0, 0, 0x8004_23f2])).prop_map(|(state, last_error)| {
        Writer { name: format!("writer {state}"), state: WriterState(state), last_error }
    });
    let mode = prop::sample::select(vec![VssMode::Full, VssMode::Copy]);
    (mode, prop::option::of("[a-z]{1,5}"), prop::collection::vec(writer, 0..4))
        .prop_map(|(mode, failure, writers)| VssEvidence { mode, failure, writers })
}

fn script() -> impl Strategy<Value = ScriptOutcome> {
    let trace = ("\\PC{0,20}", 0..9_u32).prop_map(|(output, runs)| ScriptTrace {
        runs,
        took: Millis(u64::from(runs) * 7),
        output,
        output_dropped: 3,
    });
    prop_oneof![
        Just(ScriptOutcome::NotRun),
        trace.clone().prop_map(ScriptOutcome::Succeeded),
        (300..319_u16, trace).prop_map(|(code, trace)| ScriptOutcome::Failed {
            code,
            message: "no".to_owned(),
            trace
        }),
    ]
}

fn scripts() -> impl Strategy<Value = ScriptsEvidence> {
    prop_oneof![
        prop::option::of(304..317_u16).prop_map(|code| ScriptsEvidence::NotConfigured { code }),
        (script(), script()).prop_map(|(pre, post)| ScriptsEvidence::Configured { pre, post }),
    ]
}

fn freeze() -> impl Strategy<Value = FreezeEvidence> {
    let outcome = prop_oneof![
        3 => Just(MountOutcome::Frozen),
        1 => "[a-z]{1,5}".prop_map(MountOutcome::Skipped),
        1 => "[a-z]{1,5}".prop_map(MountOutcome::Failed),
    ];
    let mounts =
        prop::collection::vec(outcome.prop_map(|outcome| Mount { path: "/data".to_owned(), outcome }), 0..3);
    let held = prop::sample::select(vec![Held::Yes, Held::No, Held::Unknown]);
    let thaw = prop_oneof![
        Just(ThawOutcome::Thawed),
        Just(ThawOutcome::AlreadyThawed),
        Just(ThawOutcome::Failed("no".to_owned())),
    ];
    prop_oneof![
        1 => Just(FreezeEvidence::NotTried),
        1 => Just(FreezeEvidence::LeftToScripts),
        1 => Just(FreezeEvidence::Failed("hung".to_owned())),
        4 => (mounts, held, thaw, any::<u64>()).prop_map(|(mounts, held, thaw, frozen)| FreezeEvidence::Done {
            mounts,
            held,
            thaw,
            frozen: Millis(frozen)
        }),
    ]
}

fn snapshot() -> impl Strategy<Value = SnapshotEvidence> {
    let outcome = prop_oneof![
        6 => Just(DiskOutcome::Taken),
        1 => Just(DiskOutcome::NotTried),
        1 => Just(DiskOutcome::Failed("full".to_owned())),
    ];
    let simultaneity = prop::sample::select(vec![Simultaneity::OneInstant, Simultaneity::EachItsOwn]);
    (simultaneity, prop::collection::vec(outcome, 0..4)).prop_map(|(simultaneity, outcomes)| {
        let disks = outcomes.into_iter().enumerate();
        let disks = disks.map(|(at, outcome)| DiskSnapshot { disk: format!("disk{at}"), outcome }).collect();
        SnapshotEvidence { simultaneity, disks }
    })
}

/// `evidence` with one thing better, for each thing that can be better. Circumstances and rules stay.
pub(crate) fn improvements(evidence: &Evidence) -> Vec<Evidence> {
    let mut better = Vec::new();
    let mut push = |change: &dyn Fn(&mut Evidence)| {
        let mut changed = evidence.clone();
        change(&mut changed);
        better.push(changed);
    };
    push(&|e| e.command_age = Millis(0));
    push(&|e| e.snapshot.simultaneity = Simultaneity::OneInstant);
    for at in 0..evidence.snapshot.disks.len() {
        push(&|e| e.snapshot.disks[at].outcome = DiskOutcome::Taken);
    }
    if let Some(vss) = &evidence.vss {
        push(&|e| e.vss.as_mut().expect("it has one").failure = None);
        for at in 0..vss.writers.len() {
            push(&|e| e.vss.as_mut().expect("it has one").writers[at].state = WriterState::STABLE);
            push(&|e| e.vss.as_mut().expect("it has one").writers[at].last_error = 0);
        }
    }
    if let ScriptsEvidence::Configured { .. } = evidence.scripts {
        push(&|e| set_script(e, true));
        push(&|e| set_script(e, false));
    }
    if let FreezeEvidence::Done { mounts, .. } = &evidence.freeze {
        for at in 0..mounts.len() {
            push(&|e| {
                if let FreezeEvidence::Done { mounts, .. } = &mut e.freeze {
                    mounts[at].outcome = MountOutcome::Frozen;
                }
            });
        }
        push(&|e| {
            if let FreezeEvidence::Done { held, .. } = &mut e.freeze {
                *held = Held::Yes;
            }
        });
        push(&|e| {
            if let FreezeEvidence::Done { thaw, .. } = &mut e.freeze {
                *thaw = ThawOutcome::Thawed;
            }
        });
    }
    if let FreezeEvidence::NotTried | FreezeEvidence::Failed(_) = evidence.freeze {
        push(&|e| {
            e.freeze = FreezeEvidence::Done {
                mounts: vec![Mount { path: "/".to_owned(), outcome: MountOutcome::Frozen }],
                held: Held::Yes,
                thaw: ThawOutcome::Thawed,
                frozen: Millis(1),
            };
        });
    }
    better
}

fn set_script(evidence: &mut Evidence, before: bool) {
    if let ScriptsEvidence::Configured { pre, post } = &mut evidence.scripts {
        *(if before { pre } else { post }) = ScriptOutcome::Succeeded(ScriptTrace::default());
    }
}
