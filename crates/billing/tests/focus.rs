//! The `FinOps` Foundation's own validator reads what we write: `focus-validator`, a Python program.
//!
//! `FOCUS_VALIDATOR` names it; otherwise it is looked for where `cargo xtask test` puts it. It must run in its own
//! site-packages, works offline with the rules it carries, and exits with 0 whatever it found.

#![allow(clippy::unwrap_used)] // in helpers too

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use serde_json::Value;
use support::{DAY, GIB, HOUR, JANUARY, backup, book_with, events, instance, rate, stored};
use vmkeep_billing::{EventKind, FocusParties, Month, Statement, Tier, Window, focus_csv};
use vmkeep_model::Timestamp;

/// The program, or nothing; under `VMKEEP_REQUIRE_TOOLS` a missing one fails.
fn validator() -> Option<PathBuf> {
    let own =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/focus-validator/bin/focus-validator");
    let path = std::env::var_os("FOCUS_VALIDATOR").map_or(own, PathBuf::from);
    let found = path.canonicalize().ok();
    let message = "focus-validator is not here; cargo xtask test --only tools makes it";
    assert!(found.is_some() || std::env::var_os("VMKEEP_REQUIRE_TOOLS").is_none(), "{message}");
    if found.is_none() {
        println!("left out: {message}");
    }
    found
}

struct Verdict {
    passed: usize,
    /// Rules that the file does not meet.
    failed: Vec<String>,
    text: String,
}

/// The rules of the validator of which one is enough: each with its alternatives.
///
/// It reports every alternative by itself, also one that does not apply: of "null without an invoice" and "not null with one",
/// one fails in every file there can be. What the file has to meet is the rule above them.
fn either_or(packages: &Path) -> BTreeMap<String, Vec<String>> {
    fn collect(value: &Value, found: &mut BTreeMap<String, Vec<String>>) {
        let children: Box<dyn Iterator<Item = &Value>> = match value {
            Value::Object(object) => Box::new(object.values()),
            Value::Array(items) => Box::new(items.iter()),
            _ => return,
        };
        for (rule, body) in value.as_object().into_iter().flatten() {
            let requirement = &body["ValidationCriteria"]["Requirement"];
            if requirement["CheckFunction"] == "OR" {
                let items = requirement["Items"].as_array().unwrap().iter();
                let names = items.map(|item| item["ModelRuleId"].as_str().unwrap_or("").to_owned());
                found.insert(rule.clone(), names.collect());
            }
        }
        children.for_each(|child| collect(child, found));
    }
    let model = packages.join("focus_validator/rules/model-1.2.0.1.json");
    let model: Value = serde_json::from_slice(&std::fs::read(model).unwrap()).unwrap();
    let mut found = BTreeMap::new();
    collect(&model, &mut found);
    assert!(!found.is_empty());
    found
}

/// Runs it over `csv`.
fn validate(program: &Path, csv: &str) -> Verdict {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cost.csv");
    std::fs::write(&file, csv).unwrap();
    let library = program.parent().and_then(Path::parent).unwrap().join("lib");
    let mut pythons = std::fs::read_dir(library).unwrap();
    let packages = pythons.next().unwrap().unwrap().path().join("site-packages");
    let output = Command::new(program)
        .args(["--validate-version", "1.2.0.1", "--focus-dataset", "CostAndUsage", "--block-download"])
        .args(["--show-violations", "--data-file"])
        .arg(&file)
        .current_dir(&packages)
        .output()
        .unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let rules = |word: &str| -> Vec<String> {
        let named = text.lines().filter_map(|line| line.split_once(word).map(|(rule, _)| rule));
        named.map(|rule| rule.split_whitespace().last().unwrap_or("").to_owned()).collect()
    };
    let (passed, mut failed) = (rules(": PASS "), rules(": FAIL "));
    let totals = format!("Pass: {} | Fail: {} |", passed.len(), failed.len());
    assert!(text.contains(&totals), "{totals} is not what it says itself: {text}");
    for (_, alternatives) in either_or(&packages).iter().filter(|(rule, _)| passed.contains(rule)) {
        failed.retain(|rule| !alternatives.contains(rule));
    }
    Verdict { passed: passed.len(), failed, text }
}

