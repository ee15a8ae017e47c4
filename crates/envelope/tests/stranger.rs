//! A reader written from FORMAT.md alone, with nothing of this crate: it must agree with the golden files.
#![allow(clippy::unwrap_used)] // in helpers too

mod common;

use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};
use argon2::{Algorithm, Argon2, Params, Version};
use hkdf::Hkdf;
use sha2::Sha256;
use x25519_dalek::{X25519_BASEPOINT_BYTES, x25519};

type Key = [u8; 32];

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/golden/v1-{name}.bin", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn u16_at(bytes: &[u8], at: usize) -> usize {
    u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap()).into()
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()).try_into().unwrap()
}

/// Section 3: sealing key, then AES-256-GCM with `number` as the nonce and the tag after the ciphertext.
fn open(key: &Key, salt: &[u8], label: &str, number: u32, aad: &[u8], sealed: &[u8]) -> Vec<u8> {
    let mut sealing_key = [0; 32];
    Hkdf::<Sha256>::new(Some(salt), key).expand(label.as_bytes(), &mut sealing_key).unwrap();
    let (text, tag) = sealed.split_last_chunk::<16>().map(|(text, tag)| (text.to_vec(), *tag)).unwrap();
    let (mut text, mut nonce) = (text, [0; 12]);
    nonce[8..].copy_from_slice(&number.to_be_bytes());
    Aes256Gcm::new(&sealing_key.into())
        .decrypt_inout_detached(&nonce.into(), aad, InOutBuf::from(text.as_mut_slice()), &tag.into())
        .unwrap();
    text
}

/// Section 3: the salt of what is given as (AAD without the salt, plaintext), sealed by the `nth` draw of seed 42.
fn salt(key: &Key, draw: usize, counter: u64, sealed: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut random = vec![0; 32 * (draw + 1)];
    vmkeep_envelope::Entropy::fill(&vmkeep_envelope::SeededEntropy::new(42), &mut random).unwrap();
    let session = if counter == 0 { [0; 16] } else { [0x5e; 16] };
    let mut message = [&session[..], &counter.to_le_bytes(), &random[32 * draw..]].concat();
    for (aad, plain) in sealed {
        message.extend_from_slice(aad);
        message.extend_from_slice(&(plain.len() as u64).to_le_bytes());
        message.extend_from_slice(plain);
    }
    let key = blake3::derive_key("vmkeep v1 salt", key);
    blake3::keyed_hash(&key, &message).as_bytes().to_vec()
}

#[test]
fn record() {
    let (file, key) = (golden("record"), [1; 32]);
    assert_eq!((&file[..8], u16_at(&file, 8), file[10], file[11]), (&b"vmkeepR1"[..], 1, 1, 1));
    assert_eq!((u32_at(&file, 12), &file[16..32]), (0, &[0; 16][..]));
    let len = u32_at(&file, 64);
    assert_eq!(file.len(), 68 + len + 16);
    let aad = [&file[..32], &file[64..68], b"vault"].concat();
    let body = open(&key, &file[32..64], "vmkeep v1 record", 0, &aad, &file[68..]);
    assert_eq!(body, b"a record body");
    assert_eq!(salt(&key, 0, 1, &[(aad, body)]), &file[32..64]);
}

