//! Wrapping with keys in memory: RSA-OAEP and AES key wrap, by `aws-lc-rs`.

#[cfg(test)]
mod tests;

use std::fmt;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrap};
use aws_lc_rs::rsa::{
    KeySize, OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepAlgorithm, OaepPrivateDecryptingKey,
    OaepPublicEncryptingKey, PrivateDecryptingKey,
};
use zeroize::Zeroizing;

use crate::file_vault::KeyKind;
use crate::{Entropy, EntropyError, SecretBytes, SecretKey, WrapAlgorithm};

/// Longest that is wrapped with AES, in bytes.
const PLAIN_MAX: usize = 4096;

/// A key that wraps.
pub(crate) enum WrappingKey {
    /// An RSA key pair as PKCS#8.
    Rsa(SecretBytes),
    /// 256 bits.
    Aes(SecretKey),
}

/// Why bytes were not wrapped.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NotWrapped {
    /// This key does not do that.
    Algorithm,
    /// The algorithm does not take so many bytes.
    Length,
}

/// Why bytes were not unwrapped.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NotUnwrapped {
    /// This key does not do that.
    Algorithm,
    /// They are not what this key wraps to. Nothing says more: that would be an oracle.
    Forged,
}

impl WrappingKey {
    /// A fresh key. RSA keys come from the random source of `aws-lc-rs`, which is the machine's.
    pub(crate) fn generate(kind: KeyKind, entropy: &dyn Entropy) -> Result<Self, EntropyError> {
        let size = match kind {
            KeyKind::Aes256 => return SecretKey::generate(entropy).map(Self::Aes),
            KeyKind::Rsa2048 => KeySize::Rsa2048,
            KeyKind::Rsa3072 => KeySize::Rsa3072,
            KeyKind::Rsa4096 => KeySize::Rsa4096,
        };
        let failed = |_| EntropyError::new("no RSA key could be made");
        let key = PrivateDecryptingKey::generate(size).map_err(failed)?;
        let der: Pkcs8V1Der<'_> = key.as_der().map_err(failed)?;
        Ok(Self::Rsa(SecretBytes::new(der.as_ref().to_vec())))
    }

    /// The RSA key pair that `pkcs8` is; `None` when it is none of 2048 to 4096 bits.
    pub(crate) fn from_pkcs8(pkcs8: SecretBytes) -> Option<Self> {
        let key = PrivateDecryptingKey::from_pkcs8(pkcs8.expose()).ok()?;
        matches!(key.key_size_bits(), 2048..=4096).then_some(Self::Rsa(pkcs8))
    }

    /// What it can do, the one to prefer first.
    pub(crate) fn algorithms(&self) -> Vec<WrapAlgorithm> {
        match self {
            Self::Rsa(_) => vec![WrapAlgorithm::RsaOaep256, WrapAlgorithm::RsaOaep],
            Self::Aes(_) => vec![WrapAlgorithm::A256Kw],
        }
    }

    pub(crate) fn wrap(&self, algorithm: WrapAlgorithm, plain: &[u8]) -> Result<Vec<u8>, NotWrapped> {
        match self {
            Self::Aes(key) if algorithm == WrapAlgorithm::A256Kw => {
                if plain.len() < 16 || plain.len() > PLAIN_MAX || !plain.len().is_multiple_of(8) {
                    return Err(NotWrapped::Length);
                }
                let kek = AesKek::new(&AES_256, key.expose()).map_err(|_| NotWrapped::Algorithm)?;
                let mut wrapped = vec![0; plain.len() + 8];
                kek.wrap(plain, &mut wrapped).map_err(|_| NotWrapped::Length)?;
                Ok(wrapped)
            }
            Self::Rsa(pkcs8) => {
                let oaep = oaep(algorithm).ok_or(NotWrapped::Algorithm)?;
                let key = PrivateDecryptingKey::from_pkcs8(pkcs8.expose());
                let key = key.map_err(|_| NotWrapped::Algorithm)?.public_key();
                let key = OaepPublicEncryptingKey::new(key).map_err(|_| NotWrapped::Algorithm)?;
                if plain.len() > key.max_plaintext_size(oaep) {
                    return Err(NotWrapped::Length);
                }
                let mut wrapped = vec![0; key.ciphertext_size()];
                let len = key.encrypt(oaep, plain, &mut wrapped, None).map_err(|_| NotWrapped::Length)?.len();
                wrapped.truncate(len);
                Ok(wrapped)
            }
            Self::Aes(_) => Err(NotWrapped::Algorithm),
        }
    }

    pub(crate) fn unwrap(
        &self,
        algorithm: WrapAlgorithm,
        wrapped: &[u8],
    ) -> Result<SecretBytes, NotUnwrapped> {
        let (mut plain, len) = match self {
            Self::Aes(key) if algorithm == WrapAlgorithm::A256Kw => {
                if wrapped.len() < 24 || wrapped.len() > PLAIN_MAX + 8 || !wrapped.len().is_multiple_of(8) {
                    return Err(NotUnwrapped::Forged);
                }
                let kek = AesKek::new(&AES_256, key.expose()).map_err(|_| NotUnwrapped::Algorithm)?;
                let mut plain = Zeroizing::new(vec![0; wrapped.len()]);
                let len = kek.unwrap(wrapped, &mut plain).map_err(|_| NotUnwrapped::Forged)?.len();
                (plain, len)
            }
            Self::Rsa(pkcs8) => {
                let oaep = oaep(algorithm).ok_or(NotUnwrapped::Algorithm)?;
                let key = PrivateDecryptingKey::from_pkcs8(pkcs8.expose());
                let key = key.and_then(|key| OaepPrivateDecryptingKey::new(key).map_err(Into::into));
                let key = key.map_err(|_| NotUnwrapped::Algorithm)?;
                let mut plain = Zeroizing::new(vec![0; key.min_output_size()]);
                let len =
                    key.decrypt(oaep, wrapped, &mut plain, None).map_err(|_| NotUnwrapped::Forged)?.len();
                (plain, len)
            }
            Self::Aes(_) => return Err(NotUnwrapped::Algorithm),
        };
        let exact = plain[..len].to_vec();
        plain.clear();
        Ok(SecretBytes::new(exact))
    }
}

fn oaep(algorithm: WrapAlgorithm) -> Option<&'static OaepAlgorithm> {
    match algorithm {
        WrapAlgorithm::RsaOaep => Some(&OAEP_SHA1_MGF1SHA1),
        WrapAlgorithm::RsaOaep256 => Some(&OAEP_SHA256_MGF1SHA256),
        WrapAlgorithm::A256Kw => None,
    }
}

impl fmt::Debug for WrappingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rsa(_) => "WrappingKey(RSA)",
            Self::Aes(_) => "WrappingKey(AES)",
        })
    }
}
