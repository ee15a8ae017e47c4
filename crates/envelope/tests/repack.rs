//! Moved slots: copied as they are, they open as what they were born as; what is no such slot is refused.
#![allow(clippy::unwrap_used)] // in helpers too

mod common;

use common::*;
use proptest::prelude::*;
use vmkeep_envelope::*;
use vmkeep_model::{DomainId, SessionId};

/// A sealed slot and what it is: where it was born, and what it opens to.
#[derive(Clone, Debug)]
struct Born {
    id: SlotId,
    sealed: Vec<u8>,
    opens_to: Slot,
}

fn key_of(content: PackContent) -> BranchKey {
    if content == PackContent::Data { data_key() } else { map_key() }
}

fn born(content: PackContent, slots: &[Slot], seed: u64) -> Vec<Born> {
    let pack = seal(content, slots, b"where they were born", seed);
    let (sealed, ..) = take_apart(pack.object.bytes()).unwrap();
    let id = |slot| SlotId { pack: pack.name, slot };
    let slots = (0..).zip(sealed).zip(slots);
    slots.map(|((n, sealed), slot)| Born { id: id(n), sealed, opens_to: slot.clone() }).collect()
}

fn repack(content: PackContent, slots: &[Born], seed: u64) -> SealedPack {
    let mut pack = RepackBuilder::new(key_of(content).id(), 0).unwrap();
    for (place, slot) in (0..).zip(slots) {
        assert_eq!(pack.push(&slot.sealed, slot.id).unwrap(), place);
    }
    pack.seal(&map_key(), b"a footer", &Sealer::new(seed).ctx()).unwrap()
}

/// Opens every slot of a repacked pack under its birth id, and the footer.
fn open_moved(pack: &[u8], name: PackName, slots: &[Born]) -> Result<(Vec<Slot>, Vec<u8>), OpenError> {
    let head = PackHead::parse(pack)?;
    let (sealed, mut footer, trailer) = take_apart(pack)?;
    let footer = open_footer(&mut footer, pack.first_chunk().unwrap(), &trailer, &map_key(), name)?;
    let ciphers = SlotCiphers::default();
    let mut opened = Vec::new();
    for (mut sealed, slot) in sealed.into_iter().zip(slots) {
        let kind = slot.opens_to.0;
        let found = open_slot(&mut sealed, &key_of(head.content), slot.id, kind, &ciphers)?;
        opened.push((kind, found.codec, found.plain_len, found.body.to_vec()));
    }
    Ok((opened, footer))
}

fn any_slot(content: PackContent) -> impl Strategy<Value = Slot> {
    let kinds = match content {
        PackContent::Data => vec![SlotKind::Blocks, SlotKind::Patches],
        PackContent::Metadata => vec![SlotKind::Nodes, SlotKind::ChangeList, SlotKind::PointCopy],
    };
    let body = prop::collection::vec(any::<u8>(), 0..200);
    (prop::sample::select(kinds), any::<bool>(), body).prop_map(|(kind, packed, body)| {
        let len = u32::try_from(body.len()).unwrap();
        if packed { (kind, Codec::Zstd, len + 5, body) } else { (kind, Codec::Stored, len, body) }
    })
}

/// Slots of several packs of one content, some of them picked, in any order.
fn any_picked() -> impl Strategy<Value = (PackContent, Vec<Born>)> {
    prop::sample::select(vec![PackContent::Data, PackContent::Metadata]).prop_flat_map(|content| {
        let slots = prop::collection::vec(any_slot(content), 0..6);
        let all = prop::collection::vec(slots, 1..5).prop_map(move |packs| {
            (0..).zip(&packs).flat_map(|(seed, slots)| born(content, slots, seed)).collect::<Vec<_>>()
        });
        let some = all.prop_flat_map(|all| {
            let most = all.len();
            prop::sample::subsequence(all, 0..=most).prop_shuffle()
        });
        (Just(content), some)
    })
}

