//! The stored forms of a node: in full, or as a delta over a full one.
//!
//! Encoding and decoding are told which pack the node lies in. References into that pack are written as index 0 of the
//! pack table, so a node can be written before its pack has a name.

use vmkeep_model::{BlockSize, ContentHash, LineageId, PageMask, PointNumber, SessionId};

use super::entry::Entry;
use super::error::Malformed;
use super::node::{Base, Child, Node, Slots};
use super::places::Places;
use super::shape::{LEVEL_MAX, PLACES, is_node};
use super::varint::{Reader, put_varint};
use vmkeep_envelope::PackName;

use crate::place::{PackPlace, Reference, StorageId};

const FORM_FULL_LEAF: u8 = 0;
const FORM_FULL_INNER: u8 = 1;
const FORM_DELTA_LEAF: u8 = 2;
const FORM_DELTA_INNER: u8 = 3;

const RUN_FULL: u8 = 0;
const RUN_PATCHED: u8 = 1;

const PACK_FOREIGN: u8 = 1;
/// Entries of a pack table. The fullest node, a leaf of 64 patched blocks stored as a delta, needs 129.
const PACKS_MAX: usize = 255;

/// Encodes `node` for the pack `own`, as a delta when it has a base.
pub fn encode(node: &Node, own: PackPlace) -> Vec<u8> {
    let mut body = Body { out: Vec::new(), packs: Vec::new(), own };
    let form = match (node.slots(), node.base()) {
        (Slots::Leaf(entries), None) => {
            body.leaf(entries.iter());
            FORM_FULL_LEAF
        }
        (Slots::Inner(children), None) => {
            body.inner(children.iter());
            FORM_FULL_INNER
        }
        (Slots::Leaf(entries), Some(Base { at, slots: Slots::Leaf(base) })) => {
            body.base(at, base.missing_from(entries));
            body.leaf(entries.changed_from(base));
            FORM_DELTA_LEAF
        }
        (Slots::Inner(children), Some(Base { at, slots: Slots::Inner(base) })) => {
            body.base(at, base.missing_from(children));
            body.inner(children.changed_from(base));
            FORM_DELTA_INNER
        }
        _ => unreachable!("Node::over takes no base of another kind"),
    };
    let mut out = vec![form, node.level()];
    put_varint(&mut out, node.index());
    put_len(&mut out, body.packs.len());
    for pack in &body.packs {
        match pack.lineage {
            None => out.push(0),
            Some(lineage) => {
                out.push(PACK_FOREIGN);
                out.extend(lineage.0);
            }
        }
        out.extend(pack.session.0);
        out.extend(pack.name.0);
    }
    out.extend(body.out);
    out
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    put_varint(out, u64::try_from(len).unwrap_or(u64::MAX));
}

/// All of a node that comes after its pack table, and the table as it fills.
struct Body {
    out: Vec<u8>,
    packs: Vec<PackPlace>,
    own: PackPlace,
}

impl Body {
    fn base(&mut self, at: &Reference, removed: u64) {
        self.reference(at);
        self.out.extend(removed.to_le_bytes());
    }

    fn reference(&mut self, reference: &Reference) {
        let StorageId { pack, slot, index } = reference.at;
        let number = if pack == self.own {
            0
        } else {
            let known = self.packs.iter().position(|&other| other == pack);
            1 + known.unwrap_or_else(|| {
                self.packs.push(pack);
                self.packs.len() - 1
            })
        };
        put_len(&mut self.out, number);
        put_varint(&mut self.out, slot.into());
        put_varint(&mut self.out, index.into());
        put_varint(&mut self.out, reference.birth.0);
    }

    fn leaf<'a>(&mut self, entries: impl Iterator<Item = (u8, &'a Entry)>) {
        let mut runs: Vec<Run<'a>> = Vec::new();
        for (place, entry) in entries {
            match runs.last_mut() {
                Some(run) if run.is_continued_by(place, entry) => run.entries.push(entry),
                _ => runs.push(Run { place, entries: vec![entry] }),
            }
        }
        put_len(&mut self.out, runs.len());
        for Run { place, entries } in runs {
            self.out.push(place);
            put_len(&mut self.out, entries.len()); // at most 64, so one byte
            match entries[0] {
                Entry::Full { at, .. } => {
                    self.out.push(RUN_FULL);
                    self.reference(at);
                }
                Entry::Patched { base, patch, pages, .. } => {
                    self.out.push(RUN_PATCHED);
                    self.reference(base);
                    self.reference(patch);
                    put_len(&mut self.out, pages.as_bytes().len());
                    self.out.extend(pages.as_bytes());
                }
            }
            for entry in entries {
                self.out.extend(entry.hash().0);
            }
        }
    }

    fn inner<'a>(&mut self, children: impl Iterator<Item = (u8, &'a Child)>) {
        let children: Vec<_> = children.collect();
        put_len(&mut self.out, children.len());
        for (place, child) in children {
            self.out.extend([place, child.level]);
            put_varint(&mut self.out, child.index);
            self.reference(&child.at);
            put_varint(&mut self.out, child.newest_birth.0);
            put_varint(&mut self.out, child.blocks);
            self.out.extend(child.hash.0);
        }
    }
}

