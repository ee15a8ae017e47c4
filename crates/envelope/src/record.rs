//! Sealed records: one small object, sealed whole, bound to its name (FORMAT.md section 4).

use vmkeep_model::DomainId;

use crate::aead::{SALT_LEN, TAG_LEN};
use crate::public::{self, SealingKey, opening_cipher};
use crate::reader::{Reader, exactly, narrow, wide, within};
use crate::{Branch, BranchId, BranchKey, OpenError, SealContext, SealError, SealedObject};

/// Version of records that this crate writes, and the newest it reads.
pub const RECORD_VERSION: u16 = 1;
/// Length of what stands before the ciphertext of a record.
pub const RECORD_HEADER_LEN: usize = 68;
/// Longest body of a record. A longer one is refused, sealing and opening.
pub const RECORD_BODY_MAX: usize = 16 << 20;

const MAGIC: &str = "vmkeepR1";
const SALT_AT: usize = 32;
const LEN_AT: usize = 64;

/// Seals `body` as a record of `kind` that opens only under `object_name`, with a record, map or data key, or to the public
/// side of a data key.
pub fn seal_record<'k>(
    kind: u8,
    key: impl Into<SealingKey<'k>>,
    object_name: &str,
    body: &[u8],
    ctx: &SealContext<'_>,
) -> Result<SealedObject, SealError> {
    let key = key.into();
    let id = key.id();
    if id.branch == Branch::Identity {
        return Err(SealError::WrongBranch { what: "a record", found: id });
    }
    if body.len() > RECORD_BODY_MAX {
        let (len, max) = (wide(body.len()), wide(RECORD_BODY_MAX));
        return Err(SealError::TooLarge { what: "record body", len, max });
    }
    let len = narrow(body.len());

    let mut object = Vec::with_capacity(RECORD_HEADER_LEN + body.len() + TAG_LEN);
    object.extend_from_slice(MAGIC.as_bytes());
    object.extend_from_slice(&RECORD_VERSION.to_le_bytes());
    object.extend_from_slice(&[kind, id.branch.number()]);
    object.extend_from_slice(&id.epoch.to_le_bytes());
    object.extend_from_slice(&id.domain.0);

    let mut salter = key.salter(ctx)?;
    salter.cover(&[&object, &len.to_le_bytes(), object_name.as_bytes()], body);
    let (salt, cipher) = key.finish(salter, public::RECORD);

    object.extend_from_slice(&salt);
    object.extend_from_slice(&len.to_le_bytes());
    let aad = aad(&object, object_name);
    object.extend_from_slice(body);
    let tag = cipher.seal(0, &aad, &mut object[RECORD_HEADER_LEN..]);
    object.extend_from_slice(&tag);
    Ok(SealedObject::from_sealed(object))
}

/// What a record says of itself in the clear. Not authenticated until the record is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHead {
    /// Version of the format.
    pub version: u16,
    /// Kind of record.
    pub kind: u8,
    /// The key that opens it.
    pub branch: BranchId,
}

impl RecordHead {
    /// Reads the head of a record; a newer version is refused before anything else is looked at.
    pub fn parse(bytes: &[u8]) -> Result<Self, OpenError> {
        let mut reader = Reader::new(bytes);
        reader.magic(MAGIC)?;
        let version = reader.version(RECORD_VERSION)?;
        let kind = reader.u8()?;
        let branch = Branch::from_number(reader.u8()?)?;
        if branch == Branch::Identity {
            return Err(OpenError::Malformed { what: "branch of a record is not record, map or data" });
        }
        let epoch = reader.u32()?;
        let domain = DomainId(reader.array()?);
        Ok(Self { version, kind, branch: BranchId { domain, branch, epoch } })
    }
}

/// Opens a whole record that was stored under `object_name` and gives its body.
pub fn open_record(bytes: &[u8], object_name: &str, key: &BranchKey, kind: u8) -> Result<Vec<u8>, OpenError> {
    let head = RecordHead::parse(bytes)?;
    if head.kind != kind {
        return Err(OpenError::WrongKind { expected: kind, found: head.kind });
    }
    if !key.id().opens(head.branch) {
        return Err(OpenError::WrongKey { expected: key.id(), found: head.branch });
    }
    let mut reader = Reader::new(bytes);
    reader.take(SALT_AT)?;
    let salt = reader.array::<SALT_LEN>()?;
    let len = within("record body", reader.u32()?, RECORD_BODY_MAX)?;
    exactly(RECORD_HEADER_LEN + len + TAG_LEN, bytes)?;
    let ciphertext = reader.take(len)?;
    let tag = reader.array()?;

    let aad = aad(&bytes[..RECORD_HEADER_LEN], object_name);
    let mut body = ciphertext.to_vec();
    opening_cipher(key, head.branch.branch, &salt, public::RECORD)?.open(0, &aad, &mut body, &tag)?;
    Ok(body)
}

/// The header without its salt, then the name. The salt needs no place here: another one makes another key.
fn aad(header: &[u8], object_name: &str) -> Vec<u8> {
    [&header[..SALT_AT], &header[LEN_AT..], object_name.as_bytes()].concat()
}
