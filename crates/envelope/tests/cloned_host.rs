//! Hosts that were cloned, or set back to an earlier state, with all they know: keys, session, counter, random source.
//!
//! Each seals whatever it likes, in any order. Whatever two sealings have the same key, salt and number, they seal the same
//! bytes under the same associated data, and so give the same bytes; and what differs has another salt. Were the content
//! left out of what salts are made from (`Salter::cover` doing nothing), every test here but the first would fail: two hosts
//! in one state would then seal different content with one key and nonce.
#![allow(clippy::unwrap_used)] // in helpers too

mod common;

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use common::*;
use proptest::prelude::*;
use vmkeep_envelope::*;

/// What a host can be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Op {
    Record {
        branch: Branch,
        kind: u8,
        name: String,
        body: Vec<u8>,
    },
    Pack {
        content: PackContent,
        slots: Vec<Slot>,
        footer: Vec<u8>,
    },
    /// A pack of the slots of one that the host sealed before, if there is one.
    Repack {
        of: usize,
        footer: Vec<u8>,
    },
    KeyObject {
        seed: u64,
        without: Option<Branch>,
        kek: u8,
    },
    /// Back to the state that the host began in.
    Revert,
}

/// One use of the cipher: what must never be the same for two different [`Sealed`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Use {
    key: [u8; 32],
    label: &'static str,
    salt: Vec<u8>,
    number: u32,
}

/// What was sealed, and what came out.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sealed {
    /// All that is authenticated beside the plaintext, as far as it is not the salt.
    aad: Vec<u8>,
    plain: Vec<u8>,
    out: Vec<u8>,
}

/// A key vault that notes what it wrapped.
#[derive(Debug)]
struct Noting {
    vault: KeyFileVault,
    wrapped: Mutex<Vec<([u8; 32], WrappedKey)>>,
}

impl KeyVault for Noting {
    fn wrap(
        &self,
        key: &SecretKey,
        context: &WrapContext,
        entropy: &dyn Entropy,
    ) -> Result<WrappedKey, KeyError> {
        let wrapped = self.vault.wrap(key, context, entropy)?;
        self.wrapped.lock().unwrap().push((*key.expose(), wrapped.clone()));
        Ok(wrapped)
    }

    fn unwrap(&self, wrapped: &WrappedKey, context: &WrapContext) -> Result<Unwrapped, KeyError> {
        self.vault.unwrap(wrapped, context)
    }
}

/// Everything that the hosts sealed.
#[derive(Debug, Default)]
struct World {
    uses: HashMap<Use, Sealed>,
    /// What each salt was made over.
    covered: HashMap<Vec<u8>, Vec<u8>>,
    /// Uses that occurred again, with the same bytes.
    repeated: usize,
}

impl World {
    fn note(&mut self, key: u8, label: &'static str, salt: &[u8], number: u32, sealed: Sealed) {
        self.note_key([key; 32], label, salt, number, sealed);
    }

    fn note_key(&mut self, key: [u8; 32], label: &'static str, salt: &[u8], number: u32, sealed: Sealed) {
        let found = Use { key, label, salt: salt.to_vec(), number };
        match self.uses.get(&found) {
            Some(before) => {
                assert_eq!(before, &sealed, "one key and nonce for two plaintexts");
                self.repeated += 1;
            }
            None => drop(self.uses.insert(found, sealed)),
        }
    }

    /// Notes all that a salt must depend on.
    fn cover(&mut self, salt: &[u8], content: &[&[u8]]) {
        let content = content.concat();
        let before = self.covered.entry(salt.to_vec()).or_insert_with(|| content.clone());
        assert_eq!(before, &content, "one salt for two contents");
    }
}

const RECORD: u8 = 1;
const MAP: u8 = 2;
const DATA: u8 = 3;

/// A host in the state that all of them begin in.
struct Host {
    sealer: Sealer,
    packs: Vec<(PackContent, SealedPack)>,
}

