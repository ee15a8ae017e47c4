//! Metadata packs: map nodes, change lists and the copy of the point, each pack written twice.

use std::sync::Arc;

use bytes::Bytes;
use vmkeep_envelope::{Codec, PackBuilder, PackContent, SlotKind};
use vmkeep_model::PointNumber;

use super::begun::Begun;
use super::reader::NodeSlot;
use crate::error::VaultError;
use crate::format::{FooterBody, FooterSlot, Origin};
use crate::frame::{CompressionLevel, FrameEncoder};
use crate::layout::ObjectName;
use crate::map::varint::put_varint;
use crate::map::{BoxError, NodeSink, PackToken, PendingStorage};
use crate::place::PackPlace;
use crate::session::Writing;

/// Plain bytes of map nodes that go into one slot: what a reader unpacks to see one node.
const NODE_SLOT_BYTES: usize = 32 << 10;
/// Sealed size at which a metadata pack is stored, at most.
pub(crate) const METADATA_PACK_BYTES: usize = 4 << 20;

/// Where a slot of a metadata pack will lie once the pack is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotPlaced {
    pub(crate) pack: PackToken,
    pub(crate) slot: u32,
}

/// How many bytes a writer stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoredBytes {
    /// In data packs.
    pub data: u64,
    /// In metadata packs, both copies, and records.
    pub metadata: u64,
}

/// Fills and stores the metadata packs of one disk, or of the session itself.
pub(crate) struct MetadataPacks<'s> {
    session: &'s Writing,
    /// Sealed size at which a pack is stored.
    pack_bytes: usize,
    encoder: FrameEncoder,
    builder: PackBuilder,
    footer: Vec<FooterSlot>,
    /// Lengths and bytes of the nodes of the slot being filled.
    lens: Vec<usize>,
    nodes: Vec<u8>,
    /// Node slots of the open pack, for the cache once its name is known.
    filled: Vec<(u32, NodeSlot)>,
    /// Names of the sealed packs, by token.
    sealed: Vec<PackPlace>,
    begun: Begun<'s>,
    stored: u64,
}

impl std::fmt::Debug for MetadataPacks<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MetadataPacks({} sealed)", self.sealed.len())
    }
}

impl<'s> MetadataPacks<'s> {
    pub(crate) fn new(session: &'s Writing, pack_bytes: usize) -> Result<Self, VaultError> {
        let encoder = FrameEncoder::new(CompressionLevel::Default).map_err(|e| session.misuse(&e))?;
        Ok(Self {
            session,
            pack_bytes: pack_bytes.min(METADATA_PACK_BYTES),
            encoder,
            builder: PackBuilder::new(PackContent::Metadata, 0),
            footer: Vec::new(),
            lens: Vec::new(),
            nodes: Vec::new(),
            filled: Vec::new(),
            sealed: Vec::new(),
            begun: Begun::new(session, PackContent::Metadata),
            stored: 0,
        })
    }

    /// Adds a slot that holds `plain`.
    pub(crate) fn slot(&mut self, kind: SlotKind, plain: Vec<u8>) -> Result<SlotPlaced, VaultError> {
        self.fill_slot()?;
        let placed = self.push(kind, plain)?;
        self.seal_when(self.pack_bytes)?;
        Ok(placed)
    }

    /// Seals what is open and waits until everything is durable. Returns the bytes stored.
    pub(crate) fn finish(&mut self) -> Result<u64, VaultError> {
        self.fill_slot()?;
        self.seal_when(1)?;
        self.begun.wait()?;
        Ok(self.stored)
    }

    /// What was stored is referred to; until then it is forsaken with the writer.
    pub(crate) fn done(&mut self) {
        self.begun.done();
    }

    /// Where the pack of `token` lies, once it is sealed.
    pub(crate) fn place(&self, token: PackToken) -> Option<PackPlace> {
        self.sealed.get(usize::try_from(token.0).ok()?).copied()
    }

