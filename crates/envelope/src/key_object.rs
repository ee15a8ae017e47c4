//! Key objects: the keys of a domain and epoch, sealed under one KEK (FORMAT.md section 3).
//!
//! ```text
//! KEK --wraps--> object key (random, one per key object) --seals--> map, data, identity keys
//! ```

use vmkeep_model::DomainId;
use zeroize::Zeroizing;

use crate::aead::{Cipher, SALT_LEN, TAG_LEN};
use crate::branch::half;
use crate::pack::hex;
use crate::reader::{Reader, exactly, narrow, wide, within};
use crate::salt::Salter;
use crate::{
    Argon2Kdf, Argon2Params, Branch, DomainKeys, KeyError, KeyVault, OpenError, SealContext, SealedObject,
    SecretKey, Unwrapped, WrapContext, WrappedKey, labels,
};

/// Version of key objects that this crate writes, and the newest it reads.
pub const KEY_OBJECT_VERSION: u16 = 1;

const MAGIC: &str = "vmkeepK1";
const ALGORITHM_MAX: usize = 64;
const KEK_ID_MAX: usize = 64;
const KEY_VERSION_MAX: usize = 128;
const WRAPPED_MAX: usize = 1024;
const CIPHERTEXT_MAX: usize = 4096;
/// Branch and key, as they stand in the plaintext.
const ENTRY_LEN: usize = 33;

/// What came of opening a key object.
#[derive(Debug)]
pub enum OpenedKeys {
    /// Another KEK wrapped it: try the next key object of the domain.
    NotMine,
    /// The keys it holds.
    Keys(DomainKeys),
}

/// What a key object says of itself in the clear: claimed only, and nothing of it is believed before it opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyObjectHead {
    /// Whose keys.
    pub domain: DomainId,
    /// Their generation.
    pub epoch: u32,
    /// How they are wrapped.
    pub algorithm: String,
    /// Which KEK wrapped them.
    pub kek_id: Vec<u8>,
    /// Version of the KEK; empty for a key without versions.
    pub key_version: String,
}

impl KeyObjectHead {
    /// Reads the clear head of a key object. No KEK is asked for anything.
    pub fn parse(bytes: &[u8]) -> Result<Self, OpenError> {
        let (WrapContext { domain, epoch }, wrapped) = decode_head(&mut Reader::new(bytes))?;
        let WrappedKey { algorithm, kek_id, key_version, .. } = wrapped;
        Ok(Self { domain, epoch, algorithm, kek_id, key_version })
    }
}

/// What the last segment of a key object's name is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WrapNaming {
    /// The KEK alone: [`wrap_name`].
    Kek,
    /// The KEK and the branches that the object holds, so that objects of one KEK with other branches lie side by side:
    /// [`wrap_name_of_some`].
    KekAndBranches,
}

/// Last segment of a key object's name: it says which KEK, to those who know the KEK's id only.
pub fn wrap_name(kek_id: &[u8]) -> String {
    hex(&half(&blake3::hash(kek_id)))
}

/// As [`wrap_name`], for an object that holds `branches` and no others.
pub fn wrap_name_of_some(kek_id: &[u8], branches: &[Branch]) -> String {
    let mut numbers: Vec<u8> = branches.iter().map(|branch| branch.number()).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let mut hasher = blake3::Hasher::new();
    hasher.update(labels::REDUCED_WRAP).update(&numbers).update(&[0]).update(kek_id);
    hex(&half(&hasher.finalize()))
}

/// Seals `keys` under the KEK of `vault`; gives the object's name, which begins with `prefix`, and the object.
///
/// `prefix` is `keys/<domain>/<epoch>/` and is checked against the keys.
pub fn seal_key_object(
    keys: &DomainKeys,
    vault: &dyn KeyVault,
    prefix: &str,
    ctx: &SealContext<'_>,
) -> Result<(String, SealedObject), KeyError> {
    seal_key_object_as(keys, vault, prefix, WrapNaming::Kek, ctx)
}

