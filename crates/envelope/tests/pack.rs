//! Packs: every slot opens by itself, at its place, and a changed byte is always noticed.
#![allow(clippy::unwrap_used)] // in helpers too

mod common;

use common::*;
use proptest::prelude::*;
use vmkeep_envelope::*;
use vmkeep_model::DomainId;

fn any_slot(content: PackContent) -> impl Strategy<Value = Slot> {
    let kinds = match content {
        PackContent::Data => vec![SlotKind::Blocks, SlotKind::Patches],
        PackContent::Metadata => vec![SlotKind::Nodes, SlotKind::ChangeList, SlotKind::PointCopy],
    };
    let body = prop::collection::vec(any::<u8>(), 0..3000);
    (prop::sample::select(kinds), prop::option::of(0_u32..100_000), body).prop_map(|(kind, longer, body)| {
        let len = u32::try_from(body.len()).unwrap();
        match longer {
            None => (kind, Codec::Stored, len, body),
            Some(more) => (kind, Codec::Zstd, len + more, body),
        }
    })
}

fn any_pack() -> impl Strategy<Value = (PackContent, Vec<Slot>, Vec<u8>)> {
    prop::sample::select(vec![PackContent::Data, PackContent::Metadata]).prop_flat_map(|content| {
        let slots = prop::collection::vec(any_slot(content), 0..8);
        (Just(content), slots, prop::collection::vec(any::<u8>(), 0..500))
    })
}

/// A small pack of two slots, to break.
fn small() -> SealedPack {
    let slots = [stored(SlotKind::Blocks, b"block"), (SlotKind::Patches, Codec::Zstd, 99, b"page".to_vec())];
    seal(PackContent::Data, &slots, b"footer", 1)
}

proptest! {
    #[test]
    fn what_was_sealed_opens((content, slots, footer) in any_pack(), seed in any::<u64>()) {
        let pack = seal(content, &slots, &footer, seed);
        let bytes = pack.object.bytes();
        let head = PackHead::parse(bytes).unwrap();
        prop_assert_eq!((head.content, head.slots.branch, head.map), (content, content.branch(), map_key().id()));
        prop_assert_eq!(open_all(bytes, pack.name).unwrap(), (slots.clone(), footer));
        // The layout tells of the same places that the headers do.
        for (layout, (kind, codec, plain_len, _)) in build(content, &slots).slots().iter().zip(&slots) {
            let head = SlotHead::parse(&bytes[usize::try_from(layout.offset).unwrap()..]).unwrap();
            prop_assert_eq!((head.kind, head.codec, head.plain_len), (*kind, *codec, *plain_len));
            prop_assert_eq!((layout.kind, layout.codec, layout.plain_len), (*kind, *codec, *plain_len));
            prop_assert_eq!(head.total_len(), layout.len as usize);
            prop_assert_eq!(head.birth_pack(), pack.name);
        }
    }

    #[test]
    fn one_salt_means_one_plaintext_even_when_the_random_source_repeats(
        (content, slots, footer) in any_pack(), seed in any::<u64>(), at in any::<prop::sample::Index>(),
    ) {
        let first = seal(content, &slots, &footer, seed);
        prop_assert_eq!(&first, &seal(content, &slots, &footer, seed));
        let other_footer = [footer.as_slice(), &[1]].concat();
        prop_assert_ne!(first.name, seal(content, &slots, &other_footer, seed).name);
        if !slots.is_empty() {
            let (mut changed, at) = (slots.clone(), at.index(slots.len()));
            if let Some(byte) = changed[at].3.first_mut() {
                *byte ^= 0x80;
            } else {
                (changed[at].1, changed[at].2) = (Codec::Zstd, changed[at].2 + 1);
            }
            prop_assert_ne!(first.name, seal(content, &changed, &footer, seed).name);
            prop_assert_ne!(first.name, seal(content, &slots[1..], &footer, seed).name);
        }
    }

    #[test]
    fn any_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(open_all(&bytes, PackName([0; 16])).is_err());
        fuzzing::pack(&bytes);
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    let SealedPack { name, object } = small();
    for (at, bit) in (0..object.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
        let mut bad = object.bytes().to_vec();
        bad[at] ^= 1 << bit;
        assert!(open_all(&bad, name).is_err(), "byte {at}, bit {bit}");
        fuzzing::pack(&bad);
    }
}