/// Neighbouring whole blocks that lie one after another in one slot, or one patched block.
struct Run<'a> {
    place: u8,
    entries: Vec<&'a Entry>,
}

impl Run<'_> {
    fn is_continued_by(&self, place: u8, entry: &Entry) -> bool {
        let (Entry::Full { at: first, .. }, Entry::Full { at: next, .. }) = (self.entries[0], entry) else {
            return false;
        };
        let Ok(len) = u8::try_from(self.entries.len()) else { return false };
        let follows = first.at.index.checked_add(len.into()) == Some(next.at.index);
        let same_slot = first.at.pack == next.at.pack && first.at.slot == next.at.slot;
        place == self.place + len && follows && same_slot && first.birth == next.birth
    }
}

/// A node as it was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// All of it.
    Full(Node),
    /// What has to be laid over another node.
    Delta(Delta),
}

/// What differs from a full node of the same level and index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta {
    level: u8,
    index: u64,
    base: Reference,
    removed: u64,
    changes: Slots,
}

impl Delta {
    /// Where the full node lies that this is laid over.
    pub fn base(&self) -> &Reference {
        &self.base
    }

    /// The node that comes of laying this over `base`, which must be what [`base`](Self::base) names.
    pub fn expand(self, base: Node) -> Result<Node, Malformed> {
        if base.base().is_some() {
            return Err(Malformed { what: "delta over a delta" });
        }
        if (base.level(), base.index()) != (self.level, self.index) {
            return Err(Malformed { what: "delta over a node of another place" });
        }
        let below = base.into_slots();
        let slots = match (below.clone(), self.changes) {
            (Slots::Leaf(below), Slots::Leaf(changes)) => Slots::Leaf(below.overlaid(self.removed, changes)?),
            (Slots::Inner(below), Slots::Inner(changes)) => {
                Slots::Inner(below.overlaid(self.removed, changes)?)
            }
            _ => return Err(Malformed { what: "delta over a node of another kind" }),
        };
        Ok(Node::new(self.level, self.index, slots)?.over(Base { at: self.base, slots: below }))
    }
}

/// Decodes a node that was read from the pack `own`.
///
/// Whoever calls it trusts nothing in `bytes`: every number is checked against its bound before it is used, and no
/// allocation is larger than a node can be. That the content is the expected one is for the caller to check, by hash.
pub fn decode(bytes: &[u8], own: PackPlace, block_size: BlockSize) -> Result<Decoded, Malformed> {
    let mut fields = Fields { reader: Reader::new(bytes), packs: vec![own], block_size };
    let form = fields.reader.u8("form of a node")?;
    let (is_leaf, is_delta) = match form {
        FORM_FULL_LEAF => (true, false),
        FORM_FULL_INNER => (false, false),
        FORM_DELTA_LEAF => (true, true),
        FORM_DELTA_INNER => (false, true),
        _ => return Err(Malformed { what: "form of a node" }),
    };
    let level = fields.reader.u8("level of a node")?;
    if level > LEVEL_MAX {
        return Err(Malformed { what: "level of a node" });
    }
    let index = fields.reader.varint("index of a node")?;
    fields.pack_table()?;
    let base = if is_delta {
        Some((fields.reference()?, fields.reader.u64("mask of removed places")?))
    } else {
        None
    };
    let changes = if is_leaf { Slots::Leaf(fields.leaf()?) } else { Slots::Inner(fields.inner()?) };
    fields.reader.finish()?;
    Ok(match base {
        None => Decoded::Full(Node::new(level, index, changes)?),
        Some((base, removed)) => Decoded::Delta(Delta { level, index, base, removed, changes }),
    })
}

