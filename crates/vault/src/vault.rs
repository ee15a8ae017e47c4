//! A vault: made, opened, and asked for its VMs and points.

use std::path::Path as FsPath;
use std::sync::{Arc, Mutex};

use object_store::ObjectStore;
use vmkeep_envelope::{BranchKey, Entropy, KeyVault, OsEntropy, SlotCiphers};
use vmkeep_model::{
    Clock, DomainId, LineageId, PointNumber, PointRef, PointSelector, Principal, RecoveryPoint, SessionId,
    SystemClock, VaultId, VmName,
};

use crate::error::{StoreOperation, VaultError};
use crate::format::{NameBody, VaultBody};
use crate::journal::{self, JournalEntry};
use crate::keyring;
use crate::layout::ObjectName;
use crate::lineage::{AtNumber, Lineage};
use crate::pack::{Cache, NodeSlot, Whereabouts};
use crate::place::PackPlace;
use crate::point::OpenPoint;
use crate::protocol::{Request, Rules};
use crate::records::{self, Sealer, random_id};
use crate::store::{Created, FolderStore, Objects, ResultExt, probe};

/// Label of the hash that hides VM names (FORMAT.md section 2).
const NAME_LABEL: &str = "vmkeep v1 vm name";

/// How often one VM name can be given to a new lineage after the one before was closed.
const GENERATIONS_MAX: u32 = 1 << 16;

/// What a vault needs from outside.
#[derive(Clone, Debug)]
pub struct Ports {
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Where random bytes come from.
    pub entropy: Arc<dyn Entropy>,
}

impl Default for Ports {
    /// The machine's clock and random source.
    fn default() -> Self {
        Self { clock: Arc::new(SystemClock), entropy: Arc::new(OsEntropy) }
    }
}

/// A rule of the protocol that a test can do without, to see what it is for.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A create whose answer is lost or "taken" is settled by reading back.
    ReadBack,
    /// A writer reads the retirement record after its create.
    RereadRetired,
    /// The newest committed point is never collected.
    KeepNewest,
    /// A session is ended by a void record before its packs are removed.
    Void,
    /// A sweep looks for pins after it has doomed a point.
    HonourPins,
}

/// Memory for what was read lately, in bytes.
const NODE_CACHE_BYTES: usize = 24 << 20;
const INDEX_CACHE_BYTES: usize = 8 << 20;

/// Points by number, each read or with the reason why it cannot be.
pub type History = Vec<(PointNumber, Result<RecoveryPoint, VaultError>)>;

/// A vault, open: recovery points of VMs on an object store, readable with one KEK.
///
/// Cheap to clone. All calls block; they may come from any thread, also one of a tokio program (there, use
/// `spawn_blocking` so that the program's other tasks go on).
#[derive(Clone, Debug)]
pub struct Vault {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) objects: Objects,
    pub(crate) record: Arc<BranchKey>,
    pub(crate) id: VaultId,
    pub(crate) key_vault: Arc<dyn KeyVault>,
    /// The KEK is that of a write-only client.
    pub(crate) is_client: bool,
    pub(crate) ports: Ports,
    pub(crate) sealer: Sealer,
    pub(crate) nodes: Cache<(LineageId, PackPlace, u32), NodeSlot>,
    pub(crate) indexes: Cache<(LineageId, PackPlace), Whereabouts>,
    pub(crate) ciphers: SlotCiphers,
    pub(crate) rules: Rules,
    /// What a machine of the protocol is waiting for, for tests that hold store calls against it.
    pub(crate) asked: Arc<Mutex<Option<Request>>>,
}

impl Vault {
    /// Makes a vault in an empty store, with fresh keys wrapped by `key_vault`, and opens it.
    ///
    /// An interrupted call can be repeated: nothing counts before its last write. The store is tried first, and
    /// refused when it does not do what a vault rests on ([`VaultError::UnfitStore`]).
    pub fn create(
        store: Arc<dyn ObjectStore>,
        key_vault: Arc<dyn KeyVault>,
        ports: Ports,
    ) -> Result<Self, VaultError> {
        Self::create_with(Objects::new(store)?, key_vault, ports)
    }

