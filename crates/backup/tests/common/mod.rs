//! A vault that counts what reaches its store, and a disk in memory whose data is spread over any size.
// Each test file uses some of it.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::sync::Arc;
use vmkeep_testkit::permit;

use object_store::ObjectStore;
use object_store::memory::InMemory;
use vmkeep_backup::{Plan, Report, Settings, Silent, Source, SourceDisk, run};
use vmkeep_disk::{BlockRead, DiskError};
use vmkeep_envelope::{KeyFileVault, SecretKey, SeededEntropy};
use vmkeep_model::{
    BlockIndex, BlockRun, BlockSize, ByteLen, ByteOffset, CancelToken, ConsistencyLevel, DiskDescription,
    DiskRole, Extent, ManualClock, Timestamp,
};
use vmkeep_testkit::{CountingStore, GeneratedDisk};
use vmkeep_vault::{CompressionLevel, Ports, Vault};

/// What a vault of a test is made from: the same seed, the same bytes.
pub fn ports(seed: u64) -> Ports {
    Ports {
        clock: Arc::new(ManualClock::new(Timestamp(1_700_000_000_000))),
        entropy: Arc::new(SeededEntropy::new(seed)),
    }
}

pub fn kek() -> Arc<KeyFileVault> {
    Arc::new(KeyFileVault::from_key(SecretKey::from_bytes(&mut [7; 32])))
}

/// A new vault in memory and the store that counts what reaches it.
pub fn counted_vault(seed: u64) -> (Vault, CountingStore) {
    let store = CountingStore::new(Arc::new(InMemory::new()));
    let vault = Vault::create(Arc::new(store.clone()), kek(), ports(seed)).unwrap();
    (vault, store)
}

/// The vault in `store` on another machine: nothing but the store and the KEK.
pub fn opened_anew(store: &CountingStore, seed: u64) -> Vault {
    let store: Arc<dyn ObjectStore> = Arc::new(store.clone());
    Vault::open(store, kek(), ports(seed)).unwrap()
}

pub fn settings() -> Settings {
    Settings { level: CompressionLevel::Fast, workers: 1, ..Settings::default() }
}

/// Backs up `disk` as the only disk of `vm`.
pub fn back_up(vault: &Vault, vm: &str, disk: &dyn BlockRead, settings: &Settings) -> Report {
    let description = DiskDescription { name: "os".parse().unwrap(), role: DiskRole::Os, lun: None };
    let plan = Plan {
        vm: vm.parse().unwrap(),
        disks: vec![SourceDisk { description, source: Source::Read(disk) }],
        consistency: ConsistencyLevel::Crash,
        keys: Vec::new(),
        evidence: Vec::new(),
        labels: vmkeep_model::Labels::default(),
        config: None,
        snapshot: None,
        guard: None,
    };
    run(&permit(), vault, &plan, settings, &Silent, &CancelToken::new()).unwrap()
}

/// Backs up `disks` as the disks of `vm`.
pub fn back_up_all(vault: &Vault, vm: &str, disks: &[GeneratedDisk], settings: &Settings) -> Report {
    let source = |(n, disk)| {
        let description =
            DiskDescription { name: format!("disk{n}").parse().unwrap(), role: DiskRole::Data, lun: None };
        SourceDisk { description, source: Source::Read(disk) }
    };
    let plan = Plan {
        vm: vm.parse().unwrap(),
        disks: disks.iter().map(|disk| disk as &dyn BlockRead).enumerate().map(source).collect(),
        consistency: ConsistencyLevel::Crash,
        keys: Vec::new(),
        evidence: Vec::new(),
        labels: vmkeep_model::Labels::default(),
        config: None,
        snapshot: None,
        guard: None,
    };
    run(&permit(), vault, &plan, settings, &Silent, &CancelToken::new()).unwrap()
}

/// A generated disk whose allocated blocks are kept in memory, so that a scan costs a copy and a hash.
#[derive(Debug)]
pub struct SpreadDisk {
    generated: GeneratedDisk,
    /// The allocated blocks, ascending, and their bytes one after another.
    blocks: Vec<BlockIndex>,
    bytes: Vec<u8>,
}

impl SpreadDisk {
    /// `data` bytes of noise in blocks of 64 KiB, one in each equal share of a disk of `len` bytes.
    pub fn new(len: ByteLen, data: ByteLen) -> Self {
        let generated = GeneratedDisk::new(len, BlockSize::default(), 3).with_allocated_spread(data);
        let blocks: Vec<BlockIndex> = generated.allocated_blocks().collect();
        let bytes = vec![0; blocks.len() * BlockSize::default().bytes()];
        let mut disk = Self { generated, blocks, bytes };
        (0..disk.blocks.len()).for_each(|place| disk.keep(place));
        disk
    }

    pub fn allocated(&self) -> usize {
        self.blocks.len()
    }

    /// Gives the allocated blocks at `places` new noise.
    pub fn change(&mut self, places: impl IntoIterator<Item = usize>) {
        for place in places {
            self.generated.change([place as u64]);
            self.keep(place);
        }
    }

    fn keep(&mut self, place: usize) {
        let size = BlockSize::default();
        let start = size.start_of(self.blocks[place]);
        let kept = &mut self.bytes[place * size.bytes()..(place + 1) * size.bytes()];
        self.generated.read_at(start, kept).unwrap();
    }

    fn extent(&self, place: usize) -> Extent {
        BlockSize::default().extent_of(BlockRun { start: self.blocks[place], len: 1 }, self.len())
    }
}

impl BlockRead for SpreadDisk {
    fn len(&self) -> ByteLen {
        self.generated.len()
    }

    /// Reads whole allocated blocks from memory; a read of anything else is left to the generator.
    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), DiskError> {
        let size = BlockSize::default();
        match self.blocks.binary_search(&size.block_of(offset)) {
            Ok(place) if self.extent(place) == Extent::new(offset, ByteLen(buf.len() as u64)) => {
                buf.copy_from_slice(&self.bytes[place * size.bytes()..][..buf.len()]);
                Ok(())
            }
            _ => self.generated.read_at(offset, buf),
        }
    }

    fn next_data(&self, from: ByteOffset) -> Result<Option<Extent>, DiskError> {
        self.generated.next_data(from)
    }
}
