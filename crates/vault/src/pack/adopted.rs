//! Data packs that an interrupted session of the same VM has finished, for its successor to refer to.
//!
//! A session that was interrupted leaves packs of which it is known, by their footers, which blocks with which
//! content they hold. Its successor asks here for every changed block before it compresses it: what lies in such a
//! pack already is referred to and not stored again. Only footers are read, never data: a pack whose footer is good
//! and whose slots were damaged since is adopted, and the damage is found by the verification like any other.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use vmkeep_envelope::{PackContent, PackName, SlotKind};
use vmkeep_model::{BlockIndex, BlockSize, ContentHash, DiskName, SessionId};

use super::index::PackIndex;
use crate::error::VaultError;
use crate::format::Origin;
use crate::layout::ObjectName;
use crate::lineage::Lineage;
use crate::place::{PackPlace, StorageId};
use crate::vault::Inner;

/// The finished data packs that a session may use though it did not write them.
///
/// Footers are read once, before the first lookup: by that itself, or by as many threads as the caller has for
/// [`read_footer`](Self::read_footer). A few dozen bytes per pack are remembered. The list of blocks of a pack, which takes 32 bytes per block, is read when
/// a lookup comes to the pack and dropped when lookups have passed it; so about one list per disk and inherited
/// session is in memory at a time.
pub struct Adopted {
    vault: Arc<Inner>,
    lineage: Lineage,
    /// Whose packs they are, oldest first.
    sessions: Vec<SessionId>,
    /// Packs whose footers were not read yet, and what was read of the others.
    unread: Mutex<Vec<(u32, PackName)>>,
    read: Mutex<Disks>,
    /// The same from the first lookup on.
    disks: OnceLock<Disks>,
    packs: AtomicU64,
    skipped: AtomicU64,
    used: Mutex<BTreeSet<PackPlace>>,
}

type Disks = BTreeMap<(DiskName, BlockSize), DiskPacks>;

/// The packs of one disk, by their first blocks.
#[derive(Debug, Default)]
struct DiskPacks {
    packs: Vec<Pack>,
    cursor: Mutex<Cursor>,
}

/// All that is remembered of a pack until lookups come to it.
#[derive(Clone, Copy, Debug)]
struct Pack {
    first: BlockIndex,
    last: BlockIndex,
    name: PackName,
    /// Which of the inherited sessions; a larger one came later.
    session: u32,
}

/// Where the lookups of a disk are.
#[derive(Debug, Default)]
struct Cursor {
    block: BlockIndex,
    /// First pack that begins after `block`.
    next: usize,
    /// Packs that begin at or before `block` and end at or after it, later sessions first.
    open: Vec<OpenPack>,
}

#[derive(Debug)]
struct OpenPack {
    pack: Pack,
    /// Its blocks, once one of them was asked for; none when it turned out to be unusable.
    blocks: Option<Vec<Held>>,
}

/// A block of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    block: BlockIndex,
    hash: ContentHash,
    slot: u32,
    index: u32,
}

impl std::fmt::Debug for Adopted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Adopted({} packs of {} sessions)", self.packs(), self.sessions.len())
    }
}

impl Adopted {
    /// Lists what `sessions`, oldest first, have stored.
    pub(crate) fn list(
        vault: &Arc<Inner>,
        lineage: &Lineage,
        sessions: &[SessionId],
    ) -> Result<Self, VaultError> {
        let new = Self {
            vault: Arc::clone(vault),
            lineage: lineage.clone(),
            sessions: sessions.to_vec(),
            unread: Mutex::default(),
            read: Mutex::default(),
            disks: OnceLock::new(),
            packs: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            used: Mutex::default(),
        };
        for (number, &session) in (0_u32..).zip(sessions) {
            let stored = new.stored_by(session)?;
            let data = stored.iter().filter_map(|object| match *object {
                // What has a second copy is a metadata pack: a request saved.
                ObjectName::Pack(_, _, name)
                    if !stored.contains(&ObjectName::PackCopy(lineage.id, session, name)) =>
                {
                    Some((number, name))
                }
                _ => None,
            });
            lock(&new.unread).extend(data);
        }
        Ok(new)
    }

