//! Holds the manifests against the architecture: who may import whom, and how a crate of the workspace looks.
//!
//! A new edge or a new crate belongs into ARCHITECTURE.md first, with its reason, and then into `ALLOWED`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

/// What a crate's dependencies and build dependencies may name.
const ALLOWED: &[(&str, &[&str])] = &[
    ("vmkeep-model", &[]),
    ("vmkeep-disk", &["vmkeep-model"]),
    ("vmkeep-consistency", &["vmkeep-model"]),
    ("vmkeep-retention", &["vmkeep-model"]),
    ("vmkeep-billing", &["vmkeep-model"]),
    ("vmkeep-envelope", &["vmkeep-model"]),
    ("vmkeep-blockdiff", &["vmkeep-model", "vmkeep-disk"]),
    ("vmkeep-nbd", &["vmkeep-model", "vmkeep-disk"]),
    ("vmkeep-vault", &["vmkeep-model", "vmkeep-envelope"]),
    ("vmkeep-qemu", &["vmkeep-model", "vmkeep-disk", "vmkeep-consistency", "vmkeep-blockdiff", "vmkeep-nbd"]),
    (
        "vmkeep-backup",
        &[
            "vmkeep-model",
            "vmkeep-disk",
            "vmkeep-consistency",
            "vmkeep-blockdiff",
            "vmkeep-envelope",
            "vmkeep-vault",
        ],
    ),
    ("vmkeep-restore", &["vmkeep-model", "vmkeep-disk", "vmkeep-envelope", "vmkeep-vault"]),
    (
        "vmkeep-protect",
        &[
            "vmkeep-model",
            "vmkeep-consistency",
            "vmkeep-retention",
            "vmkeep-billing",
            "vmkeep-envelope",
            "vmkeep-vault",
            "vmkeep-backup",
            "vmkeep-restore",
        ],
    ),
    ("vmkeep-pkcs11", &["vmkeep-envelope"]),
    ("vmkeep-azure-keyvault", &["vmkeep-envelope"]),
    (
        "vmkeep",
        &[
            "vmkeep-model",
            "vmkeep-disk",
            "vmkeep-consistency",
            "vmkeep-blockdiff",
            "vmkeep-envelope",
            "vmkeep-retention",
            "vmkeep-billing",
            "vmkeep-vault",
            "vmkeep-backup",
            "vmkeep-restore",
            "vmkeep-nbd",
            "vmkeep-qemu",
            "vmkeep-protect",
            "vmkeep-pkcs11",
            "vmkeep-azure-keyvault",
        ],
    ),
    ("vmkeep-cli", &["vmkeep"]),
    ("vmkeep-examples", &["vmkeep"]),
    ("vmkeep-benches", &["vmkeep"]),
    ("vmkeep-fuzz", &["vmkeep"]),
    ("vmkeep-testkit", &["vmkeep-model", "vmkeep-disk", "vmkeep-consistency"]),
    ("vmkeep-heapwatch", &[]),
    ("xtask", &[]),
];

/// The crates the workspace exists for: none imports another.
const FIVE: [&str; 5] =
    ["vmkeep-consistency", "vmkeep-blockdiff", "vmkeep-envelope", "vmkeep-retention", "vmkeep-billing"];

/// Packages that are programs of this repository only: what they depend on is nobody's burden, so testkit may be
/// among it as if they were tests.
const UNSHIPPED: [&str; 3] = ["vmkeep-examples", "vmkeep-benches", "vmkeep-fuzz"];

const TESTKIT: &str = "vmkeep-testkit";
/// The allocator that tests look for secrets with: for tests alone, and with lints of its own, which allow `unsafe`.
const HEAPWATCH: &str = "vmkeep-heapwatch";
const SOURCE_LINES_MAX: usize = 800;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    entries.map(|entry| entry.expect("a folder of the repository can be read").path()).collect()
}

/// A package of the repository.
struct Package {
    folder: PathBuf,
    name: String,
    manifest: Table,
}

impl Package {
    fn load(folder: PathBuf) -> Self {
        let path = folder.join("Cargo.toml");
        let manifest: Table = read(&path).parse().unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let name = manifest["package"]["name"].as_str().expect("a name is text").to_owned();
        Self { folder, name, manifest }
    }

    /// Packages of ours named in the tables of this kind, those for single targets included.
    fn ours_in(&self, kind: &str) -> BTreeSet<String> {
        let targets =
            self.manifest.get("target").and_then(Value::as_table).into_iter().flat_map(Table::values);
        let tables = targets.filter_map(Value::as_table).chain([&self.manifest]).filter_map(|t| t.get(kind));
        let entries = tables.filter_map(Value::as_table).flat_map(Table::iter);
        // A dependency may be renamed; `package` then holds its true name.
        let names = entries.map(|(key, v)| v.get("package").and_then(Value::as_str).unwrap_or(key));
        names.filter(|n| n.starts_with("vmkeep")).map(ToOwned::to_owned).collect()
    }

    fn is_in_crates(&self) -> bool {
        self.folder.parent().is_some_and(|p| p.ends_with("crates"))
    }
}

/// Every package: the crates, and those beside them that are there.
fn packages() -> Vec<Package> {
    let mut crates = entries(&root().join("crates"));
    crates.sort();
    let beside = ["examples", "benches", "fuzz", "xtask"].map(|name| root().join(name));
    let all = crates.into_iter().chain(beside).filter(|folder| folder.join("Cargo.toml").exists());
    all.map(Package::load).collect()
}

fn allowed() -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    ALLOWED.iter().map(|&(name, edges)| (name, edges.iter().copied().collect())).collect()
}

