//! Taking what is still needed out of worn packs, into new ones.
//!
//! With the data key at hand a data slot is opened, what is dead in it is dropped, and the rest is sealed again as a slot
//! of the new pack: it is *thinned*. Without, and in metadata packs, slots are copied as they are. A new pack holds slots of
//! one way only.

mod copies;
mod source;
mod thin;

use std::collections::BTreeMap;
use std::ops::Range;

use vmkeep_envelope::{
    OpenError, PackContent, RepackBuilder, SLOT_COUNT_MAX, SealContext, SealError, SealedObject, SlotKind,
    open_slot,
};
use vmkeep_model::{PointNumber, SessionId};

use self::copies::Copies;
use self::source::{Common, Opened, Taken};
pub(crate) use self::source::{Keep, Source, can_thin};
use self::thin::{NotTaken, Plain, Thinner};
use super::index::neighbours;
use super::reader::{frame_error, second_copy, slot_key};
use crate::error::VaultError;
use crate::format::{FooterBody, FooterSlot, FormatError, MovedSlotBody, PackBody, SlotBirth};
use crate::frame::FrameDecoder;
use crate::layout::ObjectName;
use crate::lineage::Lineage;
use crate::place::PackPlace;
use crate::store::PendingCreate;
use crate::vault::Inner;

/// Size that a new pack does not pass, unless the slots of one source alone do.
const DATA_BYTES: u64 = 32 << 20;
const METADATA_BYTES: u64 = 4 << 20;
/// Size that the slots' part of a new footer does not pass, unless that of one source alone does.
const FOOTER_BYTES: usize = 3 << 20;
/// Room in a footer for what comes before its slots.
const FOOTER_HEAD: usize = 256;

/// A new pack, not stored yet.
#[derive(Debug)]
pub(crate) struct Repacked {
    pub(crate) pack: PackPlace,
    pub(crate) content: PackContent,
    pub(crate) object: SealedObject,
    /// The packs that it was made from. Everything that was to be kept of each is in this pack and no other.
    pub(crate) sources: Vec<PackPlace>,
    /// Where slots lie now, by the pack they were born in, ascending by number.
    pub(crate) moved: BTreeMap<PackBody, Vec<MovedSlotBody>>,
}

/// Makes new packs from worn ones, one after another.
///
/// In memory are the pack being made and one read of a few MiB. A source that is damaged is left as it is, whole, and the
/// others go on: see [`skipped`](Self::skipped).
pub(crate) struct Repacking<'a> {
    vault: &'a Inner,
    lineage: &'a Lineage,
    /// The sweep, which stands where a session does in the names of its packs.
    sweep: SessionId,
    context: SealContext<'a>,
    /// Sources not taken apart yet, the next one last.
    waiting: Vec<Source>,
    open: Option<Open>,
    skipped: Vec<(PackPlace, VaultError)>,
    decoder: FrameDecoder,
    data_bytes: u64,
    metadata_bytes: u64,
}

/// A pack being made.
struct Open {
    common: Common,
    slots: Slots,
    footer_bytes: usize,
    sources: Vec<PackPlace>,
}

/// The slots of a pack being made.
enum Slots {
    /// Copied as they are.
    Copied { builder: RepackBuilder, footer: Vec<FooterSlot>, births: Vec<(u32, SlotBirth)> },
    /// Thinned and sealed again.
    Thinned(Thinner),
}