fn pack(name: &str, content: u8, branch: u8, epoch: usize, key: &Key) -> Vec<Vec<u8>> {
    let (file, map_key) = (golden(name), [2; 32]);
    assert_eq!((&file[..8], u16_at(&file, 8), file[10], file[11]), (&b"vmkeepP1"[..], 1, content, branch));
    assert_eq!((u32_at(&file, 12), &file[16..32]), (epoch, &[0xd0; 16][..]));
    assert_eq!((u32_at(&file, 32), u32_at(&file, 36)), (2, 0));
    let trailer = &file[file.len() - 16..];
    assert_eq!(&trailer[8..], b"vmkeepE1");
    let (mut at, mut bodies, mut sealed) = (40, Vec::new(), Vec::new());
    for number in 0..=u32_at(trailer, 4) {
        let header = &file[at..at + 56];
        let end = at + 56 + u32_at(header, 12) + 16;
        let is_footer = number == u32_at(trailer, 4);
        let mut aad = [&[1, 0], &[0xd0; 16][..], header].concat();
        let mut without_salt = aad[..42].to_vec();
        let body = if is_footer {
            assert_eq!((end - at, end), (u32_at(trailer, 0), file.len() - 16));
            assert_eq!((u32_at(header, 4), header[16..20].to_vec()), (0xffff_ffff, vec![0, 255, 2, 0]));
            for part in [&file[..40], trailer] {
                aad.extend_from_slice(part);
                without_salt.extend_from_slice(part);
            }
            open(&map_key, &header[24..], "vmkeep v1 footer", u32::MAX, &aad, &file[at + 56..end])
        } else {
            assert_eq!((u32_at(header, 4), header[18], u32_at(header, 20)), (number, branch, epoch));
            let number = u32::try_from(number).unwrap();
            let sealed = &file[at + 56..end];
            if branch == 5 {
                // Section 3: what the private side and the point in the slot agree on.
                let private = blake3::derive_key("vmkeep v1 data x25519", key);
                let ephemeral: Key = header[24..].try_into().unwrap();
                let shared = x25519(private, ephemeral);
                let points = [ephemeral, x25519(private, X25519_BASEPOINT_BYTES)].concat();
                open(&shared, &points, "vmkeep v1 slot to public", number, &aad, sealed)
            } else {
                open(key, &header[24..], "vmkeep v1 slot", number, &aad, sealed)
            }
        };
        sealed.push((without_salt, body.clone()));
        bodies.push(body);
        at = end;
    }
    let made = match branch {
        5 => x25519(salt(&map_key, 0, 1, &sealed).try_into().unwrap(), X25519_BASEPOINT_BYTES).to_vec(),
        _ => salt(key, 0, 1, &sealed),
    };
    assert_eq!(made, &file[64..96]);
    let named = blake3::hash(&[&b"vmkeep v1 pack name"[..], &made].concat());
    let name = vmkeep_envelope::SlotHead::parse(&file[40..]).unwrap().birth_pack();
    assert_eq!(name.to_string(), named.to_hex()[..32]);
    bodies
}

#[test]
fn data_pack() {
    let bodies = pack("data-pack", 1, 3, 3, &[3; 32]);
    assert_eq!(bodies, [&b"two blocks, as they are"[..], b"not really a zstd frame", b"", b"a footer body"]);
}

#[test]
fn data_pack_to_public() {
    let bodies = pack("data-pack-public", 1, 5, 3, &[3; 32]);
    assert_eq!(bodies, [&b"a block"[..], b"a page", b"a footer body"]);
}

#[test]
fn metadata_pack() {
    let bodies = pack("metadata-pack", 2, 2, 2, &[2; 32]);
    assert_eq!(bodies, [&b"nodes"[..], b"changes", b"point", b"a footer body"]);
}

/// The slots are those of the data pack, byte for byte; only the footer was sealed, and the salt covers it alone.
#[test]
fn repacked_data_pack() {
    let (file, born) = (golden("repacked-data-pack"), golden("data-pack"));
    let trailer = &file[file.len() - 16..];
    assert_eq!((u32_at(trailer, 4), &file[..40]), (2, &born[..40]));
    let end_of = |pack: &[u8], at: usize| at + 56 + u32_at(pack, at + 12) + 16;
    let first = end_of(&born, 40);
    let (second, third) = (end_of(&born, first), end_of(&born, end_of(&born, first)));
    let footer_at = 40 + (third - second) + (first - 40);
    assert_eq!(file[40..footer_at], [&born[second..third], &born[40..first]].concat());
    assert_eq!(file.len() - 16 - footer_at, u32_at(trailer, 0));

    let header = &file[footer_at..footer_at + 56];
    let aad = [&[1, 0], &[0xd0; 16][..], header, &file[..40], trailer].concat();
    let sealed = &file[footer_at + 56..file.len() - 16];
    let body = open(&[2; 32], &header[24..], "vmkeep v1 footer", u32::MAX, &aad, sealed);
    assert_eq!(body, b"a footer of moved slots");
    let without_salt = [&aad[..42], &aad[74..]].concat();
    assert_eq!(salt(&[2; 32], 0, 1, &[(without_salt, body)]), &header[24..]);
}