/// As [`seal_key_object`], under a name of the given kind.
pub fn seal_key_object_as(
    keys: &DomainKeys,
    vault: &dyn KeyVault,
    prefix: &str,
    naming: WrapNaming,
    ctx: &SealContext<'_>,
) -> Result<(String, SealedObject), KeyError> {
    let context = WrapContext { domain: keys.domain(), epoch: keys.epoch() };
    let expected = name_prefix(&context);
    if prefix != expected {
        return Err(KeyError::WrongPrefix { expected });
    }
    let object_key = SecretKey::generate(ctx.entropy)?;
    let wrapped = vault.wrap(&object_key, &context, ctx.entropy)?;
    let wrap = match naming {
        WrapNaming::Kek => wrap_name(&wrapped.kek_id),
        WrapNaming::KekAndBranches => wrap_name_of_some(&wrapped.kek_id, &keys.branches()),
    };
    let name = format!("{prefix}{wrap}");
    let head = encode_head(&context, &wrapped)?;

    // Room for everything at once: a vector that grows would leave keys behind in the memory it gives up.
    let mut text = Zeroizing::new(Vec::with_capacity(1 + 4 * ENTRY_LEN));
    let secret = keys.iter().map(|key| (key.id(), key.secret().expose()));
    let entries = secret.chain(keys.public().map(|key| (key.id(), key.point())));
    text.push(0);
    for (id, bytes) in entries {
        text[0] += 1;
        text.push(id.branch.number());
        text.extend_from_slice(bytes);
    }
    let len = narrow(text.len()).to_le_bytes();
    let mut salter = Salter::in_session(&object_key, ctx)?;
    salter.cover(&[&head, &len, name.as_bytes()], &text);
    let salt = salter.finish();

    let mut object = Vec::with_capacity(head.len() + SALT_LEN + 4 + text.len() + TAG_LEN);
    object.extend_from_slice(&head);
    object.extend_from_slice(&salt);
    object.extend_from_slice(&len);
    let aad = [object.as_slice(), name.as_bytes()].concat();
    let tag = Cipher::new(&object_key, &salt, labels::KEY_OBJECT).seal(0, &aad, &mut text);
    object.extend_from_slice(&text);
    object.extend_from_slice(&tag);
    Ok((name, SealedObject::from_sealed(object)))
}

/// Opens a key object that was stored under `object_name`.
///
/// One that another KEK wrapped is [`OpenedKeys::NotMine`]; one that is this vault's and does not open is an error.
pub fn open_key_object(
    bytes: &[u8],
    object_name: &str,
    vault: &dyn KeyVault,
) -> Result<OpenedKeys, OpenError> {
    let mut reader = Reader::new(bytes);
    let (context, wrapped) = decode_head(&mut reader)?;
    let salt = reader.array::<SALT_LEN>()?;
    let len = within("ciphertext of a key object", reader.u32()?, CIPHERTEXT_MAX)?;
    let text_at = reader.position();
    let mut text = Zeroizing::new(reader.take(len)?.to_vec());
    let tag = reader.array::<TAG_LEN>()?;
    exactly(reader.position(), bytes)?;

    let named = named(object_name, &context, &wrapped.kek_id)?;
    let object_key = match vault.unwrap(&wrapped, &context).map_err(OpenError::KeyVault)? {
        Unwrapped::NotMine => return Ok(OpenedKeys::NotMine),
        Unwrapped::Broken(why) => return Err(OpenError::BrokenWrap(why)),
        Unwrapped::Key(key) => key,
    };
    let aad = [&bytes[..text_at], object_name.as_bytes()].concat();
    Cipher::new(&object_key, &salt, labels::KEY_OBJECT).open(0, &aad, &mut text, &tag)?;
    let keys = decode_keys(&context, &text)?;
    match named {
        Some(branches) if branches != keys.branches() => {
            Err(OpenError::Malformed { what: "a key object holds other branches than its name says" })
        }
        _ => Ok(OpenedKeys::Keys(keys)),
    }
}

/// The branches that the name of a key object says it holds; `None` for a name that is made from the KEK alone.
fn named(object_name: &str, context: &WrapContext, kek_id: &[u8]) -> Result<Option<Vec<Branch>>, OpenError> {
    let prefix = name_prefix(context);
    let expected = format!("{prefix}{}", wrap_name(kek_id));
    if object_name == expected {
        return Ok(None);
    }
    let allowed = DomainKeys::none(context.domain, context.epoch).branches_possible();
    let wrap = object_name.strip_prefix(&prefix);
    let sets = (0..1_u8 << allowed.len()).map(|set| {
        let holds = |at: &usize| set & (1 << at) != 0;
        (0..allowed.len()).filter(holds).map(|at| allowed[at]).collect::<Vec<Branch>>()
    });
    let found = sets.into_iter().find(|set| wrap == Some(wrap_name_of_some(kek_id, set).as_str()));
    found.map(Some).ok_or(OpenError::WrongName { expected })
}

fn name_prefix(context: &WrapContext) -> String {
    format!("keys/{}/{}/", context.domain, context.epoch)
}

