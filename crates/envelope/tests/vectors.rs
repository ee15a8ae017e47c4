//! The primitives against published test vectors.
#![allow(clippy::unwrap_used)] // in helpers too

use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};
use argon2::{Algorithm, Argon2, Params, Version};
use hkdf::Hkdf;
use sha2::Sha256;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.chars().filter_map(|c| c.to_digit(16)).map(|d| u8::try_from(d).unwrap()).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn array<const N: usize>(text: &str) -> [u8; N] {
    hex(text).try_into().unwrap()
}

/// Test cases 13 and 16 of "The Galois/Counter Mode of Operation", the proposal that became NIST SP 800-38D.
#[test]
fn aes_256_gcm() {
    let check = |key: &str, iv: &str, aad: &str, plain: &str, cipher: &str, tag: &str| {
        let aes = Aes256Gcm::new(&array::<32>(key).into());
        let mut text = hex(plain);
        let made = aes.encrypt_inout_detached(
            &array::<12>(iv).into(),
            &hex(aad),
            InOutBuf::from(text.as_mut_slice()),
        );
        assert_eq!((text, made.unwrap().to_vec()), (hex(cipher), hex(tag)));
    };
    check(&"00".repeat(32), &"00".repeat(12), "", "", "", "530f8afbc74536b9a963b4f1c4cb738b");
    check(
        "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308",
        "cafebabefacedbaddecaf888",
        "feedfacedeadbeeffeedfacedeadbeefabaddad2",
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72\
         1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa\
         8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662",
        "76fc6ece0f4e1768cddf8853bb2d551b",
    );
}

/// RFC 5869, appendix A.1.
#[test]
fn hkdf_sha256() {
    let mut made = [0; 42];
    let schedule = Hkdf::<Sha256>::new(Some(&hex("000102030405060708090a0b0c")), &[0x0b; 22]);
    schedule.expand(&hex("f0f1f2f3f4f5f6f7f8f9"), &mut made).unwrap();
    let published = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865";
    assert_eq!(made.to_vec(), hex(published));
}

/// The empty input of the test vectors that come with BLAKE3.
#[test]
fn blake3_hash_and_derive_key() {
    let published = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
    assert_eq!(blake3::hash(b"").as_bytes(), &array(published));
    let published = "2cc39783c223154fea8dfb7c1b1660f2ac2dcbd1c1de8277b0b0dd39b7e50d7d";
    assert_eq!(blake3::derive_key("BLAKE3 2019-12-27 16:29:52 test vectors context", b""), array(published));
}

/// From the tests of the reference implementation: version 0x13, two passes, 64 MiB, one lane.
#[test]
fn argon2id() {
    let argon =
        Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(65_536, 2, 1, Some(32)).unwrap());
    let mut made = [0; 32];
    argon.hash_password_into(b"password", b"somesalt", &mut made).unwrap();
    assert_eq!(made, array("09316115d5cf24ed5a15a31a3ba326e5cf32edc24702987c02b6566f61913cf7"));
}