/// Gives the keys by branch, and checks every salt on the way.
fn key_object(
    name: &str,
    domain: [u8; 16],
    epoch: usize,
    kek: impl Fn(Option<&[u8]>) -> Key,
) -> Vec<(u8, Vec<u8>)> {
    let file = golden(name);
    assert_eq!((&file[..8], u16_at(&file, 8), u16_at(&file, 10)), (&b"vmkeepK1"[..], 1, 0));
    assert_eq!((u32_at(&file, 12), &file[16..32]), (epoch, &domain[..]));
    let mut at = 32;
    let mut counted = || {
        let len = usize::from(file[at]);
        at += 1 + len;
        &file[at - len..at]
    };
    let (algorithm, kek_id, version) = (counted(), counted(), counted());
    assert_eq!((algorithm, version), (&b"HKDF-SHA256+A256GCM"[..], &b""[..]));
    let kdf = (file[at] == 1).then(|| &file[at + 1..at + 29]);
    at += if kdf.is_some() { 29 } else { 1 };
    let kek = kek(kdf);
    assert_eq!(kek_id, &blake3::derive_key("vmkeep v1 kek id", &kek)[..16]);
    let wrapped = &file[at + 2..at + 2 + u16_at(&file, at)];
    at += 2 + wrapped.len();

    let aad = [&file[16..32], &file[12..16], kek_id].concat();
    let object_key = open(&kek, &wrapped[..32], "vmkeep v1 wrap", 0, &aad, &wrapped[32..]);
    assert_eq!(salt(&kek, 1, 0, &[(aad, object_key.clone())]), &wrapped[..32]);
    let object_key: Key = object_key.try_into().unwrap();

    let domain = vmkeep_model::DomainId(domain);
    let name = format!("keys/{domain}/{epoch}/{}", &blake3::hash(kek_id).to_hex()[..32]);
    let aad = [&file[..at + 36], name.as_bytes()].concat();
    assert_eq!(file.len(), at + 36 + u32_at(&file, at + 32) + 16);
    let text = open(&object_key, &file[at..at + 32], "vmkeep v1 key object", 0, &aad, &file[at + 36..]);
    let without_salt = [&aad[..at], &aad[at + 32..]].concat();
    assert_eq!(salt(&object_key, 2, 1, &[(without_salt, text.clone())]), &file[at..at + 32]);
    let (count, keys) = text.split_first().unwrap();
    assert_eq!(keys.len(), usize::from(*count) * 33);
    keys.chunks(33).map(|entry| (entry[0], entry[1..].to_vec())).collect()
}

/// The draws of the seed that the golden keys were generated with.
fn draws<const N: usize>() -> [Vec<u8>; N] {
    let entropy = vmkeep_envelope::SeededEntropy::new(8);
    std::array::from_fn(|_| {
        let mut bytes = vec![0; 32];
        vmkeep_envelope::Entropy::fill(&entropy, &mut bytes).unwrap();
        bytes
    })
}

#[test]
fn key_object_by_key_file() {
    let [record] = draws();
    let keys = key_object("key-object-file", [0; 16], 0, |kdf| {
        assert_eq!(kdf, None);
        [5; 32]
    });
    assert_eq!(keys, [(1, record)]);
}

#[test]
fn key_object_by_passphrase_and_the_identity_key_in_it() {
    let [map, data, identity] = draws();
    let keys = key_object("key-object-passphrase", [0xd0; 16], 4, |kdf| {
        let kdf = kdf.unwrap();
        let [memory, passes, lanes] = [0, 4, 8].map(|at| u32::try_from(u32_at(kdf, at)).unwrap());
        let params = Params::new(memory, passes, lanes, Some(32)).unwrap();
        let mut kek = [0; 32];
        let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        argon.hash_password_into(b"correct horse", &kdf[12..], &mut kek).unwrap();
        kek
    });
    let first = vec![0x0b; 65_536];
    let hash = |label: &str| {
        let key = blake3::derive_key(label, &identity);
        blake3::keyed_hash(&key, &first).as_bytes()[..16].to_vec()
    };
    let ours =
        vmkeep_envelope::DomainKeys::generate(common::DOMAIN, 4, &vmkeep_envelope::SeededEntropy::new(8))
            .unwrap();
    let ours = ours.identity().unwrap();
    assert_eq!(ours.block_hash(&first).0.to_vec(), hash("vmkeep v1 block"));
    assert_eq!(ours.node_hash(&first).0.to_vec(), hash("vmkeep v1 node"));
    assert_eq!(keys, [(2, map), (3, data), (4, identity)]);
}
