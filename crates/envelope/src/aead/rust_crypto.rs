//! The cipher by `aes-gcm`.

use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{AeadInOut, KeyInit};

use super::{Aes256Gcm, Forged, NONCE_LEN, TAG_LEN};

pub(crate) struct RustCrypto(aes_gcm::Aes256Gcm);

impl Aes256Gcm for RustCrypto {
    fn new(key: &[u8; 32]) -> Self {
        Self(aes_gcm::Aes256Gcm::new(key.into()))
    }

    fn seal(&self, nonce: [u8; NONCE_LEN], aad: &[u8], text: &mut [u8]) -> [u8; TAG_LEN] {
        self.0
            .encrypt_inout_detached(&nonce.into(), aad, InOutBuf::from(text))
            .expect("every length limit of the format is below that of the cipher")
            .into()
    }

    fn open(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        text: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> Result<(), Forged> {
        self.0
            .decrypt_inout_detached(&nonce.into(), aad, InOutBuf::from(text), tag.into())
            .map_err(|_| Forged)
    }
}