/// Everything before the salt.
fn encode_head(context: &WrapContext, wrapped: &WrappedKey) -> Result<Vec<u8>, KeyError> {
    fn counted(
        head: &mut Vec<u8>,
        field: &'static str,
        bytes: &[u8],
        max: usize,
        limit: &'static str,
    ) -> Result<(), KeyError> {
        let too_long = KeyError::WrapField { field, len: bytes.len(), limit };
        match u8::try_from(bytes.len()) {
            Ok(len) if bytes.len() <= max => head.push(len),
            _ => return Err(too_long),
        }
        head.extend_from_slice(bytes);
        Ok(())
    }
    for (field, text) in [("algorithm", &wrapped.algorithm), ("key version", &wrapped.key_version)] {
        if !text.is_ascii() {
            return Err(KeyError::WrapField { field, len: text.len(), limit: "ASCII only" });
        }
    }
    let mut head = Vec::with_capacity(512);
    head.extend_from_slice(MAGIC.as_bytes());
    head.extend_from_slice(&KEY_OBJECT_VERSION.to_le_bytes());
    head.extend_from_slice(&[0; 2]);
    head.extend_from_slice(&context.epoch.to_le_bytes());
    head.extend_from_slice(&context.domain.0);
    counted(&mut head, "algorithm", wrapped.algorithm.as_bytes(), ALGORITHM_MAX, "at most 64")?;
    counted(&mut head, "KEK id", &wrapped.kek_id, KEK_ID_MAX, "at most 64")?;
    counted(&mut head, "key version", wrapped.key_version.as_bytes(), KEY_VERSION_MAX, "at most 128")?;
    match wrapped.kdf {
        None => head.push(0),
        Some(Argon2Kdf { params, salt }) => {
            head.push(1);
            head.extend_from_slice(&params.memory_kib().to_le_bytes());
            head.extend_from_slice(&params.passes().to_le_bytes());
            head.extend_from_slice(&params.lanes().to_le_bytes());
            head.extend_from_slice(&salt);
        }
    }
    let len = wrapped.bytes.len();
    match u16::try_from(len) {
        Ok(count) if len <= WRAPPED_MAX => head.extend_from_slice(&count.to_le_bytes()),
        _ => return Err(KeyError::WrapField { field: "key", len, limit: "at most 1024" }),
    }
    head.extend_from_slice(&wrapped.bytes);
    Ok(head)
}

fn decode_head(reader: &mut Reader<'_>) -> Result<(WrapContext, WrappedKey), OpenError> {
    fn counted<'a>(reader: &mut Reader<'a>, what: &'static str, max: usize) -> Result<&'a [u8], OpenError> {
        let len = within(what, reader.u8()?.into(), max)?;
        reader.take(len)
    }
    fn ascii(bytes: &[u8]) -> Result<String, OpenError> {
        match std::str::from_utf8(bytes) {
            Ok(text) if text.is_ascii() => Ok(text.to_owned()),
            _ => Err(OpenError::Malformed { what: "algorithm or key version is not ASCII" }),
        }
    }
    reader.magic(MAGIC)?;
    reader.version(KEY_OBJECT_VERSION)?;
    reader.reserved(2)?;
    let epoch = reader.u32()?;
    let domain = DomainId(reader.array()?);
    let algorithm = ascii(counted(reader, "algorithm", ALGORITHM_MAX)?)?;
    let kek_id = counted(reader, "KEK id", KEK_ID_MAX)?.to_vec();
    let key_version = ascii(counted(reader, "key version", KEY_VERSION_MAX)?)?;
    let kdf = match reader.u8()? {
        0 => None,
        1 => {
            let (memory_kib, passes, lanes) = (reader.u32()?, reader.u32()?, reader.u32()?);
            let params = Argon2Params::new(memory_kib, passes, lanes).map_err(OpenError::BrokenWrap)?;
            Some(Argon2Kdf { params, salt: reader.array()? })
        }
        _ => return Err(OpenError::Malformed { what: "KDF is not 0 or 1" }),
    };
    let len = within("wrapped key", reader.u16()?.into(), WRAPPED_MAX)?;
    let bytes = reader.take(len)?.to_vec();
    Ok((WrapContext { domain, epoch }, WrappedKey { algorithm, kek_id, key_version, kdf, bytes }))
}

fn decode_keys(context: &WrapContext, text: &[u8]) -> Result<DomainKeys, OpenError> {
    let mut reader = Reader::new(text);
    let mut keys = DomainKeys::none(context.domain, context.epoch);
    let mut last = 0;
    for _ in 0..reader.u8()? {
        let number = reader.u8()?;
        let branch = Branch::from_number(number)?;
        if number <= last || !keys.branches_possible().contains(&branch) {
            return Err(OpenError::Malformed { what: "branches are not those of the domain, ascending" });
        }
        last = number;
        let key = SecretKey::fill(|key| reader.take(key.len()).map(|bytes| key.copy_from_slice(bytes)))?;
        keys.insert(branch, key).map_err(OpenError::BrokenWrap)?;
    }
    if keys.data().is_ok() && keys.public().is_some() {
        return Err(OpenError::Malformed {
            what: "a data key and the public side of one are not held together",
        });
    }
    let (expected, found) = (wide(reader.position()), wide(text.len()));
    if expected == found { Ok(keys) } else { Err(OpenError::TrailingBytes { expected, found }) }
}
