//! Entry points for a fuzzer: every decoder of stored bytes as a plain function, which must never panic.
//!
//! What decodes is encoded again and compared: a decoder that reads two different byte strings as one value, or drops
//! part of what it read, fails here. [`TARGETS`] names them all; `fuzz/` runs each, and the test `fuzz_corpora`
//! replays what was found.

use bytes::Bytes;
use vmkeep_envelope::guest::CapturedKeys;
use vmkeep_envelope::{Codec, fuzzing as envelope};
use vmkeep_model::ByteLen;

use crate::format::{
    Body, CheckpointBody, ClosedBody, DestroyedBody, EntryBody, FooterBody, ForgetBody, HeadBody,
    InheritedBody, JournalBody, MarkBody, MovedBody, NameBody, PinBody, PlanBody, PointBody, RepackBody,
    RetiredBody, RotationBody, SessionBody, VaultBody, VoidBody, WornBody, decode_body, encode,
};
use crate::frame::FrameDecoder;
use crate::journal::JournalEntry;
use crate::layout::ObjectName;
use crate::map;
use crate::pack::NodeSlot;

/// A function that takes any bytes.
pub type Target = fn(&[u8]);

/// Every function here by its name, which is also that of its fuzz target and of its corpus.
pub const TARGETS: [(&str, Target); 32] = [
    ("vault_body", vault_body),
    ("name_body", name_body),
    ("point_body", point_body),
    ("void_body", void_body),
    ("closed_body", closed_body),
    ("head_body", head_body),
    ("retired_body", retired_body),
    ("session_body", session_body),
    ("forget_body", forget_body),
    ("checkpoint_body", checkpoint_body),
    ("entry_body", entry_body),
    ("rotation_body", rotation_body),
    ("journal_body", journal_body),
    ("mark_body", mark_body),
    ("pin_body", pin_body),
    ("plan_body", plan_body),
    ("inherited_body", inherited_body),
    ("moved_body", moved_body),
    ("worn_body", worn_body),
    ("repack_body", repack_body),
    ("captured_keys", captured_keys),
    ("destroyed_body", destroyed_body),
    ("journal_entry", journal_entry),
    ("footer", footer),
    ("node_slot", node_slot),
    ("node", node),
    ("change_list", change_list),
    ("object_name", object_name),
    ("frame", frame),
    ("key_object", key_object),
    ("record", record),
    ("pack", pack),
];

/// Longest frame that [`frame`] is asked for, in bytes: what a slot may hold.
const FRAME_MAX: u32 = 4 << 20;

fn body<T: Body + PartialEq + std::fmt::Debug>(data: &[u8]) {
    if let Ok(body) = decode_body::<T>(data) {
        assert_eq!(encode(&body).ok().as_deref(), Some(data), "{body:?} is stored in two ways");
    }
}

/// The body of a vault record.
pub fn vault_body(data: &[u8]) {
    body::<VaultBody>(data);
}

/// The body of a name record.
pub fn name_body(data: &[u8]) {
    body::<NameBody>(data);
}

/// The body of a void record.
pub fn void_body(data: &[u8]) {
    body::<VoidBody>(data);
}

/// The body of a closed record.
pub fn closed_body(data: &[u8]) {
    body::<ClosedBody>(data);
}

/// The body of a head record.
pub fn head_body(data: &[u8]) {
    body::<HeadBody>(data);
}

/// The body of a retirement record.
pub fn retired_body(data: &[u8]) {
    body::<RetiredBody>(data);
}

/// The body of a session record.
pub fn session_body(data: &[u8]) {
    body::<SessionBody>(data);
}

/// The body of a forget record.
pub fn forget_body(data: &[u8]) {
    body::<ForgetBody>(data);
}

/// The body of an entry of a journal.
pub fn entry_body(data: &[u8]) {
    body::<EntryBody>(data);
}

/// The body of the marker of a KEK being changed.
pub fn rotation_body(data: &[u8]) {
    body::<RotationBody>(data);
}

/// The body of a checkpoint.
pub fn checkpoint_body(data: &[u8]) {
    body::<CheckpointBody>(data);
}

/// The body of an entry of a journal of the first form.
pub fn journal_body(data: &[u8]) {
    body::<JournalBody>(data);
}

/// The body of a mark.
pub fn mark_body(data: &[u8]) {
    body::<MarkBody>(data);
}

/// The body of a pin.
pub fn pin_body(data: &[u8]) {
    body::<PinBody>(data);
}

