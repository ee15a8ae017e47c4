//! What the benches share: inputs made from a seed, keys, and a vault in memory.
//!
//! `cargo bench -p vmkeep-benches` measures; with `-- --test` each bench runs once. Each file says what its input is;
//! rates are bytes of disk content per second, before compression.

use std::sync::Arc;
use vmkeep_testkit::permit;

use vmkeep::backup::{self, Plan, Report, Silent, Source, SourceDisk};
use vmkeep::disk::{BlockRead, Memory};
use vmkeep::envelope::{DomainKeys, KeyFileVault, SecretKey, SeededEntropy};
use vmkeep::model::{
    BlockSize, ByteLen, ByteOffset, CancelToken, ConsistencyLevel, DiskDescription, DiskRole, DomainId,
    ManualClock, PAGE_SIZE, Timestamp,
};
use vmkeep::object_store::memory::InMemory;
use vmkeep::vault::{Ports, Vault};
use vmkeep_testkit::{Content, GeneratedDisk};

/// Bytes in a MiB.
pub const MIB: usize = 1 << 20;

/// How well content compresses.
#[derive(Clone, Copy, Debug)]
pub enum Entropy {
    /// Words and numbers, several times smaller under zstd.
    Text,
    /// Pages of text and of noise in turn, as on a disk of documents and media.
    Half,
    /// Noise: nothing gets smaller.
    Noise,
}

impl Entropy {
    /// All of them with a name.
    pub const ALL: [(&str, Self); 3] = [("text", Self::Text), ("half", Self::Half), ("noise", Self::Noise)];
}

/// `len` bytes of content; the same for the same seed.
///
/// # Panics
/// When a generated disk cannot be read.
pub fn content(entropy: Entropy, len: usize, seed: u64) -> Vec<u8> {
    let generated = |content| {
        let size = ByteLen(len as u64);
        let disk = GeneratedDisk::new(size, BlockSize::default(), seed).with_allocated_spread(size);
        let mut bytes = vec![0; len];
        disk.with_content(content).read_at(ByteOffset(0), &mut bytes).expect("the range is the disk");
        bytes
    };
    match entropy {
        Entropy::Text => generated(Content::Text),
        Entropy::Noise => generated(Content::Incompressible),
        Entropy::Half => {
            let (mut bytes, noise) = (generated(Content::Text), generated(Content::Incompressible));
            let pages = bytes.chunks_mut(PAGE_SIZE).zip(noise.chunks(PAGE_SIZE));
            pages.skip(1).step_by(2).for_each(|(page, noise)| page.copy_from_slice(noise));
            bytes
        }
    }
}

/// Keys of a VM's domain.
///
/// # Panics
/// Never: a seeded source does not fail.
pub fn keys() -> DomainKeys {
    DomainKeys::generate(DomainId([1; 16]), 0, &SeededEntropy::new(1)).expect("a seeded source does not fail")
}

/// An empty vault in memory.
///
/// # Panics
/// When it cannot be made.
pub fn vault() -> Vault {
    let kek = Arc::new(KeyFileVault::from_key(SecretKey::from_bytes(&mut [7; 32])));
    let clock = Arc::new(ManualClock::new(Timestamp(0)));
    let ports = Ports { clock, entropy: Arc::new(SeededEntropy::new(1)) };
    Vault::create(Arc::new(InMemory::new()), kek, ports).expect("memory does not fail")
}

/// Backs up `disk` as the disk `os` of the VM `vm`.
///
/// # Panics
/// When the backup fails.
pub fn back_up(vault: &Vault, disk: &Memory, settings: &backup::Settings) -> Report {
    let name = "os".parse().expect("a disk name");
    let description = DiskDescription { name, role: DiskRole::Os, lun: None };
    let plan = Plan {
        vm: "vm".parse().expect("a VM name"),
        disks: vec![SourceDisk { description, source: Source::Read(disk) }],
        consistency: ConsistencyLevel::Crash,
        keys: Vec::new(),
        evidence: Vec::new(),
        labels: vmkeep::model::Labels::default(),
        config: None,
        snapshot: None,
        guard: None,
    };
    backup::run(&permit(), vault, &plan, settings, &Silent, &CancelToken::new())
        .expect("memory does not fail")
}
