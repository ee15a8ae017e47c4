//! A session on a fake guest: what happens in which order, and that it never stays frozen.

use std::panic::{AssertUnwindSafe, catch_unwind};

use std::time::Duration;

use vmkeep_consistency::fake::{Agent, Guest};
use vmkeep_consistency::script::{
    FileFacts, Flow, FlowAction, FlowEvent, FlowRules, Precheck, ScriptCommand, ScriptContext, ScriptEnd,
    ScriptFiles, ScriptHost, ScriptRun, ScriptRunner,
};
use vmkeep_consistency::{
    Before, Decision, Evidence, FreezeEvidence, Freezing, GuestOs, Millis, OnGuestFailure, Ports, PowerState,
    ProvisioningState, Request, Running, ScriptOutcome, ScriptTrace, Scripts, ScriptsEvidence, ThawOutcome,
    VmState, Watchdog, WatchdogError, conformance, take,
};
use vmkeep_model::ConsistencyLevel::{self, Application, Crash};

#[derive(Debug)]
struct Good(Before, u32);

impl Scripts for Good {
    fn before(&mut self, _disks: usize) -> Before {
        self.0
    }
    fn after(&mut self) {
        self.1 += 1;
    }
    fn evidence(&self) -> ScriptsEvidence {
        let outcome = || ScriptOutcome::Succeeded(ScriptTrace::default());
        ScriptsEvidence::Configured { pre: outcome(), post: outcome() }
    }
    fn on_failure(&self) -> OnGuestFailure {
        OnGuestFailure::Degrade
    }
}

fn request() -> Request {
    Request::new(VmState {
        provisioning: ProvisioningState::Succeeded,
        power: PowerState::Running,
        os: GuestOs::Linux,
    })
}

fn ports<'a>(guest: &'a Guest, scripts: &'a mut Good) -> Ports<'a> {
    Ports { agent: Some(guest), snapshotter: guest, scripts, watchdog: guest, clock: guest }
}

fn level(decision: Decision) -> ConsistencyLevel {
    match decision {
        Decision::Point(verdict) => verdict.level,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn check(agent: Agent, expected: ConsistencyLevel, events: &[&str]) -> Evidence {
    let guest = Guest::new(["os", "data"]).with_agent(agent);
    let mut scripts = Good(Before::Freeze, 0);
    let (decision, evidence) = take(&request(), ports(&guest, &mut scripts));
    assert_eq!(level(decision), expected);
    assert_eq!(guest.events(), events);
    assert!(!guest.is_frozen() && !guest.is_watched());
    assert_eq!(scripts.1, 1, "the post-script ran once");
    evidence.expect("it came to a snapshot")
}

#[test]
fn every_agent_leaves_a_thawed_guest() {
    let order = ["arm", "freeze", "snapshot", "thaw"];
    let good = check(Agent::Good, Application, &order);
    let FreezeEvidence::Done { frozen, thaw, .. } = good.freeze else { panic!("{:?}", good.freeze) };
    assert_eq!((frozen, thaw), (Millis(15), ThawOutcome::Thawed));
    check(Agent::HangsAtFreeze, Crash, &["arm", "freeze", "thaw", "snapshot"]);
    check(Agent::OneMountFails, Crash, &["arm", "freeze", "thaw", "snapshot"]);
    check(Agent::ThawsEarly, Crash, &order);
    check(Agent::ThawFails, Application, &["arm", "freeze", "snapshot", "thaw", "watchdog thaws"]);
}

#[test]
fn a_panic_thaws_and_runs_the_post_script() {
    let guest = Guest::new(["os"]).with_panic();
    let mut scripts = Good(Before::Freeze, 0);
    let result = catch_unwind(AssertUnwindSafe(|| take(&request(), ports(&guest, &mut scripts))));
    assert!(result.is_err());
    assert_eq!(guest.events(), ["arm", "freeze", "snapshot", "thaw"]);
    assert!(!guest.is_frozen() && !guest.is_watched());
    assert_eq!(scripts.1, 1);
}

#[test]
fn a_session_dropped_in_any_state_thaws() {
    for steps in 0..4 {
        let guest = Guest::new(["os"]);
        let mut scripts = Good(Before::Freeze, 0);
        let running = Running::new(&request(), ports(&guest, &mut scripts));
        if steps == 0 {
            drop(running);
        } else {
            let quiescing = running.quiesce();
            if steps > 1 {
                let Freezing::Frozen(frozen) = quiescing.freeze() else { panic!("frozen") };
                assert!(guest.is_frozen());
                if steps > 2 {
                    drop(frozen.snapshot());
                }
            }
        }
        assert!(!guest.is_frozen() && !guest.is_watched(), "after {steps} steps");
        assert_eq!(scripts.1, u32::from(steps > 0));
    }
}

#[derive(Debug)]
struct NoWatchdog;

impl Watchdog for NoWatchdog {
    fn arm(&self) -> Result<Box<dyn vmkeep_consistency::ArmedWatchdog>, WatchdogError> {
        Err(WatchdogError(std::io::ErrorKind::OutOfMemory.into()))
    }
}

#[test]
fn without_a_watchdog_nothing_is_frozen() {
    let guest = Guest::new(["os"]);
    let mut scripts = Good(Before::Freeze, 0);
    let ports = Ports { watchdog: &NoWatchdog, ..ports(&guest, &mut scripts) };
    assert_eq!(level(take(&request(), ports).0), Crash);
    assert_eq!((guest.events(), scripts.1), (vec!["snapshot"], 0), "and no script is run");
}

#[test]
fn a_guest_that_is_left_alone_is_not_touched() {
    let guest = Guest::new(["os"]);
    let mut scripts = Good(Before::Freeze, 0);
    let mut request = request();
    request.vm.power = PowerState::Stopped;
    assert_eq!(level(take(&request, ports(&guest, &mut scripts)).0), Crash);
    assert_eq!((guest.events(), scripts.1), (vec!["snapshot"], 0));
    request.vm.provisioning = ProvisioningState::Creating;
    assert!(matches!(take(&request, ports(&guest, &mut scripts)), (Decision::NotNow { .. }, None)));
    assert_eq!(guest.events().len(), 1);
}

#[test]
fn scripts_may_stop_it_or_do_without_freeze() {
    let guest = Guest::new(["os"]);
    let mut scripts = Good(Before::Stop, 0);
    assert!(matches!(take(&request(), ports(&guest, &mut scripts)).0, Decision::Refused(_)));
    assert_eq!((guest.events(), scripts.1), (vec!["arm"], 1));
    let mut scripts = Good(Before::SnapshotOnly, 0);
    assert_eq!(level(take(&request(), ports(&guest, &mut scripts)).0), Application);
    assert_eq!(guest.events(), ["arm", "arm", "snapshot"]);
}

#[test]
fn the_fake_keeps_the_contracts() {
    let guest = Guest::new(["os", "data"]);
    conformance::guest_agent(&guest);
    conformance::snapshotter(&guest);
    let seen = std::cell::Cell::new(0);
    conformance::watchdog(&guest, &mut |_| {
        let count = guest.events().iter().filter(|event| **event == "watchdog thaws").count();
        seen.replace(count) < count
    });
}

/// Scripts of a host that only takes note, beside the guest's events.
#[derive(Debug)]
struct NotedHost<'g> {
    guest: &'g Guest,
    settings: String,
    failing: Vec<&'static str>,
}

impl ScriptFiles for NotedHost<'_> {
    fn facts(&self, _: &str) -> std::io::Result<FileFacts> {
        Ok(FileFacts { regular: true, mode: 0o700, owner: 0 })
    }
    fn read(&self, _: &str, _: usize) -> std::io::Result<(FileFacts, Vec<u8>)> {
        Ok((FileFacts { regular: true, mode: 0o600, owner: 0 }, self.settings.clone().into_bytes()))
    }
}