#[test]
fn every_cut_of_every_part_is_noticed() {
    let SealedPack { name, object } = small();
    let bytes = object.bytes();
    for len in 0..bytes.len() {
        assert!(open_all(&bytes[..len], name).is_err(), "{len}");
    }
    for len in 0..PACK_HEADER_LEN {
        assert!(matches!(PackHead::parse(&bytes[..len]), Err(OpenError::Truncated { .. })));
    }
    let (slots, footer, trailer) = take_apart(bytes).unwrap();
    for len in 0..TRAILER_LEN {
        assert!(matches!(Trailer::parse(&trailer[..len]), Err(OpenError::Truncated { .. })));
    }
    let ciphers = SlotCiphers::default();
    let id = SlotId { pack: name, slot: 0 };
    for len in 0..slots[0].len() {
        let mut slot = slots[0][..len].to_vec();
        let opened = open_slot(&mut slot, &data_key(), id, SlotKind::Blocks, &ciphers);
        assert!(matches!(opened, Err(OpenError::Truncated { .. })), "{len}");
    }
    let mut longer = [slots[0].as_slice(), &[0]].concat();
    let opened = open_slot(&mut longer, &data_key(), id, SlotKind::Blocks, &ciphers);
    assert!(matches!(opened, Err(OpenError::TrailingBytes { .. })));
    for len in 0..footer.len() {
        let header = bytes.first_chunk().unwrap();
        let opened = open_footer(&mut footer[..len].to_vec(), header, &trailer, &map_key(), name);
        assert!(matches!(opened, Err(OpenError::Truncated { .. })), "{len}");
    }
}

#[test]
fn a_slot_opens_as_what_it_was_born_as_only() {
    let SealedPack { name, object } = small();
    let other = seal(PackContent::Data, &[stored(SlotKind::Blocks, b"other")], b"", 1);
    let (slots, ..) = take_apart(object.bytes()).unwrap();
    let ciphers = SlotCiphers::default();
    let open = |slot: &[u8], key: &BranchKey, pack: PackName, number: u32, kind: SlotKind| {
        let mut slot = slot.to_vec();
        open_slot(&mut slot, key, SlotId { pack, slot: number }, kind, &ciphers)
            .map(|slot| slot.body.to_vec())
    };
    let blocks = SlotKind::Blocks;
    assert_eq!(open(&slots[0], &data_key(), name, 0, blocks).unwrap(), b"block");
    let elsewhere = open(&slots[0], &data_key(), name, 1, blocks);
    assert!(matches!(elsewhere, Err(OpenError::WrongPlace { found: SlotId { slot: 0, .. }, .. })));
    let elsewhere = open(&slots[0], &data_key(), other.name, 0, blocks);
    assert!(matches!(elsewhere, Err(OpenError::WrongPlace { found, .. }) if found.pack == name));
    let as_patches = open(&slots[0], &data_key(), name, 0, SlotKind::Patches);
    assert!(matches!(as_patches, Err(OpenError::WrongKind { expected: 2, found: 1 })));
    for wrong in [key(Branch::Data, 4, 3), key(Branch::Map, 3, 3)] {
        let opened = open(&slots[0], &wrong, name, 0, blocks);
        assert!(matches!(opened, Err(OpenError::WrongKey { found, .. }) if found == data_key().id()));
    }
    let domain = DomainId([1; 16]);
    let id = BranchId { domain, ..data_key().id() };
    let same_bytes = BranchKey::from_parts(id, SecretKey::from_bytes(&mut [3; 32]));
    assert!(matches!(open(&slots[0], &same_bytes, name, 0, blocks), Err(OpenError::Tampered)));
    // Claiming another number does not help: it is authenticated, and the nonce.
    let mut renumbered = slots[0].clone();
    renumbered[4] = 1;
    assert!(matches!(open(&renumbered, &data_key(), name, 1, blocks), Err(OpenError::Tampered)));
}

