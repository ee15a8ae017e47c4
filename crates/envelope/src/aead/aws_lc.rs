//! The cipher by `aws-lc-rs`. Its key schedule lies in memory of the C library, which wipes it when it frees it.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use super::{Aes256Gcm, Forged, NONCE_LEN, TAG_LEN};

pub(crate) struct AwsLc(LessSafeKey);

impl Aes256Gcm for AwsLc {
    fn new(key: &[u8; 32]) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, key).expect("a key of 32 bytes is one of AES-256");
        Self(LessSafeKey::new(key))
    }

    fn seal(&self, nonce: [u8; NONCE_LEN], aad: &[u8], text: &mut [u8]) -> [u8; TAG_LEN] {
        let nonce = Nonce::assume_unique_for_key(nonce);
        let sealed = self.0.seal_in_place_separate_tag(nonce, Aad::from(aad), text);
        let tag = sealed.expect("every length limit of the format is below that of the cipher");
        let mut bytes = [0; TAG_LEN];
        bytes.copy_from_slice(tag.as_ref());
        bytes
    }

    fn open(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        text: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> Result<(), Forged> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        match self.0.open_in_place_separate_tag(nonce, Aad::from(aad), tag, text) {
            Ok(_) => Ok(()),
            Err(_) => Err(Forged),
        }
    }
}