impl<'a> Repacking<'a> {
    /// Begins to take `sources` apart, for packs of `sweep`; `context` is that of the sweep too.
    ///
    /// Data and metadata packs do not mix, nor do disks, nor epochs of keys: sources are taken in an order in which those
    /// that go together follow one another.
    pub(crate) fn new(
        vault: &'a Inner,
        lineage: &'a Lineage,
        sweep: SessionId,
        context: SealContext<'a>,
        sources: Vec<Source>,
    ) -> Result<Self, VaultError> {
        let mut repacking = Self {
            vault,
            lineage,
            sweep,
            context,
            waiting: Vec::new(),
            open: None,
            skipped: Vec::new(),
            decoder: FrameDecoder::new().map_err(|e| frame_error(&ObjectName::Vault, &e))?,
            data_bytes: DATA_BYTES,
            metadata_bytes: METADATA_BYTES,
        };
        let mut sorted = Vec::new();
        for source in sources.into_iter().filter(|source| !source.keep.is_empty()) {
            match vault.read_footer_of(lineage, &source.pack) {
                Ok(footer) => sorted.push((Common::of(&footer, lineage), source)),
                Err(e) => repacking.skip(source.pack, e)?,
            }
        }
        sorted.sort_by(|(a, _), (b, _)| b.cmp(a));
        repacking.waiting = sorted.into_iter().map(|(_, source)| source).collect();
        Ok(repacking)
    }

    /// The next new pack; `None` when all sources were taken apart.
    pub(crate) fn next_pack(&mut self) -> Result<Option<Repacked>, VaultError> {
        while let Some(source) = self.waiting.pop() {
            let pack = source.pack;
            let opened = match Opened::new(self.vault, self.lineage, source) {
                Ok(opened) => opened,
                Err(e) => {
                    self.skip(pack, e)?;
                    continue;
                }
            };
            let most = match opened.index.content {
                PackContent::Data => self.data_bytes,
                PackContent::Metadata => self.metadata_bytes,
            };
            if let Some(open) = self.open.take_if(|open| !open.has_room(&opened, most)) {
                self.waiting.push(opened.source);
                return self.seal(open).map(Some);
            }
            let mut open = match self.open.take() {
                Some(open) => open,
                None => Open::new(&opened, most).map_err(|e| not_taken(self.sweep, &ObjectName::Vault, e))?,
            };
            let taken = self.take(&opened, &mut open);
            if taken.is_ok() {
                open.footer_bytes += opened.footer_bytes;
                open.sources.push(pack);
            }
            self.open = Some(open).filter(|open| !open.is_empty());
            if let Err(e) = taken {
                self.skip(pack, e)?;
            }
        }
        self.open.take().map(|open| self.seal(open)).transpose()
    }

    /// Sources that were left alone, each with the reason.
    pub(crate) fn skipped(&self) -> &[(PackPlace, VaultError)] {
        &self.skipped
    }

    /// Notes that a source is left as it is; an error that is not of this pack alone ends the repacking.
    fn skip(&mut self, pack: PackPlace, error: VaultError) -> Result<(), VaultError> {
        if !error.is_of_one_object() {
            return Err(error);
        }
        self.skipped.push((pack, error));
        Ok(())
    }

    /// Takes what is kept of one source; after an error nothing of it is in the pack.
    fn take(&mut self, from: &Opened, open: &mut Open) -> Result<(), VaultError> {
        match &mut open.slots {
            Slots::Copied { builder, footer, births } => {
                let before = (footer.len(), births.len());
                let copied = self.copy(from, builder, footer, births);
                if copied.is_err() {
                    footer.truncate(before.0);
                    births.truncate(before.1);
                    builder.truncate(u32::try_from(before.0).unwrap_or(u32::MAX));
                }
                copied
            }
            Slots::Thinned(thinner) => {
                let before = thinner.before();
                let done = self.thin(from, thinner);
                if done.is_err() {
                    thinner.take_back(before);
                }
                done
            }
        }
    }

    /// Copies the slots of one source as they are.
    fn copy(
        &self,
        from: &Opened,
        builder: &mut RepackBuilder,
        footer: &mut Vec<FooterSlot>,
        births: &mut Vec<(u32, SlotBirth)>,
    ) -> Result<(), VaultError> {
        let copies = Copies::of(self.vault, self.lineage, from);
        for_each_slot(&copies, from, |slot, sealed, range| {
            let sealed = copies.sound(sealed, range, slot)?;
            let place = builder.push(&sealed, slot.sealed).map_err(|e| match e {
                SealError::NotThatSlot { source, .. } => VaultError::open(&copies.first, source),
                e => self.seal_error(e),
            })?;
            births.extend(slot.births().map(|birth| (place, birth)));
            footer.push(slot.told_anew(&from.source.pack, false));
            Ok(())
        })
    }

