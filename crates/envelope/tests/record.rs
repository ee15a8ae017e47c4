//! Records: what was sealed opens, under its name, and nothing else does.
#![allow(clippy::unwrap_used)] // in helpers too

mod common;

use common::*;
use proptest::prelude::*;
use vmkeep_envelope::*;

fn sealed(body: &[u8], seed: u64) -> Vec<u8> {
    seal_record(3, &map_key(), "points/a/1", body, &Sealer::new(seed).ctx()).unwrap().into_bytes().to_vec()
}

fn open(bytes: &[u8]) -> Result<Vec<u8>, OpenError> {
    open_record(bytes, "points/a/1", &map_key(), 3)
}

proptest! {
    #[test]
    fn what_was_sealed_opens(
        kind in any::<u8>(), name in "[a-z0-9/]{0,80}", body in prop::collection::vec(any::<u8>(), 0..5000),
        seed in any::<u64>(), epoch in any::<u32>(),
    ) {
        let key = key(Branch::Map, epoch, 9);
        let object = seal_record(kind, &key, &name, &body, &Sealer::new(seed).ctx()).unwrap();
        prop_assert_eq!(object.len(), RECORD_HEADER_LEN + body.len() + TAG_LEN);
        let head = RecordHead { version: RECORD_VERSION, kind, branch: key.id() };
        prop_assert_eq!(RecordHead::parse(object.bytes()).unwrap(), head);
        prop_assert_eq!(open_record(object.bytes(), &name, &key, kind).unwrap(), body);
    }

    #[test]
    fn one_salt_means_one_plaintext_even_when_the_random_source_repeats(
        body in prop::collection::vec(any::<u8>(), 1..200), at in any::<prop::sample::Index>(), seed in any::<u64>(),
    ) {
        let salt = |object: &[u8]| object[32..64].to_vec();
        let first = sealed(&body, seed);
        prop_assert_eq!(&first, &sealed(&body, seed));
        let mut other = body.clone();
        other[at.index(body.len())] ^= 1;
        prop_assert_ne!(salt(&first), salt(&sealed(&other, seed)));
        let elsewhere = seal_record(3, &map_key(), "points/a/2", &body, &Sealer::new(seed).ctx()).unwrap();
        prop_assert_ne!(salt(&first), salt(elsewhere.bytes()));
        let sealer = Sealer::new(seed);
        let _ = sealer.counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let later = seal_record(3, &map_key(), "points/a/1", &body, &sealer.ctx()).unwrap();
        prop_assert_ne!(salt(&first), salt(later.bytes()));
    }

    #[test]
    fn any_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(open(&bytes).is_err());
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    let good = sealed(b"some body", 1);
    for (at, bit) in (0..good.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
        let mut bad = good.clone();
        bad[at] ^= 1 << bit;
        let error = open(&bad).unwrap_err();
        let as_expected = match at {
            0..8 => matches!(error, OpenError::BadMagic { expected: "vmkeepR1" }),
            8..10 => matches!(error, OpenError::Newer { known: 1, .. } | OpenError::Malformed { .. }),
            10 => matches!(error, OpenError::WrongKind { expected: 3, .. }),
            11 => matches!(error, OpenError::Malformed { .. } | OpenError::WrongKey { .. }),
            12..32 => matches!(error, OpenError::WrongKey { .. }),
            64..68 => matches!(
                error,
                OpenError::TooLarge { .. } | OpenError::Truncated { .. } | OpenError::TrailingBytes { .. }
            ),
            _ => matches!(error, OpenError::Tampered), // salt, ciphertext, tag
        };
        assert!(as_expected, "byte {at}, bit {bit}: {error:?}");
    }
}

#[test]
fn every_cut_is_noticed() {
    let good = sealed(b"some body", 1);
    for len in 0..good.len() {
        assert!(matches!(open(&good[..len]), Err(OpenError::Truncated { .. })), "{len}");
    }
    let longer = [good.as_slice(), &[0]].concat();
    assert!(matches!(open(&longer), Err(OpenError::TrailingBytes { expected: 93, found: 94 })));
}

#[test]
fn a_record_opens_at_its_place_only() {
    let good = sealed(b"some body", 1);
    assert_eq!(open(&good).unwrap(), b"some body");
    assert!(matches!(open_record(&good, "points/a/2", &map_key(), 3), Err(OpenError::Tampered)));
    assert!(matches!(open_record(&good, "points/a/1", &map_key(), 4), Err(OpenError::WrongKind { .. })));
    let later = key(Branch::Map, 5, 2);
    match open_record(&good, "points/a/1", &later, 3) {
        Err(OpenError::WrongKey { expected, found }) => assert_eq!((expected.epoch, found.epoch), (5, 2)),
        other => panic!("{other:?}"),
    }
    let impostor = key(Branch::Map, 2, 200);
    assert!(matches!(open_record(&good, "points/a/1", &impostor, 3), Err(OpenError::Tampered)));
}

#[test]
fn a_newer_version_is_named_before_anything_else() {
    let mut newer = b"vmkeepR1".to_vec();
    newer.extend_from_slice(&[2, 0]);
    assert!(matches!(open(&newer), Err(OpenError::Newer { found: 2, known: 1 })));
    assert!(matches!(RecordHead::parse(&newer), Err(OpenError::Newer { found: 2, known: 1 })));
}

#[test]
fn limits_are_checked_before_anything_is_made() {
    let refused = seal_record(1, &key(Branch::Identity, 0, 1), "x", b"", &Sealer::new(1).ctx());
    assert!(matches!(refused, Err(SealError::WrongBranch { .. })), "an identity key seals nothing");
    let body = vec![0; RECORD_BODY_MAX + 1];
    let refused = seal_record(1, &record_key(), "x", &body, &Sealer::new(1).ctx());
    assert!(matches!(refused, Err(SealError::TooLarge { max: 16_777_216, .. })));
    let longest = seal_record(1, &record_key(), "x", &body[1..], &Sealer::new(1).ctx()).unwrap();
    assert!(open_record(longest.bytes(), "x", &record_key(), 1).unwrap() == body[1..]);

    let mut claims = sealed(b"", 1);
    claims[64..68].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(open(&claims), Err(OpenError::TooLarge { len: 4_294_967_295, .. })));
}