#[test]
fn two_slots_of_a_pack_cannot_change_places() {
    let slots = [stored(SlotKind::Blocks, b"one"), stored(SlotKind::Blocks, b"two")];
    let SealedPack { name, object } = seal(PackContent::Data, &slots, b"", 1);
    let (parts, ..) = take_apart(object.bytes()).unwrap();
    let mut swapped = object.bytes().to_vec();
    let at = PACK_HEADER_LEN..PACK_HEADER_LEN + parts[0].len() * 2;
    swapped[at].copy_from_slice(&[parts[1].as_slice(), &parts[0]].concat());
    assert!(matches!(open_all(&swapped, name), Err(OpenError::WrongPlace { .. })));
}

#[test]
fn a_footer_opens_with_its_own_header_and_trailer_only() {
    let (one, two) = (small(), seal(PackContent::Data, &[], b"footer", 2));
    let (_, footer, trailer) = take_apart(one.object.bytes()).unwrap();
    let header: &[u8; PACK_HEADER_LEN] = one.object.bytes().first_chunk().unwrap();
    let open = |header: &[u8; PACK_HEADER_LEN], trailer: &[u8; TRAILER_LEN], name| {
        open_footer(&mut footer.clone(), header, trailer, &map_key(), name)
    };
    assert_eq!(open(header, &trailer, one.name).unwrap(), b"footer");
    assert!(matches!(open(header, &trailer, two.name), Err(OpenError::WrongPlace { .. })));
    let mut fewer = trailer;
    fewer[4] = 1;
    assert!(matches!(open(header, &fewer, one.name), Err(OpenError::Tampered)));
    let mut epoch = *header;
    epoch[12] ^= 1;
    assert!(matches!(open(&epoch, &trailer, one.name), Err(OpenError::Tampered)));
    let with_data_key = open_footer(&mut footer.clone(), header, &trailer, &data_key(), one.name);
    assert!(matches!(with_data_key, Err(OpenError::WrongKey { .. })));
}

#[test]
fn the_cache_of_ciphers_never_takes_one_key_for_another() {
    let SealedPack { name, object } = small();
    let (slots, ..) = take_apart(object.bytes()).unwrap();
    let id = SlotId { pack: name, slot: 0 };
    let impostor = key(Branch::Data, 3, 77); // the same id, other bytes
    for capacity in [0, 1, 2] {
        let ciphers = SlotCiphers::new(capacity);
        let open = |key: &BranchKey| {
            open_slot(&mut slots[0].clone(), key, id, SlotKind::Blocks, &ciphers)
                .map(|slot| slot.body.to_vec())
        };
        for _ in 0..3 {
            assert_eq!(open(&data_key()).unwrap(), b"block");
            assert!(matches!(open(&impostor), Err(OpenError::Tampered)));
        }
    }
}

