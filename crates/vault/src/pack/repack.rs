//! Taking the slots that are still needed out of worn packs, into new ones. No data key takes part.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use vmkeep_envelope::{
    BranchId, OpenError, PackContent, RepackBuilder, SLOT_COUNT_MAX, SLOT_PLAIN_MAX, SealContext, SealError,
    SealedObject, SlotHead, SlotId, open_slot,
};
use vmkeep_model::{BlockSize, DiskName, PointNumber, SessionId};

use super::index::{PackIndex, SlotPlace, neighbours};
use super::reader::{PackFooter, birth_of, second_copy, slot_key, slot_of};
use crate::error::VaultError;
use crate::format::{FooterBody, FooterSlot, MovedSlotBody, Origin, PackBody, SlotBirth};
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

/// A pack to take slots out of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    /// Where it lies, in the lineage's own packs: the birth pack of its slots, or one that they were moved to.
    pub(crate) pack: PackPlace,
    /// Places of the slots to keep.
    pub(crate) keep: BTreeSet<u32>,
}

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
#[derive(Debug)]
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
    data_bytes: u64,
    metadata_bytes: u64,
}

/// What the slots of one pack have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Common {
    key: BranchId,
    disk: Option<(DiskName, BlockSize)>,
}

/// A pack being made.
#[derive(Debug)]
struct Open {
    common: Common,
    builder: RepackBuilder,
    footer: Vec<FooterSlot>,
    footer_bytes: usize,
    births: Vec<SlotBirth>,
    sources: Vec<PackPlace>,
}