/// Level and index of an encoded node, without the rest of it.
pub(crate) fn spot(bytes: &[u8]) -> Result<(u8, u64), Malformed> {
    let mut reader = Reader::new(bytes);
    if reader.u8("form of a node")? > FORM_DELTA_INNER {
        return Err(Malformed { what: "form of a node" });
    }
    let level = reader.u8("level of a node")?;
    let index = reader.varint("index of a node")?;
    if !is_node(level, index) {
        return Err(Malformed { what: "level or index of a node" });
    }
    Ok((level, index))
}

struct Fields<'a> {
    reader: Reader<'a>,
    /// The node's own pack, then the table.
    packs: Vec<PackPlace>,
    block_size: BlockSize,
}

impl Fields<'_> {
    fn pack_table(&mut self) -> Result<(), Malformed> {
        let own_lineage = self.packs[0].lineage;
        for _ in 0..self.reader.count(PACKS_MAX, "number of packs")? {
            let lineage = match self.reader.u8("flags of a pack")? {
                // Said from within a foreign node, "no lineage" means that node's lineage.
                0 => own_lineage,
                PACK_FOREIGN => Some(LineageId(self.reader.array("lineage of a pack")?)),
                _ => return Err(Malformed { what: "flags of a pack" }),
            };
            let session = SessionId(self.reader.array("session of a pack")?);
            let name = PackName(self.reader.array("name of a pack")?);
            self.packs.push(PackPlace { lineage, session, name });
        }
        Ok(())
    }

    fn reference(&mut self) -> Result<Reference, Malformed> {
        let pack = self.reader.count(PACKS_MAX, "pack of a reference")?;
        let pack = *self.packs.get(pack).ok_or(Malformed { what: "pack of a reference" })?;
        let slot = self.reader.varint_u32("slot of a reference")?;
        let index = self.reader.varint_u32("index of a reference")?;
        let birth = PointNumber(self.reader.varint("birth of a reference")?);
        Ok(Reference { at: StorageId { pack, slot, index }, birth })
    }

    fn hash(&mut self) -> Result<ContentHash, Malformed> {
        self.reader.array("hash").map(ContentHash)
    }

    fn leaf(&mut self) -> Result<Places<Entry>, Malformed> {
        let mut entries = Places::default();
        for _ in 0..self.reader.count(PLACES.into(), "number of runs")? {
            let place = self.reader.u8("place of a run")?;
            let len = self.reader.u8("length of a run")?;
            if len == 0 || place >= PLACES || len > PLACES - place {
                return Err(Malformed { what: "length of a run" });
            }
            match self.reader.u8("kind of a run")? {
                RUN_FULL => {
                    let first = self.reference()?;
                    for i in 0..len {
                        let index = first.at.index.checked_add(i.into());
                        let index = index.ok_or(Malformed { what: "index of a reference" })?;
                        let at = Reference { at: StorageId { index, ..first.at }, ..first };
                        entries.push(place + i, Entry::Full { at, hash: self.hash()? })?;
                    }
                }
                RUN_PATCHED if len == 1 => {
                    let (base, patch) = (self.reference()?, self.reference()?);
                    let mask_len = PageMask::len_for(self.block_size);
                    if self.reader.count(mask_len, "length of a page mask")? != mask_len {
                        return Err(Malformed { what: "length of a page mask" });
                    }
                    let bits = self.reader.bytes(mask_len, "page mask")?;
                    let pages =
                        PageMask::new(self.block_size, bits).map_err(|_| Malformed { what: "page mask" })?;
                    let entry = Entry::Patched { base, patch, pages, hash: self.hash()? };
                    entry.check(self.block_size)?;
                    entries.push(place, entry)?;
                }
                _ => return Err(Malformed { what: "kind of a run" }),
            }
        }
        Ok(entries)
    }

    fn inner(&mut self) -> Result<Places<Child>, Malformed> {
        let mut children = Places::default();
        for _ in 0..self.reader.count(PLACES.into(), "number of children")? {
            let place = self.reader.u8("place of a child")?;
            let level = self.reader.u8("level of a child")?;
            let index = self.reader.varint("index of a child")?;
            let at = self.reference()?;
            let newest_birth = PointNumber(self.reader.varint("newest birth of a child")?);
            let blocks = self.reader.varint("number of blocks below a child")?;
            let hash = self.hash()?;
            children.push(place, Child { at, level, index, hash, newest_birth, blocks })?;
        }
        Ok(children)
    }
}