/// Everything that `name` may reach through its allowed edges.
fn below(name: &str) -> BTreeSet<&'static str> {
    let (allowed, mut found) = (allowed(), BTreeSet::new());
    let mut todo: Vec<&str> = allowed[name].iter().copied().collect();
    while let Some(next) = todo.pop() {
        if found.insert(next) {
            todo.extend(&allowed[next]);
        }
    }
    found
}

/// Fails with all findings at once.
fn check(findings: &[String]) {
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

#[test]
fn the_allowed_edges_themselves_keep_the_five_apart() {
    for one in FIVE {
        let reached = below(one);
        assert!(FIVE.iter().all(|other| !reached.contains(other)), "{one} reaches {reached:?}");
    }
    for &(name, _) in ALLOWED {
        assert!(!below(name).contains(name), "{name} reaches itself");
        assert!(!below(name).contains(TESTKIT), "{name} reaches testkit");
        assert!(!below(name).contains(HEAPWATCH), "{name} reaches heapwatch");
    }
}

#[test]
fn crates_import_only_what_is_below_them() {
    let (allowed, mut findings) = (allowed(), Vec::new());
    for package in packages() {
        let Some(edges) = allowed.get(package.name.as_str()) else {
            findings.push(format!("{} is not in the list of the architecture", package.name));
            continue;
        };
        let testkit_too = UNSHIPPED.contains(&package.name.as_str());
        for kind in ["dependencies", "build-dependencies"] {
            for found in package.ours_in(kind) {
                let may = edges.contains(found.as_str()) || (testkit_too && found == TESTKIT);
                if !may {
                    findings.push(format!("{} must not import {found} ({kind})", package.name));
                }
            }
        }
        let below = below(&package.name);
        for found in package.ours_in("dev-dependencies") {
            if !below.contains(found.as_str()) && found != TESTKIT && found != HEAPWATCH {
                findings.push(format!("tests of {} must not import {found}: it is not below", package.name));
            }
        }
    }
    check(&findings);
}

#[test]
fn every_crate_has_the_lints_its_folder_name_and_no_bench_harness() {
    let mut findings = Vec::new();
    for Package { folder, name, manifest } in packages() {
        let folder_name = folder.file_name().unwrap().to_string_lossy();
        let expected = match &*folder_name {
            "vmkeep" | "xtask" => folder_name.to_string(),
            short => format!("vmkeep-{short}"),
        };
        if name != expected {
            findings.push(format!("{} holds {name}, not {expected}", folder.display()));
        }
        let says = |table: &str, key: &str, value: bool| {
            manifest.get(table).and_then(|t| t.get(key)).and_then(Value::as_bool) == Some(value)
        };
        // A workspace of its own cannot inherit.
        if folder_name != "fuzz" && name != HEAPWATCH && !says("lints", "workspace", true) {
            findings.push(format!("{name} lacks `[lints] workspace = true`"));
        }
        let has_lib = folder.join("src/lib.rs").exists() || manifest.contains_key("lib");
        if has_lib && !says("lib", "bench", false) {
            findings.push(format!("{name} lacks `[lib] bench = false`"));
        }
        let bins = manifest.get("bin").and_then(Value::as_array).cloned().unwrap_or_default();
        if folder_name != "fuzz"
            && bins.iter().any(|b| b.get("bench").and_then(Value::as_bool) != Some(false))
        {
            findings.push(format!("a program of {name} lacks `bench = false`"));
        }
        if bins.is_empty() && folder.join("src/main.rs").exists() {
            findings.push(format!("{name} has a program but no `[[bin]]` with `bench = false`"));
        }
    }
    check(&findings);
}

#[test]
fn every_dependency_of_the_workspace_has_its_reason_beside_it() {
    let text = read(&root().join("Cargo.toml"));
    let manifest: Table = text.parse().unwrap();
    let mut findings = Vec::new();
    for (name, value) in manifest["workspace"]["dependencies"].as_table().unwrap() {
        let ours = value.get("path").is_some();
        let line = text.lines().find(|l| l.split_once('=').is_some_and(|(key, _)| key.trim() == name));
        let reason = line.and_then(|l| l.rsplit_once(" # ")).map_or("", |(_, reason)| reason.trim());
        if !ours && reason.is_empty() {
            findings.push(format!("{name} has no reason beside it"));
        }
    }
    check(&findings);
}

#[test]
fn versions_of_dependencies_stand_in_the_workspace_manifest_only() {
    let mut findings = Vec::new();
    for package in packages().iter().filter(|p| p.is_in_crates()) {
        for kind in ["dependencies", "build-dependencies", "dev-dependencies"] {
            let Some(table) = package.manifest.get(kind).and_then(Value::as_table) else { continue };
            for (name, value) in table {
                if value.get("workspace").and_then(Value::as_bool) != Some(true) {
                    findings.push(format!("{} does not take {name} from the workspace", package.name));
                }
            }
        }
    }
    check(&findings);
}

#[test]
fn no_source_file_is_long() {
    let mut findings = Vec::new();
    let mut todo: Vec<PathBuf> =
        packages().iter().filter(|p| p.is_in_crates()).map(|p| p.folder.join("src")).collect();
    while let Some(path) = todo.pop() {
        if path.is_dir() {
            todo.extend(entries(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            let lines = read(&path).lines().count();
            if lines > SOURCE_LINES_MAX {
                findings
                    .push(format!("{} has {lines} lines; {SOURCE_LINES_MAX} is the most", path.display()));
            }
        }
    }
    check(&findings);
}
