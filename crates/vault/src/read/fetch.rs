//! Fetching blocks: slots grouped by the packs they lie in, neighbours in one read.
//!
//! A patched block has two parts, its pages and the whole block below. The pages of all blocks that are wanted are
//! fetched first and kept, so that each whole block is made up and given on when it comes by.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use vmkeep_envelope::{SlotKind, open_slot};
use vmkeep_model::{BlockIndex, ContentHash, PAGE_SIZE, PageMask};

use super::{BlockSink, DiskReader};
use crate::error::VaultError;
use crate::format::FormatError;
use crate::frame::FrameDecoder;
use crate::layout::ObjectName;
use crate::map::Entry;
use crate::pack::{
    PackIndex, Whereabouts, birth_in, check_held, frame_error, moved_to, neighbours, sealed_as, slot_key,
};
use crate::place::{PackPlace, StorageId};

/// A stretch of a slot that is wanted.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    block: BlockIndex,
    /// The first unit: a block, or a page of a slot of patches.
    index: u32,
    /// How many units.
    count: u32,
}

/// A part that came, and the slot it was in.
struct Part<'p> {
    bytes: &'p [u8],
    pack: &'p ObjectName,
    slot: u32,
}

/// What takes the parts as they come, or why they cannot be had.
type PartSink<'a> = dyn FnMut(BlockIndex, Result<Part<'_>, Arc<VaultError>>) -> Result<(), VaultError> + 'a;

/// What the parts of a block make up.
struct Whole<'w> {
    hash: ContentHash,
    /// Pages to put over the whole block, once they are here.
    patch: Option<(&'w PageMask, Option<Vec<u8>>)>,
}

/// What is wanted of one birth pack.
#[derive(Default)]
struct Birth {
    slots: BTreeMap<u32, Vec<Wanted>>,
    /// The record that was followed in vain; see [`Whereabouts::k`].
    tried: Option<u64>,
}

/// What is wanted of one slot, and where it lies in the pack at hand.
struct Asked {
    /// Its place in that pack.
    at: u32,
    birth: PackPlace,
    slot: u32,
    k: u64,
    wanted: Vec<Wanted>,
}

/// Birth packs with what is wanted of them.
type Births = BTreeMap<PackPlace, Birth>;

/// What is done with a slot once its tag was found good.
enum Then {
    Unpack(FrameDecoder),
    /// Nothing: the parts are given without bytes.
    Nothing,
}

/// Where the parts of blocks lie: those of patches, and whole blocks.
fn parts_of(wanted: &[(BlockIndex, Entry)]) -> (Births, Births) {
    let (mut patches, mut blocks) = (Births::new(), Births::new());
    let ask = |births: &mut Births, at: &StorageId, block, count| {
        let wanted = Wanted { block, index: at.index, count };
        births.entry(at.pack).or_default().slots.entry(at.slot).or_default().push(wanted);
    };
    for (block, entry) in wanted {
        let full = match entry {
            Entry::Full { at, .. } => at,
            Entry::Patched { base, patch, pages, .. } => {
                ask(&mut patches, &patch.at, *block, pages.count());
                base
            }
        };
        ask(&mut blocks, &full.at, *block, 1);
    }
    (patches, blocks)
}

impl DiskReader {
    /// Fetches blocks, in the order in which they lie in packs, checks each by its hash and gives it to `sink`.
    ///
    /// A block that cannot be had is given as an error and the others go on; an error of the sink ends the fetch.
    pub fn fetch(&self, wanted: &[(BlockIndex, Entry)], sink: &mut BlockSink<'_>) -> Result<(), VaultError> {
        let (patches, blocks) = parts_of(wanted);
        let mut wholes: HashMap<BlockIndex, Whole<'_>> = wanted
            .iter()
            .map(|(block, entry)| {
                let patch = match entry {
                    Entry::Full { .. } => None,
                    Entry::Patched { pages, .. } => Some((pages, None)),
                };
                (*block, Whole { hash: entry.hash(), patch })
            })
            .collect();
        let decoder = FrameDecoder::new().map_err(|e| frame_error(&ObjectName::Vault, &e))?;
        let mut then = Then::Unpack(decoder);
        self.fetch_parts(patches, SlotKind::Patches, &mut then, &mut |block, part| match part {
            Ok(part) => {
                if let Some(Whole { patch: Some((_, pages)), .. }) = wholes.get_mut(&block) {
                    *pages = Some(part.bytes.to_vec());
                }
                Ok(())
            }
            Err(e) => {
                wholes.remove(&block);
                sink(block, Err(e))
            }
        })?;
        let identity = self.nodes.lineage.domain.identity()?;
        let mut made_up = Vec::new();
        self.fetch_parts(blocks, SlotKind::Blocks, &mut then, &mut |block, part| {
            let Some(Whole { hash, patch }) = wholes.remove(&block) else { return Ok(()) };
            let Part { bytes, pack, slot } = match part {
                Ok(part) => part,
                Err(e) => return sink(block, Err(e)),
            };
            let is_patched = patch.is_some();
            let bytes = match patch {
                None => bytes,
                Some((pages, patch)) => {
                    made_up.clear();
                    made_up.extend_from_slice(bytes);
                    pages.copy_to(&patch.unwrap_or_default(), &mut made_up);
                    &made_up
                }
            };
            if identity.block_hash(bytes) == hash {
                return sink(block, Ok(bytes));
            }
            let with = if is_patched { " with its patch" } else { "" };
            let what = format!("slot {slot}: block {block}{with} holds other content than the map names");
            sink(block, Err(Arc::new(VaultError::malformed(pack, FormatError(what)))))
        })
    }

