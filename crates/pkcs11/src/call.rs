//! Wrapping and unwrapping, as a token is asked for it.

use cryptoki::error::{Error, Result};
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use vmkeep_envelope::{SecretBytes, WrapAlgorithm};
use zeroize::Zeroize;

use crate::error::is_unknown_mechanism;
use crate::find::{Found, Kind};

fn oaep(algorithm: WrapAlgorithm) -> Mechanism<'static> {
    let (hash, mask) = match algorithm {
        WrapAlgorithm::RsaOaep256 => (MechanismType::SHA256, PkcsMgfType::MGF1_SHA256),
        WrapAlgorithm::RsaOaep | WrapAlgorithm::A256Kw => (MechanismType::SHA1, PkcsMgfType::MGF1_SHA1),
    };
    Mechanism::RsaPkcsOaep(PkcsOaepParams::new(hash, mask, PkcsOaepSource::empty()))
}

/// Whether the token does RSA-OAEP with SHA-256: some take no hash but SHA-1.
pub(crate) fn does_sha256(session: &Session, public: ObjectHandle) -> Result<bool> {
    match session.encrypt(&oaep(WrapAlgorithm::RsaOaep256), public, &[0; 16]) {
        Ok(_) => Ok(true),
        Err(error) if is_unknown_mechanism(&error) => Ok(false),
        Err(other) => Err(other),
    }
}

pub(crate) fn wrap(
    session: &Session,
    found: &Found,
    algorithm: WrapAlgorithm,
    plain: &[u8],
) -> Result<Vec<u8>> {
    match found.kind {
        Kind::Rsa { public: Some(public), .. } => session.encrypt(&oaep(algorithm), public, plain),
        Kind::Rsa { public: None, .. } => Err(Error::InvalidValue),
        Kind::Aes => {
            let mut template = generic_secret();
            template.push(Attribute::Value(plain.to_vec()));
            let made = session.create_object(&template);
            for attribute in &mut template {
                if let Attribute::Value(copy) = attribute {
                    copy.zeroize();
                }
            }
            let key = made?;
            let wrapped = session.wrap_key(&Mechanism::AesKeyWrap, found.secret, key);
            session.destroy_object(key)?;
            wrapped
        }
    }
}

pub(crate) fn unwrap(
    session: &Session,
    found: &Found,
    algorithm: WrapAlgorithm,
    wrapped: &[u8],
) -> Result<SecretBytes> {
    match found.kind {
        Kind::Rsa { .. } => session.decrypt(&oaep(algorithm), found.secret, wrapped).map(SecretBytes::new),
        Kind::Aes => {
            let template = generic_secret();
            let key = session.unwrap_key(&Mechanism::AesKeyWrap, found.secret, wrapped, &template)?;
            let value = session.get_attributes(key, &[AttributeType::Value]);
            session.destroy_object(key)?;
            match value?.pop() {
                Some(Attribute::Value(value)) => Ok(SecretBytes::new(value)),
                _ => Err(Error::InvalidValue),
            }
        }
    }
}

/// Whether the key unwraps what it wraps.
pub(crate) fn works(session: &Session, found: &Found, algorithm: WrapAlgorithm) -> bool {
    let plain = [0x5a; 32];
    wrap(session, found, algorithm, &plain)
        .and_then(|wrapped| unwrap(session, found, algorithm, &wrapped))
        .is_ok_and(|again| again.expose() == plain)
}

/// A secret of any length that lives as long as the session at most, and can be read and wrapped.
fn generic_secret() -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::GENERIC_SECRET),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(false),
        Attribute::Extractable(true),
    ]
}