    /// Opens the slots of one source and takes what is kept of each.
    fn thin(&mut self, from: &Opened, thinner: &mut Thinner) -> Result<(), VaultError> {
        let Some((_, size)) = from.common.disk else { return Ok(()) };
        let copies = Copies::of(self.vault, self.lineage, from);
        let (key, identity) = (slot_key(self.lineage, &from.index)?, self.lineage.domain.identity()?);
        let (vault, sweep, decoder) = (self.vault, self.sweep, &mut self.decoder);
        let name = &copies.first;
        let not_taken = |e| not_taken(sweep, name, e);
        thinner.set_level(from.level(size)).map_err(not_taken)?;
        for_each_slot(&copies, from, |slot, sealed, _| {
            let damaged = |e: OpenError| VaultError::open(name, e);
            let wrong =
                |what: &str| VaultError::malformed(name, FormatError(format!("slot {}: {what}", slot.at)));
            slot.agrees(sealed).map_err(damaged)?;
            let opened =
                open_slot(sealed, key, slot.sealed, slot.told.kind, &vault.ciphers).map_err(damaged)?;
            let bytes = decoder.unpack(opened.codec, opened.plain_len, opened.body);
            let bytes = bytes.map_err(|e| frame_error(name, &e))?;
            if !slot.fits(size) {
                return Err(wrong("its footer does not account for what it holds"));
            }
            // Under a new seal damage would pass for what was stored: so what is kept is compared first.
            let whole = slot.told.kind == SlotKind::Blocks;
            for &(entry, at, _) in slot.pieces.iter().flat_map(|piece| &piece.entries).filter(|_| whole) {
                let block = bytes.chunks_exact(size.bytes()).nth(at as usize).map(|b| identity.block_hash(b));
                if block != slot.told.blocks.get(entry).map(|(_, hash)| *hash) {
                    return Err(wrong("a block is not what the footer says"));
                }
            }
            let plain = Plain { codec: opened.codec, body: opened.body, bytes };
            thinner.add(slot, &plain).map_err(not_taken)
        })
    }

    fn seal(&self, open: Open) -> Result<Repacked, VaultError> {
        let Open { common, slots, sources, .. } = open;
        let domain = &self.lineage.domain;
        let (lineage, session, disk) = (self.lineage.id, self.sweep, common.disk);
        let content = match &slots {
            Slots::Copied { builder, .. } => builder.content(),
            Slots::Thinned(_) => PackContent::Data,
        };
        let body = FooterBody { lineage, session, point: PointNumber(0), disk, slots: Vec::new() };
        let (sealed, births) = match slots {
            Slots::Copied { builder, footer, births } => {
                let point = footer.iter().map(|slot| slot.birth).max().unwrap_or(PointNumber(0));
                let body = FooterBody { point, slots: footer, ..body };
                let sealed = builder.seal(domain.map_key()?, &body.encode(), &self.context);
                (sealed.map_err(|e| self.seal_error(e))?, births)
            }
            Slots::Thinned(thinner) => {
                let keys = (domain.data_key()?, domain.map_key()?);
                let sealed = thinner.seal(keys, &self.context, body);
                sealed.map_err(|e| not_taken(self.sweep, &ObjectName::Vault, e))?
            }
        };
        let mut moved = BTreeMap::<PackBody, Vec<MovedSlotBody>>::new();
        for (at, SlotBirth { session, id }) in births {
            let slot = MovedSlotBody { slot: id.slot, pack: (self.sweep.0, sealed.name.0), at };
            moved.entry((session.0, id.pack.0)).or_default().push(slot);
        }
        for slots in moved.values_mut() {
            slots.sort_by_key(|slot| slot.slot);
        }
        let pack = PackPlace { lineage: None, session: self.sweep, name: sealed.name };
        Ok(Repacked { pack, content, object: sealed.object, sources, moved })
    }

