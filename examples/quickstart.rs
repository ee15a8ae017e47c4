//! A VM with two disks, from its first backup to a proven restore, in one temporary folder.
//!
//! `cargo run --release --example quickstart` makes two raw disk images with data in them, backs them up into a
//! folder vault, writes to the disks as a guest would, backs up again, tells what changed, restores both points,
//! compares them byte for byte with what the disks were, verifies every byte of the vault, and ends with the bill.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt::Write;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use vmkeep::backup::{self, Plan, Report, Source, SourceDisk};
use vmkeep::billing::{BookDocument, DiskRule, Instance, Measure, Redundancy, SizeRule};
use vmkeep::disk::{BlockRead, Format, OpenOptions, Overwrite, RawTarget, open};
use vmkeep::envelope::{KeyFileVault, OsEntropy};
use vmkeep::model::{BlockSize, CancelToken, DiskDescription, DiskName, DiskRole, Owner, Scope, VmName, op};
use vmkeep::protect::{Bills, Ledger};
use vmkeep::restore::{self, Depth, copy_disk, verify_vault};
use vmkeep::vault::{BlockChange, OpenPoint, Ports, Vault};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const DISKS: [(&str, DiskRole); 2] = [("os", DiskRole::Os), ("data", DiskRole::Data)];
const MIB: u64 = 1 << 20;

fn main() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let [disks, kept, restored] = ["disks", "kept", "restored"].map(|name| folder.path().join(name));
    make_disks(&disks)?;

    // The key is 32 random bytes in a file of mode 0600. Whoever has the vault and not the key has nothing.
    let key = KeyFileVault::create(folder.path().join("vault.key"), &OsEntropy)?;
    let vault_folder = folder.path().join("vault");
    let vault = Vault::create_folder(&vault_folder, Arc::new(key), Ports::default())?;
    let vm: VmName = "web-01".parse()?;

    // What the disks were at the first backup is kept aside, to compare a restore with. Then the guest goes on.
    let (first, first_time) = timed(|| back_up(&vault, &vm, &disks))?;
    keep_copy(&disks, &kept)?;
    let written = write_as_a_guest(&disks)?;
    let (second, second_time) = timed(|| back_up(&vault, &vm, &disks))?;

    println!("points");
    for point in vault.points(&vm)? {
        let (number, created, level) = (point.id.number, point.created, point.consistency);
        println!("  {vm}@{number}  {created}  {level}-consistent  {} disks", point.disks.len());
    }
    let (old, new) = (vault.point(&"web-01@1".parse()?)?, vault.point(&"web-01@latest".parse()?)?);
    println!("changed since @1");
    for ((name, _), written) in DISKS.iter().zip(&written) {
        assert_eq!(&changed_blocks(&old, &new, &name.parse()?)?, written, "disk {name}");
    }
    let zeroed: u64 = second.disks.iter().map(|disk| disk.bytes_zeroed).sum();
    let blocks = written.iter().map(|blocks| blocks.len() as u64).sum::<u64>();
    assert_eq!(second.bytes_changed + zeroed, blocks * BlockSize::default().bytes_u64());

    // Each point restores by itself, in any order.
    let (new_bytes, new_time) = timed(|| restore(&new, &restored))?;
    assert_identical(&disks, &restored)?;
    fs::remove_dir_all(&restored)?;
    let (old_bytes, old_time) = timed(|| restore(&old, &restored))?;
    assert_identical(&kept, &restored)?;

    let cancel = CancelToken::new();
    let (report, verify_time) = timed(|| {
        let settings = restore::Settings::default();
        Ok(verify_vault(
            &Owner.permit(Scope::Vault),
            &vault,
            Depth::Data,
            &settings,
            &restore::Silent,
            &cancel,
        )?)
    })?;
    assert!(report.is_clean(), "{report:?}");
    let live = report.accounting.expect("a whole vault was verified").live.bytes;
    assert_eq!(live, bytes_under(&vault_folder)?, "every byte in the folder is there for a reason");

    let backup_row = |report: &Report| {
        let stored = report.stored.data + report.stored.metadata;
        [report.bytes_read, report.bytes_changed, stored].map(Some)
    };
    print_table(&[
        ("first backup", backup_row(&first), first_time),
        ("second backup", backup_row(&second), second_time),
        ("restore of @2", [Some(new_bytes), None, None], new_time),
        ("restore of @1", [Some(old_bytes), None, None], old_time),
        ("verify, every byte", [Some(report.bytes.0), None, None], verify_time),
    ]);
    println!(
        "both points are identical to what the disks were; the vault is clean and has {} MiB",
        mib(live)
    );
    bill(&vault, &vm)
}

