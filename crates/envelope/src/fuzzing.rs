//! Entry points for fuzzing: every parser and opener over arbitrary bytes, with keys that never change.

use std::sync::{Arc, Mutex, PoisonError};

use vmkeep_model::DomainId;

use crate::guest::{CapturedKeys, DiskEncryption, GuestKeyStores, PutBack, capture};
use crate::{
    Branch, BranchId, BranchKey, Entropy, KeyFileVault, KeyInfo, KeyStore, KeyStoreError, KeyUrl, KeyVault,
    PACK_HEADER_LEN, PackHead, PackName, RecordHead, RepackBuilder, Secret, SecretBytes, SecretKey,
    SecretStore, SecretUrl, SecretValue, SlotCiphers, SlotHead, SlotId, SlotKind, StoreKek, StoreWrapped,
    TRAILER_LEN, Trailer, WrapAlgorithm, WrapContext, WrappedKey, open_footer, open_key_object, open_record,
    open_slot,
};

/// Domain of every key here but the record key.
pub const DOMAIN: DomainId = DomainId([0x11; 16]);

/// The key of `branch` at epoch 0, the same in every run: to make a corpus that gets past authentication.
pub fn branch_key(branch: Branch) -> BranchKey {
    let domain = if branch == Branch::Record { DomainId::VAULT } else { DOMAIN };
    let key = SecretKey::from_bytes(&mut [branch.number(); 32]);
    BranchKey::from_parts(BranchId { domain, branch, epoch: 0 }, key)
}

/// The key vault of [`key_object`].
pub fn vault() -> KeyFileVault {
    KeyFileVault::from_key(SecretKey::from_bytes(&mut [0x22; 32]))
}

/// Opens `data` as a key object, under the name that its head asks for where there is one.
pub fn key_object(data: &[u8]) {
    let vault = vault();
    let _ = crate::KeyObjectHead::parse(data);
    let named = open_key_object(data, "", &vault);
    if let Err(crate::OpenError::WrongName { expected }) = named {
        let _ = open_key_object(data, &expected, &vault);
    }
}

/// A store of keys and secrets whose every answer is made of the fuzzer's bytes.
#[derive(Debug)]
struct Answers(Mutex<Vec<u8>>);

impl Answers {
    /// The next bytes, as many as the first of them says.
    fn bytes(&self) -> Vec<u8> {
        let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((len, rest)) = left.split_first() else { return Vec::new() };
        let (taken, rest) = rest.split_at(usize::from(*len).min(rest.len()));
        let (taken, rest) = (taken.to_vec(), rest.to_vec());
        *left = rest;
        taken
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }

    fn key_url(&self) -> Result<KeyUrl, KeyStoreError> {
        self.text().parse().map_err(|_| KeyStoreError::NotFound { url: self.text() })
    }

    fn secret_url(&self) -> Result<SecretUrl, KeyStoreError> {
        self.text().parse().map_err(|_| KeyStoreError::Disabled { url: self.text() })
    }
}

impl KeyStore for Answers {
    fn url(&self) -> &'static str {
        "x"
    }

    fn key(&self, _: &str, _: Option<&str>) -> Result<KeyInfo, KeyStoreError> {
        let url = self.key_url()?;
        let flags = self.bytes();
        let algorithms =
            flags.iter().filter_map(|n| WrapAlgorithm::ALL.get(usize::from(*n)).copied()).collect();
        Ok(KeyInfo { url, enabled: flags.first() != Some(&0), algorithms })
    }

    fn wrap(
        &self,
        _: &str,
        _: Option<&str>,
        algorithm: WrapAlgorithm,
        _: &[u8],
        _: &dyn Entropy,
    ) -> Result<StoreWrapped, KeyStoreError> {
        Ok(StoreWrapped { url: self.key_url()?, algorithm, bytes: self.bytes() })
    }

    fn unwrap(&self, _: &str, _: &str, _: WrapAlgorithm, _: &[u8]) -> Result<SecretBytes, KeyStoreError> {
        Ok(SecretBytes::new(self.bytes()))
    }

    fn backup_key(&self, _: &str) -> Result<Vec<u8>, KeyStoreError> {
        Ok(self.bytes())
    }

    fn restore_key(&self, _: &[u8]) -> Result<KeyInfo, KeyStoreError> {
        self.key("", None)
    }
}

impl SecretStore for Answers {
    fn url(&self) -> &'static str {
        "x"
    }

    fn secret(&self, _: &str, _: Option<&str>) -> Result<Secret, KeyStoreError> {
        let url = self.secret_url()?;
        let value = SecretBytes::new(self.bytes());
        let tags = (0..self.bytes().len().min(40)).map(|_| (self.text(), self.text())).collect();
        Ok(Secret { url, value: SecretValue { value, content_type: Some(self.text()), tags } })
    }

    fn set_secret(&self, _: &str, _: &SecretValue) -> Result<SecretUrl, KeyStoreError> {
        self.secret_url()
    }

    fn backup_secret(&self, _: &str) -> Result<Vec<u8>, KeyStoreError> {
        Ok(self.bytes())
    }

    fn restore_secret(&self, _: &[u8]) -> Result<SecretUrl, KeyStoreError> {
        self.secret_url()
    }
}