    /// Reads the footer of one more pack; false when there is none left. Threads may share the work: each calls this
    /// until it is false.
    ///
    /// A pack that is damaged, missing or too new is left out and counted: its blocks are stored again.
    pub fn read_footer(&self) -> Result<bool, VaultError> {
        let Some((session, name)) = lock(&self.unread).pop() else { return Ok(false) };
        let place = self.place(session, name);
        let Some(index) = self.index(&place)? else { return Ok(true) };
        if let (PackContent::Data, Some((disk, block_size))) = (index.content, &index.disk) {
            let blocks = blocks_of(&index, *block_size);
            if let (Some(first), Some(last)) = (blocks.first(), blocks.last()) {
                let pack = Pack { first: first.block, last: last.block, name, session };
                lock(&self.read).entry((disk.clone(), *block_size)).or_default().packs.push(pack);
                self.packs.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(true)
    }

    /// Data packs that can be used, as far as footers were read.
    pub fn packs(&self) -> u64 {
        self.packs.load(Ordering::Relaxed)
    }

    /// Packs that cannot be used, because they are damaged, missing or too new. It may grow while blocks are looked up.
    pub fn skipped(&self) -> u64 {
        self.skipped.load(Ordering::Relaxed)
    }

    /// Where `block` of `disk` lies already with the content `hash`, in a pack of a later session rather than of an
    /// earlier one; `None` when it has to be stored.
    ///
    /// Made for lookups that ascend, disk by disk; going back is right as well and reads lists of blocks again.
    pub fn lookup(
        &self,
        disk: &DiskName,
        block_size: BlockSize,
        block: BlockIndex,
        hash: ContentHash,
    ) -> Result<Option<StorageId>, VaultError> {
        // A clone of the name per lookup is nothing beside hashing a block.
        let Some(disk) = self.disks()?.get(&(disk.clone(), block_size)) else { return Ok(None) };
        let mut cursor = lock(&disk.cursor);
        cursor.go_to(block, &disk.packs);
        for open in &mut cursor.open {
            let place = self.place(open.pack.session, open.pack.name);
            let blocks = match &open.blocks {
                Some(blocks) => blocks,
                None => {
                    let index = self.index(&place)?;
                    open.blocks.insert(index.map_or_else(Vec::new, |index| blocks_of(&index, block_size)))
                }
            };
            let from = blocks.partition_point(|held| held.block < block);
            let held = blocks[from..].iter().take_while(|held| held.block == block);
            if let Some(held) = held.into_iter().find(|held| held.hash == hash) {
                return Ok(Some(StorageId { pack: place, slot: held.slot, index: held.index }));
            }
        }
        Ok(None)
    }

    /// Whether `pack` belongs to a session whose packs may be used.
    pub(crate) fn holds(&self, pack: &PackPlace) -> bool {
        pack.lineage.is_none() && self.sessions.contains(&pack.session)
    }

    /// Notes that a disk that will be committed refers to `packs`.
    pub(crate) fn use_packs(&self, packs: BTreeSet<PackPlace>) {
        lock(&self.used).extend(packs);
    }

    /// Every pack of the inherited sessions, of data and metadata and in both copies, that no disk refers to.
    ///
    /// Lists anew: a session that does not know yet that it has ended may have stored more.
    pub(crate) fn unused(&self) -> Result<Vec<ObjectName>, VaultError> {
        let mut unused = Vec::new();
        for &session in &self.sessions {
            let stored = self.stored_by(session)?;
            let used = lock(&self.used);
            unused.extend(stored.into_iter().filter(|object| match *object {
                ObjectName::Pack(_, _, name) | ObjectName::PackCopy(_, _, name) => {
                    !used.contains(&PackPlace { lineage: None, session, name })
                }
                _ => false,
            }));
        }
        Ok(unused)
    }

    /// The packs by disk and block, all of them read.
    fn disks(&self) -> Result<&Disks, VaultError> {
        if self.disks.get().is_none() {
            while self.read_footer()? {}
        }
        Ok(self.disks.get_or_init(|| {
            let mut disks = std::mem::take(&mut *lock(&self.read));
            for disk in disks.values_mut() {
                disk.packs.sort_unstable_by_key(|pack| (pack.first, pack.last, pack.session, pack.name));
                disk.packs.shrink_to_fit();
            }
            disks
        }))
    }

    /// The packs of a session, sorted.
    fn stored_by(&self, session: SessionId) -> Result<BTreeSet<ObjectName>, VaultError> {
        let listed = self.vault.objects.list(&format!("packs/{}/{session}", self.lineage.id))?;
        Ok(listed.iter().filter_map(|(path, _)| ObjectName::parse(path)).collect())
    }

    fn place(&self, session: u32, name: PackName) -> PackPlace {
        // A session's number is its place in the list.
        PackPlace { lineage: None, session: self.sessions[session as usize], name }
    }

    /// The footer of the pack, when it can be used. Past the cache, which is for what is read more than once.
    fn index(&self, place: &PackPlace) -> Result<Option<PackIndex>, VaultError> {
        match self.vault.read_index(&self.lineage, place, &ObjectName::pack(self.lineage.id, place)) {
            Ok(index) => Ok(Some(index)),
            Err(e) if e.is_of_one_object() => {
                self.skipped.fetch_add(1, Ordering::Relaxed);
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }
}

impl Cursor {
    fn go_to(&mut self, block: BlockIndex, packs: &[Pack]) {
        if block < self.block {
            *self = Self::default();
        }
        self.block = block;
        self.open.retain(|open| open.pack.last >= block);
        let before = self.open.len();
        while let Some(pack) = packs.get(self.next).filter(|pack| pack.first <= block) {
            if pack.last >= block {
                self.open.push(OpenPack { pack: *pack, blocks: None });
            }
            self.next += 1;
        }
        if self.open.len() > before {
            self.open.sort_by_key(|open| Reverse(open.pack.session));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The whole blocks in a pack, ascending.
fn blocks_of(index: &PackIndex, block_size: BlockSize) -> Vec<Held> {
    let mut held = Vec::with_capacity(index.blocks.iter().map(Vec::len).sum());
    for (slot, (place, blocks)) in (0_u32..).zip(index.slots.iter().zip(&index.blocks)) {
        let len = blocks.len().checked_mul(block_size.bytes());
        // A slot of another length than its blocks have holds something else: no place in it is certain.
        let is_sound = place.kind == SlotKind::Blocks && usize::try_from(place.plain_len).ok() == len;
        // A writer's packs hold nothing that was born elsewhere.
        if is_sound && place.origin == Origin::BornHere {
            let blocks = (0_u32..).zip(blocks);
            held.extend(blocks.map(|(index, &(block, hash))| Held { block, hash, slot, index }));
        }
    }
    held.sort_unstable();
    held
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pack(first: u64, last: u64, session: u32) -> Pack {
        Pack { first: BlockIndex(first), last: BlockIndex(last), name: PackName([0; 16]), session }
    }

    #[test]
    fn a_pack_takes_little_memory_until_it_is_read() {
        assert!(size_of::<Pack>() <= 64);
        assert!(size_of::<Held>() <= 32);
    }

    proptest! {
        #[test]
        fn the_open_packs_are_those_around_the_block(
            ranges in prop::collection::vec((0_u64..60, 0_u64..20, 0_u32..4), 0..20),
            blocks in prop::collection::vec(0_u64..90, 0..30)
        ) {
            let mut packs: Vec<Pack> = ranges.iter().map(|&(at, len, session)| pack(at, at + len, session)).collect();
            packs.sort_unstable_by_key(|pack| (pack.first, pack.last, pack.session));
            let mut cursor = Cursor::default();
            for block in blocks.into_iter().map(BlockIndex) {
                cursor.go_to(block, &packs);
                let open: Vec<(u32, u64, u64)> =
                    cursor.open.iter().map(|open| (open.pack.session, open.pack.first.0, open.pack.last.0)).collect();
                prop_assert!(open.is_sorted_by_key(|&(session, _, _)| Reverse(session)));
                let mut open = open;
                open.sort_unstable();
                let around = packs.iter().filter(|pack| pack.first <= block && block <= pack.last);
                let mut around: Vec<_> = around.map(|pack| (pack.session, pack.first.0, pack.last.0)).collect();
                around.sort_unstable();
                prop_assert_eq!(open, around);
            }
        }
    }
}
