//! Nothing that holds a secret shows it, and a source that was taken from is empty.
#![allow(clippy::unwrap_used)] // in helpers too

mod common;

use common::*;
use vmkeep_envelope::*;

/// Fills everything with one byte, so that any key made from it is easy to spot.
#[derive(Debug)]
struct Constant(u8);

impl Entropy for Constant {
    fn fill(&self, buf: &mut [u8]) -> Result<(), EntropyError> {
        buf.fill(self.0);
        Ok(())
    }
}

#[test]
fn debug_output_never_shows_key_bytes() {
    let secret = || SecretKey::from_bytes(&mut [0xb7; 32]);
    let id = |branch| BranchId { domain: DOMAIN, branch, epoch: 0 };
    let identity = || BranchKey::from_parts(id(Branch::Identity), secret());
    let passphrase = || Passphrase::new("hunter2hunter2".to_owned()).unwrap();
    let ciphers = SlotCiphers::default();
    let words = PassphraseVault::new(passphrase(), weakest(), &Constant(0xb7)).unwrap();
    let mut builder = PackBuilder::new(PackContent::Data, 0);
    builder.push(SlotKind::Blocks, Codec::Stored, 32, &[0xb7; 32]).unwrap();
    let slot = OpenedSlot { body: &[0xb7; 32], codec: Codec::Stored, plain_len: 32 };
    for shown in [
        format!("{:?}", secret()),
        format!("{:?}", passphrase()),
        format!("{:#?}", identity()),
        format!("{:?}", identity().subkey("x")),
        format!("{:#?}", IdentityKey::new(identity()).unwrap()),
        format!("{:#?}", DomainKeys::generate(DOMAIN, 0, &Constant(0xb7)).unwrap()),
        format!("{:?}", Unwrapped::Key(secret())),
        format!("{:?}", KeyFileVault::from_key(secret())),
        format!("{words:?}{ciphers:?}{builder:?}{slot:?}"),
        format!("{:?}", SeededEntropy::new(0xb7b7)),
    ] {
        for trace in ["183", "b7", "B7", "0xb7", "hunter2", "46967"] {
            assert!(!shown.contains(trace), "{trace} in {shown}");
        }
    }
}

#[test]
fn a_source_that_a_key_was_taken_from_is_zeros() {
    let mut source = [0xb7; 32];
    let key = SecretKey::from_bytes(&mut source);
    assert_eq!(source, [0; 32]);
    assert!(key.ct_eq(&SecretKey::from_bytes(&mut [0xb7; 32])));
    for at in 0..32 {
        let mut other = [0xb7; 32];
        other[at] ^= 1;
        assert!(!key.ct_eq(&SecretKey::from_bytes(&mut other)), "{at}");
    }
}

/// A source that cannot deliver.
#[derive(Debug)]
struct Dry;

impl Entropy for Dry {
    fn fill(&self, _: &mut [u8]) -> Result<(), EntropyError> {
        Err(EntropyError::new("dry"))
    }
}

#[test]
fn without_randomness_nothing_is_sealed() {
    let sealer = Sealer::new(1);
    let ctx = SealContext { entropy: &Dry, ..sealer.ctx() };
    assert!(matches!(seal_record(1, &record_key(), "x", b"", &ctx), Err(SealError::Entropy(_))));
    let pack = PackBuilder::new(PackContent::Data, 0).seal(&data_key(), &map_key(), b"", &ctx);
    assert!(matches!(pack, Err(SealError::Entropy(_))));
    assert!(matches!(DomainKeys::generate(DOMAIN, 0, &Dry), Err(KeyError::Entropy(_))));
    let keys = DomainKeys::generate(DOMAIN, 0, &OsEntropy).unwrap();
    let object = seal_key_object(&keys, &key_file_vault(1), &key_prefix(DOMAIN, 0), &ctx);
    assert!(matches!(object, Err(KeyError::Entropy(_))));
}

#[test]
fn the_identity_key_is_the_identity_branch() {
    let refused = IdentityKey::try_from(map_key());
    assert!(matches!(refused, Err(KeyError::WrongBranch { expected: Branch::Identity, .. })));
    let identity = IdentityKey::new(key(Branch::Identity, 0, 4)).unwrap();
    assert_ne!(identity.block_hash(b"x"), identity.node_hash(b"x"));
    assert_eq!(identity.block_hash(b"x"), identity.block_hash(b"x"));
}

#[test]
fn seeds_repeat_and_the_system_does_not() {
    let take = |entropy: &dyn Entropy| {
        let mut bytes = [0; 32];
        entropy.fill(&mut bytes).unwrap();
        bytes
    };
    assert_eq!(take(&SeededEntropy::new(5)), take(&SeededEntropy::new(5)));
    assert_ne!(take(&SeededEntropy::new(5)), take(&SeededEntropy::new(6)));
    assert_ne!(take(&OsEntropy), take(&OsEntropy));
}
