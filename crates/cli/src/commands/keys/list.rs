//! `vmkeep keys list`.

use std::collections::BTreeMap;

use serde::Serialize;
use vmkeep::model::{DomainId, VmName};
use vmkeep::vault::{DestroyedInfo, DomainKeysInfo, EpochBytes, EpochInfo, Vault, WrapInfo};

use crate::args::ListKeysArgs;
use crate::bytes;
use crate::context::Context;
use crate::error::{Error, Outcome, chain};
use crate::output;
use crate::table::{Column, Table};

/// Of an id, so many characters are shown to a person.
const SHORT: usize = 8;

#[derive(Serialize)]
#[serde(tag = "type", rename = "epoch")]
struct EpochLine<'a> {
    domain: String,
    vms: Vec<Vm<'a>>,
    epoch: u32,
    wraps: Vec<Wrap<'a>>,
    destroyed: Option<Destroyed<'a>>,
    /// What rests on it; `null` when it was not asked, and for the vault's own key and for VMs that are not protected any more.
    bytes: Option<u64>,
    packs: Option<u64>,
}

#[derive(Serialize)]
struct Vm<'a> {
    vm: &'a str,
    /// 0 for its first line of points, more after it was closed and protected again.
    generation: u32,
}

#[derive(Serialize)]
struct Wrap<'a> {
    object: &'a str,
    kek: &'a str,
    algorithm: &'a str,
    key_version: Option<&'a str>,
    opens: bool,
    /// `null` when the vault's key does not open it.
    branches: Option<Vec<String>>,
    /// Why it cannot be read although it is for the vault's key.
    damaged: Option<Vec<String>>,
}

#[derive(Serialize)]
struct Destroyed<'a> {
    at: String,
    at_ms: i64,
    by: &'a str,
    points: u64,
}

#[derive(Default, Serialize)]
#[serde(tag = "type", rename = "summary")]
struct Summary {
    domains: usize,
    epochs: usize,
    wraps: usize,
    /// Wraps by other keys than the vault's own.
    other_keys: usize,
    destroyed: usize,
    damaged: usize,
}

/// What rests on which epoch of which domain.
type Rests = BTreeMap<(DomainId, u32), EpochBytes>;

pub(super) fn run(context: &Context<'_>, args: &ListKeysArgs) -> Result<Outcome, Error> {
    let vault = context.open_vault(&args.vault.vault)?;
    context.may_view(&vault, args.vm.as_ref())?;
    let mut domains = vault.keys()?;
    if let Some(vm) = &args.vm {
        domains.retain(|domain| domain.vms.iter().any(|(name, _)| name == vm));
        if domains.is_empty() {
            // It says that there is no such VM.
            vault.history(vm)?;
        }
    }
    let rests = if args.bytes { Some(resting(context, &vault, &domains)?) } else { None };
    let mut table = Table::new(header(args.bytes));
    let mut summary = Summary { domains: domains.len(), ..Summary::default() };
    for domain in &domains {
        for epoch in &domain.epochs {
            let resting = rests.as_ref().and_then(|rests| rests.get(&(domain.domain, epoch.epoch)).copied());
            let shown = resting.map_or("-".to_owned(), |resting| bytes::show(resting.bytes));
            summary.add(epoch);
            rows(&mut table, domain, epoch, args.bytes.then_some(&shown));
            context.output.json(&EpochLine::new(domain, epoch, resting));
        }
    }
    table.lines().for_each(|line| context.output.text(line));
    context.output.json(&summary);
    Ok(if summary.damaged > 0 { Outcome::Damage } else { Outcome::Good })
}

/// What rests on the epochs of VMs that are protected, or were last: of a VM's earlier lines of points nothing is told.
fn resting(context: &Context<'_>, vault: &Vault, domains: &[DomainKeysInfo]) -> Result<Rests, Error> {
    let mut newest: BTreeMap<&VmName, (u32, &DomainKeysInfo)> = BTreeMap::new();
    for domain in domains {
        for (vm, generation) in &domain.vms {
            if newest.get(vm).is_none_or(|(known, _)| known < generation) {
                newest.insert(vm, (*generation, domain));
            }
        }
    }
    let mut rests = Rests::new();
    for (vm, (_, domain)) in newest {
        let none = |epoch: &EpochInfo| {
            let epoch = epoch.epoch;
            ((domain.domain, epoch), EpochBytes { epoch, bytes: 0, packs: 0 })
        };
        rests.extend(domain.epochs.iter().map(none));
        let found = vault.epoch_bytes(vm, context.cancel)?;
        rests.extend(found.into_iter().map(|epoch| ((domain.domain, epoch.epoch), epoch)));
    }
    Ok(rests)
}