    /// As [`create`](Self::create), with every store call run on the thread that makes it: for simulations, where
    /// one thread has one call under way. The store must work without a runtime.
    #[doc(hidden)]
    pub fn create_inline(
        store: Arc<dyn ObjectStore>,
        key_vault: Arc<dyn KeyVault>,
        ports: Ports,
    ) -> Result<Self, VaultError> {
        Self::create_with(Objects::inline(store), key_vault, ports)
    }

    fn create_with(objects: Objects, key_vault: Arc<dyn KeyVault>, ports: Ports) -> Result<Self, VaultError> {
        let own_keys = format!("keys/{}/", DomainId::VAULT);
        if objects.exists(&ObjectName::Vault)? {
            return Err(VaultError::VaultExists { store: objects.place() });
        }
        for (path, _) in objects.list("")? {
            match ObjectName::parse(&path) {
                // What an interrupted call may have left.
                Some(ObjectName::Stage(..)) => {}
                _ if path.starts_with(&own_keys) => {}
                _ => return Err(VaultError::NotEmpty { store: objects.place(), found: path }),
            }
        }
        let sealer = Sealer::new(SessionId(random_id(&*ports.entropy)?));
        probe(&objects, sealer.session)?;
        let context = sealer.context(&*ports.entropy);
        let left = match keyring::unlock(&objects, &*key_vault, DomainId::VAULT, "the vault") {
            Ok(mut epochs) => epochs.remove(&0).and_then(|mut keys| keys.pop()),
            Err(VaultError::WrongKey { .. }) => None,
            Err(e) => return Err(e),
        };
        let keys = match left {
            Some(keys) => keys,
            None => {
                keyring::create_domain(&objects, &*key_vault, DomainId::VAULT, &*ports.entropy, &context)?.0
            }
        };
        let record =
            keys.record().map_err(|source| VaultError::Key { what: "the vault".to_owned(), source })?;
        let id = random_id(&*ports.entropy)?;
        let body = VaultBody { vault: id, created: ports.clock.now().0 };
        let object = records::seal(&ObjectName::Vault, &body, record, &context)?;
        if objects.create(&ObjectName::Vault, &object)? == Created::Other {
            return Err(VaultError::VaultExists { store: objects.place() });
        }
        let vault = Self::open_with(objects, key_vault, ports)?;
        journal::append(&vault.inner, vault.inner.id.0, &Principal::owner(), &JournalEntry::VaultCreated)?;
        Ok(vault)
    }

    /// Makes a vault in the folder `path`, which is made (for its owner alone) when it is not there.
    pub fn create_folder(
        path: impl AsRef<FsPath>,
        key_vault: Arc<dyn KeyVault>,
        ports: Ports,
    ) -> Result<Self, VaultError> {
        let path = path.as_ref();
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(path).map_err(|source| VaultError::Folder { path: path.to_owned(), source })?;
        Self::create_with(Objects::new(folder_store(path, &ports)?)?.near(), key_vault, ports)
    }

    /// Opens the vault in the folder `path`.
    pub fn open_folder(
        path: impl AsRef<FsPath>,
        key_vault: Arc<dyn KeyVault>,
        ports: Ports,
    ) -> Result<Self, VaultError> {
        let path = path.as_ref();
        if !path.is_dir() {
            return Err(VaultError::NoVault { store: format!("folder {}", path.display()) });
        }
        Self::open_with(Objects::new(folder_store(path, &ports)?)?.near(), key_vault, ports)
    }

    /// Opens the vault in `store` with what `key_vault` can unwrap.
    pub fn open(
        store: Arc<dyn ObjectStore>,
        key_vault: Arc<dyn KeyVault>,
        ports: Ports,
    ) -> Result<Self, VaultError> {
        Self::open_with(Objects::new(store)?, key_vault, ports)
    }

