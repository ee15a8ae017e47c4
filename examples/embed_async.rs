//! vmkeep inside a tokio program: its calls block, so they run on blocking threads, and the program goes on.
//!
//! The runtime has a single thread here. If any call of vmkeep blocked it, the ticker below would stand still.
//! `cargo run --example embed_async`

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::spawn_blocking;

use vmkeep::backup::{self, BackupError, Event, Observer, Plan, Report, Source, SourceDisk};
use vmkeep::disk::{BlockRead, DiskError, Memory};
use vmkeep::envelope::{KeyFileVault, OsEntropy};
use vmkeep::model::{
    ByteLen, ByteOffset, CancelToken, ConsistencyLevel, DiskDescription, DiskRole, Extent, Owner, Scope,
    VmName, op,
};
use vmkeep::restore::{self, copy_disk};
use vmkeep::vault::{Ports, Vault};

type BoxError = Box<dyn Error + Send + Sync>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    // Whatever else the program does.
    let ticks = Arc::new(AtomicU64::new(0));
    let ticker = tokio::spawn({
        let ticks = Arc::clone(&ticks);
        async move {
            let mut interval = tokio::time::interval(Duration::from_millis(1));
            loop {
                interval.tick().await;
                ticks.fetch_add(1, Ordering::Relaxed);
            }
        }
    });

    let folder = tempfile::tempdir()?;
    let path = folder.path().to_owned();
    let vault = spawn_blocking(move || -> Result<_, BoxError> {
        let key = KeyFileVault::create(path.join("vault.key"), &OsEntropy)?;
        Ok(Vault::create_folder(path.join("vault"), Arc::new(key), Ports::default())?)
    })
    .await??;
    let vm: VmName = "web-01".parse()?;

    // A backup of a disk so large that it would take hours. Another task watches it begin, and cancels it.
    let (cancel, begun) = (CancelToken::new(), Arc::new(Notify::new()));
    let watcher = tokio::spawn({
        let (cancel, begun) = (cancel.clone(), Arc::clone(&begun));
        async move {
            begun.notified().await;
            cancel.cancel();
        }
    });
    let huge = Pattern { len: ByteLen(8 << 40) };
    let tell = move |event: Event<'_>| {
        if let Event::Progress { .. } = event {
            begun.notify_one();
        }
    };
    let cancelled = spawn_blocking({
        let (vault, vm) = (vault.clone(), vm.clone());
        move || back_up(&vault, &vm, &huge, &tell, &cancel)
    })
    .await?;
    watcher.await?;
    assert!(matches!(cancelled, Err(BackupError::Cancelled(_))), "{cancelled:?}");

    // Nothing of it is visible: packs without a point are garbage, and the next backup is the first.
    let nothing = spawn_blocking({
        let (vault, vm) = (vault.clone(), vm.clone());
        move || vault.points(&vm)
    })
    .await??;
    assert_eq!(nothing, []);

    // A whole backup and restore, with the ticker beside them.
    let before = ticks.load(Ordering::Relaxed);
    let disk = Arc::new(Pattern { len: ByteLen(64 << 20) });
    let report = spawn_blocking({
        let (vault, vm, disk) = (vault.clone(), vm.clone(), Arc::clone(&disk));
        move || back_up(&vault, &vm, &disk, &backup::Silent, &CancelToken::new())
    })
    .await??;
    assert_eq!(report.bytes_changed, disk.len().0);

    let restored = spawn_blocking(move || -> Result<_, BoxError> {
        let point = vault.point(&"web-01@latest".parse()?)?;
        let (source, target) =
            (point.disk(&Owner.permit::<op::Restore>(Scope::Vault), &"os".parse()?)?, Memory::new(64 << 20));
        let (settings, cancel) = (restore::Settings::default(), CancelToken::new());
        let copied = copy_disk(&source, &target, &settings, &restore::Silent, &cancel)?;
        assert_eq!(copied.written, source.size());
        Ok(target.to_vec())
    })
    .await??;
    let mut original = vec![0; restored.len()];
    disk.read_at(ByteOffset(0), &mut original)?;
    assert!(restored == original);

    let heard = ticks.load(Ordering::Relaxed) - before;
    assert!(heard > 0, "the program stood still");
    ticker.abort();
    println!(
        "cancelled one backup without a trace; {} committed and restored, {heard} ticks meanwhile",
        report.point.id.number
    );
    // The vault was dropped on a blocking thread; in an async task that is allowed as well.
    Ok(())
}

/// What runs on a blocking thread: plain synchronous code.
fn back_up(
    vault: &Vault,
    vm: &VmName,
    disk: &Pattern,
    observer: &dyn Observer,
    cancel: &CancelToken,
) -> Result<Report, BackupError> {
    let name = "os".parse().expect("a disk name");
    let description = DiskDescription { name, role: DiskRole::Os, lun: None };
    let plan = Plan {
        vm: vm.clone(),
        disks: vec![SourceDisk { description, source: Source::Read(disk) }],
        consistency: ConsistencyLevel::Crash,
        keys: Vec::new(),
        evidence: Vec::new(),
        labels: vmkeep::model::Labels::default(),
        config: None,
        snapshot: None,
        guard: None,
    };
    backup::run(&Owner.permit(Scope::Vault), vault, &plan, &backup::Settings::default(), observer, cancel)
}

/// A disk that holds at every eighth byte what its position is.
#[derive(Debug)]
struct Pattern {
    len: ByteLen,
}

impl BlockRead for Pattern {
    fn len(&self) -> ByteLen {
        self.len
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), DiskError> {
        let range = Extent::new(offset, ByteLen(buf.len() as u64));
        if range.end().0 > self.len.0 {
            return Err(DiskError::OutOfRange { range, len: self.len });
        }
        for (at, byte) in (offset.0..).zip(buf) {
            *byte = (at / 8).to_le_bytes()[(at % 8) as usize] ^ 0x55;
        }
        Ok(())
    }
}