    fn seal_error(&self, source: SealError) -> VaultError {
        seal_error(self.sweep, source)
    }
}

fn seal_error(sweep: SessionId, source: SealError) -> VaultError {
    VaultError::Seal { object: format!("a pack of sweep {sweep}"), source }
}

fn not_taken(sweep: SessionId, name: &ObjectName, error: NotTaken) -> VaultError {
    match error {
        NotTaken::Seal(source) => seal_error(sweep, source),
        NotTaken::Frame(e) => frame_error(name, &e),
    }
}

/// Reads the slots of a source that are kept, neighbours together, and gives each as it is stored, with its place.
fn for_each_slot(
    copies: &Copies<'_>,
    from: &Opened,
    mut take: impl FnMut(&Taken, &mut [u8], Range<u64>) -> Result<(), VaultError>,
) -> Result<(), VaultError> {
    let mut rest = from.slots.as_slice();
    while !rest.is_empty() {
        let (run, after) = rest.split_at(neighbours(&from.index, rest.iter().map(|slot| slot.at)).max(1));
        rest = after;
        let range = copies.range(run[0].at)?.start..copies.range(run[run.len() - 1].at)?.end;
        let mut bytes = copies.read(range.clone())?;
        for slot in run {
            let place = copies.range(slot.at)?;
            // Within the range that was read, which is at most a few MiB.
            let within = |at: u64| usize::try_from(at - range.start).unwrap_or(usize::MAX);
            take(slot, &mut bytes[within(place.start)..within(place.end)], place)?;
        }
    }
    Ok(())
}

impl Open {
    fn new(first: &Opened, most: u64) -> Result<Self, NotTaken> {
        // Room for the slots of a full pack and the footer, so that the buffer need not grow.
        let capacity = usize::try_from(first.bytes.max(most)).unwrap_or(0) + (1 << 20);
        let common = first.common.clone();
        let slots = match common.disk {
            Some((_, size)) if common.thin => Slots::Thinned(Thinner::new(size, capacity)?),
            _ => {
                let builder = RepackBuilder::new(common.key, capacity)?;
                Slots::Copied { builder, footer: Vec::new(), births: Vec::new() }
            }
        };
        Ok(Self { common, slots, footer_bytes: 0, sources: Vec::new() })
    }

    /// Whether the slots of `next` go into the pack with those that are in it.
    fn has_room(&self, next: &Opened, bytes: u64) -> bool {
        let (len, slots) = match &self.slots {
            Slots::Copied { builder, footer, .. } => (builder.byte_len(), footer.len()),
            // Each part may yet be a slot of its own.
            Slots::Thinned(thinner) => (thinner.byte_len(), thinner.parts()),
        };
        let pieces: usize = next.slots.iter().map(|slot| slot.pieces.len()).sum();
        self.common == next.common
            && len as u64 + next.bytes <= bytes
            && self.footer_bytes + next.footer_bytes <= FOOTER_BYTES
            && slots + pieces <= SLOT_COUNT_MAX as usize
    }

    fn is_empty(&self) -> bool {
        match &self.slots {
            Slots::Copied { footer, .. } => footer.is_empty(),
            Slots::Thinned(thinner) => thinner.is_empty(),
        }
    }
}

impl Repacked {
    /// Stores the pack, a metadata pack twice. Durable on return; nothing refers to it before a `moved` record does.
    pub(crate) fn store(&self, vault: &Inner, lineage: &Lineage) -> Result<(), VaultError> {
        let first = ObjectName::pack(lineage.id, &self.pack);
        let second = (self.content == PackContent::Metadata).then(|| second_copy(&first));
        let names = [Some(first), second].into_iter().flatten();
        let puts: Vec<_> = names.map(|name| vault.objects.start_create(&name, &self.object)).collect();
        puts.into_iter().try_for_each(PendingCreate::wait_ours)
    }
}

#[cfg(test)]
mod tests;