fn header(with_bytes: bool) -> Vec<Column> {
    let mut header = vec![Column::Left("VM"), Column::Left("DOMAIN"), Column::Right("EPOCH")];
    header.extend(["WRAPPED BY", "ALGORITHM", "VERSION", "HOLDS", "OPENS"].map(Column::Left));
    header.extend(with_bytes.then_some(Column::Right("BYTES")));
    header.push(Column::Left(""));
    header
}

/// A row for each wrap, with a column for what rests when `rests` is given; what belongs to the epoch stands on the first of them.
fn rows(table: &mut Table, domain: &DomainKeysInfo, epoch: &EpochInfo, rests: Option<&String>) {
    let mut first = true;
    let mut row = |wrap: [String; 5]| {
        let of_epoch = |text: String| if first { text } else { String::new() };
        let id = domain.domain.to_string();
        let mut cells =
            vec![of_epoch(whose(domain)), of_epoch(short(&id)), of_epoch(epoch.epoch.to_string())];
        cells.extend(wrap);
        cells.extend(rests.map(|rests| of_epoch(rests.clone())));
        cells.push(of_epoch(epoch.destroyed.as_ref().map(told).unwrap_or_default()));
        table.row(cells);
        first = false;
    };
    for wrap in &epoch.wraps {
        if let Some(error) = &wrap.damaged {
            output::warn(&format!("{} cannot be opened", wrap.object), &chain(error));
        }
        row([
            or_dash(short(&wrap.kek)),
            or_dash(wrap.algorithm.clone()),
            or_dash(wrap.key_version.clone()),
            branches(wrap).map_or("?".to_owned(), |branches| branches.join(" ")),
            opens(wrap).to_owned(),
        ]);
    }
    if epoch.wraps.is_empty() {
        row(["-"; 5].map(str::to_owned));
    }
}

fn whose(domain: &DomainKeysInfo) -> String {
    if domain.domain == DomainId::VAULT {
        return "(the vault)".to_owned();
    }
    let name = |(vm, generation): &(VmName, u32)| match generation {
        0 => vm.to_string(),
        n => format!("{vm} (protected again, {n})"),
    };
    or_dash(domain.vms.iter().map(name).collect::<Vec<_>>().join(", "))
}

fn told(destroyed: &DestroyedInfo) -> String {
    format!("data key destroyed at {} by {}", destroyed.at, destroyed.by)
}

fn opens(wrap: &WrapInfo) -> &'static str {
    match (wrap.opens(), &wrap.damaged) {
        (true, _) => "yes",
        (false, None) => "no",
        (false, Some(_)) => "damaged",
    }
}

fn branches(wrap: &WrapInfo) -> Option<Vec<String>> {
    Some(wrap.branches.as_ref()?.iter().map(ToString::to_string).collect())
}

fn short(id: &str) -> String {
    id.chars().take(SHORT).collect()
}

fn or_dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}

impl Summary {
    fn add(&mut self, epoch: &EpochInfo) {
        self.epochs += 1;
        self.wraps += epoch.wraps.len();
        self.destroyed += usize::from(epoch.destroyed.is_some());
        self.damaged += epoch.wraps.iter().filter(|wrap| wrap.damaged.is_some()).count();
        self.other_keys += epoch.wraps.iter().filter(|wrap| wrap.damaged.is_none() && !wrap.opens()).count();
    }
}

impl<'a> EpochLine<'a> {
    fn new(domain: &'a DomainKeysInfo, epoch: &'a EpochInfo, rests: Option<EpochBytes>) -> Self {
        let vm = |(vm, generation): &'a (VmName, u32)| Vm { vm: vm.as_str(), generation: *generation };
        let wrap = |wrap: &'a WrapInfo| Wrap {
            object: &wrap.object,
            kek: &wrap.kek,
            algorithm: &wrap.algorithm,
            key_version: Some(wrap.key_version.as_str()).filter(|version| !version.is_empty()),
            opens: wrap.opens(),
            branches: branches(wrap),
            damaged: wrap.damaged.as_ref().map(|error| chain(error)),
        };
        Self {
            domain: domain.domain.to_string(),
            vms: domain.vms.iter().map(vm).collect(),
            epoch: epoch.epoch,
            wraps: epoch.wraps.iter().map(wrap).collect(),
            destroyed: epoch.destroyed.as_ref().map(|destroyed| Destroyed {
                at: destroyed.at.to_string(),
                at_ms: destroyed.at.0,
                by: &destroyed.by,
                points: destroyed.points,
            }),
            bytes: rests.map(|rests| rests.bytes),
            packs: rests.map(|rests| rests.packs),
        }
    }
}