/// The body of a part of a sweep's plan.
pub fn plan_body(data: &[u8]) {
    body::<PlanBody>(data);
}

/// The body of a void record with an heir.
pub fn inherited_body(data: &[u8]) {
    body::<InheritedBody>(data);
}

/// The body of a record of moved slots.
pub fn moved_body(data: &[u8]) {
    body::<MovedBody>(data);
}

/// The body of the record of a pack that waits to be repacked.
pub fn worn_body(data: &[u8]) {
    body::<WornBody>(data);
}

/// The body of the record of a repacking sweep.
pub fn repack_body(data: &[u8]) {
    body::<RepackBody>(data);
}

/// Keys of guests, as they are sealed into a point.
pub fn captured_keys(data: &[u8]) {
    if let Ok(keys) = CapturedKeys::decode(data) {
        let again = keys.encode().expect("what was decoded can be encoded");
        assert_eq!(*again, data);
    }
}

/// The body of the tombstone of destroyed keys.
pub fn destroyed_body(data: &[u8]) {
    body::<DestroyedBody>(data);
}

/// What a journal entry says: its kind (2 bytes), then its body.
pub fn journal_entry(data: &[u8]) {
    let Some((kind, body)) = data.split_first_chunk::<2>() else { return };
    let kind = u16::from_le_bytes(*kind);
    match JournalEntry::decode(kind, body) {
        // What a later version wrote is kept as it is and never written again.
        Ok(JournalEntry::Unknown { .. }) | Err(_) => {}
        Ok(entry) => assert_eq!(entry.encode().ok(), Some((kind, body.to_vec()))),
    }
}

/// The body of a point record, and what everyone else sees of it.
pub fn point_body(data: &[u8]) {
    let Ok(point) = PointBody::decode(data) else { return };
    for stored in point.disks.iter().filter_map(|disk| Some((disk.stored.as_ref()?, disk.size))) {
        let (Ok(Some(root)), Ok(size)) = (stored.0.root(stored.1), stored.0.block_size()) else { continue };
        assert!(root.blocks <= size.count_for(ByteLen(stored.1)), "more blocks than the disk has");
    }
    if let Ok(seen) = point.to_point(false) {
        assert_eq!(seen.disks.len(), point.disks.len());
    }
    // Not byte for byte: sections that may be missing are written.
    let again = point.encode().ok().and_then(|bytes| PointBody::decode(&bytes).ok());
    assert_eq!(again.as_ref(), Some(&point), "a point changed by being encoded");
}

/// The body of a pack's footer.
pub fn footer(data: &[u8]) {
    if let Ok(footer) = FooterBody::decode(data) {
        assert_eq!(footer.encode(), data, "a footer is stored in two ways");
    }
}

/// An unpacked slot of map nodes.
pub fn node_slot(data: &[u8]) {
    if let Ok(slot) = NodeSlot::parse(Bytes::copy_from_slice(data)) {
        let lens = (0..).map_while(|index| slot.node(index)).map(|node| node.len());
        assert!(lens.sum::<usize>() <= data.len(), "nodes overlap");
    }
}

/// A map node; see [`map::fuzzing::node`].
pub fn node(data: &[u8]) {
    map::fuzzing::node(data);
}

/// A change list.
pub fn change_list(data: &[u8]) {
    map::fuzzing::change_list(data);
}

/// The name of an object, as a store lists it.
pub fn object_name(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(name) = ObjectName::parse(text) {
        assert_eq!(name.to_string(), text, "two names of one object");
        assert_eq!(name.path().as_ref(), text, "a name that the store spells in another way");
    }
}

/// The body of a compressed slot: the length it must have (4 bytes), then the body.
pub fn frame(data: &[u8]) {
    let Some((len, body)) = data.split_first_chunk::<4>() else { return };
    let len = u32::from_le_bytes(*len) % (FRAME_MAX + 1);
    let Ok(mut decoder) = FrameDecoder::new() else { return };
    for codec in [Codec::Stored, Codec::Zstd] {
        if let Ok(plain) = decoder.unpack(codec, len, body) {
            assert_eq!(plain.len(), len as usize, "not as long as its slot says");
        }
    }
}

/// A key object; see [`vmkeep_envelope::fuzzing::key_object`].
pub fn key_object(data: &[u8]) {
    envelope::key_object(data);
}

/// A sealed record.
pub fn record(data: &[u8]) {
    envelope::record(data);
}

/// A sealed pack.
pub fn pack(data: &[u8]) {
    envelope::pack(data);
}
