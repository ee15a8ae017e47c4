//! Finding the versions of a key among the objects of a token.

use cryptoki::error::{Error, Result};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use vmkeep_envelope::WrapAlgorithm;

use crate::Protection;

/// The longest key that is wrapped with AES.
const AES_PLAIN_MAX: usize = 4096;

/// One version of a key.
#[derive(Debug)]
pub(crate) struct Found {
    id: Vec<u8>,
    /// The half that unwraps: the private key, or the AES key.
    pub(crate) secret: ObjectHandle,
    pub(crate) kind: Kind,
    may_unwrap: bool,
    may_wrap: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// A key pair with a modulus of so many bytes.
    Rsa { public: Option<ObjectHandle>, len: usize },
    /// An AES key of 256 bits.
    Aes,
}

impl Found {
    /// `CKA_ID` in hex.
    pub(crate) fn version(&self) -> String {
        self.id
            .iter()
            .flat_map(|byte| [byte >> 4, byte & 15])
            .filter_map(|digit| char::from_digit(digit.into(), 16))
            .collect()
    }

    /// `CKA_ID` as a number that can be compared: without leading zeros, the longer is the higher.
    fn number(&self) -> (usize, &[u8]) {
        let zeros = self.id.iter().take_while(|&&byte| byte == 0).count();
        (self.id.len() - zeros, &self.id[zeros..])
    }

    /// What it may not do and would have to.
    pub(crate) fn missing(&self) -> Option<&'static str> {
        match (self.kind, self.may_unwrap, self.may_wrap) {
            (Kind::Rsa { .. }, false, _) => Some("unwrap with (CKA_DECRYPT)"),
            (Kind::Aes, false, _) => Some("unwrap with (CKA_UNWRAP)"),
            (Kind::Rsa { public: None, .. }, ..) => Some("wrap with (no public key is on the token)"),
            (Kind::Rsa { .. }, _, false) => Some("wrap with (CKA_ENCRYPT)"),
            (Kind::Aes, _, false) => Some("wrap with (CKA_WRAP)"),
            (_, true, true) => None,
        }
    }

    /// Whether so many bytes can be wrapped.
    pub(crate) fn takes(&self, algorithm: WrapAlgorithm, len: usize) -> bool {
        let hash = if algorithm == WrapAlgorithm::RsaOaep256 { 32 } else { 20 };
        match self.kind {
            Kind::Rsa { len: modulus, .. } => len + 2 * hash + 2 <= modulus,
            Kind::Aes => (16..=AES_PLAIN_MAX).contains(&len) && len.is_multiple_of(8),
        }
    }

    /// Whether so many bytes can be what a wrap gives.
    pub(crate) fn gives(&self, len: usize) -> bool {
        match self.kind {
            Kind::Rsa { len: modulus, .. } => len == modulus,
            Kind::Aes => (24..=AES_PLAIN_MAX + 8).contains(&len) && len.is_multiple_of(8),
        }
    }
}

/// The version of the key called `name`, the newest when none is given. `None`: it is not there.
pub(crate) fn key(session: &Session, name: &str, version: Option<&str>) -> Result<Option<Found>> {
    let mut all = all(session, name)?;
    if let Some(version) = version {
        all.retain(|found| found.version() == version);
    }
    Ok(all.into_iter().max_by(|a, b| a.number().cmp(&b.number()).then_with(|| a.id.cmp(&b.id))))
}

fn all(session: &Session, name: &str) -> Result<Vec<Found>> {
    let mut all = Vec::new();
    for handle in objects(session, ObjectClass::PRIVATE_KEY, KeyType::RSA, name, None)? {
        let id = id(session, handle)?;
        if id.is_empty() {
            continue;
        }
        let publics = objects(session, ObjectClass::PUBLIC_KEY, KeyType::RSA, name, Some(&id))?;
        let public = publics.first().copied();
        let may_wrap = match public {
            Some(public) => allows(session, public, AttributeType::Encrypt)?,
            None => false,
        };
        let may_unwrap = allows(session, handle, AttributeType::Decrypt)?;
        let len = modulus_len(session, handle)?;
        all.push(Found { id, secret: handle, kind: Kind::Rsa { public, len }, may_unwrap, may_wrap });
    }
    for handle in objects(session, ObjectClass::SECRET_KEY, KeyType::AES, name, None)? {
        let id = id(session, handle)?;
        if id.is_empty() || value_len(session, handle)? != 32 {
            continue;
        }
        let may_wrap = allows(session, handle, AttributeType::Wrap)?;
        let may_unwrap = allows(session, handle, AttributeType::Unwrap)?;
        all.push(Found { id, secret: handle, kind: Kind::Aes, may_unwrap, may_wrap });
    }
    Ok(all)
}

fn objects(
    session: &Session,
    class: ObjectClass,
    kind: KeyType,
    name: &str,
    id: Option<&[u8]>,
) -> Result<Vec<ObjectHandle>> {
    let mut template = vec![
        Attribute::Token(true),
        Attribute::Class(class),
        Attribute::KeyType(kind),
        Attribute::Label(name.as_bytes().to_vec()),
    ];
    template.extend(id.map(|id| Attribute::Id(id.to_vec())));
    session.find_objects(&template)
}

fn id(session: &Session, handle: ObjectHandle) -> Result<Vec<u8>> {
    match session.get_attributes(handle, &[AttributeType::Id])?.pop() {
        Some(Attribute::Id(id)) => Ok(id),
        _ => Ok(Vec::new()),
    }
}

fn modulus_len(session: &Session, handle: ObjectHandle) -> Result<usize> {
    match session.get_attributes(handle, &[AttributeType::Modulus])?.pop() {
        Some(Attribute::Modulus(modulus)) => Ok(modulus.iter().skip_while(|&&byte| byte == 0).count()),
        _ => Err(Error::InvalidValue),
    }
}

fn value_len(session: &Session, handle: ObjectHandle) -> Result<u64> {
    match session.get_attributes(handle, &[AttributeType::ValueLen])?.pop() {
        Some(Attribute::ValueLen(len)) => Ok(len.into()),
        _ => Ok(0),
    }
}

/// Whether a yes-or-no attribute is there and says yes.
fn allows(session: &Session, handle: ObjectHandle, attribute: AttributeType) -> Result<bool> {
    Ok(match session.get_attributes(handle, &[attribute])?.pop() {
        Some(
            Attribute::Encrypt(yes)
            | Attribute::Decrypt(yes)
            | Attribute::Wrap(yes)
            | Attribute::Unwrap(yes)
            | Attribute::Sensitive(yes)
            | Attribute::Extractable(yes),
        ) => yes,
        _ => false,
    })
}

pub(crate) fn protection(session: &Session, found: &Found) -> Result<Protection> {
    Ok(Protection {
        sensitive: allows(session, found.secret, AttributeType::Sensitive)?,
        extractable: allows(session, found.secret, AttributeType::Extractable)?,
    })
}