#[test]
fn a_builder_refuses_what_a_reader_would_refuse() {
    let mut pack = PackBuilder::new(PackContent::Data, 0);
    assert!(pack.is_empty() && pack.byte_len() == PACK_HEADER_LEN);
    let large = vec![0; SLOT_PLAIN_MAX + 1];
    let len = u32::try_from(large.len()).unwrap();
    let push =
        |pack: &mut PackBuilder, kind, codec, plain_len, body: &[u8]| pack.push(kind, codec, plain_len, body);
    let blocks = SlotKind::Blocks;
    for kind in [SlotKind::Nodes, SlotKind::ChangeList, SlotKind::PointCopy, SlotKind::Footer] {
        let refused = push(&mut pack, kind, Codec::Stored, 0, b"");
        assert!(matches!(refused, Err(SealError::KindInContent { .. })), "{kind}");
    }
    assert!(matches!(push(&mut pack, blocks, Codec::Stored, len, &large), Err(SealError::TooLarge { .. })));
    assert!(matches!(push(&mut pack, blocks, Codec::Zstd, len, b"x"), Err(SealError::TooLarge { .. })));
    assert!(matches!(push(&mut pack, blocks, Codec::Stored, 2, b"x"), Err(SealError::BodyLength { .. })));
    assert!(matches!(push(&mut pack, blocks, Codec::Zstd, 0, b"x"), Err(SealError::BodyLength { .. })));
    assert!(pack.is_empty() && pack.byte_len() == PACK_HEADER_LEN);
    assert_eq!(push(&mut pack, blocks, Codec::Stored, len - 1, &large[1..]).unwrap(), 0);

    let sealer = Sealer::new(1);
    let refused = |slots: BranchKey, map: BranchKey, footer: &[u8]| {
        build(PackContent::Data, &[]).seal(&slots, &map, footer, &sealer.ctx()).unwrap_err()
    };
    assert!(matches!(refused(map_key(), map_key(), b""), SealError::WrongBranch { .. }));
    assert!(matches!(refused(data_key(), data_key(), b""), SealError::WrongBranch { .. }));
    let id = BranchId { domain: DomainId([1; 16]), ..map_key().id() };
    let elsewhere = BranchKey::from_parts(id, SecretKey::from_bytes(&mut [2; 32]));
    assert!(matches!(refused(data_key(), elsewhere, b""), SealError::WrongBranch { .. }));
    assert!(matches!(refused(data_key(), map_key(), &large), SealError::TooLarge { .. }));
    let metadata = build(PackContent::Metadata, &[]);
    let two_epochs = metadata.seal(&map_key(), &key(Branch::Map, 9, 2), b"", &sealer.ctx());
    assert!(matches!(two_epochs, Err(SealError::WrongBranch { .. })));
}

#[test]
fn slots_are_taken_back_from_the_end() {
    let slots = [stored(SlotKind::Blocks, b"one"), stored(SlotKind::Blocks, b"two")];
    let mut pack = build(PackContent::Data, &slots);
    pack.push(SlotKind::Patches, Codec::Stored, 4, b"gone").unwrap();
    pack.truncate(9);
    assert_eq!(pack.slot_count(), 3);
    pack.truncate(1);
    assert_eq!(pack.push(SlotKind::Blocks, Codec::Stored, 3, b"two").unwrap(), 1);
    let sealed = pack.seal(&data_key(), &map_key(), b"footer", &Sealer::new(1).ctx()).unwrap();
    assert_eq!(sealed, seal(PackContent::Data, &slots, b"footer", 1));
}

#[test]
fn a_pack_has_no_more_slots_than_it_may() {
    let mut pack = PackBuilder::new(PackContent::Data, 5 << 20);
    for _ in 0..SLOT_COUNT_MAX {
        pack.push(SlotKind::Blocks, Codec::Stored, 0, b"").unwrap();
    }
    let refused = pack.push(SlotKind::Blocks, Codec::Stored, 0, b"");
    assert!(matches!(refused, Err(SealError::TooLarge { what: "slot count", .. })));
    let sealed = pack.seal(&data_key(), &map_key(), b"full", &Sealer::new(1).ctx()).unwrap();
    let (slots, footer) = open_all(sealed.object.bytes(), sealed.name).unwrap();
    assert_eq!((slots.len(), footer), (65_536, b"full".to_vec()));
}

#[test]
fn a_pack_name_reads_back_what_it_prints() {
    let name = small().name;
    assert_eq!(name.to_string().parse(), Ok(name));
    assert!("x".parse::<PackName>().is_err());
}