/// What the VM costs this month, up to now, by prices that are one's own.
fn bill(vault: &Vault, vm: &VmName) -> Result<()> {
    let book = BookDocument::from_toml(
        r#"
        name = "prices of the house"
        currency = "EUR"
        zone = "UTC"
        gigabyte = "GiB"
        rounding = "half-even"
        instance = { integration = "day", agentless_factor = "0.5", step_gb = 500, step_units = "1", bands = [
            { up_to_gb = 50, units = "0.5" }, { up_to_gb = 500, units = "1" } ] }
        storage = { integration = "exact", archive_days_min = 180 }
        soft_delete = { free_days = 14, free = "last" }
        price = [
            { meter = "instance", from = "2020-01-01", price = "10" },
            { meter = "vault", redundancy = "lrs", from = "2020-01-01", price = "0.0224" } ]
        "#,
    )?
    .check()?;
    // A reading says what is new: points, how large their disks were, what they take. Readings are kept in the vault.
    let mut ledger = Ledger::open(vault)?;
    assert!(ledger.read(&Owner.permit::<op::Backup>(Scope::Vm(vm.clone())), vm, None)?);
    let describe = |id, vm: &VmName| {
        Arc::new(Instance {
            id,
            name: vm.to_string(),
            region: "here".to_owned(),
            redundancy: Redundancy::Lrs,
            size_rule: SizeRule { measure: Measure::NonzeroBlocks, disks: DiskRule::Enhanced },
            cost_center: None,
            tags: BTreeMap::new(),
        })
    };
    let month = book.terms().zone.month_of(vault.clock().now())?;
    let statement = Bills::open(vault)?.statement(&ledger, &book, describe, month)?;
    assert_eq!(statement.lines().iter().map(|line| line.minor).sum::<i128>(), statement.total_minor());
    assert!(statement.total_minor() > 0, "a day of half an instance costs something");
    print!("{}", statement.to_table());
    Ok(())
}

fn back_up(vault: &Vault, vm: &VmName, folder: &Path) -> Result<Report> {
    // These disks are known to be raw, so it is said: a guest can make a raw disk look like another format.
    let options = OpenOptions { format: Some(Format::Raw), ..OpenOptions::default() };
    let opened: Vec<Box<dyn BlockRead>> = DISKS
        .iter()
        .map(|(name, _)| open(image(folder, name), &options))
        .collect::<std::result::Result<_, _>>()?;
    let mut disks = Vec::new();
    for ((name, role), (lun, disk)) in DISKS.iter().zip((0..).zip(&opened)) {
        let description = DiskDescription { name: name.parse()?, role: *role, lun: Some(lun) };
        disks.push(SourceDisk { description, source: Source::Read(&**disk) });
    }
    // Nobody froze this VM: its disks are as after a power cut.
    let plan = Plan::new(vm.clone(), disks);
    Ok(backup::run(
        &Owner.permit(Scope::Vault),
        vault,
        &plan,
        &backup::Settings::default(),
        &backup::Silent,
        &CancelToken::new(),
    )?)
}

/// Restores every disk of `point` into a sparse file of its own; returns the bytes written.
fn restore(point: &OpenPoint, folder: &Path) -> Result<u64> {
    fs::create_dir(folder)?;
    let (settings, cancel) = (restore::Settings::default(), CancelToken::new());
    let mut written = 0;
    for name in point.stored_disks() {
        let disk = point.disk(&Owner.permit::<op::Restore>(Scope::Vault), name)?;
        let target = RawTarget::create(image(folder, name.as_str()), disk.size(), Overwrite::Refuse)?;
        written += copy_disk(&disk, &target, &settings, &restore::Silent, &cancel)?.written.0;
    }
    Ok(written)
}

/// Prints what changed on a disk from one point to another, and returns the blocks. Costs what changed.
fn changed_blocks(old: &OpenPoint, new: &OpenPoint, name: &DiskName) -> Result<BTreeSet<u64>> {
    let (old, new) = (
        old.disk(&Owner.permit::<op::Restore>(Scope::Vault), name)?,
        new.disk(&Owner.permit::<op::Restore>(Scope::Vault), name)?,
    );
    let differences = old.differences(&new, &CancelToken::new())?;
    println!("  {name}: {} MiB, was {} MiB", mib(new.size().0), mib(old.size().0));
    for (kind, word) in [
        (BlockChange::Replaced, "other data"),
        (BlockChange::Appeared, "data in place of zeros"),
        (BlockChange::Vanished, "zeros in place of data"),
    ] {
        let runs: Vec<u64> = differences.iter().filter(|d| d.1 == kind).map(|(run, _)| run.len).collect();
        let bytes = runs.iter().sum::<u64>() * new.block_size().bytes_u64();
        println!("    {word:<24}{:>5} extents{:>8} MiB", runs.len(), mib(bytes));
    }
    Ok(differences.iter().flat_map(|(run, _)| run.iter()).map(|block| block.0).collect())
}