impl ScriptHost for NotedHost<'_> {
    fn run(&self, script: &ScriptCommand<'_>, _: Duration) -> ScriptRun {
        let name = if script.path == "/pre" { "pre" } else { "post" };
        self.guest.note(name);
        let failed = || ScriptRun::failed("it was told to");
        let good = || ScriptRun { end: ScriptEnd::Succeeded, output: Vec::new(), output_dropped: 0 };
        if self.failing.contains(&name) { failed() } else { good() }
    }
}

/// A session does what the flow says, step for step, whatever the rules and whatever fails.
#[test]
fn a_session_follows_the_flow() {
    let all = [true, false];
    for (continues, freezes, single) in all
        .into_iter()
        .flat_map(|a| all.into_iter().flat_map(move |b| all.into_iter().map(move |c| (a, b, c))))
    {
        for failing in [vec![], vec!["pre"], vec!["post"], vec!["pre", "post"]] {
            let guest = if single { Guest::new(["os"]) } else { Guest::new(["os", "data"]) };
            let settings = format!(
                r#"{{"preScriptLocation":"/pre","postScriptLocation":"/post","continueBackupOnFailure":{continues},
                "fsFreezeEnabled":{freezes}}}"#
            );
            let host = NotedHost { guest: &guest, settings, failing: failing.clone() };
            let context = ScriptContext { vm: "vm".to_owned(), job: "1".to_owned() };
            let mut runner = ScriptRunner::new(&host, "/c", 0, context);
            let ports = Ports {
                agent: Some(&guest),
                snapshotter: &guest,
                scripts: &mut runner,
                watchdog: &guest,
                clock: &guest,
            };
            take(&request(), ports);

            let disks = if single { 1 } else { 2 };
            let rules = FlowRules { continue_on_failure: continues, fs_freeze: freezes, disks };
            let mut flow = Flow::new(rules, Precheck::Clean);
            let mut expected = vec!["arm"];
            while flow.action() != FlowAction::End {
                let name = match flow.action() {
                    FlowAction::RunPre => "pre",
                    FlowAction::Freeze => "freeze",
                    FlowAction::Snapshot => "snapshot",
                    FlowAction::Thaw => "thaw",
                    FlowAction::RunPost => "post",
                    FlowAction::End => unreachable!(),
                };
                // What is not frozen is not thawed.
                if name != "thaw" || expected.contains(&"freeze") {
                    expected.push(name);
                }
                flow = flow.advance(if failing.contains(&name) {
                    FlowEvent::Failed
                } else {
                    FlowEvent::Succeeded
                });
            }
            assert_eq!(guest.events(), expected, "{rules:?}, failing: {failing:?}");
            assert!(!guest.is_frozen() && !guest.is_watched());
        }
    }
}