proptest! {
    #[test]
    fn moved_slots_open_as_what_they_were_born_as(
        (content, slots) in any_picked(), at in any::<prop::sample::Index>(), bit in 0..8_u8,
    ) {
        let pack = repack(content, &slots, 9);
        let bytes = pack.object.bytes();
        let head = PackHead::parse(bytes).unwrap();
        prop_assert_eq!((head.content, head.slots, head.map), (content, key_of(content).id(), map_key().id()));
        let opens_to: Vec<Slot> = slots.iter().map(|slot| slot.opens_to.clone()).collect();
        prop_assert_eq!(open_moved(bytes, pack.name, &slots).unwrap(), (opens_to, b"a footer".to_vec()));
        let (sealed, ..) = take_apart(bytes).unwrap();
        prop_assert!(sealed.iter().eq(slots.iter().map(|slot| &slot.sealed)), "copied byte for byte");

        let mut bad = bytes.to_vec();
        let at = at.index(bad.len());
        bad[at] ^= 1 << bit;
        prop_assert!(open_moved(&bad, pack.name, &slots).is_err(), "byte {}", at);
        fuzzing::pack(&bad);

        // A second hop: moved out of the pack that they were moved to.
        let again: Vec<Born> =
            slots.iter().zip(sealed).map(|(slot, sealed)| Born { sealed, ..slot.clone() }).collect();
        let second = repack(content, &again, 10);
        prop_assert!(open_moved(second.object.bytes(), second.name, &slots).is_ok());
        prop_assert_ne!(second.name, pack.name);
    }

    #[test]
    fn any_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut pack = RepackBuilder::new(data_key().id(), 0).unwrap();
        let id = SlotId { pack: PackName([0; 16]), slot: 0 };
        prop_assert!(pack.push(&bytes, id).is_err());
        prop_assert!(pack.is_empty());
    }
}

fn two() -> Vec<Born> {
    born(PackContent::Data, &[stored(SlotKind::Blocks, b"block"), stored(SlotKind::Patches, b"page")], 1)
}

#[test]
fn every_flipped_bit_is_noticed() {
    let slots = two();
    let pack = repack(PackContent::Data, &slots, 2);
    for (at, bit) in (0..pack.object.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
        let mut bad = pack.object.bytes().to_vec();
        bad[at] ^= 1 << bit;
        assert!(open_moved(&bad, pack.name, &slots).is_err(), "byte {at}, bit {bit}");
    }
}

#[test]
fn the_salt_depends_on_what_is_sealed() {
    let slots = two();
    let sealed = |slots: &[Born], map: &BranchKey, footer: &[u8], session: u8| {
        let mut pack = RepackBuilder::new(data_key().id(), 0).unwrap();
        for slot in slots {
            pack.push(&slot.sealed, slot.id).unwrap();
        }
        let sealer = Sealer::new(4);
        let ctx = SealContext { session: SessionId([session; 16]), ..sealer.ctx() };
        pack.seal(map, footer, &ctx).unwrap()
    };
    let first = sealed(&slots, &map_key(), b"footer", 1);
    assert_eq!(first, sealed(&slots, &map_key(), b"footer", 1));
    for other in [
        sealed(&slots, &map_key(), b"footes", 1),
        sealed(&slots, &map_key(), b"footer", 2),
        sealed(&slots[..1], &map_key(), b"footer", 1),
        sealed(&slots, &key(Branch::Map, 7, 2), b"footer", 1),
    ] {
        assert_ne!(first.name, other.name);
    }
}

