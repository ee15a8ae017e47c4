//! What a session takes over from one that was interrupted, and what it has to clear away once it has committed.

use vmkeep_model::SessionId;

use crate::error::VaultError;
use crate::layout::ObjectName;
use crate::pack::Adopted;
use crate::session::Session;

impl Session {
    /// The packs of interrupted sessions that this one may use; `None` when it inherited none.
    pub fn adopted(&self) -> Option<&Adopted> {
        self.writing.adopted.as_ref()
    }

    /// Takes over the packs of `sessions`, oldest first: all of them are its own from then on.
    ///
    /// The caller has made sure that these sessions have ended, that this one is their only heir, and that no point
    /// was committed since: a sweep takes the first point at or after the target of the session that wrote a slot for
    /// the one the slot was born in.
    #[doc(hidden)]
    pub fn inherit(&mut self, sessions: &[SessionId]) -> Result<(), VaultError> {
        let writing = &mut self.writing;
        writing.adopted = Some(Adopted::list(&writing.vault, &writing.lineage, sessions)?);
        Ok(())
    }

    /// Pack objects of its own that no disk refers to, because their writer was dropped; each is given once.
    pub(crate) fn orphans(&self) -> Vec<ObjectName> {
        self.writing.orphans.take()
    }

    /// Pack objects of the sessions it inherited that no disk refers to.
    pub(crate) fn unused(&self) -> Result<Vec<ObjectName>, VaultError> {
        self.adopted().map_or_else(|| Ok(Vec::new()), Adopted::unused)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;
    use vmkeep_testkit::permit;

    use futures::executor::block_on;
    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;
    use proptest::prelude::*;
    use vmkeep_envelope::{KeyFileVault, SecretKey};
    use vmkeep_model::{BlockIndex, BlockRun, BlockSize, ByteLen, ContentHash, DiskName};
    use vmkeep_testkit::snapshot;

    use super::*;
    use crate::frame::{CompressionLevel, FrameEncoder};
    use crate::map::Entry;
    use crate::pack::{DiskWriter, WrittenDisk};
    use crate::read::DiskReader;
    use crate::vault::{Ports, Vault};

    const SIZE: BlockSize = BlockSize::MIN;
    /// Two or three blocks of noise.
    const PACK_BYTES: usize = 40 << 10;

    fn vault() -> (InMemory, Vault) {
        let store = InMemory::new();
        let kek = Arc::new(KeyFileVault::from_key(SecretKey::from_bytes(&mut [7; 32])));
        let vault = Vault::create(Arc::new(store.clone()), kek, Ports::default()).unwrap();
        (store, vault)
    }

    fn begin(vault: &Vault) -> Session {
        vault.begin(&permit(), &"vm".parse().unwrap()).unwrap()
    }

    fn disk() -> DiskName {
        "os".parse().unwrap()
    }

    /// A block that does not compress.
    fn noise(seed: u64) -> Vec<u8> {
        let mut bytes = vec![0; SIZE.bytes()];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    fn hash(session: &Session, seed: u64) -> ContentHash {
        session.identity().unwrap().block_hash(&noise(seed))
    }

    fn put(session: &Session, writer: &mut DiskWriter<'_>, block: u64, seed: u64) {
        let mut encoder = FrameEncoder::new(CompressionLevel::Fast).unwrap();
        let frame = encoder.encode(vec![(BlockIndex(block), hash(session, seed))], noise(seed).into());
        writer.frame(&frame.unwrap()).unwrap();
    }

    fn len(blocks: u64) -> ByteLen {
        ByteLen(blocks * SIZE.bytes_u64())
    }

    /// A session that stores block n with the content of seed n, for all n in `blocks`, and is dropped.
    fn abandoned(vault: &Vault, blocks: impl IntoIterator<Item = u64>) -> SessionId {
        let session = begin(vault);
        let mut writer = session.disk_writer(&disk(), SIZE, PACK_BYTES).unwrap();
        blocks.into_iter().for_each(|block| put(&session, &mut writer, block, block));
        writer.finish(len(1000)).unwrap();
        session.id()
    }

    fn lookup(session: &Session, block: u64, seed: u64) -> Option<crate::place::StorageId> {
        let hash = hash(session, seed);
        session.adopted().unwrap().lookup(&disk(), SIZE, BlockIndex(block), hash).unwrap()
    }

    fn pack_names(store: &InMemory) -> BTreeSet<ObjectName> {
        let named = |path: &object_store::path::Path| ObjectName::parse(path.as_ref());
        snapshot(store)
            .keys()
            .filter_map(named)
            .filter(|name| matches!(name, ObjectName::Pack(..) | ObjectName::PackCopy(..)))
            .collect()
    }

    /// The blocks of what was written that hold data.
    fn entries(session: &Session, written: &WrittenDisk) -> Vec<(BlockIndex, Entry)> {
        let nodes = &session.writing.nodes;
        let (vault, lineage) = (Arc::clone(&nodes.vault), nodes.lineage.clone());
        let reader = DiskReader::new(
            vault,
            lineage,
            (vmkeep_model::PointNumber(1), disk()),
            SIZE,
            written.size.0,
            written.root,
        );
        let entries = reader.entries(BlockIndex(0)).unwrap().map(Result::unwrap).collect::<Vec<_>>();
        let mut seen = 0;
        reader
            .fetch(&entries, &mut |_, bytes| {
                seen += usize::from(bytes.is_ok());
                Ok(())
            })
            .unwrap();
        assert_eq!(seen, entries.len());
        entries
    }

    #[test]
    fn a_block_is_found_with_its_content_on_its_disk_and_in_the_later_session() {
        let (_, vault) = vault();
        let first = abandoned(&vault, 0..20);
        let second = abandoned(&vault, [3, 4, 30]);
        let mut session = begin(&vault);
        session.inherit(&[first, second]).unwrap();
        let place = |block, seed| lookup(&session, block, seed).map(|at| at.pack.session);
        assert_eq!(place(2, 2), Some(first));
        assert_eq!(place(3, 3), Some(second));
        assert_eq!(place(5, 4), None);
        assert_eq!(place(10, 10), Some(first));
        assert_eq!(place(25, 25), None);
        assert_eq!(place(30, 30), Some(second));
        // Back to the start, as when a disk is started over.
        assert_eq!(place(0, 0), Some(first));
        let adopted = session.adopted().unwrap();
        let of = |disk: &str, size| {
            adopted.lookup(&disk.parse().unwrap(), size, BlockIndex(2), hash(&session, 2)).unwrap()
        };
        assert!(of("os", SIZE).is_some() && of("data", SIZE).is_none());
        assert!(of("os", BlockSize::default()).is_none());
        assert_eq!(adopted.skipped(), 0);
    }

    #[test]
    fn blocks_of_one_frame_have_one_slot() {
        let (_, vault) = vault();
        let first = {
            let session = begin(&vault);
            let mut writer = session.disk_writer(&disk(), SIZE, PACK_BYTES).unwrap();
            let blocks = [7, 9].map(|block| (BlockIndex(block), hash(&session, block)));
            let plain = [noise(7), noise(9)].concat();
            let mut encoder = FrameEncoder::new(CompressionLevel::Fast).unwrap();
            writer.frame(&encoder.encode(blocks.to_vec(), plain.into()).unwrap()).unwrap();
            writer.finish(len(10)).unwrap();
            session.id()
        };
        let mut session = begin(&vault);
        session.inherit(&[first]).unwrap();
        let (seven, nine) = (lookup(&session, 7, 7).unwrap(), lookup(&session, 9, 9).unwrap());
        assert_eq!((seven.pack, seven.slot, seven.index, nine.index), (nine.pack, nine.slot, 0, 1));
    }

    #[test]
    fn a_pack_that_goes_while_it_is_used_is_skipped() {
        let (store, vault) = vault();
        let first = abandoned(&vault, 0..4);
        let mut session = begin(&vault);
        session.inherit(&[first]).unwrap();
        let adopted = session.adopted().unwrap();
        while adopted.read_footer().unwrap() {}
        assert_eq!((adopted.packs(), adopted.skipped()), (2, 0));
        for name in pack_names(&store) {
            block_on(store.delete(&name.path())).unwrap();
        }
        assert_eq!((lookup(&session, 0, 0), lookup(&session, 1, 1)), (None, None));
        assert_eq!(adopted.skipped(), 1);
    }

    #[test]
    fn only_what_was_inherited_can_be_adopted_and_only_in_order() {
        let (_, vault) = vault();
        let (first, other) = (abandoned(&vault, 0..4), abandoned(&vault, 0..4));
        let mut session = begin(&vault);
        session.inherit(&[first]).unwrap();
        let at = lookup(&session, 1, 1).unwrap();
        let mut foreign = at;
        foreign.pack.session = other;
        let hash = hash(&session, 1);
        let mut writer = session.disk_writer(&disk(), SIZE, PACK_BYTES).unwrap();
        assert!(matches!(writer.adopt(BlockIndex(1), foreign, hash), Err(VaultError::Misuse { .. })));
        writer.adopt(BlockIndex(1), at, hash).unwrap();
        writer.settled(BlockIndex(2)).unwrap();
        assert!(matches!(writer.adopt(BlockIndex(1), at, hash), Err(VaultError::Misuse { .. })));
        let session = begin(&vault);
        let mut writer = session.disk_writer(&disk(), SIZE, PACK_BYTES).unwrap();
        assert!(matches!(writer.adopt(BlockIndex(1), at, hash), Err(VaultError::Misuse { .. })));
    }

    #[test]
    fn what_nothing_refers_to_is_unused_and_what_a_dropped_writer_left_is_an_orphan() {
        let (store, vault) = vault();
        let first = abandoned(&vault, 0..20);
        let left = pack_names(&store);
        let mut session = begin(&vault);
        session.inherit(&[first]).unwrap();
        let of = |names: Vec<ObjectName>| names.into_iter().collect::<BTreeSet<_>>();
        assert_eq!(of(session.unused().unwrap()), left);

        // Started over: what the first writer used is not used, and what it stored is an orphan.
        let mut writer = session.disk_writer(&disk(), SIZE, PACK_BYTES).unwrap();
        writer.adopt(BlockIndex(0), lookup(&session, 0, 0).unwrap(), hash(&session, 0)).unwrap();
        (20..30).for_each(|block| put(&session, &mut writer, block, block));
        drop(writer);
        let orphans = of(session.orphans());
        let stored: BTreeSet<_> = pack_names(&store).difference(&left).cloned().collect();
        assert!(!orphans.is_empty());
        assert_eq!(orphans, stored);
        assert!(session.orphans().is_empty());
        assert_eq!(of(session.unused().unwrap()), left);

        let mut writer = session.disk_writer(&disk(), SIZE, PACK_BYTES).unwrap();
        let used = [5, 12].map(|block| {
            let at = lookup(&session, block, block).unwrap();
            writer.adopt(BlockIndex(block), at, hash(&session, block)).unwrap();
            ObjectName::Pack(session.writing.lineage.id, first, at.pack.name)
        });
        let written = writer.finish(len(1000)).unwrap();
        assert_eq!((written.changed(), written.adopted(), written.stored.data), (len(2), len(2), 0));
        assert!(session.orphans().is_empty());
        let unused: BTreeSet<_> = left.into_iter().filter(|name| !used.contains(name)).collect();
        assert_eq!(of(session.unused().unwrap()), unused);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

        /// Adopted blocks, frames and zero runs in any mixture: the map names each where it lies.
        #[test]
        fn adopted_blocks_keep_their_order_among_frames_and_zeros(steps in prop::collection::vec(0_u8..4, 1..60)) {
            let (_, vault) = vault();
            let inherited = abandoned(&vault, (0..60).step_by(2));
            let mut session = begin(&vault);
            session.inherit(&[inherited]).unwrap();
            let mut writer = session.disk_writer(&disk(), SIZE, PACK_BYTES).unwrap();
            let mut expected = Vec::new();
            for (block, step) in (0..).zip(&steps) {
                match (step, lookup(&session, block, block)) {
                    (0 | 1, Some(at)) => {
                        writer.adopt(BlockIndex(block), at, hash(&session, block)).unwrap();
                        expected.push((BlockIndex(block), hash(&session, block), inherited));
                    }
                    (3, _) => writer.zero(BlockRun { start: BlockIndex(block), len: 1 }).unwrap(),
                    _ => {
                        put(&session, &mut writer, block, 1000 + block);
                        expected.push((BlockIndex(block), hash(&session, 1000 + block), session.id()));
                    }
                }
            }
            let written = writer.finish(len(60)).unwrap();
            let found: Vec<_> = entries(&session, &written)
                .into_iter()
                .map(|(block, entry)| match entry {
                    Entry::Full { at, hash } => (block, hash, at.at.pack.session),
                    Entry::Patched { .. } => panic!("nothing writes patches"),
                })
                .collect();
            prop_assert_eq!(&found, &expected);
            let adopted = expected.iter().filter(|(_, _, session)| *session == inherited).count();
            prop_assert_eq!((written.changed_blocks, written.adopted_blocks), (expected.len() as u64, adopted as u64));
        }
    }
}
