//! Which keys there are, and under which KEKs.

use std::collections::BTreeMap;

use vmkeep_envelope::{Branch, KeyObjectHead, OpenedKeys, open_key_object};
use vmkeep_model::{DomainId, Timestamp, VmName};

use crate::error::VaultError;
use crate::format::DestroyedBody;
use crate::keyring;
use crate::layout::ObjectName;
use crate::vault::{Inner, Vault};

/// The keys of one domain.
#[derive(Debug)]
pub struct DomainKeysInfo {
    /// Whose; [`DomainId::VAULT`] for the vault's own.
    pub domain: DomainId,
    /// The VMs that use it, each with the generation of its lineage: 0 for the first, more when it was closed and protected
    /// again. None for the vault's own, and for keys that an interrupted first backup left.
    pub vms: Vec<(VmName, u32)>,
    /// Its epochs, oldest first.
    pub epochs: Vec<EpochInfo>,
}

/// The keys of one epoch of a domain.
#[derive(Debug)]
pub struct EpochInfo {
    /// Which epoch.
    pub epoch: u32,
    /// The objects that hold them, each wrapped by one KEK.
    pub wraps: Vec<WrapInfo>,
    /// That the data key was destroyed on purpose.
    pub destroyed: Option<DestroyedInfo>,
}

/// One key object.
#[derive(Debug)]
pub struct WrapInfo {
    /// Its name in the store.
    pub object: String,
    /// The KEK, by its id in hex, as the object says.
    pub kek: String,
    /// How it wraps, as the object says.
    pub algorithm: String,
    /// Version of the KEK, as the object says; empty for one without versions.
    pub key_version: String,
    /// The branches it holds; `None` when the KEK of this vault does not open it.
    pub branches: Option<Vec<Branch>>,
    /// Why it does not open although it is for the KEK of this vault, or cannot be read at all.
    pub damaged: Option<VaultError>,
}

/// When keys were destroyed, and by whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestroyedInfo {
    /// When, by the clock of the host that did it.
    pub at: Timestamp,
    /// Who did it.
    pub by: String,
    /// Points that could not be restored any more from then on.
    pub points: u64,
}

impl WrapInfo {
    /// Whether the KEK of this vault opens it.
    pub fn opens(&self) -> bool {
        self.branches.is_some()
    }
}

impl From<&DestroyedBody> for DestroyedInfo {
    fn from(body: &DestroyedBody) -> Self {
        Self { at: Timestamp(body.at), by: body.by.clone(), points: body.points }
    }
}

impl Inner {
    /// What the key object `path` says of itself, and whether it opens; `None` when it is gone.
    pub(crate) fn wrap_info(&self, path: &str) -> Result<Option<WrapInfo>, VaultError> {
        let Some(name) = ObjectName::parse(path) else { return Ok(None) };
        let Some(bytes) = self.objects.read(&name)? else { return Ok(None) };
        let mut info = WrapInfo {
            object: path.to_owned(),
            kek: String::new(),
            algorithm: String::new(),
            key_version: String::new(),
            branches: None,
            damaged: None,
        };
        let head = match KeyObjectHead::parse(&bytes) {
            Ok(head) => head,
            Err(e) => {
                info.damaged = Some(VaultError::open(&name, e));
                return Ok(Some(info));
            }
        };
        info.kek = hex(&head.kek_id);
        (info.algorithm, info.key_version) = (head.algorithm, head.key_version);
        match open_key_object(&bytes, path, &*self.key_vault) {
            Ok(OpenedKeys::Keys(keys)) => info.branches = Some(keys.branches()),
            Ok(OpenedKeys::NotMine) => {}
            Err(e) => info.damaged = Some(VaultError::open(&name, e)),
        }
        Ok(Some(info))
    }
}

/// Bytes as hex digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string does not fail.
        write!(text, "{byte:02x}").ok();
        text
    })
}

impl Vault {
    /// The keys of every domain: the vault's own first, then by VM, closed lineages among them. Two listings, and one read
    /// for each key object and each VM.
    pub fn keys(&self) -> Result<Vec<DomainKeysInfo>, VaultError> {
        let vault = &self.inner;
        let mut domains: BTreeMap<DomainId, BTreeMap<u32, EpochInfo>> = BTreeMap::new();
        for (path, _) in vault.objects.list("keys")? {
            let Some(name) = ObjectName::parse(&path) else { continue };
            let (ObjectName::Key { domain, epoch, .. } | ObjectName::KeyDestroyed { domain, epoch }) = name
            else {
                continue;
            };
            let epochs = domains.entry(domain).or_default();
            let info = epochs.entry(epoch).or_insert(EpochInfo { epoch, wraps: Vec::new(), destroyed: None });
            if matches!(name, ObjectName::Key { .. }) {
                info.wraps.extend(vault.wrap_info(&path)?);
            } else {
                let body = keyring::tombstone(&vault.objects, &vault.record, domain, epoch)?;
                info.destroyed = body.as_ref().map(DestroyedInfo::from);
            }
        }
        let mut vms: BTreeMap<DomainId, Vec<(VmName, u32)>> = BTreeMap::new();
        for (body, vm) in vault.name_records()? {
            vms.entry(DomainId(body.domain)).or_default().push((vm, body.generation));
        }
        let mut found: Vec<DomainKeysInfo> = domains
            .into_iter()
            .map(|(domain, epochs)| {
                let mut vms = vms.remove(&domain).unwrap_or_default();
                vms.sort();
                DomainKeysInfo { domain, vms, epochs: epochs.into_values().collect() }
            })
            .collect();
        found.sort_by(|a, b| {
            let key = |info: &DomainKeysInfo| (info.domain != DomainId::VAULT, info.vms.is_empty());
            key(a).cmp(&key(b)).then_with(|| a.vms.cmp(&b.vms)).then_with(|| a.domain.cmp(&b.domain))
        });
        Ok(found)
    }
}