/// Five VMs over three months: growth, a price change, a discount, a minimum, archive, soft delete, a correction.
fn fleet(invoices: [Option<&str>; 3]) -> String {
    let book = book_with(
        &[(
            "price = \"0.0224\"",
            "price = \"0.0224\"\nuntil = \"2026-02-10\"\n[[price]]\nmeter = \"vault\"\n\
            redundancy = \"lrs\"\nfrom = \"2026-02-10\"\nprice = \"0.03\"",
        )],
        "[[discount]]\nmeter = \"instance\"\nfrom = \"2026-03-01\"\npercent = \"12.5\"\n\
         [[minimum]]\nfrom = \"2026-01-01\"\namount = \"9\"\n",
    );
    let months: Vec<Month> = ["2026-01", "2026-02", "2026-03"].map(|m| m.parse().unwrap()).into();
    let mut statements: Vec<Statement> = Vec::new();
    let vm = |id: u8, late: bool| {
        let mut life = vec![(JANUARY, EventKind::Protected)];
        for day in 0..80 {
            let at = JANUARY + day * DAY + i64::from(id) * HOUR + 1;
            let size = (u64::from(id) * 30 + u64::try_from(day).unwrap()) * GIB;
            life.extend([(at, backup(size)), (at, stored(GIB + u64::from(late)))]);
        }
        let since = Timestamp(JANUARY);
        let (from, to, half) = (Tier::Vault, Tier::Archive, 20 * GIB);
        life.push((JANUARY + 81 * DAY, EventKind::Moved { from, bytes: half, since, to, bytes_there: half }));
        life.push((JANUARY + 82 * DAY, EventKind::Removed { tier: to, bytes: half, since }));
        let purge_at = Timestamp(JANUARY + 112 * DAY);
        life.push((JANUARY + 82 * DAY, EventKind::SoftDeleted { tier: from, bytes: half, purge_at }));
        events(id, &life)
    };
    for month in &months {
        let mut statement = Statement::new(&book, *month).unwrap();
        let (from, until) = statement.period();
        let mut newer = statement.clone();
        for id in 1..=5 {
            let window = Window { from, until };
            let instance: Arc<_> = instance(id);
            statement.add(&book, &instance, &rate(&book, &vm(id, false), window)).unwrap();
            newer.add(&book, &instance, &rate(&book, &vm(id, id == 3), window)).unwrap();
        }
        if let Some(closed) = statements.last().cloned() {
            let lines: Vec<_> = statement.lines().iter().take(1).cloned().collect();
            assert!(!lines.is_empty());
            let mut again = Statement::new(&book, closed.month()).unwrap();
            let (from, until) = again.period();
            for id in 1..=4 {
                let usages = rate(&book, &vm(id, false), Window { from, until });
                again.add(&book, &instance(id), &usages).unwrap();
            }
            // The fifth VM was billed last month and should not have been.
            let corrections = closed.close().corrections(&again, &[]).unwrap();
            assert!(!corrections.is_empty());
            statement.add_corrections(corrections);
        }
        statements.push(statement);
    }
    let parties = FocusParties {
        provider: "Example Hosting".to_owned(),
        publisher: "vmkeep".to_owned(),
        invoice_issuer: "Example Hosting".to_owned(),
        billing_account_id: "account-4711".to_owned(),
        billing_account_name: "Example account".to_owned(),
        billing_account_type: "Customer".to_owned(),
    };
    let numbered: Vec<_> = statements.iter().zip(invoices).collect();
    focus_csv(&numbered, &parties).unwrap()
}

fn check(invoices: [Option<&str>; 3]) {
    let Some(program) = validator() else { return };
    let csv = fleet(invoices);
    for word in ["Correction", "Credit", "Adjustment", "early deletion"] {
        assert!(csv.contains(word), "the fleet has no {word}");
    }
    let verdict = validate(&program, &csv);
    assert!(verdict.failed.is_empty(), "{:?} {}", verdict.failed, verdict.text);
    assert!(verdict.passed > 100, "{}", verdict.text);
}

#[test]
fn the_validator_finds_no_fault_in_three_months_of_a_fleet() {
    check([Some("A-1"), Some("A-2"), Some("A-3")]);
}

#[test]
fn the_validator_finds_no_fault_before_there_are_invoices() {
    check([None; 3]);
}

#[test]
fn the_validator_finds_a_planted_fault() {
    let Some(program) = validator() else { return };
    let csv = fleet([Some("A-1"), Some("A-2"), Some("A-3")]);
    let fault = csv.replace(",EUR,", ",Euro,");
    assert_ne!(fault, csv);
    let verdict = validate(&program, &fault);
    assert!(verdict.failed.iter().any(|rule| rule.starts_with("BillingCurrency-")), "{}", verdict.text);
}

/// Both halves of an either-or that fails do count.
#[test]
fn the_validator_misses_a_column() {
    let Some(program) = validator() else { return };
    let csv = fleet([None; 3]).replacen(",InvoiceId,", ",x_InvoiceId,", 1);
    let failed = validate(&program, &csv).failed;
    for rule in ["InvoiceId-C-003-C", "InvoiceId-C-004-C", "InvoiceId-C-005-C"] {
        assert!(failed.iter().any(|name| name == rule), "{failed:?}");
    }
}
