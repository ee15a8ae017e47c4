//! Fetching blocks: slots grouped by the packs they lie in, neighbours in one read.

use std::collections::BTreeMap;
use std::sync::Arc;

use vmkeep_envelope::{SlotKind, open_slot};
use vmkeep_model::{BlockIndex, ContentHash};

use super::{BlockSink, DiskReader};
use crate::error::VaultError;
use crate::format::FormatError;
use crate::frame::FrameDecoder;
use crate::layout::ObjectName;
use crate::map::Entry;
use crate::pack::{
    PackIndex, Whereabouts, birth_in, check_held, frame_error, moved_to, neighbours, sealed_as, slot_key,
};
use crate::place::PackPlace;

#[derive(Clone, Copy, Debug)]
struct Wanted {
    block: BlockIndex,
    index: u32,
    hash: ContentHash,
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

impl DiskReader {
    /// Fetches blocks, in the order in which they lie in packs, checks each by its hash and gives it to `sink`.
    ///
    /// A block that cannot be had is given as an error and the others go on; an error of the sink ends the fetch.
    pub fn fetch(&self, wanted: &[(BlockIndex, Entry)], sink: &mut BlockSink<'_>) -> Result<(), VaultError> {
        let mut births = Births::new();
        for (block, entry) in wanted {
            match entry {
                Entry::Full { at, hash } => {
                    let slots = &mut births.entry(at.at.pack).or_default().slots;
                    let wanted = Wanted { block: *block, index: at.at.index, hash: *hash };
                    slots.entry(at.at.slot).or_default().push(wanted);
                }
                Entry::Patched { base, patch, pages, hash } => {
                    let patched = self.patched(base, patch, pages, *hash);
                    match patched {
                        Ok(bytes) => sink(*block, Ok(&bytes))?,
                        Err(e) => sink(*block, Err(Arc::new(e)))?,
                    }
                }
            }
        }
        let mut decoder = FrameDecoder::new().map_err(|e| frame_error(&ObjectName::Vault, &e))?;
        // What a sweep moves away under the read is looked for again, each time where it was moved to later.
        while !births.is_empty() {
            births = self.fetch_births(births, &mut decoder, sink)?;
        }
        Ok(())
    }

    /// Fetches what can be found now and gives back what has gone meanwhile.
    fn fetch_births(
        &self,
        births: Births,
        decoder: &mut FrameDecoder,
        sink: &mut BlockSink<'_>,
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
                self.fetch_from(&birth, index, here, decoder, sink, &mut again)?;
            }
        }
        for (pack, mut asked) in moved {
            // Slots of several birth packs may be neighbours here.
            asked.sort_by_key(|asked| asked.at);
            match vault.pack_index(lineage, &pack) {
                Ok(index) => self.fetch_from(&pack, &index, asked, decoder, sink, &mut again)?,
                Err(VaultError::Missing { .. }) => look_again(asked, &mut again),
                Err(e) => fail_all(asked.iter().flat_map(|asked| &asked.wanted), e, sink)?,
            }
        }
        Ok(again)
    }

    /// Fetches slots, by ascending place, from the pack they lie in; what is gone by now is put into `again`.
    fn fetch_from(
        &self,
        pack: &PackPlace,
        index: &PackIndex,
        asked: Vec<Asked>,
        decoder: &mut FrameDecoder,
        sink: &mut BlockSink<'_>,
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
                self.give_slot(index, (pack, &name), asked, &mut bytes[start..end], decoder, sink)?;
            }
        }
        Ok(())
    }

    /// Opens one slot, unpacks it, and gives the blocks in it that are asked for.
    fn give_slot(
        &self,
        index: &PackIndex,
        (pack, name): (&PackPlace, &ObjectName),
        asked: &[Asked],
        bytes: &mut [u8],
        decoder: &mut FrameDecoder,
        sink: &mut BlockSink<'_>,
    ) -> Result<(), VaultError> {
        let (vault, lineage) = (&self.nodes.vault, &self.nodes.lineage);
        let Some(at) = asked.first().map(|asked| asked.at) else { return Ok(()) };
        let placed = &index.slots[at as usize];
        let plain = slot_key(lineage, index)
            .and_then(|key| {
                let expected = sealed_as(placed, pack, name, at)?;
                let opened = open_slot(bytes, key, expected, SlotKind::Blocks, &vault.ciphers);
                opened.map_err(|e| VaultError::open(name, e))
            })
            .and_then(|opened| {
                let plain = decoder.unpack(opened.codec, opened.plain_len, opened.body);
                plain.map_err(|e| frame_error(name, &e))
            });
        let plain = match plain {
            Ok(plain) => plain,
            Err(e) => return fail_all(asked.iter().flat_map(|asked| &asked.wanted), e, sink),
        };
        let identity = lineage.domain.identity()?;
        let wanted = asked.iter().flat_map(|asked| {
            let birth = birth_in(&asked.birth, asked.slot);
            asked.wanted.iter().map(move |wanted| (birth, wanted))
        });
        for (birth, Wanted { block, index, hash }) in wanted {
            let wrong = |what: &str| {
                let what = format!("slot {at}: block {block} {what}");
                Err(Arc::new(VaultError::malformed(name, FormatError(what))))
            };
            let unit = placed.unit((pack, at), &birth, *index, 1);
            let block_bytes =
                unit.and_then(|unit| plain.chunks_exact(self.block_size.bytes()).nth(unit as usize));
            match block_bytes {
                Some(bytes) if identity.block_hash(bytes) == *hash => sink(*block, Ok(bytes))?,
                Some(_) => sink(*block, wrong("holds other content than the map names"))?,
                None => sink(*block, wrong("is not in the slot that the map names"))?,
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
    sink: &mut BlockSink<'_>,
) -> Result<(), VaultError> {
    let error = Arc::new(error);
    for Wanted { block, .. } in wanted {
        sink(*block, Err(Arc::clone(&error)))?;
    }
    Ok(())
}