    /// Reads the slots that blocks lie in, in the order in which they lie in packs, and opens each: its authentication tag is
    /// checked, and nothing is unpacked or hashed. `failed` is given each block, once, of which a slot does not open.
    ///
    /// A block that lies where its slot does not hold it is for [`check_entry`](Self::check_entry) to tell.
    pub fn open_slots(
        &self,
        wanted: &[(BlockIndex, Entry)],
        failed: &mut dyn FnMut(BlockIndex, Arc<VaultError>) -> Result<(), VaultError>,
    ) -> Result<(), VaultError> {
        let (patches, blocks) = parts_of(wanted);
        let mut told = BTreeSet::new();
        for (births, kind) in [(patches, SlotKind::Patches), (blocks, SlotKind::Blocks)] {
            self.fetch_parts(births, kind, &mut Then::Nothing, &mut |block, part| match part {
                Err(e) if told.insert(block) => failed(block, e),
                _ => Ok(()),
            })?;
        }
        Ok(())
    }

    /// Fetches parts of slots of one kind.
    fn fetch_parts(
        &self,
        mut births: Births,
        kind: SlotKind,
        then: &mut Then,
        sink: &mut PartSink<'_>,
    ) -> Result<(), VaultError> {
        // What a sweep moves away under the read is looked for again, each time where it was moved to later.
        while !births.is_empty() {
            births = self.fetch_births(births, kind, then, sink)?;
        }
        Ok(())
    }

    /// Fetches what can be found now and gives back what has gone meanwhile.
    fn fetch_births(
        &self,
        births: Births,
        kind: SlotKind,
        then: &mut Then,
        sink: &mut PartSink<'_>,
    ) -> Result<Births, VaultError> {
        let (vault, lineage) = (&self.nodes.vault, &self.nodes.lineage);
        let (mut again, mut moved) = (Births::new(), BTreeMap::<PackPlace, Vec<Asked>>::new());
        for (birth, Birth { slots, tried }) in births {
            let found = match tried {
                None => vault.whereabouts(lineage, &birth),
                Some(k) => vault.whereabouts_after(lineage, &birth, k),
            };
            let found = match found {
                Ok(found) => found,
                Err(e) => {
                    fail_all(slots.values().flatten(), e, sink)?;
                    continue;
                }
            };
            let k = found.k();
            let mut here = Vec::new();
            for (slot, wanted) in slots {
                match &found {
                    Whereabouts::InBirthPack(_) => {
                        here.push(Asked { at: slot, birth, slot, k, wanted });
                    }
                    Whereabouts::Moved(record) => match moved_to(record, lineage, &birth, slot) {
                        Ok((pack, at)) => {
                            moved.entry(pack).or_default().push(Asked { at, birth, slot, k, wanted });
                        }
                        Err(e) => fail_all(wanted.iter(), e, sink)?,
                    },
                }
            }
            if let Whereabouts::InBirthPack(index) = &found {
                self.fetch_from(&birth, index, here, kind, then, sink, &mut again)?;
            }
        }
        for (pack, mut asked) in moved {
            // Slots of several birth packs may be neighbours here.
            asked.sort_by_key(|asked| asked.at);
            match vault.pack_index(lineage, &pack) {
                Ok(index) => self.fetch_from(&pack, &index, asked, kind, then, sink, &mut again)?,
                Err(VaultError::Missing { .. }) => look_again(asked, &mut again),
                Err(e) => fail_all(asked.iter().flat_map(|asked| &asked.wanted), e, sink)?,
            }
        }
        Ok(again)
    }