impl Host {
    fn new() -> Self {
        Self { sealer: Sealer::new(1), packs: Vec::new() }
    }

    fn run(&mut self, op: &Op, world: &mut World) {
        match op {
            Op::Record { branch, kind, name, body } => self.record(*branch, *kind, name, body, world),
            Op::Pack { content, slots, footer } => self.pack(*content, slots, footer, world),
            Op::Repack { of, footer } => self.repack(*of, footer, world),
            Op::KeyObject { seed, without, kek } => self.key_object(*seed, *without, *kek, world),
            Op::Revert => self.sealer = Sealer::new(1),
        }
    }

    fn record(&self, branch: Branch, kind: u8, name: &str, body: &[u8], world: &mut World) {
        let (byte, key) = match branch {
            Branch::Map => (MAP, map_key()),
            Branch::Data => (DATA, data_key()),
            _ => (RECORD, record_key()),
        };
        let record = seal_record(kind, &key, name, body, &self.sealer.ctx()).unwrap();
        let (header, out) = record.bytes().split_at(RECORD_HEADER_LEN);
        let (salt, aad) = (&header[32..64], [&header[..32], &header[64..], name.as_bytes()].concat());
        world.cover(salt, &[&aad, body]);
        world.note(byte, "record", salt, 0, Sealed { aad, plain: body.to_vec(), out: out.to_vec() });
    }

    fn pack(&mut self, content: PackContent, slots: &[Slot], footer: &[u8], world: &mut World) {
        let (byte, key) = if content == PackContent::Data { (DATA, data_key()) } else { (MAP, map_key()) };
        let pack = build(content, slots).seal(&key, &map_key(), footer, &self.sealer.ctx()).unwrap();
        let (sealed, footer_slot, _) = take_apart(pack.object.bytes()).unwrap();
        let salt = SlotHead::parse(&footer_slot).unwrap().salt;
        let mut covered = ends(&pack, &footer_slot);
        covered.extend_from_slice(footer);
        for (number, (slot, bytes)) in (0..).zip(slots.iter().zip(&sealed)) {
            let (header, out) = bytes.split_at(SLOT_HEADER_LEN);
            let aad = header[..24].to_vec();
            covered.extend_from_slice(&[&aad, &slot.3[..]].concat());
            world.note(byte, "slot", &salt, number, Sealed { aad, plain: slot.3.clone(), out: out.to_vec() });
        }
        world.cover(&salt, &[&covered]);
        note_footer(&pack, footer, world);
        self.packs.push((content, pack));
    }

    fn repack(&mut self, of: usize, footer: &[u8], world: &mut World) {
        let Some((content, pack)) = self.packs.get(of % self.packs.len().max(1)) else { return };
        let key = PackHead::parse(pack.object.bytes()).unwrap().slots;
        let mut moved = RepackBuilder::new(key, 0).unwrap();
        let (sealed, ..) = take_apart(pack.object.bytes()).unwrap();
        for slot in &sealed {
            let head = SlotHead::parse(slot).unwrap();
            moved.push(slot, SlotId { pack: head.birth_pack(), slot: head.number }).unwrap();
        }
        let moved = moved.seal(&map_key(), footer, &self.sealer.ctx()).unwrap();
        let (_, footer_slot, _) = take_apart(moved.object.bytes()).unwrap();
        let salt = SlotHead::parse(&footer_slot).unwrap().salt;
        // Nothing else is sealed: the slots are those that they were.
        world.cover(&salt, &[&ends(&moved, &footer_slot), footer]);
        note_footer(&moved, footer, world);
        self.packs.push((*content, moved));
    }