    /// As [`open`](Self::open), with every store call run on the thread that makes it; see
    /// [`create_inline`](Self::create_inline).
    #[doc(hidden)]
    pub fn open_inline(
        store: Arc<dyn ObjectStore>,
        key_vault: Arc<dyn KeyVault>,
        ports: Ports,
    ) -> Result<Self, VaultError> {
        Self::open_with(Objects::inline(store), key_vault, ports)
    }

    fn open_with(objects: Objects, key_vault: Arc<dyn KeyVault>, ports: Ports) -> Result<Self, VaultError> {
        let name = ObjectName::Vault;
        let bytes = objects.read(&name)?.ok_or_else(|| VaultError::NoVault { store: objects.place() })?;
        records::head(&name, &bytes)?;
        let scan = keyring::scan(&objects, &*key_vault, None, DomainId::VAULT, "the vault")?;
        // An interrupted init may have left a key object of another record key: the one that opens the vault counts.
        let (mut opened, mut failed) = (None, None);
        for keys in scan.opened.into_values().flatten() {
            let record = keys
                .into_record()
                .map_err(|source| VaultError::Key { what: "the vault".to_owned(), source })?;
            match records::open::<VaultBody>(&name, &bytes, &record) {
                Ok(body) => opened = Some((body, record)),
                Err(e) => failed = Some(e),
            }
        }
        let Some((body, record)) = opened else {
            return Err(failed.unwrap_or(VaultError::WrongKey { what: "the vault".to_owned() }));
        };
        let sealer = Sealer::new(SessionId(random_id(&*ports.entropy)?));
        let inner = Inner {
            objects,
            record: Arc::new(record),
            id: VaultId(body.vault),
            key_vault,
            is_client: !scan.owner,
            ports,
            sealer,
            nodes: Cache::new(NODE_CACHE_BYTES),
            indexes: Cache::new(INDEX_CACHE_BYTES),
            ciphers: SlotCiphers::default(),
            rules: Rules::default(),
            asked: Arc::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The same vault, keeping metadata packs in `folder` on this machine: up to about `budget` bytes.
    ///
    /// A backup reads the map of the point before; with the cache it asks the store only for what another machine
    /// wrote. The cache holds sealed packs, may be deleted at any time, and is not used by verification.
    pub fn with_cache(self, folder: impl AsRef<FsPath>, budget: u64) -> Result<Self, VaultError> {
        let folder = folder.as_ref().join(self.inner.id.to_string());
        let objects = self.inner.objects.uncached().with_cache(folder.clone(), budget);
        let objects = objects.map_err(|source| VaultError::Folder { path: folder, source })?;
        Ok(Self { inner: Arc::new(self.inner.with_objects(objects)) })
    }

    /// The same vault with nothing remembered: what is read comes from the store.
    #[must_use]
    pub fn uncached(&self) -> Self {
        Self { inner: Arc::new(self.inner.with_objects(self.inner.objects.uncached())) }
    }

    /// The same vault breaking a rule, for tests that show what the rule is for.
    #[doc(hidden)]
    #[must_use]
    pub fn without_rule(&self, rule: Rule) -> Self {
        let mut inner = self.inner.with_objects(self.inner.objects.uncached());
        match rule {
            Rule::ReadBack => inner.rules.read_back = false,
            Rule::RereadRetired => inner.rules.reread_retired = false,
            Rule::KeepNewest => inner.rules.keep_newest = false,
            Rule::Void => inner.rules.void = false,
            Rule::HonourPins => inner.rules.honour_pins = false,
        }
        Self { inner: Arc::new(inner) }
    }

    /// The vault's id.
    pub fn id(&self) -> VaultId {
        self.inner.id
    }

    /// Whether it lies in a folder, so that reading from it costs about what reading a disk costs.
    pub fn is_near(&self) -> bool {
        self.inner.objects.is_near()
    }

    /// The clock it was given.
    pub fn clock(&self) -> &dyn Clock {
        &*self.inner.ports.clock
    }

    /// The VMs that the vault holds, by name.
    pub fn vms(&self) -> Result<Vec<VmName>, VaultError> {
        let mut names: Vec<VmName> = self.inner.name_records()?.into_iter().map(|(_, vm)| vm).collect();
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// The recovery points of `vm`, oldest first, forgotten ones among them; fails when one cannot be read.
    pub fn points(&self, vm: &VmName) -> Result<Vec<RecoveryPoint>, VaultError> {
        self.history(vm)?.into_iter().map(|(_, point)| point).collect()
    }

    /// The recovery points of `vm` by number, oldest first, and for each that cannot be read, why.
    pub fn history(&self, vm: &VmName) -> Result<History, VaultError> {
        let lineage = self.inner.lineage(vm)?.ok_or_else(|| VaultError::NoSuchVm(vm.clone()))?;
        lineage.history(&self.inner)
    }

    /// One recovery point, ready to be read.
    pub fn point(&self, point: &PointRef) -> Result<OpenPoint, VaultError> {
        let lineage = self.inner.lineage(&point.vm)?.ok_or_else(|| VaultError::NoSuchVm(point.vm.clone()))?;
        let none = |why| VaultError::NoSuchPoint { point: point.clone(), why };
        let body = match point.selector {
            PointSelector::Number(number) => {
                let retired = lineage.retired(&self.inner)?;
                if retired.is_some_and(|retired| retired.holds(number.0)) {
                    return Err(none("it was removed"));
                }
                match lineage.at(&self.inner, number.0)? {
                    Some(AtNumber::Point(body)) => body,
                    Some(AtNumber::Void(_) | AtNumber::Inherited(_)) => {
                        return Err(none("its backup was ended before it committed"));
                    }
                    Some(AtNumber::Closed(_)) => {
                        return Err(none("the protection of the VM was closed there"));
                    }
                    None => return Err(none("the VM has no point of that number")),
                }
            }
            PointSelector::Latest => {
                let head = lineage.head(&self.inner)?;
                if let Some((_, error)) = head.unreadable {
                    return Err(error);
                }
                let mut candidate = head.newest;
                loop {
                    let Some(body) = candidate else {
                        return Err(none("the VM has no point that is not forgotten"));
                    };
                    if !lineage.is_forgotten(&self.inner, body.head.number)? {
                        return OpenPoint::known(&self.inner, &lineage, body, false);
                    }
                    candidate = lineage.point_below(&self.inner, body.head.number, head.retired.as_ref())?;
                }
            }
        };
        OpenPoint::of(&self.inner, &lineage, body)
    }
}

fn folder_store(path: &FsPath, ports: &Ports) -> Result<Arc<dyn ObjectStore>, VaultError> {
    let own = SessionId(random_id(&*ports.entropy)?);
    let store = FolderStore::open(path, own);
    Ok(Arc::new(store.map_err(|e| VaultError::store(StoreOperation::Read, path.display(), e))?))
}

impl Inner {
    /// The same vault over `objects`, with empty caches.
    pub(crate) fn with_objects(&self, objects: Objects) -> Self {
        Self {
            objects,
            record: Arc::clone(&self.record),
            id: self.id,
            key_vault: Arc::clone(&self.key_vault),
            is_client: self.is_client,
            ports: self.ports.clone(),
            sealer: Sealer::new(self.sealer.session),
            nodes: Cache::new(NODE_CACHE_BYTES),
            indexes: Cache::new(INDEX_CACHE_BYTES),
            ciphers: SlotCiphers::default(),
            rules: self.rules,
            asked: Arc::clone(&self.asked),
        }
    }

    /// The same vault, whose keys are those that `key_vault` wraps.
    pub(crate) fn with_key_vault(&self, key_vault: Arc<dyn KeyVault>) -> Self {
        Self { key_vault, ..self.with_objects(self.objects.clone()) }
    }

    pub(crate) fn name_of(&self, vm: &VmName, generation: u32) -> ObjectName {
        let hash =
            self.record.subkey(NAME_LABEL).hash16(&[vm.as_str().as_bytes(), &generation.to_le_bytes()]);
        ObjectName::Name(LineageId(hash).to_string())
    }

    /// Every name record with the VM it names.
    pub(crate) fn name_records(&self) -> Result<Vec<(NameBody, VmName)>, VaultError> {
        let mut found = Vec::new();
        for (path, _) in self.objects.list("names")? {
            let Some(name) = ObjectName::parse(&path) else { continue };
            let body =
                self.name_record(&name)?.ok_or_else(|| VaultError::Missing { object: path.clone() })?;
            let vm = body.vm.parse().map_err(|e: vmkeep_model::NameError| {
                VaultError::malformed(&name, crate::format::FormatError(e.to_string()))
            })?;
            found.push((body, vm));
        }
        Ok(found)
    }

    pub(crate) fn name_record(&self, name: &ObjectName) -> Result<Option<NameBody>, VaultError> {
        let Some(bytes) = self.objects.read(name)? else { return Ok(None) };
        records::open(name, &bytes, &self.record).map(Some)
    }

    /// The lineage a name record names, with its keys.
    pub(crate) fn unlock_lineage(&self, body: &NameBody, vm: &VmName) -> Result<Lineage, VaultError> {
        let domain = keyring::unlock_domain(self, DomainId(body.domain), &format!("VM {vm}"))?;
        Ok(Lineage { id: LineageId(body.lineage), vm: vm.clone(), domain })
    }

    /// The newest lineage of `vm`, or `None` when the vault has never held it.
    pub(crate) fn lineage(&self, vm: &VmName) -> Result<Option<Lineage>, VaultError> {
        let mut found = None;
        for generation in 0..GENERATIONS_MAX {
            let Some(body) = self.name_record(&self.name_of(vm, generation))? else { break };
            let lineage = self.unlock_lineage(&body, vm)?;
            let goes_on = match lineage.head(self) {
                // A damaged point does not keep the others from being opened. Whether the lineage was closed shows
                // in the next generation, which is begun only then.
                Ok(head) => head.closed || head.unreadable.is_some(),
                Err(e) if e.is_of_one_object() => true,
                Err(e) => return Err(e),
            };
            found = Some(lineage);
            if !goes_on {
                break;
            }
        }
        Ok(found)
    }

    /// The lineage that a new backup of `vm` continues, made when there is none, and how many bytes making it took.
    pub(crate) fn lineage_to_continue(&self, vm: &VmName) -> Result<(Lineage, u64), VaultError> {
        for generation in 0..GENERATIONS_MAX {
            let name = self.name_of(vm, generation);
            let Some(body) = self.name_record(&name)? else {
                return self.new_lineage(vm, generation, &name);
            };
            let lineage = self.unlock_lineage(&body, vm)?;
            let head = lineage.head(self)?;
            let succeeded =
                head.unreadable.is_some() && self.objects.exists(&self.name_of(vm, generation + 1))?;
            if !head.closed && !succeeded {
                return Ok((lineage, 0));
            }
        }
        Err(VaultError::LineageClosed { vm: vm.clone() })
    }

    fn new_lineage(
        &self,
        vm: &VmName,
        generation: u32,
        name: &ObjectName,
    ) -> Result<(Lineage, u64), VaultError> {
        if self.is_client {
            return Err(VaultError::NotGranted { vm: vm.clone() });
        }
        let entropy = &*self.ports.entropy;
        let context = self.sealer.context(entropy);
        let (lineage, domain) = (LineageId(random_id(entropy)?), DomainId(random_id(entropy)?));
        // Keys first: a name that counts always has its keys. Keys whose name was not written are garbage.
        let (keys, stored) = keyring::create_vm_domain(self, domain, &format!("VM {vm}"), &context)?;
        let body = NameBody { vm: vm.to_string(), generation, lineage: lineage.0, domain: domain.0 };
        let object = records::seal(name, &body, &self.record, &context)?;
        match self.objects.create(name, &object)? {
            Created::Ours => {
                let stored = stored + object.bytes().len() as u64;
                Ok((Lineage { id: lineage, vm: vm.clone(), domain: keys }, stored))
            }
            // Another host was first to protect this VM: its lineage is the one.
            Created::Other => {
                let body = self.name_record(name).or_missing(name)?;
                Ok((self.unlock_lineage(&body, vm)?, stored))
            }
        }
    }
}