/// Wraps, unwraps, captures and puts back with a store that answers whatever `data` says.
pub fn key_vault_answers(data: &[u8]) {
    let answers = Arc::new(Answers(Mutex::new(data.to_vec())));
    let context = WrapContext { domain: DOMAIN, epoch: 0 };
    let key = SecretKey::from_bytes(&mut [3; 32]);
    if let Ok(kek) = StoreKek::new(answers.clone(), "kek", None, None) {
        if let Ok(wrapped) = kek.wrap(&key, &context, &crate::SeededEntropy::new(1)) {
            // It may be too long to be stored, and then it is refused where it would be.
            let _ = kek.unwrap(&wrapped, &context);
        }
        let (algorithm, key_version) = (answers.text(), answers.text());
        let wrapped =
            WrappedKey { algorithm, kek_id: answers.bytes(), key_version, kdf: None, bytes: answers.bytes() };
        let _ = kek.unwrap(&wrapped, &context);
    }
    let (Ok(disk), Ok(vm)) = ("os".parse(), "web".parse()) else { return };
    let (Ok(bek), Ok(kek)) = (SecretUrl::new("x", "bek", None), KeyUrl::new("x", "kek", None)) else {
        return;
    };
    let encryption = DiskEncryption { bek, kek: Some(kek) };
    let stores = GuestKeyStores { secrets: &*answers, keys: Some(&*answers) };
    if let Ok(captured) = capture(&stores, &disk, &encryption) {
        let put_back = PutBack { stores, vm: &vm, os: None, overwrite: true };
        let _ = put_back.disk(&captured);
        let keys = CapturedKeys { disks: vec![captured] };
        // What a store gave out may be larger than a point takes.
        if let Ok(bytes) = keys.encode() {
            assert!(CapturedKeys::decode(&bytes).is_ok(), "what was captured does not read back");
        }
    }
}

/// Reads `data` as a file vault and as a backup blob: as it is, and as what is inside the seal.
#[cfg(feature = "file-vault")]
pub fn file_vault(data: &[u8]) {
    crate::file_vault::fuzz(data);
}

/// Opens `data` as a record, of the kind and with the branch that its head says.
pub fn record(data: &[u8]) {
    if let Ok(head) = RecordHead::parse(data) {
        let key = BranchKey::from_parts(head.branch, SecretKey::from_bytes(&mut [1; 32]));
        let _ = open_record(data, "points/x/1", &key, head.kind);
    }
    let _ = open_record(data, "vault", &branch_key(Branch::Record), 1);
}

/// Reads `data` as a pack: its header, its trailer and footer, and its slots as far as they follow one another, which
/// are also moved.
pub fn pack(data: &[u8]) {
    let (ciphers, map, blocks) = (SlotCiphers::new(2), branch_key(Branch::Map), branch_key(Branch::Data));
    let head = PackHead::parse(data);
    let _ = Trailer::parse(data);
    let mut moved = [&blocks, &map].map(|key| RepackBuilder::new(key.id(), 0));
    let mut rest = data.get(PACK_HEADER_LEN..).unwrap_or(data).to_vec();
    let mut at = 0;
    while let Ok(slot) = SlotHead::parse(&rest[at..]) {
        let end = (at + slot.total_len()).min(rest.len());
        let expected = SlotId { pack: slot.birth_pack(), slot: slot.number };
        let mut bytes = rest[at..end].to_vec();
        for pack in moved.iter_mut().flatten() {
            let before = (pack.slot_count(), pack.byte_len());
            if pack.push(&bytes, expected).is_err() {
                assert_eq!((pack.slot_count(), pack.byte_len()), before, "a slot was refused and taken");
            }
        }
        for kind in [slot.kind, SlotKind::Blocks] {
            let key = if slot.branch == Branch::Map { &map } else { &blocks };
            let _ = open_slot(&mut bytes, key, expected, kind, &ciphers);
        }
        at = end;
    }
    let Some((body, trailer)) = rest.split_last_chunk_mut::<TRAILER_LEN>() else { return };
    let Ok(Trailer { footer_len, .. }) = Trailer::parse(trailer) else { return };
    let footer_at = usize::try_from(footer_len).ok().and_then(|len| body.len().checked_sub(len)).unwrap_or(0);
    let Some(header) = data.first_chunk::<PACK_HEADER_LEN>() else { return };
    let footer = &mut body[footer_at..];
    let name = SlotHead::parse(footer).map_or(PackName([0; 16]), |slot| slot.birth_pack());
    let _ = open_footer(footer, header, trailer, &map, name);
    if let Ok(head) = head {
        let key = BranchKey::from_parts(head.map, SecretKey::from_bytes(&mut [2; 32]));
        let _ = open_footer(footer, header, trailer, &key, name);
    }
}
