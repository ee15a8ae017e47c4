//! Points are written, their packs repacked as a sweep would do it, and read again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use vmkeep_model::op;
use vmkeep_testkit::permit;

use vmkeep_envelope::{Branch, KeyFileVault, PackContent, SecretKey, SeededEntropy};
use vmkeep_model::{
    BlockIndex, BlockSize, ByteLen, ChangeProvenance, ConsistencyLevel, DiskDescription, DiskRole,
    PointNumber, SessionId,
};
use vmkeep_testkit::CountingStore;

use super::super::moved::next_moved;
use super::*;
use crate::format::{MovedBody, Origin};
use crate::frame::{CompressionLevel, FrameEncoder};
use crate::keyring::{self, Domain};
use crate::map::Entry;
use crate::session::{Draft, DraftDisk};
use crate::store::Created;
use crate::vault::{Ports, Vault};
use crate::verify::Found;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};

const SIZE: BlockSize = BlockSize::MIN;
const BLOCKS: u64 = 48;
const VM: &str = "web";

/// Noise, so that packs are long enough to be read in ranges.
fn block(disk: &str, number: u64, version: u64) -> Vec<u8> {
    let seed = blake3::hash(format!("{disk} {number} {version}").as_bytes());
    let mut bytes = vec![0; SIZE.bytes()];
    blake3::Hasher::new_keyed(seed.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// What point `number` holds in block `n`: at point 2 every third block is another.
fn version(n: u64, number: u64) -> u64 {
    if number > 1 && n.is_multiple_of(3) { number } else { 1 }
}

fn vault_key() -> Arc<KeyFileVault> {
    Arc::new(KeyFileVault::from_key(SecretKey::from_bytes(&mut [7; 32])))
}

struct Fixture {
    store: Arc<InMemory>,
    vault: Vault,
    /// Blocks of a frame.
    frame: usize,
    /// Sweeps so far.
    sweeps: u8,
}

impl Fixture {
    /// A vault with two points of two disks.
    fn new() -> Self {
        Self::of_frames(1)
    }

    /// The same in frames of so many blocks.
    fn of_frames(frame: usize) -> Self {
        let store = Arc::new(InMemory::new());
        let ports = Ports { entropy: Arc::new(SeededEntropy::new(3)), ..Ports::default() };
        let vault = Vault::create(Arc::clone(&store) as _, vault_key(), ports).unwrap();
        let fixture = Self { store, vault, frame, sweeps: 0 };
        fixture.back_up(1);
        fixture.back_up(2);
        fixture
    }

    fn back_up(&self, number: u64) {
        let session = self.vault.begin(&permit(), &VM.parse().unwrap()).unwrap();
        let mut encoder = FrameEncoder::new(CompressionLevel::Default).unwrap();
        let mut disks = Vec::new();
        for (name, role) in [("os", DiskRole::Os), ("data", DiskRole::Data)] {
            let mut writer = session.disk_writer(&name.parse().unwrap(), SIZE, 200 << 10).unwrap();
            let changed: Vec<u64> =
                (0..BLOCKS).filter(|&n| number == 1 || version(n, number) == number).collect();
            for frame in changed.chunks(self.frame) {
                let (mut blocks, mut plain) = (Vec::new(), Vec::new());
                for &n in frame {
                    let bytes = block(name, n, version(n, number));
                    blocks.push((BlockIndex(n), session.identity().unwrap().block_hash(&bytes)));
                    plain.extend(bytes);
                }
                writer.frame(&encoder.encode(blocks, plain.into()).unwrap()).unwrap();
            }
            let description = DiskDescription { name: name.parse().unwrap(), role, lun: None };
            let written = writer.finish(ByteLen(BLOCKS * SIZE.bytes_u64())).unwrap();
            disks.push(DraftDisk::Stored { description, written, provenance: ChangeProvenance::Scan });
        }
        let (consistency, evidence) = (ConsistencyLevel::Crash, Vec::new());
        let draft =
            Draft { disks, consistency, evidence, config: None, keys: None, bytes_read: 0, duration_ms: 0 };
        assert_eq!(session.commit(draft).unwrap().point.id.number, PointNumber(number));
    }

    /// The same vault, with nothing read yet.
    fn opened(&self) -> Vault {
        Vault::open(Arc::clone(&self.store) as _, vault_key(), Ports::default()).unwrap()
    }

    fn lineage(&self) -> Lineage {
        self.vault.inner.lineage(&VM.parse().unwrap()).unwrap().unwrap()
    }

    /// Packs by content, with how many slots they have.
    fn packs(&self) -> BTreeMap<PackPlace, (PackContent, u32)> {
        let (inner, lineage) = (&self.vault.inner, self.lineage());
        let mut packs = BTreeMap::new();
        for (path, _) in inner.objects.list("packs").unwrap() {
            let Some(name @ ObjectName::Pack(_, session, pack)) = ObjectName::parse(&path) else { continue };
            let place = PackPlace { lineage: None, session, name: pack };
            let index = inner.read_index(&lineage, &place, &name).unwrap();
            packs.insert(place, (index.content, u32::try_from(index.slots.len()).unwrap()));
        }
        packs
    }

    /// Every slot of every pack of `content`.
    fn sources(&self, content: PackContent) -> Vec<Source> {
        let packs = self.packs().into_iter().filter(|(_, (found, _))| *found == content);
        packs
            .map(|(pack, (_, slots))| Source { pack, keep: (0..slots).map(|at| (at, Keep::Whole)).collect() })
            .collect()
    }

    fn sweep(&mut self) -> SessionId {
        self.sweeps += 1;
        SessionId([0xa0 + self.sweeps; 16])
    }

    /// Takes `sources` apart as a sweep does: new packs, records of where the slots went, the old packs deleted.
    fn repack(&mut self, sources: Vec<Source>, lineage: &Lineage) -> Vec<PackPlace> {
        let (made, skipped) = self.repack_some(sources, lineage);
        assert!(skipped.is_empty(), "{skipped:?}");
        made
    }

    /// As [`repack`](Self::repack); gives what was skipped as well.
    fn repack_some(
        &mut self,
        sources: Vec<Source>,
        lineage: &Lineage,
    ) -> (Vec<PackPlace>, Vec<(PackPlace, VaultError)>) {
        let (sweep, inner) = (self.sweep(), Arc::clone(&self.vault.inner));
        let counter = std::sync::atomic::AtomicU64::new(0);
        let context =
            SealContext { session: sweep, counter: &counter, entropy: &*self.vault.inner.ports.entropy };
        let mut repacking = Repacking::new(&inner, lineage, sweep, context, sources).unwrap();
        (repacking.data_bytes, repacking.metadata_bytes) = (1 << 20, 1 << 20);
        let mut made = Vec::new();
        while let Some(pack) = repacking.next_pack().unwrap() {
            pack.store(&inner, lineage).unwrap();
            let emptied = pack.sources.iter().map(|pack| (pack.session.0, pack.name.0)).collect();
            for (birth, slots) in pack.moved {
                let place = place_of(birth);
                let before = inner.newest_moved(lineage, &place, 0).unwrap();
                let record = next_moved(lineage, birth, before.as_ref(), &emptied, slots);
                assert_eq!(inner.create_moved(&record, &context).unwrap(), Created::Ours);
            }
            for source in &pack.sources {
                self.delete(source);
            }
            made.push(pack.pack);
        }
        (made, repacking.skipped)
    }

    fn repack_all(&mut self) -> Vec<PackPlace> {
        let lineage = self.lineage();
        let mut made = self.repack(self.sources(PackContent::Data), &lineage);
        made.extend(self.repack(self.sources(PackContent::Metadata), &lineage));
        made
    }

    fn delete(&self, pack: &PackPlace) {
        let name = ObjectName::pack(self.lineage().id, pack);
        self.vault.inner.objects.delete(&second_copy(&name)).unwrap();
        self.vault.inner.objects.delete(&name).unwrap();
    }

    /// Flips a bit in the middle of a slot's body.
    fn damage(&self, name: &ObjectName, pack: &PackPlace, slot: usize, at: u64) {
        let index = self.vault.inner.read_index(&self.lineage(), pack, name).unwrap();
        let mut bytes = self.vault.inner.objects.read(name).unwrap().unwrap().to_vec();
        bytes[usize::try_from(index.slots[slot].offset + at).unwrap()] ^= 1;
        block_on(self.store.put(&name.path(), bytes.into())).unwrap();
    }

    /// A lineage whose keys are those of a machine that may read maps and no content.
    fn map_alone(&self) -> Lineage {
        let (inner, whole) = (&self.vault.inner, self.lineage());
        let keys = keyring::unlock(&inner.objects, &*inner.key_vault, whole.domain.id, VM).unwrap();
        let keys = keys.into_values().flatten().next().unwrap();
        let domain = Domain::of_some(keys.without(Branch::Data).without(Branch::Identity));
        assert!(domain.data_key().is_err() && domain.identity().is_err());
        Lineage { domain: Arc::new(domain), ..whole }
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    futures::executor::block_on(future)
}

fn place_of((session, name): PackBody) -> PackPlace {
    PackPlace { lineage: None, session: SessionId(session), name: vmkeep_envelope::PackName(name) }
}

/// Blocks that could not be had, with the reason.
type Failed = Vec<(BlockIndex, Arc<VaultError>)>;

fn entries(vault: &Vault, number: u64, disk: &str) -> Vec<(BlockIndex, Entry)> {
    let point = vault.point(&format!("{VM}@{number}").parse().unwrap()).unwrap();
    let disk = point.disk(&permit::<op::Restore>(), &disk.parse().unwrap()).unwrap();
    disk.entries(BlockIndex(0)).unwrap().collect::<Result<_, _>>().unwrap()
}

/// Reads a disk of a point, calling `between` after the first block, and compares what is read.
fn read(vault: &Vault, number: u64, disk: &str, mut between: impl FnMut()) -> Failed {
    let point = vault.point(&format!("{VM}@{number}").parse().unwrap()).unwrap();
    let reader = point.disk(&permit::<op::Restore>(), &disk.parse().unwrap()).unwrap();
    let entries = entries(vault, number, disk);
    assert_eq!(entries.len() as u64, BLOCKS);
    let (mut seen, mut failed) = (0, Failed::new());
    let fetched = reader.fetch(&entries, &mut |at, bytes| {
        match bytes {
            Ok(bytes) => assert_eq!(bytes, block(disk, at.0, version(at.0, number)), "block {at}"),
            Err(e) => failed.push((at, e)),
        }
        seen += 1;
        if seen == 1 {
            between();
        }
        Ok(())
    });
    fetched.unwrap();
    assert_eq!(seen, BLOCKS);
    failed
}

fn read_all(vault: &Vault) {
    for (number, disk) in [(1, "os"), (1, "data"), (2, "os"), (2, "data")] {
        assert!(read(vault, number, disk, || {}).is_empty(), "{VM}@{number} {disk}");
    }
}

#[test]
fn points_outlive_the_packs_they_were_written_to() {
    let mut fixture = Fixture::new();
    let born: BTreeSet<PackPlace> = fixture.packs().into_keys().collect();
    let mut before = born.clone();
    for moves in 1..=3 {
        let made: BTreeSet<PackPlace> = fixture.repack_all().into_iter().collect();
        assert!(made.is_disjoint(&before));
        assert_eq!(fixture.packs().into_keys().collect::<BTreeSet<_>>(), made, "the old ones are gone");
        let lineage = fixture.lineage();
        for birth in &born {
            // One hop, however often: the newest record names packs that are there.
            let moved = fixture.vault.inner.newest_moved(&lineage, birth, 0).unwrap().unwrap();
            assert_eq!(moved.k, moves);
            assert!(moved.slots.iter().all(|slot| made.contains(&place_of(slot.pack))));
        }
        for pack in &made {
            let name = ObjectName::pack(lineage.id, pack);
            let footer = fixture.vault.inner.read_footer(&lineage, pack, &name).unwrap();
            let copies = [name.clone(), second_copy(&name)]
                .map(|name| fixture.vault.inner.objects.read(&name).unwrap());
            assert_eq!(copies[1].is_some(), footer.head.content == PackContent::Metadata);
            assert!(copies[1].is_none() || copies[0] == copies[1]);
        }
        read_all(&fixture.opened());
        read_all(&fixture.vault);
        before = made;
    }
    // The next point is made against maps that were moved, and refers to moved data.
    fixture.vault = fixture.opened();
    fixture.back_up(3);
    assert!(read(&fixture.opened(), 3, "os", || {}).is_empty());
    read_all(&fixture.opened());
}

#[test]
fn a_reader_goes_on_while_packs_are_moved_under_it() {
    let mut fixture = Fixture::new();
    let reader = fixture.opened();
    read_all(&reader);
    fixture.repack_all();
    fixture.repack_all();
    // Its indexes are those of packs that are gone.
    read_all(&reader);
    fixture.repack_all();
    // Now those of packs that were moved to.
    read_all(&reader);
    for _ in 0..2 {
        let failed = read(&reader, 2, "os", || drop(fixture.repack_all()));
        assert!(failed.is_empty(), "{failed:?}");
    }
    let folder = tempfile::tempdir().unwrap();
    let cached = fixture.opened().with_cache(folder.path(), 1 << 30).unwrap();
    read_all(&cached);
    fixture.repack_all();
    read_all(&cached);
    read_all(&fixture.opened().with_cache(folder.path(), 1 << 30).unwrap());
}

#[test]
fn what_nobody_kept_is_a_typed_error() {
    let mut fixture = Fixture::new();
    let lineage = fixture.lineage();
    // What point 2 refers to is kept.
    let kept: BTreeSet<(PackPlace, u32)> = ["os", "data"]
        .iter()
        .flat_map(|disk| entries(&fixture.vault, 2, disk))
        .map(|(_, entry)| match entry {
            Entry::Full { at, .. } => (at.at.pack, at.at.slot),
            Entry::Patched { .. } => unreachable!(),
        })
        .collect();
    let mut sources = fixture.sources(PackContent::Data);
    for source in &mut sources {
        source.keep.retain(|at, _| kept.contains(&(source.pack, *at)));
    }
    let reader = fixture.opened();
    read_all(&reader);
    let made = fixture.repack(sources, &lineage);
    for vault in [&fixture.opened(), &reader] {
        for disk in ["os", "data"] {
            assert!(read(vault, 2, disk, || {}).is_empty());
            let failed = read(vault, 1, disk, || {});
            let gone: Vec<u64> = failed.iter().map(|(block, _)| block.0).collect();
            assert!(gone.iter().all(|n| n % 3 == 0) && gone.len() as u64 == BLOCKS / 3, "{gone:?}");
            assert!(failed.iter().all(|(_, e)| matches!(**e, VaultError::SlotGone { .. })), "{failed:?}");
        }
    }
    // A pack that is lost after it was repacked: the error names the pack that the map names.
    fixture.delete(&made[0]);
    for vault in [&fixture.opened(), &reader] {
        let failed = [read(vault, 2, "os", || {}), read(vault, 2, "data", || {})].concat();
        assert!(!failed.is_empty());
        for (_, error) in failed {
            let VaultError::Missing { object } = &*error else { panic!("{error:?}") };
            let Some(ObjectName::Pack(_, session, name)) = ObjectName::parse(object) else {
                panic!("{object}")
            };
            assert!(kept.iter().any(|(pack, _)| (pack.session, pack.name) == (session, name)));
        }
    }
}

#[test]
fn entries_are_checked_against_the_footers_of_moved_slots() {
    let mut fixture = Fixture::new();
    fixture.repack_all();
    let vault = fixture.opened();
    let point = vault.point(&"web@2".parse().unwrap()).unwrap();
    let disk = point.disk(&permit::<op::Restore>(), &"os".parse().unwrap()).unwrap();
    let mut blocks = Vec::new();
    disk.walk_since(PointNumber(0), &mut |found| {
        let Found::Block(block, entry) = found else { panic!("{found:?}") };
        blocks.push((block, entry.clone()));
        disk.check_entry(block, entry)
    })
    .unwrap();
    assert_eq!(blocks.len() as u64, BLOCKS);
    let swapped = disk.check_entry(blocks[0].0, &blocks[1].1);
    assert!(matches!(swapped, Err(VaultError::Malformed { .. })), "{swapped:?}");

    // A record that names another slot's place is noticed, by its footer, with and without reading.
    let lineage = fixture.lineage();
    let Entry::Full { at, .. } = &blocks[1].1 else { unreachable!() };
    let mut record = vault.inner.newest_moved(&lineage, &at.at.pack, 0).unwrap().unwrap();
    record.k += 1;
    record.slots.iter_mut().for_each(|slot| slot.at ^= 1);
    let context = vault.inner.sealer.context(&*vault.inner.ports.entropy);
    vault.inner.create_moved(&record, &context).unwrap();
    let fresh = fixture.opened();
    let point = fresh.point(&"web@2".parse().unwrap()).unwrap();
    let disk = point.disk(&permit::<op::Restore>(), &"os".parse().unwrap()).unwrap();
    let wrong = disk.check_entry(blocks[1].0, &blocks[1].1);
    assert!(matches!(wrong, Err(VaultError::Malformed { .. })), "{wrong:?}");
    let failed = read(&fresh, 2, "os", || {});
    assert!(failed.iter().any(|(block, _)| *block == blocks[1].0));
    assert!(failed.iter().all(|(_, e)| matches!(**e, VaultError::Malformed { .. })), "{failed:?}");
}

#[test]
fn neighbours_in_the_new_pack_are_read_together() {
    let mut fixture = Fixture::new();
    let births = fixture.sources(PackContent::Data).len();
    let counting = CountingStore::new(Arc::clone(&fixture.store) as Arc<dyn ObjectStore>);
    fixture.repack_all();
    let new = fixture.sources(PackContent::Data).len();
    assert!(new * 2 <= births, "{births} packs became {new}");
    let vault = Vault::open(Arc::new(counting.clone()), vault_key(), Ports::default()).unwrap();
    // Maps, indexes and records are known after the first read: what is left is the data.
    assert!(read(&vault, 1, "os", || {}).is_empty());
    counting.reset();
    assert!(read(&vault, 1, "os", || {}).is_empty());
    let packs = counting.counts_under("packs");
    assert!(packs.get <= new as u64, "{packs:?} for {new} packs");
    assert_eq!(counting.counts_under("moved").total(), 0);
}

#[test]
fn no_data_key_is_needed_and_disks_do_not_mix() {
    let mut fixture = Fixture::new();
    let restricted = fixture.map_alone();
    fixture.repack(fixture.sources(PackContent::Data), &restricted);
    fixture.repack(fixture.sources(PackContent::Metadata), &restricted);
    let whole = fixture.lineage();
    let mut disks = BTreeSet::new();
    for pack in fixture.packs().into_keys() {
        let footer = fixture.vault.inner.read_footer_of(&whole, &pack).unwrap();
        assert!(footer.body.slots.iter().all(|slot| matches!(slot.origin, Origin::Moved(_))));
        assert_eq!(footer.body.point, PointNumber(2), "the largest birth");
        disks.insert(footer.body.disk.map(|(name, _)| name.to_string()));
    }
    assert_eq!(disks, BTreeSet::from([None, Some("data".to_owned()), Some("os".to_owned())]));
    read_all(&fixture.opened());
}

#[test]
fn a_damaged_source_is_left_alone_and_a_second_copy_is_used() {
    let mut fixture = Fixture::new();
    let lineage = fixture.lineage();
    let metadata = fixture.sources(PackContent::Metadata);
    for source in &metadata {
        let first = ObjectName::pack(lineage.id, &source.pack);
        fixture.damage(&first, &source.pack, 0, 60);
    }
    // Its first copies are bad: what is moved, twice, comes from the second.
    fixture.repack(metadata, &lineage);
    read_all(&fixture.opened());

    let sources = fixture.sources(PackContent::Data);
    let (body, header) = (sources[0].pack, sources[1].pack);
    fixture.damage(&ObjectName::pack(lineage.id, &body), &body, 1, 5000);
    fixture.damage(&ObjectName::pack(lineage.id, &header), &header, 1, 30);
    let mut lost = sources.clone();
    lost.push(Source {
        pack: PackPlace { session: SessionId([1; 16]), ..body },
        keep: BTreeMap::from([(0, Keep::Whole)]),
    });
    let restricted = fixture.map_alone();
    for (lineage, skips) in [(&lineage, 3), (&restricted, 2)] {
        let (sweep, inner) = (fixture.sweep(), &fixture.vault.inner);
        let counter = std::sync::atomic::AtomicU64::new(0);
        let context = SealContext { session: sweep, counter: &counter, entropy: &*inner.ports.entropy };
        let mut repacking = Repacking::new(inner, lineage, sweep, context, lost.clone()).unwrap();
        let mut taken = BTreeSet::new();
        while let Some(pack) = repacking.next_pack().unwrap() {
            for (birth, slots) in &pack.moved {
                let source = sources.iter().find(|source| source.pack == place_of(*birth)).unwrap();
                assert!(slots.iter().map(|slot| slot.slot).eq(source.keep.keys().copied()), "all or nothing");
            }
            taken.extend(pack.sources);
        }
        let skipped: BTreeMap<_, _> = repacking.skipped().iter().map(|(pack, e)| (*pack, e)).collect();
        assert_eq!((skipped.len(), taken.len()), (skips, lost.len() - skips));
        assert!(matches!(skipped[&lost.last().unwrap().pack], VaultError::Missing { .. }));
        assert!(matches!(skipped[&header], VaultError::Damaged { .. }));
        // Without the data key a changed body cannot be told: it is moved, and stays what it is.
        assert_eq!(taken.contains(&body), skips == 2);
    }
}

#[test]
fn a_new_pack_is_no_larger_than_it_may_be() {
    let fixture = Fixture::new();
    let (inner, lineage, sources) =
        (&fixture.vault.inner, fixture.lineage(), fixture.sources(PackContent::Data));
    let count = |most: u64| {
        let counter = std::sync::atomic::AtomicU64::new(0);
        let sweep = SessionId([9; 16]);
        let context = SealContext { session: sweep, counter: &counter, entropy: &*inner.ports.entropy };
        let mut repacking = Repacking::new(inner, &lineage, sweep, context, sources.clone()).unwrap();
        repacking.data_bytes = most;
        let mut packs = Vec::new();
        while let Some(pack) = repacking.next_pack().unwrap() {
            let room = most + (64 << 10);
            assert!(pack.object.len() as u64 <= room || pack.sources.len() == 1);
            packs.push(pack.sources.len());
        }
        assert_eq!(packs.iter().sum::<usize>(), sources.len());
        packs.len()
    };
    assert_eq!(count(1), sources.len());
    assert_eq!(count(DATA_BYTES), 2, "one for each disk");
    assert!((3..sources.len()).contains(&count(700 << 10)));
}

mod records;
mod thinned;