    /// Fetches slots, by ascending place, from the pack they lie in; what is gone by now is put into `again`.
    #[allow(clippy::too_many_arguments)] // slots, where they lie, and what to do with them
    fn fetch_from(
        &self,
        pack: &PackPlace,
        index: &PackIndex,
        asked: Vec<Asked>,
        kind: SlotKind,
        then: &mut Then,
        sink: &mut PartSink<'_>,
        again: &mut Births,
    ) -> Result<(), VaultError> {
        let (vault, lineage) = (&self.nodes.vault, &self.nodes.lineage);
        let name = ObjectName::pack(lineage.id, pack);
        let mut rest = Vec::with_capacity(asked.len());
        for asked in asked {
            match check_held(index, pack, &name, asked.at, &asked.birth, asked.slot) {
                Ok(()) => rest.push(asked),
                Err(e) => fail_all(asked.wanted.iter(), e, sink)?,
            }
        }
        while !rest.is_empty() {
            let after = rest.split_off(neighbours(index, rest.iter().map(|asked| asked.at)).max(1));
            let run = std::mem::replace(&mut rest, after);
            let place = |asked: &Asked| index.slots[asked.at as usize].range();
            let range = place(&run[0]).start..place(&run[run.len() - 1]).end;
            let mut bytes = match vault.read_slots(&name, index, range.clone()) {
                Ok(bytes) => bytes,
                Err(VaultError::Missing { .. }) => {
                    look_again(run, again);
                    continue;
                }
                Err(e) => {
                    fail_all(run.iter().flat_map(|asked| &asked.wanted), e, sink)?;
                    continue;
                }
            };
            // A thinned slot may hold parts of several: it is opened once.
            for asked in run.chunk_by(|a, b| a.at == b.at) {
                // Within the range that was read, which is at most a few MiB.
                let within = |at: u64| usize::try_from(at - range.start).unwrap_or(usize::MAX);
                let (start, end) = (within(place(&asked[0]).start), within(place(&asked[0]).end));
                self.give_slot(index, (pack, &name), asked, &mut bytes[start..end], kind, then, sink)?;
            }
        }
        Ok(())
    }

    /// Opens one slot, unpacks it, and gives the parts that are wanted of it.
    #[allow(clippy::too_many_arguments)] // a slot, where it lies, and what to do with it
    fn give_slot(
        &self,
        index: &PackIndex,
        (pack, name): (&PackPlace, &ObjectName),
        asked: &[Asked],
        bytes: &mut [u8],
        kind: SlotKind,
        then: &mut Then,
        sink: &mut PartSink<'_>,
    ) -> Result<(), VaultError> {
        let (vault, lineage) = (&self.nodes.vault, &self.nodes.lineage);
        let Some(at) = asked.first().map(|asked| asked.at) else { return Ok(()) };
        let placed = &index.slots[at as usize];
        let plain = slot_key(lineage, index)
            .and_then(|key| {
                let expected = sealed_as(placed, pack, name, at)?;
                let opened = open_slot(bytes, key, expected, kind, &vault.ciphers);
                opened.map_err(|e| VaultError::open(name, e))
            })
            .and_then(|opened| match then {
                Then::Unpack(decoder) => {
                    let plain = decoder.unpack(opened.codec, opened.plain_len, opened.body);
                    plain.map(Some).map_err(|e| frame_error(name, &e))
                }
                Then::Nothing => Ok(None),
            });
        let plain = match plain {
            Ok(Some(plain)) => plain,
            Ok(None) => {
                let mut wanted = asked.iter().flat_map(|asked| &asked.wanted);
                return wanted.try_for_each(|wanted| {
                    sink(wanted.block, Ok(Part { bytes: &[], pack: name, slot: at }))
                });
            }
            Err(e) => return fail_all(asked.iter().flat_map(|asked| &asked.wanted), e, sink),
        };
        let size = if kind == SlotKind::Patches { PAGE_SIZE } else { self.block_size.bytes() };
        let wanted = asked.iter().flat_map(|asked| {
            let birth = birth_in(&asked.birth, asked.slot);
            asked.wanted.iter().map(move |wanted| (birth, wanted))
        });
        for (birth, Wanted { block, index, count }) in wanted {
            let bytes = placed.unit((pack, at), &birth, *index, *count).and_then(|unit| {
                let (start, len) = ((unit as usize).checked_mul(size)?, (*count as usize).checked_mul(size)?);
                plain.get(start..start.checked_add(len)?)
            });
            match bytes {
                Some(bytes) => sink(*block, Ok(Part { bytes, pack: name, slot: at }))?,
                None => {
                    let what = format!("slot {at}: block {block} is not in the slot that the map names");
                    sink(*block, Err(Arc::new(VaultError::malformed(name, FormatError(what)))))?;
                }
            }
        }
        Ok(())
    }
}

/// Puts slots back under their birth packs.
fn look_again(asked: Vec<Asked>, again: &mut Births) {
    for Asked { birth, slot, k, wanted, .. } in asked {
        let birth = again.entry(birth).or_default();
        birth.tried = Some(k);
        birth.slots.insert(slot, wanted);
    }
}

/// Gives every wanted block the same failure, each as an error of its own.
fn fail_all<'w>(
    wanted: impl Iterator<Item = &'w Wanted>,
    error: VaultError,
    sink: &mut PartSink<'_>,
) -> Result<(), VaultError> {
    let error = Arc::new(error);
    for Wanted { block, .. } in wanted {
        sink(*block, Err(Arc::clone(&error)))?;
    }
    Ok(())
}