    fn token(&self) -> PackToken {
        PackToken(self.sealed.len() as u64)
    }

    /// Ends the slot of nodes being filled.
    fn fill_slot(&mut self) -> Result<(), VaultError> {
        if self.lens.is_empty() {
            return Ok(());
        }
        let mut plain = Vec::with_capacity(self.nodes.len() + self.lens.len() * 2 + 4);
        put_varint(&mut plain, self.lens.len() as u64);
        self.lens.drain(..).for_each(|len| put_varint(&mut plain, len as u64));
        plain.append(&mut self.nodes);
        let nodes = NodeSlot::parse(Bytes::copy_from_slice(&plain)).map_err(|e| self.session.misuse(&e))?;
        let placed = self.push(SlotKind::Nodes, plain)?;
        self.filled.push((placed.slot, nodes));
        Ok(())
    }

    fn push(&mut self, kind: SlotKind, plain: Vec<u8>) -> Result<SlotPlaced, VaultError> {
        let (codec, plain_len, body) =
            self.encoder.pack(plain.into()).map_err(|e| self.session.misuse(&e))?;
        let slot =
            self.builder.push(kind, codec, plain_len, &body).map_err(|e| self.session.seal_error(e))?;
        let len = self.builder.slots().last().map_or(0, |layout| u64::from(layout.len));
        self.footer.push(born_here(self.session.target, kind, codec, plain_len, len));
        Ok(SlotPlaced { pack: self.token(), slot })
    }

    fn seal_when(&mut self, bytes: usize) -> Result<(), VaultError> {
        if self.builder.slot_count() == 0 || self.builder.byte_len() < bytes {
            return Ok(());
        }
        let builder = std::mem::replace(&mut self.builder, PackBuilder::new(PackContent::Metadata, 0));
        let footer = FooterBody {
            lineage: self.session.lineage.id,
            session: self.session.id,
            point: self.session.target,
            disk: None,
            slots: std::mem::take(&mut self.footer),
        };
        let map = self.session.lineage.domain.map_key()?;
        let sealed = builder
            .seal(map, map, &footer.encode(), &self.session.context())
            .map_err(|e| self.session.seal_error(e))?;
        let place = PackPlace { lineage: None, session: self.session.id, name: sealed.name };
        let name = ObjectName::pack(self.session.lineage.id, &place);
        self.begun.wait()?;
        self.stored += 2 * sealed.object.bytes().len() as u64;
        self.session.vault.objects.keep(&name, sealed.object.bytes());
        self.begun.start(sealed.name, &sealed.object);
        for (slot, nodes) in self.filled.drain(..) {
            let weight = nodes.weight();
            self.session.vault.nodes.put((self.session.lineage.id, place, slot), Arc::new(nodes), weight);
        }
        self.sealed.push(place);
        Ok(())
    }
}

/// A slot as the footer of the pack it is born in tells it.
pub(crate) fn born_here(
    birth: PointNumber,
    kind: SlotKind,
    codec: Codec,
    plain_len: u32,
    len: u64,
) -> FooterSlot {
    let (blocks, patches) = (Vec::new(), Vec::new());
    FooterSlot { birth, origin: Origin::BornHere, len, plain_len, codec, kind, blocks, patches }
}

impl NodeSink for MetadataPacks<'_> {
    fn current_pack(&self) -> PackToken {
        self.token()
    }

    fn put(&mut self, node: &[u8]) -> Result<PendingStorage, BoxError> {
        let slot = self.builder.slot_count();
        let index = u32::try_from(self.lens.len())?;
        let placed = PendingStorage { pack: self.token(), slot, index };
        self.lens.push(node.len());
        self.nodes.extend_from_slice(node);
        if self.nodes.len() >= NODE_SLOT_BYTES {
            self.fill_slot()?;
            self.seal_when(self.pack_bytes)?;
        }
        Ok(placed)
    }

    fn resolve(&self, token: PackToken) -> Option<PackPlace> {
        self.place(token)
    }
}
