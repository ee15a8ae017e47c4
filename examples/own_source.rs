//! A disk of your own: what a hypervisor's snapshot looks like to vmkeep.
//!
//! An embedder implements `BlockRead`, checks it with the conformance suite, backs it up, and reads a recovery point
//! back as a disk. `cargo run --example own_source`

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vmkeep::backup::{self, Event, Observer, Plan, Source, SourceDisk};
use vmkeep::disk::{BlockRead, BlockWrite, DiskError, SparseMemory, conformance};
use vmkeep::envelope::{KeyFileVault, OsEntropy};
use vmkeep::model::{
    ByteLen, ByteOffset, CancelToken, ConsistencyLevel, DiskDescription, DiskRole, Extent, Owner, Scope, op,
};
use vmkeep::restore::RecoveredDisk;
use vmkeep::vault::{Ports, Vault};

/// The unit in which this hypervisor notes what was written since the snapshot's base.
const CLUSTER: u64 = 64 << 10;

/// A snapshot as many hypervisors keep it: an image that is no longer written, and the clusters written since.
#[derive(Debug)]
struct Snapshot {
    base: Arc<dyn BlockRead>,
    /// By cluster number; the last cluster may be cut short by the end of the disk.
    dirty: BTreeMap<u64, Vec<u8>>,
}

impl Snapshot {
    fn dirty_extent(cluster: u64, bytes: &[u8]) -> Extent {
        Extent::new(ByteOffset(cluster * CLUSTER), ByteLen(bytes.len() as u64))
    }
}

impl BlockRead for Snapshot {
    fn len(&self) -> ByteLen {
        self.base.len()
    }

    /// Fills all of `buf` or fails. A failure of the hypervisor would become a `DiskError::io`.
    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), DiskError> {
        // The base has the snapshot's size, so it is the base that refuses what lies out of range.
        self.base.read_at(offset, buf)?;
        let asked = Extent::new(offset, ByteLen(buf.len() as u64));
        for (&cluster, bytes) in self.dirty.range(asked.start().0 / CLUSTER..=asked.end().0 / CLUSTER) {
            let whole = Self::dirty_extent(cluster, bytes);
            let part = whole.intersection(asked);
            let usize_of = |len: u64| usize::try_from(len).expect("no longer than the buffer or a cluster");
            let (to, from) = (part.start().0 - asked.start().0, part.start().0 - whole.start().0);
            let (to, from, len) = (usize_of(to), usize_of(from), usize_of(part.len().0));
            buf[to..to + len].copy_from_slice(&bytes[from..from + len]);
        }
        Ok(())
    }

    /// Optional, and what makes a mostly empty disk cheap. Calling a hole data is allowed, data a hole never.
    fn next_data(&self, from: ByteOffset) -> Result<Option<Extent>, DiskError> {
        let of_base = self.base.next_data(from)?;
        let rest = Extent::between(from, ByteOffset(self.len().0));
        let of_dirty = self
            .dirty
            .range(from.0 / CLUSTER..)
            .map(|(&cluster, bytes)| Self::dirty_extent(cluster, bytes).intersection(rest))
            .find(|extent| !extent.is_empty());
        Ok(of_base.into_iter().chain(of_dirty).min_by_key(|extent| extent.start()))
    }
}

/// Prints what a backup tells. It is called from the backup's threads, cannot change it, and should be quick.
#[derive(Debug, Default)]
struct Printing {
    position: AtomicU64,
}

impl Observer for Printing {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Began { vm, target, base } => match base {
                Some(base) => println!("{vm}@{target}, against @{base}"),
                None => println!("{vm}@{target}, the first"),
            },
            Event::DiskBegan { disk, size, change } => println!("  {disk}: {size} bytes, {change:?}"),
            Event::Progress { disk, position, bytes_read, .. } => {
                println!("  {disk}: at {position}, {bytes_read} bytes read");
                self.position.store(position.0, Ordering::Relaxed);
            }
            // Events may be added; an observer leaves out what it does not know.
            _ => {}
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    // A base of 16 MiB and a bit, with data at its start, in its middle and at its very end.
    let len = (16 << 20) + 1000;
    let base = SparseMemory::new(ByteLen(len));
    let mut model = vec![0; usize::try_from(len)?];
    for (at, byte) in [(0, 1), (8 << 20, 2), (len - 50_000, 3)] {
        let data = vec![byte; 50_000];
        base.write_at(ByteOffset(at), &data)?;
        model[usize::try_from(at)?..][..data.len()].copy_from_slice(&data);
    }
    let base: Arc<dyn BlockRead> = Arc::new(base);
    let first = Snapshot { base: Arc::clone(&base), dirty: BTreeMap::new() };
    conformance::reads(&first, &model);

    // Later: a cluster in a hole, one over data, and the last one were written.
    let clusters = [(17, vec![4; 65_536]), (128, vec![5; 65_536]), (256, vec![6; 1000])];
    let second = Snapshot { base, dirty: BTreeMap::from(clusters.clone()) };
    let mut later = model.clone();
    for (cluster, bytes) in &clusters {
        later[usize::try_from(cluster * CLUSTER)?..][..bytes.len()].copy_from_slice(bytes);
    }
    conformance::reads(&second, &later);

    let folder = tempfile::tempdir()?;
    let key = KeyFileVault::create(folder.path().join("vault.key"), &OsEntropy)?;
    let vault = Vault::create_folder(folder.path().join("vault"), Arc::new(key), Ports::default())?;
    for (snapshot, changed) in [(&first, 4), (&second, 3)] {
        let description = DiskDescription { name: "root".parse()?, role: DiskRole::Os, lun: Some(0) };
        let plan = Plan {
            vm: "guest-7".parse()?,
            disks: vec![SourceDisk { description, source: Source::Read(snapshot) }],
            // Say what the hypervisor did to make the snapshot worth something, and how you know.
            consistency: ConsistencyLevel::FileSystem,
            keys: Vec::new(),
            evidence: vec!["guest agent froze 1 file system".to_owned()],
            // Opaque to vmkeep, sealed, and given back with the point.
            labels: vmkeep::model::Labels::default(),
            config: Some(b"<domain>guest-7</domain>".to_vec()),
            snapshot: None,
            guard: None,
        };
        let observer = Printing::default();
        let report = backup::run(
            &Owner.permit(Scope::Vault),
            &vault,
            &plan,
            &backup::Settings::default(),
            &observer,
            &CancelToken::new(),
        )?;
        assert_eq!(report.bytes_changed, changed * CLUSTER);
        assert_eq!(observer.position.into_inner(), len, "the observer heard of the end of the disk");
    }

    // A point is a disk again, any range of it, without being restored first; so the same suite holds it to account.
    for (reference, expected) in [("guest-7@1", &model), ("guest-7@2", &later)] {
        let point = vault.point(&reference.parse()?)?;
        assert_eq!(point.config(&Owner.permit(Scope::Vault))?, Some(&b"<domain>guest-7</domain>"[..]));
        let recovered =
            RecoveredDisk::new(point.disk(&Owner.permit::<op::Restore>(Scope::Vault), &"root".parse()?)?);
        let mut word = [0; 4];
        recovered.read_at(ByteOffset(128 * CLUSTER), &mut word)?;
        println!("{reference} has {word:?} at cluster 128");
        conformance::reads(&recovered, expected);
    }
    Ok(())
}
