//! Write-only clients: hosts that make recovery points and cannot read what is stored.
//!
//! A client has a KEK of its own. Under it lie the vault's record key and, of each VM it backs up, the map and identity keys
//! and the public side of the newest data key. With these it finds what changed, seals it and commits; the data key, which
//! opens it, it never had.

use vmkeep_envelope::{Branch, DomainKeys, KeyObjectHead, KeyVault, WrapNaming};
use vmkeep_model::{DomainId, Permit, VmName, op};

use super::info::hex;
use crate::error::VaultError;
use crate::journal::{self, JournalEntry};
use crate::keyring;
use crate::layout::ObjectName;
use crate::store::Created;
use crate::vault::{Inner, Vault};

/// What a client was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientGrant {
    /// The client's KEK, by its id in hex: what [`Vault::withdraw_client`] takes.
    pub kek: String,
    /// Key objects that were made; fewer than there are when some were given before.
    pub added: u64,
    /// VMs that were not protected before and have keys now, but no point.
    pub prepared: Vec<VmName>,
}

impl Vault {
    /// Gives whoever holds `client`, a KEK, what it takes to back up `vms` and not to read them.
    ///
    /// Of every VM the client gets the map and identity keys and the public side of the newest data key. It can list points, make
    /// increments and restore nothing. What it cannot know without the content of a stored block (which pages of it changed)
    /// it takes from its own fingerprints or stores the block whole. A VM that is new gets its keys here, so that the client never
    /// has all of them. May be repeated: after new keys were made for a VM, and for further VMs.
    ///
    /// What it does not do: a client knows sizes, names and hashes, may add points of its own making, and, when it is
    /// allowed to by the store, remove objects; that, the store's own credentials must prevent.
    ///
    /// # Errors
    /// [`VaultError::NoClient`] when `client` opens the vault as its owner.
    pub fn grant_client(
        &self,
        permit: &Permit<op::GrantKeys>,
        client: &dyn KeyVault,
        vms: &[VmName],
    ) -> Result<ClientGrant, VaultError> {
        permit.check_vault()?;
        let vault = &self.uncached().inner;
        let no_client = |why| Err(VaultError::NoClient { why });
        if vault.is_client {
            return no_client("the KEK that opened the vault is that of a client itself");
        }
        match keyring::scan(&vault.objects, client, None, DomainId::VAULT, "the vault") {
            Ok(scan) if scan.owner => return no_client("this KEK opens the vault as its owner"),
            Ok(_) | Err(VaultError::WrongKey { .. }) => {}
            Err(e) => return Err(e),
        }
        let mut grant = ClientGrant { kek: String::new(), added: 0, prepared: Vec::new() };
        for vm in vms {
            let (lineage, made) = vault.lineage_to_continue(vm)?;
            if made > 0 {
                grant.prepared.push(vm.clone());
            }
            let keys =
                keyring::unlock(&vault.objects, &*vault.key_vault, lineage.domain.id, &format!("VM {vm}"))?;
            let newest = keys.keys().next_back().copied();
            for (epoch, keys) in keys {
                let Some(keys) = keys.into_iter().next() else { continue };
                let is_open = Some(epoch) == newest && !lineage.domain.destroyed().contains_key(&epoch);
                let keys = if is_open {
                    keys.write_only()
                        .map_err(|source| VaultError::Key { what: format!("VM {vm}"), source })?
                } else {
                    keys.without(Branch::Data).without(Branch::DataPublic)
                };
                vault.wrap_for(client, &keys, &mut grant)?;
            }
        }
        // Last, so that what opens the vault finds the VMs.
        for keys in keyring::unlock(&vault.objects, &*vault.key_vault, DomainId::VAULT, "the vault")?
            .into_values()
            .filter_map(|keys| keys.into_iter().next())
        {
            vault.wrap_for(client, &keys, &mut grant)?;
        }
        if grant.added > 0 {
            let entry = JournalEntry::ClientGranted { kek: grant.kek.clone(), added: grant.added };
            journal::append(vault, vault.id.0, permit.who(), &entry)?;
        }
        Ok(grant)
    }

    /// Removes what was given to the client of the KEK with this id, in hex; gives how many key objects that were.
    ///
    /// It does nothing against a client that kept copies. Where that matters, give the VMs new keys
    /// ([`rotate_bek`](Self::rotate_bek)): what is sealed from then on it knows nothing of.
    ///
    /// # Errors
    /// [`VaultError::NoClient`] when the vault has no client of this KEK.
    pub fn withdraw_client(&self, permit: &Permit<op::GrantKeys>, kek: &str) -> Result<u64, VaultError> {
        permit.check_vault()?;
        let vault = &self.uncached().inner;
        let (mut theirs, mut own) = (Vec::new(), Vec::new());
        for (path, _) in vault.objects.list("keys")? {
            let Some(name @ ObjectName::Key { domain, .. }) = ObjectName::parse(&path) else { continue };
            let Some(bytes) = vault.objects.read(&name)? else { continue };
            let Ok(head) = KeyObjectHead::parse(&bytes) else { continue };
            if hex(&head.kek_id) != kek {
                continue;
            }
            // An owner's objects are named by the KEK alone.
            if path.ends_with(&vmkeep_envelope::wrap_name(&head.kek_id)) {
                return Err(VaultError::NoClient { why: "this KEK wraps keys as an owner's" });
            }
            if domain == DomainId::VAULT { own.push(name) } else { theirs.push(name) }
        }
        if own.is_empty() && theirs.is_empty() {
            return Err(VaultError::NoClient { why: "the vault has no client of this KEK" });
        }
        // The vault's own last: as long as it is there, this finds what is left.
        let all: Vec<ObjectName> = theirs.into_iter().chain(own).collect();
        let entry = JournalEntry::ClientWithdrawn { kek: kek.to_owned(), removed: all.len() as u64 };
        journal::append(vault, vault.id.0, permit.who(), &entry)?;
        for name in &all {
            vault.objects.delete(name)?;
        }
        Ok(all.len() as u64)
    }

    /// Whether the KEK that opened the vault is that of a write-only client.
    pub fn is_client(&self) -> bool {
        self.inner.is_client
    }
}

impl Inner {
    /// Wraps `keys` for a client, unless that was done, and reads them back.
    fn wrap_for(
        &self,
        client: &dyn KeyVault,
        keys: &DomainKeys,
        grant: &mut ClientGrant,
    ) -> Result<(), VaultError> {
        let (path, object) = self.wrapped(keys, client, WrapNaming::KekAndBranches)?;
        let name = keyring::key_name(&path)?;
        let head = KeyObjectHead::parse(object.bytes()).map_err(|source| VaultError::open(&name, source))?;
        grant.kek = hex(&head.kek_id);
        if self.objects.create(&name, &object)? == Created::Ours {
            grant.added += 1;
        }
        match self.opened_by(client, &path)? {
            Some(found) if found.same_keys(keys) => Ok(()),
            _ => Err(VaultError::KeysDiffer { object: path }),
        }
    }
}