#[test]
fn what_is_not_that_slot_is_refused() {
    let slots = two();
    let metadata = born(PackContent::Metadata, &[stored(SlotKind::Nodes, b"nodes")], 1);
    let mut pack = RepackBuilder::new(data_key().id(), 0).unwrap();
    let mut refused = |bytes: &[u8], expected: SlotId| match pack.push(bytes, expected) {
        Err(SealError::NotThatSlot { expected: named, source }) => {
            assert_eq!(named, expected);
            assert!(pack.is_empty() && pack.byte_len() == PACK_HEADER_LEN);
            source
        }
        other => panic!("{other:?}"),
    };
    let (slot, id) = (&slots[0].sealed, slots[0].id);
    for len in 0..slot.len() {
        assert!(matches!(refused(&slot[..len], id), OpenError::Truncated { .. }), "{len}");
    }
    let longer = [slot.as_slice(), &[0]].concat();
    assert!(matches!(refused(&longer, id), OpenError::TrailingBytes { .. }));
    assert!(matches!(refused(slot, slots[1].id), OpenError::WrongPlace { found, .. } if found == id));
    let elsewhere = SlotId { pack: PackName([1; 16]), ..id };
    assert!(matches!(refused(slot, elsewhere), OpenError::WrongPlace { .. }));
    assert!(matches!(refused(&metadata[0].sealed, metadata[0].id), OpenError::Malformed { .. }));
    let broken = |at: usize| {
        let mut slot = slot.clone();
        slot[at] ^= 0x40;
        slot
    };
    assert!(matches!(refused(&broken(0), id), OpenError::BadMagic { .. }));
    assert!(matches!(refused(&broken(4), id), OpenError::WrongPlace { .. }));
    assert!(matches!(refused(&broken(20), id), OpenError::WrongKey { found, .. } if found.epoch == 3 + 0x40));
    assert!(matches!(refused(&broken(30), id), OpenError::WrongPlace { .. }));

    // A footer is sealed with the map branch too.
    let sealed = seal(PackContent::Metadata, &[], b"footer", 1);
    let (_, footer, _) = take_apart(sealed.object.bytes()).unwrap();
    let mut pack = RepackBuilder::new(map_key().id(), 0).unwrap();
    let id = SlotId { pack: sealed.name, slot: u32::MAX };
    assert!(matches!(pack.push(&footer, id), Err(SealError::NotThatSlot { .. })));
}

#[test]
fn a_changed_body_is_moved_and_does_not_open() {
    let mut slots = two();
    slots[0].sealed[60] ^= 1;
    let pack = repack(PackContent::Data, &slots, 2);
    assert!(matches!(open_moved(pack.object.bytes(), pack.name, &slots), Err(OpenError::Tampered)));
}

#[test]
fn bounds_and_keys_are_those_of_the_format() {
    for branch in [Branch::Record, Branch::Identity] {
        let refused = RepackBuilder::new(key(branch, 0, 1).id(), 0);
        assert!(matches!(refused, Err(SealError::WrongBranch { .. })), "{branch}");
    }
    let sealer = Sealer::new(1);
    let refused = |map: BranchKey, footer: &[u8]| {
        let pack = RepackBuilder::new(data_key().id(), 0).unwrap();
        pack.seal(&map, footer, &sealer.ctx()).unwrap_err()
    };
    assert!(matches!(refused(data_key(), b""), SealError::WrongBranch { .. }));
    let id = BranchId { domain: DomainId([1; 16]), ..map_key().id() };
    let elsewhere = BranchKey::from_parts(id, SecretKey::from_bytes(&mut [2; 32]));
    assert!(matches!(refused(elsewhere, b""), SealError::WrongBranch { .. }));
    let long = vec![0; SLOT_PLAIN_MAX + 1];
    assert!(matches!(refused(map_key(), &long), SealError::TooLarge { what: "footer", .. }));

    let slot = born(PackContent::Data, &[stored(SlotKind::Blocks, b"")], 1).remove(0);
    let mut pack = RepackBuilder::new(data_key().id(), 5 << 20).unwrap();
    for place in 0..SLOT_COUNT_MAX {
        assert_eq!(pack.push(&slot.sealed, slot.id).unwrap(), place);
    }
    let full = pack.push(&slot.sealed, slot.id);
    assert!(matches!(full, Err(SealError::TooLarge { what: "slot count", .. })));
}

#[test]
fn slots_are_taken_back_from_the_end() {
    let slots = two();
    let mut pack = RepackBuilder::new(data_key().id(), 0).unwrap();
    for slot in [&slots[0], &slots[1], &slots[1]] {
        pack.push(&slot.sealed, slot.id).unwrap();
    }
    pack.truncate(7);
    assert_eq!(pack.slot_count(), 3);
    pack.truncate(1);
    assert_eq!(pack.push(&slots[1].sealed, slots[1].id).unwrap(), 1);
    let sealed = pack.seal(&map_key(), b"a footer", &Sealer::new(2).ctx()).unwrap();
    assert_eq!(sealed, repack(PackContent::Data, &slots, 2));
    let mut pack = RepackBuilder::new(data_key().id(), 0).unwrap();
    pack.push(&slots[0].sealed, slots[0].id).unwrap();
    pack.truncate(0);
    assert!(pack.is_empty() && pack.byte_len() == PACK_HEADER_LEN);
}