    fn key_object(&self, seed: u64, without: Option<Branch>, kek: u8, world: &mut World) {
        let vault = Noting { vault: key_file_vault(kek), wrapped: Mutex::default() };
        let mut keys = DomainKeys::generate(DOMAIN, 0, &SeededEntropy::new(seed)).unwrap();
        if let Some(branch) = without {
            keys = keys.without(branch);
        }
        let (name, object) =
            seal_key_object(&keys, &vault, &key_prefix(DOMAIN, 0), &self.sealer.ctx()).unwrap();
        let (object_key, wrapped) = vault.wrapped.into_inner().unwrap().pop().unwrap();
        // The keys of one seed and the branches that are there: as good as the plaintext itself.
        let plain = format!("{seed} {without:?}").into_bytes();
        let count = 3 - usize::from(without.is_some());
        let (head, out) = object.bytes().split_at(object.len() - TAG_LEN - 33 * count - 1);
        let (head, len) = head.split_at(head.len() - 4);
        let (head, salt) = head.split_at(head.len() - 32);
        let aad = [head, len, name.as_bytes()].concat();
        world.cover(salt, &[&aad, &plain]);
        world.note_key(object_key, "key object", salt, 0, Sealed { aad, plain, out: out.to_vec() });

        let (salt, out) = wrapped.bytes.split_at(32);
        let (aad, plain) = ([&DOMAIN.0[..], &[0; 4], &wrapped.kek_id].concat(), object_key.to_vec());
        world.cover(salt, &[&aad, &plain]);
        world.note(kek, "wrap", salt, 0, Sealed { aad, plain, out: out.to_vec() });
    }
}

/// Header and trailer of a pack, and what its footer's header says but for the salt.
fn ends(pack: &SealedPack, footer_slot: &[u8]) -> Vec<u8> {
    let bytes = pack.object.bytes();
    [&bytes[..PACK_HEADER_LEN], &footer_slot[..24], &bytes[bytes.len() - TRAILER_LEN..]].concat()
}

fn note_footer(pack: &SealedPack, footer: &[u8], world: &mut World) {
    let (_, footer_slot, _) = take_apart(pack.object.bytes()).unwrap();
    let head = SlotHead::parse(&footer_slot).unwrap();
    let (aad, out) = (ends(pack, &footer_slot), footer_slot[SLOT_HEADER_LEN..].to_vec());
    world.note(MAP, "footer", &head.salt, head.number, Sealed { aad, plain: footer.to_vec(), out });
}

/// Runs a clone through each list; what they all sealed.
fn run(clones: &[Vec<Op>]) -> World {
    let mut world = World::default();
    for ops in clones {
        let mut host = Host::new();
        for op in ops {
            host.run(op, &mut world);
        }
    }
    world
}

/// Few different bytes, so that clones often seal the same and often nearly the same.
fn body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::sample::select(vec![vec![], vec![0; 40], vec![1; 40]]),
        prop::collection::vec(0..2_u8, 0..4)
    ]
}

fn slots(content: PackContent) -> impl Strategy<Value = Vec<Slot>> {
    let kinds = match content {
        PackContent::Data => vec![SlotKind::Blocks, SlotKind::Patches],
        PackContent::Metadata => vec![SlotKind::Nodes, SlotKind::ChangeList],
    };
    let slot = (prop::sample::select(kinds), body()).prop_map(|(kind, body)| stored(kind, &body));
    prop::collection::vec(slot, 0..4)
}

fn op() -> impl Strategy<Value = Op> {
    let branch = prop::sample::select(vec![Branch::Record, Branch::Map, Branch::Data]);
    let record = (branch, 1..3_u8, "[ab]", body());
    let pack = prop::sample::select(vec![PackContent::Data, PackContent::Metadata]);
    let pack = pack.prop_flat_map(|content| (Just(content), slots(content), body()));
    let without = prop::sample::select(vec![None, Some(Branch::Data), Some(Branch::Map)]);
    prop_oneof![
        3 => record.prop_map(|(branch, kind, name, body)| Op::Record { branch, kind, name, body }),
        4 => pack.prop_map(|(content, slots, footer)| Op::Pack { content, slots, footer }),
        2 => (0..4_usize, body()).prop_map(|(of, footer)| Op::Repack { of, footer }),
        1 => (0..2_u64, without, 8..10_u8).prop_map(|(seed, without, kek)| Op::KeyObject { seed, without, kek }),
        1 => Just(Op::Revert),
    ]
}

