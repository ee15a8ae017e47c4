//! Script settings, the flow around a snapshot, and real scripts that fail, hang and print.
#![cfg(unix)]
#![allow(clippy::unwrap_used)] // helpers of tests too

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use vmkeep_consistency::script::{
    FileFacts, Flow, FlowAction, FlowEvent, FlowRules, OUTPUT_BYTES_MAX, Precheck, RETRIES_MAX,
    ScriptCommand, ScriptContext, ScriptErrorCode, ScriptFiles, ScriptHost, ScriptRun, ScriptRunner,
    ScriptSettings, SystemFiles,
};
use vmkeep_consistency::{Before, OnGuestFailure, ScriptOutcome, ScriptTrace, Scripts, ScriptsEvidence};

const SHIPPED: &str = r#"{"pluginName":"ScriptRunner","preScriptLocation":"","postScriptLocation":"",
    "preScriptParams":["",""],"postScriptParams":["",""],"preScriptNoOfRetries":0,"postScriptNoOfRetries":0,
    "timeoutInSeconds":30,"continueBackupOnFailure":true,"fsFreezeEnabled":true}"#;

#[test]
fn settings_are_read_as_documented() {
    let shipped = ScriptSettings::parse(SHIPPED.as_bytes()).unwrap();
    assert_eq!((shipped.timeout.as_secs(), shipped.pre_params.len()), (30, 2));
    let least = br#"{"preScriptLocation":"/a","postScriptLocation":"/b"}"#;
    let least = ScriptSettings::parse(least).unwrap();
    assert_eq!((least.timeout.as_secs(), least.poll_seconds, least.pre_retries), (10, 3, 0));
    assert!(least.continue_on_failure && least.fs_freeze && least.pre_params.is_empty());
    let with = |field: &str| {
        let text = format!(r#"{{"preScriptLocation":"/a","postScriptLocation":"/b",{field}}}"#);
        ScriptSettings::parse(text.as_bytes())
    };
    assert_eq!(with(r#""timeoutInSeconds":999999"#).unwrap().timeout.as_secs(), 1800);
    assert_eq!(with(r#""ScriptsExecutionPollTimeSeconds":5,"appName":"db""#).unwrap().poll_seconds, 5);
    assert_eq!(with(r#""ScriptsExecutionPollTimeSeconds":6"#).unwrap().poll_seconds, 3);
    for wrong in [
        r#""timeoutInSeconds":0"#.to_owned(),
        r#""timeoutInSeconds":-1"#.to_owned(),
        r#""fsFreezeEnabled":"false""#.to_owned(),
        r#""fsFreezeEnabled":true,"fsFreezeEnabled":false"#.to_owned(),
        r#""continueBackupOnfailure":false"#.to_owned(),
        format!(r#""preScriptNoOfRetries":{}"#, RETRIES_MAX + 1),
    ] {
        assert!(with(&wrong).is_err(), "{wrong}");
    }
    assert!(ScriptSettings::parse(br#"{"preScriptLocation":"/a"}"#).is_err(), "required");
    assert!(ScriptSettings::parse(br#"{"preScriptLocation":"a","postScriptLocation":"/b"}"#).is_err());
    assert!(ScriptSettings::parse(&vec![b'['; 60_000]).is_err());
}

#[test]
fn codes_have_azures_numbers_and_names() {
    use ScriptErrorCode as Code;
    assert_eq!(Code::FailedPrepostPreScriptFailed.number(), 300);
    assert_eq!(Code::FailedPrepostPreScriptTimeout.to_string(), "Pre-ScriptTimeout (308)");
    assert_eq!(Code::FailedPrepostPluginConfigOwnershipError.number(), 318);
}

type Tree = BTreeMap<String, (FileFacts, Vec<u8>)>;

#[derive(Debug)]
struct Files(Tree);

impl Files {
    fn good() -> Self {
        let file = |mode| FileFacts { regular: true, mode, owner: 0 };
        let settings = br#"{"preScriptLocation":"/pre","postScriptLocation":"/post"}"#.to_vec();
        let files =
            [("/c", file(0o600), settings), ("/pre", file(0o700), vec![]), ("/post", file(0o700), vec![])];
        Self(files.into_iter().map(|(path, facts, bytes)| (path.to_owned(), (facts, bytes))).collect())
    }
}

impl ScriptFiles for Files {
    fn facts(&self, path: &str) -> io::Result<FileFacts> {
        self.read(path, 0).map(|(facts, _)| facts)
    }
    fn read(&self, path: &str, _limit: usize) -> io::Result<(FileFacts, Vec<u8>)> {
        self.0.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl ScriptHost for Files {
    fn run(&self, script: &ScriptCommand<'_>, _: Duration) -> ScriptRun {
        panic!("{script:?} is run");
    }
}

#[test]
fn permissions_and_owners_are_held_to() {
    let code_with = |change: &dyn Fn(&mut Tree)| {
        let mut files = Files::good();
        change(&mut files.0);
        let context = ScriptContext { vm: "vm".to_owned(), job: "1".to_owned() };
        let mut runner = ScriptRunner::new(&files, "/c", 0, context);
        let before = runner.before(2);
        runner.after();
        assert_eq!(before, Before::Freeze, "by default the backup goes on");
        match runner.evidence() {
            ScriptsEvidence::NotConfigured { code } => (code.unwrap(), false),
            ScriptsEvidence::Configured { pre: ScriptOutcome::Failed { code, trace, .. }, post } => {
                assert_eq!((trace.runs, post), (0, ScriptOutcome::NotRun), "nothing is run");
                (code, true)
            }
            other @ ScriptsEvidence::Configured { .. } => panic!("{other:?}"),
        }
    };
    let mode = |path: &'static str, mode| move |files: &mut Tree| files.get_mut(path).unwrap().0.mode = mode;
    let owner = |path: &'static str| move |files: &mut Tree| files.get_mut(path).unwrap().0.owner = 1000;
    assert_eq!(code_with(&|files| drop(files.remove("/c"))), (316, false));
    assert_eq!(code_with(&|files| files.get_mut("/c").unwrap().1 = b"{".to_vec()), (305, false));
    for bad in [0o700, 0o640, 0o604, 0o601] {
        assert_eq!(code_with(&mode("/c", bad)), (317, true));
    }
    assert_eq!(code_with(&owner("/c")), (318, true));
    assert_eq!(code_with(&|files| drop(files.remove("/pre"))), (302, true));
    assert_eq!(code_with(&|files| drop(files.remove("/post"))), (303, true));
    for bad in [0o750, 0o702, 0o600] {
        assert_eq!(code_with(&mode("/pre", bad)), (306, true));
        assert_eq!(code_with(&mode("/post", bad)), (307, true));
    }
    assert_eq!(code_with(&owner("/pre")), (306, true));
}

/// The flow with every action succeeding but those named.
fn flow(rules: FlowRules, precheck: Precheck, failing: &[FlowAction]) -> Vec<FlowAction> {
    let mut flow = Flow::new(rules, precheck);
    let mut actions = Vec::new();
    while flow.action() != FlowAction::End {
        actions.push(flow.action());
        assert!(actions.len() < 8, "it ends");
        let event = if failing.contains(&flow.action()) { FlowEvent::Failed } else { FlowEvent::Succeeded };
        flow = flow.advance(event);
    }
    actions
}

#[test]
fn the_whole_flow_is_a_table() {
    use FlowAction::{Freeze, RunPost, RunPre, Snapshot, Thaw};
    use ScriptErrorCode as Code;
    let whole = vec![RunPre, Freeze, Snapshot, Thaw, RunPost];
    let no_freeze = vec![RunPre, Snapshot, Thaw, RunPost];
    let no_snapshot = vec![RunPre, RunPost];
    let bare = vec![Freeze, Snapshot, Thaw];
    for (continues, freezes, disks, pre_fails, expected) in [
        (true, true, 2, false, &whole),
        (true, true, 2, true, &whole),
        (false, true, 2, false, &whole),
        (false, true, 2, true, &no_snapshot),
        (false, true, 1, true, &whole),
        (true, false, 2, false, &no_freeze),
        (true, false, 2, true, &no_snapshot),
        (false, false, 2, true, &no_snapshot),
        (false, false, 1, true, &no_freeze),
        (false, false, 1, false, &no_freeze),
    ] {
        let rules = FlowRules { continue_on_failure: continues, fs_freeze: freezes, disks };
        let failing = if pre_fails { vec![RunPre] } else { vec![] };
        assert_eq!(&flow(rules, Precheck::Clean, &failing), expected, "{rules:?}, {failing:?}");
        for also in [Freeze, Snapshot, Thaw, RunPost] {
            let failing = [&failing[..], &[also]].concat();
            assert_eq!(&flow(rules, Precheck::Clean, &failing), expected, "{also:?} changes no step");
        }
    }
    for continue_on_failure in [true, false] {
        let rules = FlowRules { continue_on_failure, fs_freeze: true, disks: 2 };
        for code in [Code::FailedPrepostPluginConfigParsing, Code::FailedPrepostPluginConfigNotFound] {
            assert_eq!(flow(rules, Precheck::Failed(code), &[]), bare);
        }
        let missing = flow(rules, Precheck::Failed(Code::FailedPrepostPreScriptNotFound), &[]);
        assert_eq!(missing, if continue_on_failure { bare.clone() } else { vec![] });
    }
}

/// A file that is open for writing while another test forks cannot be executed; so these run one at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn install(path: &Path, mode: u32, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn run(
    folder: &Path,
    fields: &str,
    pre: &str,
    post: &str,
) -> (Before, ScriptsEvidence, ScriptRunner<'static>) {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let (pre_path, post_path, config) = (folder.join("pre"), folder.join("post"), folder.join("config"));
    install(&pre_path, 0o700, pre);
    install(&post_path, 0o700, post);
    let text = format!(
        r#"{{"preScriptLocation":"{}","postScriptLocation":"{}","timeoutInSeconds":30{fields}}}"#,
        pre_path.display(),
        post_path.display()
    );
    install(&config, 0o600, &text.replacen("\"timeoutInSeconds\":30,\"timeout", "\"timeout", 1));
    let owner = fs::metadata(&config).unwrap().uid();
    let context = ScriptContext { vm: "web1".to_owned(), job: "42".to_owned() };
    let mut runner = ScriptRunner::new(&SystemFiles, config.to_str().unwrap(), owner, context);
    let before = runner.before(2);
    runner.after();
    (before, runner.evidence(), runner)
}

fn configured(evidence: ScriptsEvidence) -> (ScriptOutcome, ScriptOutcome) {
    match evidence {
        ScriptsEvidence::Configured { pre, post } => (pre, post),
        other @ ScriptsEvidence::NotConfigured { .. } => panic!("{other:?}"),
    }
}

fn trace(outcome: ScriptOutcome) -> ScriptTrace {
    match outcome {
        ScriptOutcome::Succeeded(trace) => trace,
        other => panic!("{other:?}"),
    }
}

#[test]
fn scripts_get_context_arguments_and_their_own_interpreter() {
    let folder = tempfile::tempdir().unwrap();
    let pre = "#!/bin/sh\necho \"$VMKEEP_VM $VMKEEP_JOB $VMKEEP_PHASE $1\"";
    let post = "#!/bin/cat\nnot a shell script";
    let (before, evidence, _) = run(folder.path(), r#","preScriptParams":["x y"]"#, pre, post);
    let (pre, post) = configured(evidence);
    assert_eq!(before, Before::Freeze);
    assert_eq!(trace(pre).output, "web1 42 pre x y\n");
    assert!(trace(post).output.ends_with("not a shell script"), "the shebang counts");
}

#[test]
fn a_retry_runs_the_script_again() {
    let folder = tempfile::tempdir().unwrap();
    let pre = "#!/bin/sh\ncd \"${0%/*}\"; echo x >> runs; [ $(wc -l < runs) -ge 3 ]";
    let (_, evidence, _) = run(folder.path(), r#","preScriptNoOfRetries":5"#, pre, "#!/bin/sh\nexit 2");
    let (pre, post) = configured(evidence);
    assert_eq!(trace(pre).runs, 3);
    assert!(matches!(post, ScriptOutcome::Failed { code: 301, trace: ScriptTrace { runs: 1, .. }, .. }));
}

#[test]
fn a_time_out_kills_the_whole_group() {
    let folder = tempfile::tempdir().unwrap();
    // The end of the pipe comes when the grandchild too is dead.
    let fifo = folder.path().join("alive");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let reader = std::thread::spawn(move || fs::read_to_string(fifo).unwrap());
    let pre = "#!/bin/sh\nexec 9> \"${0%/*}/alive\"; (echo child >&9; sleep 600) & wait";
    let fields = r#","timeoutInSeconds":3,"continueBackupOnFailure":false"#;
    let (before, evidence, runner) = run(folder.path(), fields, pre, "#!/bin/sh\necho undone");
    let (pre, post) = configured(evidence);
    assert!(matches!(pre, ScriptOutcome::Failed { code: 308, .. }), "{pre:?}");
    assert_eq!(trace(post).output, "undone\n", "the post-script runs all the same");
    assert_eq!((before, runner.on_failure()), (Before::Stop, OnGuestFailure::Refuse));
    assert_eq!(reader.join().unwrap(), "child\n");
}

#[test]
fn output_beyond_the_bound_is_drained_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let pre = "#!/bin/sh\nhead -c 1000000 /dev/zero | tr '\\0' a; echo end";
    let (_, evidence, _) = run(folder.path(), "", pre, "#!/bin/sh\n");
    let pre = trace(configured(evidence).0);
    assert_eq!(pre.output.len(), OUTPUT_BYTES_MAX);
    assert!(pre.output.ends_with("aend\n"));
    assert_eq!(pre.output_dropped, 1_000_004 - OUTPUT_BYTES_MAX as u64);
}