// From here on: the guest, the clock and the comparison.

/// An OS disk of 256 MiB and a data disk of 128 MiB, each with text, data that does not compress, and holes.
fn make_disks(folder: &Path) -> Result<()> {
    fs::create_dir(folder)?;
    let mut random = Random(1);
    for (name, size, text, noise) in [("os", 256, 0..64, 96..120), ("data", 128, 8..40, 64..88)] {
        let file = File::create_new(image(folder, name))?;
        file.set_len(size * MIB)?;
        text.map(|at| (at, random.text())).try_for_each(|(at, text)| file.write_all_at(&text, at * MIB))?;
        noise
            .map(|at| (at, random.noise(MIB)))
            .try_for_each(|(at, data)| file.write_all_at(&data, at * MIB))?;
    }
    Ok(())
}

/// Writes to both disks; returns the blocks it wrote, per disk.
fn write_as_a_guest(folder: &Path) -> Result<[BTreeSet<u64>; 2]> {
    let (mut random, mut written) = (Random(2), [BTreeSet::new(), BTreeSet::new()]);
    let mut write = |disk: usize, at: u64, bytes: &[u8]| -> Result<()> {
        let file = File::options().write(true).open(image(folder, DISKS[disk].0))?;
        let block = BlockSize::default().bytes_u64();
        written[disk].extend(at / block..(at + bytes.len() as u64).div_ceil(block));
        Ok(file.write_all_at(bytes, at)?)
    };
    // Database pages here and there on the OS disk, also where nothing was before.
    for _ in 0..200 {
        write(0, random.below(256 * MIB / 4096) * 4096, &random.noise(4096))?;
    }
    // On the data disk a file is wiped, and then the disk grows and 4 MiB of the new room are used.
    write(1, 10 * MIB, &vec![0; 6 << 20])?;
    File::options().write(true).open(image(folder, "data"))?.set_len(160 * MIB)?;
    write(1, 130 * MIB, &random.noise(4 * MIB))?;
    Ok(written)
}

fn image(folder: &Path, disk: &str) -> PathBuf {
    folder.join(format!("{disk}.raw"))
}

fn keep_copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir(to)?;
    DISKS.iter().try_for_each(|(name, _)| fs::copy(image(from, name), image(to, name)).map(drop))?;
    Ok(())
}

fn assert_identical(one: &Path, other: &Path) -> Result<()> {
    for (name, _) in DISKS {
        let (mut left, mut right) = (File::open(image(one, name))?, File::open(image(other, name))?);
        let len = left.metadata()?.len();
        assert_eq!(len, right.metadata()?.len(), "size of disk {name}");
        let (mut a, mut b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
        for at in 0..len / MIB {
            left.read_exact(&mut a)?;
            right.read_exact(&mut b)?;
            assert!(a == b, "disk {name} differs in MiB {at}");
        }
    }
    Ok(())
}

fn bytes_under(folder: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(folder)? {
        let (path, meta) = entry.and_then(|entry| Ok((entry.path(), entry.metadata()?)))?;
        sum += if meta.is_dir() { bytes_under(&path)? } else { meta.len() };
    }
    Ok(sum)
}

fn timed<T>(run: impl FnOnce() -> Result<T>) -> Result<(T, Duration)> {
    let start = Instant::now();
    Ok((run()?, start.elapsed()))
}

fn print_table(rows: &[(&str, [Option<u64>; 3], Duration)]) {
    println!("{:<20}{:>9}{:>13}{:>12}{:>9}", "", "data MiB", "changed MiB", "stored MiB", "seconds");
    for (title, bytes, time) in rows {
        let [data, changed, stored] = bytes.map(|bytes| bytes.map(mib).unwrap_or_default());
        println!("{title:<20}{data:>9}{changed:>13}{stored:>12}{:>9.2}", time.as_secs_f64());
    }
}

/// MiB with one decimal.
fn mib(bytes: u64) -> String {
    let tenths = (bytes * 10 + MIB / 2) / MIB;
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// Numbers that are the same in every run (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Bytes that do not compress.
    fn noise(&mut self, len: u64) -> Vec<u8> {
        (0..len / 8).flat_map(|_| self.next().to_le_bytes()).collect()
    }

    /// A MiB that compresses about as a log does.
    fn text(&mut self) -> Vec<u8> {
        let mut text = String::new();
        while text.len() < 1 << 20 {
            let random = self.next();
            let word = ["GET /index.html", "POST /login", "200", "404", "closed\n"][(random % 5) as usize];
            write!(text, "{word} {:x} ", random >> 48).expect("a string takes any text");
        }
        text.truncate(1 << 20);
        text.into_bytes()
    }
}