#[test]
fn clones_that_do_the_same_make_the_same_bytes() {
    let ops = [
        Op::Record { branch: Branch::Record, kind: 1, name: "a".to_owned(), body: vec![1] },
        Op::Pack {
            content: PackContent::Data,
            slots: vec![stored(SlotKind::Blocks, b"x"), stored(SlotKind::Blocks, b"y")],
            footer: vec![2],
        },
        Op::Repack { of: 0, footer: vec![3] },
        Op::KeyObject { seed: 1, without: None, kek: 9 },
    ];
    // A record, two slots and their footer, the footer of the moved, a key object and its wrap: each sealed twice.
    let world = run(&[ops.to_vec(), ops.to_vec()]);
    assert_eq!((world.uses.len(), world.repeated), (7, 7));
    let reverted: Vec<Op> = ops.iter().cloned().chain([Op::Revert]).chain(ops.iter().cloned()).collect();
    let world = run(&[reverted]);
    assert_eq!((world.uses.len(), world.repeated), (7, 7));
}

/// One byte of difference anywhere, everything else equal.
#[test]
fn clones_that_differ_in_one_byte_share_no_salt() {
    let pack = |kind, body: &[u8], footer: u8| Op::Pack {
        content: PackContent::Data,
        slots: vec![stored(kind, body), stored(SlotKind::Blocks, b"y")],
        footer: vec![footer],
    };
    let record = |kind, name: &str, body| Op::Record {
        branch: Branch::Record,
        kind,
        name: name.to_owned(),
        body: vec![body],
    };
    let packs = [
        pack(SlotKind::Blocks, b"x", 1),
        pack(SlotKind::Blocks, b"z", 1),
        pack(SlotKind::Patches, b"x", 1),
        pack(SlotKind::Blocks, b"xx", 1),
        pack(SlotKind::Blocks, b"x", 2),
    ];
    let world = run(&packs.map(|op| vec![op]));
    assert_eq!((world.covered.len(), world.repeated), (5, 0));
    let records = [record(1, "a", 1), record(2, "a", 1), record(1, "b", 1), record(1, "a", 2)];
    let world = run(&records.map(|op| vec![op]));
    assert_eq!((world.covered.len(), world.repeated), (4, 0));
}

/// The random source gives the same bytes for ever and the counter stands still: the content alone tells salts apart.
#[test]
fn content_alone_keeps_salts_apart() {
    #[derive(Debug)]
    struct Stuck;
    impl Entropy for Stuck {
        fn fill(&self, buf: &mut [u8]) -> Result<(), EntropyError> {
            buf.fill(7);
            Ok(())
        }
    }
    let (counter, mut salts) = (AtomicU64::new(0), HashMap::new());
    for body in (0..=u8::MAX).flat_map(|byte| [vec![byte], vec![0, byte]]) {
        counter.store(5, Ordering::Relaxed);
        let ctx = SealContext { session: SESSION, counter: &counter, entropy: &Stuck };
        let record = seal_record(1, &record_key(), "a", &body, &ctx).unwrap();
        let before = salts.insert(record.bytes()[32..64].to_vec(), body.clone());
        assert_eq!(before, None, "{body:?}");
    }
}

proptest! {
    #[test]
    fn no_two_clones_seal_different_bytes_with_one_key_and_nonce(
        shared in prop::collection::vec(op(), 0..4),
        ones in prop::collection::vec(op(), 0..6),
        others in prop::collection::vec(op(), 0..6),
    ) {
        // They do the same for a while, and then each what it likes.
        let world = run(&[[&shared[..], &ones].concat(), [&shared[..], &others].concat()]);
        // What they share is there twice, by the same bytes.
        let alone = run(&[shared]).uses.len();
        prop_assert!(world.repeated >= alone, "{} of {alone}", world.repeated);
    }
}
