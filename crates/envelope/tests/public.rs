//! Sealing to the public side of a data key: by a holder that opens nothing of it.
#![allow(clippy::unwrap_used)] // in helpers too

mod common;

use std::collections::BTreeMap;

use common::*;
use proptest::prelude::*;
use vmkeep_envelope::*;

fn public() -> PublicKey {
    PublicKey::of(&data_key()).unwrap()
}

/// The map key is of another epoch than the data key, as it may be after a rotation.
fn seal_public(slots: &[Slot], footer: &[u8], seed: u64) -> SealedPack {
    let (key, hedge) = (public(), map_key());
    let sealing = SealingKey::Public { key: &key, hedge: &hedge };
    build(PackContent::Data, slots).seal(sealing, &map_key(), footer, &Sealer::new(seed).ctx()).unwrap()
}

fn slot_strategy() -> impl Strategy<Value = Slot> {
    let body = prop::collection::vec(any::<u8>(), 0..200);
    let kind = prop::sample::select(vec![SlotKind::Blocks, SlotKind::Patches]);
    (kind, body).prop_map(|(kind, body)| stored(kind, &body))
}

proptest! {
    #[test]
    fn the_data_key_opens_what_was_sealed_to_its_public_side(
        slots in prop::collection::vec(slot_strategy(), 0..5),
        footer in prop::collection::vec(any::<u8>(), 0..50),
        seed in any::<u64>(),
    ) {
        let made = seal_public(&slots, &footer, seed);
        let head = PackHead::parse(made.object.bytes()).unwrap();
        prop_assert_eq!(head.slots, public().id());
        prop_assert!(data_key().id().opens(head.slots));
        let opened = open_all(made.object.bytes(), made.name).unwrap();
        prop_assert_eq!(opened, (slots, footer));
    }

    /// A host that was cloned, random source and all: where the content differs, so does what it is sealed under.
    #[test]
    fn clones_of_a_host_never_seal_two_contents_under_one_key(
        contents in prop::collection::vec((prop::collection::vec(slot_strategy(), 1..3), any::<bool>()), 2..6),
    ) {
        let mut seen: BTreeMap<[u8; 32], Vec<u8>> = BTreeMap::new();
        for (slots, other_footer) in contents {
            let footer: &[u8] = if other_footer { b"a" } else { b"b" };
            let made = seal_public(&slots, footer, 7);
            let (sealed, ..) = take_apart(made.object.bytes()).unwrap();
            let salt = SlotHead::parse(&sealed[0]).unwrap().salt;
            let before = seen.entry(salt).or_insert_with(|| made.object.bytes().to_vec());
            prop_assert_eq!(&before[..], &made.object.bytes()[..], "one ephemeral key for two packs");
        }
    }

    #[test]
    fn a_changed_byte_of_a_slot_is_refused(at in 0_usize..80, flip in 1_u8..) {
        let made = seal_public(&[stored(SlotKind::Blocks, b"12345678")], b"", 1);
        let (slots, ..) = take_apart(made.object.bytes()).unwrap();
        let mut slot = slots[0].clone();
        prop_assume!(at < slot.len());
        slot[at] ^= flip;
        let id = SlotId { pack: made.name, slot: 0 };
        let ciphers = SlotCiphers::default();
        prop_assert!(open_slot(&mut slot, &data_key(), id, SlotKind::Blocks, &ciphers).is_err());
    }
}

#[test]
fn other_keys_do_not_open_it() {
    let made = seal_public(&[stored(SlotKind::Blocks, b"secret")], b"", 1);
    let (slots, ..) = take_apart(made.object.bytes()).unwrap();
    let (id, ciphers) = (SlotId { pack: made.name, slot: 0 }, SlotCiphers::default());
    let open = |key: &BranchKey| {
        open_slot(&mut slots[0].clone(), key, id, SlotKind::Blocks, &ciphers).map(|slot| slot.body.to_vec())
    };
    assert_eq!(open(&data_key()).unwrap(), b"secret");
    assert!(matches!(open(&map_key()), Err(OpenError::WrongKey { .. })));
    assert!(matches!(open(&key(Branch::Data, 4, 3)), Err(OpenError::WrongKey { .. })));
    assert!(matches!(open(&key(Branch::Data, 3, 4)), Err(OpenError::Tampered)));
    // All that the sealer kept: the point itself taken for the key.
    let mut point = *public().point();
    let taken = BranchKey::from_parts(data_key().id(), SecretKey::from_bytes(&mut point));
    assert!(matches!(open(&taken), Err(OpenError::Tampered)));
}