/// A source with its footer, and what keeping its slots takes.
struct Opened {
    source: Source,
    common: Common,
    index: PackIndex,
    /// Per slot to keep: its place, and how the new footer tells it.
    slots: Vec<(u32, FooterSlot, SlotBirth)>,
    bytes: u64,
    footer_bytes: usize,
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
            data_bytes: DATA_BYTES,
            metadata_bytes: METADATA_BYTES,
        };
        let mut sorted = Vec::new();
        for source in sources.into_iter().filter(|source| !source.keep.is_empty()) {
            match vault.read_footer_of(lineage, &source.pack) {
                Ok(footer) => sorted.push((Common::of(&footer), source)),
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
            let opened = match self.opened(source) {
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
                None => Open::new(&opened, most).map_err(|e| self.seal_error(e))?,
            };
            let before = open.footer.len();
            let copied = self.copy(&opened, &mut open);
            if copied.is_err() {
                open.take_back(before);
            } else {
                open.footer_bytes += opened.footer_bytes;
                open.sources.push(pack);
            }
            self.open = Some(open).filter(|open| !open.footer.is_empty());
            if let Err(e) = copied {
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

    fn opened(&self, source: Source) -> Result<Opened, VaultError> {
        let footer = self.vault.read_footer_of(self.lineage, &source.pack)?;
        let name = ObjectName::pack(self.lineage.id, &source.pack);
        let common = Common::of(&footer);
        let told = footer.body.slots.clone();
        let index = footer.into_index();
        let (mut slots, mut bytes, mut encoded) = (Vec::with_capacity(source.keep.len()), 0, Vec::new());
        for &at in &source.keep {
            let birth = birth_of(slot_of(&index, &name, at)?, &source.pack, &name, at)?;
            let slot = FooterSlot { origin: Origin::Moved(birth), ..told[at as usize].clone() };
            slot.encode(&mut encoded);
            bytes += slot.len;
            slots.push((at, slot, birth));
        }
        let footer_bytes = encoded.len();
        if footer_bytes > SLOT_PLAIN_MAX - FOOTER_HEAD {
            let (len, max) = (footer_bytes as u64, (SLOT_PLAIN_MAX - FOOTER_HEAD) as u64);
            let source = OpenError::TooLarge {
                what: "what a footer tells of its slots, when they are moved,",
                len,
                max,
            };
            return Err(VaultError::open(&name, source));
        }
        Ok(Opened { source, common, index, slots, bytes, footer_bytes })
    }

    /// Copies the slots of one source.
    fn copy(&self, from: &Opened, open: &mut Open) -> Result<(), VaultError> {
        let copies = Copies::of(self.vault, self.lineage, from);
        let mut rest = from.slots.as_slice();
        while !rest.is_empty() {
            let (run, after) = rest.split_at(neighbours(&from.index, rest.iter().map(|(at, ..)| *at)).max(1));
            rest = after;
            let range = copies.range(run[0].0)?.start..copies.range(run[run.len() - 1].0)?.end;
            let bytes = copies.read(range.clone())?;
            for (at, slot, birth) in run {
                let place = copies.range(*at)?;
                // Within the range that was read, which is at most a few MiB.
                let within = |at: u64| usize::try_from(at - range.start).unwrap_or(usize::MAX);
                let sealed = &bytes[within(place.start)..within(place.end)];
                let sealed = copies.sound(sealed, place, slot, birth)?;
                open.builder.push(&sealed, birth.id).map_err(|e| match e {
                    SealError::NotThatSlot { source, .. } => VaultError::open(&copies.first, source),
                    e => self.seal_error(e),
                })?;
                open.births.push(*birth);
                open.footer.push(slot.clone());
            }
        }
        Ok(())
    }

    fn seal(&self, open: Open) -> Result<Repacked, VaultError> {
        let Open { common, builder, footer, births, sources, .. } = open;
        let mut moved = BTreeMap::<PackBody, Vec<MovedSlotBody>>::new();
        let body = FooterBody {
            lineage: self.lineage.id,
            session: self.sweep,
            point: footer.iter().map(|slot| slot.birth).max().unwrap_or(PointNumber(0)),
            disk: common.disk,
            slots: footer,
        };
        let content = builder.content();
        let sealed = builder
            .seal(self.lineage.domain.map_key()?, &body.encode(), &self.context)
            .map_err(|e| self.seal_error(e))?;
        for (at, SlotBirth { session, id }) in (0_u32..).zip(births) {
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
        VaultError::Seal { object: format!("a pack of sweep {}", self.sweep), source }
    }
}

impl Common {
    fn of(footer: &PackFooter) -> Self {
        Self { key: footer.head.slots, disk: footer.body.disk.clone() }
    }
}

impl Open {
    fn new(first: &Opened, most: u64) -> Result<Self, SealError> {
        // Room for the slots of a full pack and the footer, so that the buffer need not grow.
        let capacity = usize::try_from(first.bytes.max(most)).unwrap_or(0) + (1 << 20);
        Ok(Self {
            common: first.common.clone(),
            builder: RepackBuilder::new(first.common.key, capacity)?,
            footer: Vec::new(),
            footer_bytes: 0,
            births: Vec::new(),
            sources: Vec::new(),
        })
    }

    /// Whether the slots of `next` go into the pack with those that are in it.
    fn has_room(&self, next: &Opened, bytes: u64) -> bool {
        let slots = self.footer.len() + next.slots.len();
        self.common == next.common
            && self.builder.byte_len() as u64 + next.bytes <= bytes
            && self.footer_bytes + next.footer_bytes <= FOOTER_BYTES
            && slots <= SLOT_COUNT_MAX as usize
    }

    /// Takes back what came after the first `slots`.
    fn take_back(&mut self, slots: usize) {
        self.footer.truncate(slots);
        self.births.truncate(slots);
        self.builder.truncate(u32::try_from(slots).unwrap_or(u32::MAX));
    }
}

/// The copies of a source: one of a data pack, two of a metadata pack.
struct Copies<'a> {
    vault: &'a Inner,
    lineage: &'a Lineage,
    index: &'a PackIndex,
    first: ObjectName,
    second: Option<(ObjectName, PackIndex)>,
}

impl<'a> Copies<'a> {
    fn of(vault: &'a Inner, lineage: &'a Lineage, source: &'a Opened) -> Self {
        let first = ObjectName::pack(lineage.id, &source.source.pack);
        let twice = source.index.content == PackContent::Metadata;
        let second = twice.then(|| (second_copy(&first), source.index.without_bytes()));
        Self { vault, lineage, index: &source.index, first, second }
    }

    fn range(&self, at: u32) -> Result<Range<u64>, VaultError> {
        slot_of(self.index, &self.first, at).map(SlotPlace::range)
    }

    fn read(&self, range: Range<u64>) -> Result<Vec<u8>, VaultError> {
        self.vault.read_slots(&self.first, self.index, range.clone()).or_else(|e| self.read_second(range, e))
    }

    /// `sealed`, which is the slot at `range` of the first copy, when it is sound; else the same of the second copy.
    fn sound<'b>(
        &self,
        sealed: &'b [u8],
        range: Range<u64>,
        slot: &FooterSlot,
        birth: &SlotBirth,
    ) -> Result<Cow<'b, [u8]>, VaultError> {
        match self.check(sealed, slot, birth) {
            Ok(()) => Ok(Cow::Borrowed(sealed)),
            Err(e) => {
                let sealed = self.read_second(range, VaultError::open(&self.first, e))?;
                self.check(&sealed, slot, birth).map_err(|e| VaultError::open(&self.first, e))?;
                Ok(Cow::Owned(sealed))
            }
        }
    }

    /// Reads from the second copy what cannot be had from the first because of `error`.
    fn read_second(&self, range: Range<u64>, error: VaultError) -> Result<Vec<u8>, VaultError> {
        match &self.second {
            Some((name, index)) if error.is_of_one_object() => {
                let bytes = self.vault.read_slots(name, index, range);
                bytes.map_err(|second| if second.is_of_one_object() { error } else { second })
            }
            _ => Err(error),
        }
    }

    /// Whether a slot is what the footer says. With its key at hand it is opened, so that no damage is passed on; without,
    /// its header has to agree.
    fn check(&self, sealed: &[u8], slot: &FooterSlot, birth: &SlotBirth) -> Result<(), OpenError> {
        let head = SlotHead::parse(sealed)?;
        if (head.kind, head.codec, head.plain_len) != (slot.kind, slot.codec, slot.plain_len) {
            return Err(OpenError::Malformed { what: "a slot's header contradicts the footer" });
        }
        let found = SlotId { pack: head.birth_pack(), slot: head.number };
        if found != birth.id {
            return Err(OpenError::WrongPlace { expected: birth.id, found });
        }
        // Its length and its key are checked by the builder that takes it.
        let Ok(key) = slot_key(self.lineage, self.index) else { return Ok(()) };
        open_slot(&mut sealed.to_vec(), key, birth.id, slot.kind, &self.vault.ciphers).map(drop)
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