/// What is sealed to the public side and what is sealed with the key lie in packs of their own, and say which they are.
#[test]
fn neither_passes_for_the_other() {
    let made = seal_public(&[stored(SlotKind::Blocks, b"secret")], b"", 1);
    let (slots, ..) = take_apart(made.object.bytes()).unwrap();
    let (id, ciphers) = (SlotId { pack: made.name, slot: 0 }, SlotCiphers::default());
    let mut slot = slots[0].clone();
    assert_eq!(slot[18], Branch::DataPublic.number());
    slot[18] = Branch::Data.number();
    let opened = open_slot(&mut slot, &data_key(), id, SlotKind::Blocks, &ciphers);
    assert!(matches!(opened, Err(OpenError::Tampered)));

    let mut moved = RepackBuilder::new(data_key().id(), 0).unwrap();
    assert!(matches!(moved.push(&slots[0], id), Err(SealError::NotThatSlot { .. })));
    let mut moved = RepackBuilder::new(public().id(), 0).unwrap();
    moved.push(&slots[0], id).unwrap();
    let moved = moved.seal(&map_key(), b"moved", &Sealer::new(2).ctx()).unwrap();
    let (mut slots, ..) = take_apart(moved.object.bytes()).unwrap();
    let opened = open_slot(&mut slots[0], &data_key(), id, SlotKind::Blocks, &ciphers).unwrap();
    assert_eq!(opened.body, b"secret");
}

/// RFC 7748, section 6.1: points that agree with every key on zeros. Whoever puts one in a slot knows what it is sealed
/// with, so it counts as forged.
#[test]
fn points_of_small_order_are_forgeries() {
    let made = seal_public(&[stored(SlotKind::Blocks, b"secret")], b"", 1);
    let (slots, ..) = take_apart(made.object.bytes()).unwrap();
    let mut one = [0; 32];
    one[0] = 1;
    for point in [[0; 32], one] {
        let mut slot = slots[0].clone();
        slot[24..56].copy_from_slice(&point);
        let id = SlotId { pack: SlotHead::parse(&slot).unwrap().birth_pack(), slot: 0 };
        let opened = open_slot(&mut slot, &data_key(), id, SlotKind::Blocks, &SlotCiphers::default());
        assert!(matches!(opened, Err(OpenError::Tampered)));
    }
}

#[test]
fn records_too() {
    let (key, hedge) = (public(), map_key());
    let sealing = SealingKey::Public { key: &key, hedge: &hedge };
    let made = seal_record(19, sealing, "points/1#keys", b"a passphrase", &Sealer::new(1).ctx()).unwrap();
    assert_eq!(open_record(made.bytes(), "points/1#keys", &data_key(), 19).unwrap(), b"a passphrase");
    let elsewhere = open_record(made.bytes(), "points/2#keys", &data_key(), 19);
    assert!(matches!(elsewhere, Err(OpenError::Tampered)));
    let by_map = open_record(made.bytes(), "points/1#keys", &map_key(), 19);
    assert!(matches!(by_map, Err(OpenError::WrongKey { .. })));
}

fn all_keys() -> DomainKeys {
    DomainKeys::generate(DOMAIN, 4, &SeededEntropy::new(8)).unwrap()
}

#[test]
fn a_key_object_of_a_write_only_holder() {
    let (kek, prefix) = (key_file_vault(5), key_prefix(DOMAIN, 4));
    let keys = all_keys().write_only().unwrap();
    let branches = [Branch::Map, Branch::Identity, Branch::DataPublic];
    assert_eq!(keys.branches(), branches);
    assert!(!keys.is_full());
    let naming = WrapNaming::KekAndBranches;
    let (name, made) = seal_key_object_as(&keys, &kek, &prefix, naming, &Sealer::new(1).ctx()).unwrap();
    let kek_id = KeyObjectHead::parse(made.bytes()).unwrap().kek_id;
    assert_eq!(name, format!("{prefix}{}", wrap_name_of_some(&kek_id, &branches)));
    let Ok(OpenedKeys::Keys(opened)) = open_key_object(made.bytes(), &name, &kek) else { panic!("{name}") };
    assert!(opened.same_keys(&keys));
    assert!(!opened.same_keys(&all_keys().without(Branch::Data)));
    assert!(matches!(opened.data(), Err(KeyError::BranchMissing { branch: Branch::Data, .. })));

    // It seals, and all keys open what it sealed.
    let mut pack = PackBuilder::new(PackContent::Data, 0);
    pack.push(SlotKind::Blocks, Codec::Stored, 5, b"block").unwrap();
    let ctx = Sealer::new(2);
    let pack = pack.seal(opened.sealing().unwrap(), opened.map().unwrap(), b"", &ctx.ctx()).unwrap();
    let (mut slots, ..) = take_apart(pack.object.bytes()).unwrap();
    let id = SlotId { pack: pack.name, slot: 0 };
    let ciphers = SlotCiphers::default();
    let found = open_slot(&mut slots[0], all_keys().data().unwrap(), id, SlotKind::Blocks, &ciphers);
    assert_eq!(found.unwrap().body, b"block");
}

#[test]
fn nobody_makes_one_of_nothing() {
    let none = all_keys().without(Branch::Data);
    assert!(matches!(none.sealing(), Err(KeyError::BranchMissing { branch: Branch::Data, .. })));
    assert!(matches!(none.write_only(), Err(KeyError::BranchMissing { branch: Branch::Data, .. })));
    // Twice is the same.
    let (once, twice) = (all_keys().write_only().unwrap(), all_keys().write_only().unwrap());
    assert!(twice.write_only().unwrap().same_keys(&once));
}
