//! Sealing a whole pack: 32 MiB of noise in 64 slots of 512 KiB, in place, on one thread: the salt over all of it, then
//! AES-256-GCM. `open` opens and checks the same slots.
#![allow(missing_docs)] // criterion's macros make public functions

use std::hint::black_box;
use std::sync::atomic::AtomicU64;

use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use vmkeep::envelope::bench::{self, SealOpen};
use vmkeep::envelope::{
    Codec, PACK_HEADER_LEN, PackBuilder, PackContent, SealContext, SealedPack, SeededEntropy, SlotCiphers,
    SlotHead, SlotId, SlotKind, open_slot,
};
use vmkeep::model::SessionId;
use vmkeep_benches::{Entropy, MIB, content, keys};

const LEN: usize = 32 * MIB;
const SLOT: usize = 512 << 10;

fn seal(c: &mut Criterion) {
    let (bytes, keys) = (content(Entropy::Noise, LEN, 1), keys());
    let (data, map) = (keys.data().expect("a data branch"), keys.map().expect("a map branch"));
    let (counter, entropy) = (AtomicU64::new(0), SeededEntropy::new(1));
    let context = SealContext { session: SessionId([1; 16]), counter: &counter, entropy: &entropy };
    let filled = || {
        let mut builder = PackBuilder::new(PackContent::Data, LEN + MIB);
        for plain in bytes.chunks(SLOT) {
            let len = u32::try_from(plain.len()).expect("a slot is short");
            builder.push(SlotKind::Blocks, Codec::Stored, len, plain).expect("the pack has room");
        }
        builder
    };
    let sealed = |builder: PackBuilder| -> SealedPack {
        builder.seal(data, map, b"a footer", &context).expect("a seeded source does not fail")
    };
    let mut group = c.benchmark_group("seal");
    group.throughput(Throughput::Bytes(LEN as u64)).sample_size(20);
    group.bench_function("32 MiB pack", |b| b.iter_batched(filled, sealed, BatchSize::PerIteration));

    let pack = sealed(filled());
    let ciphers = SlotCiphers::default();
    let slots = || pack.object.bytes()[PACK_HEADER_LEN..].to_vec();
    group.bench_function("open 32 MiB", |b| {
        b.iter_batched(
            slots,
            |mut bytes| {
                let mut rest = bytes.as_mut_slice();
                for slot in (0_u32..).take(LEN / SLOT) {
                    let len = SlotHead::parse(rest).expect("it was just sealed").total_len();
                    let (this, after) = rest.split_at_mut(len);
                    let id = SlotId { pack: pack.name, slot };
                    open_slot(this, data, id, SlotKind::Blocks, &ciphers).expect("it was just sealed");
                    rest = after;
                }
                bytes
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

/// The cipher alone, by either library, in place, on one thread, beside a copy of the same bytes.
fn cipher(c: &mut Criterion) {
    for (name, len) in [("64 KiB", 64 << 10), ("1 MiB", MIB)] {
        let bytes = content(Entropy::Noise, len, 1);
        let mut group = c.benchmark_group(format!("cipher, {name}"));
        group.throughput(Throughput::Bytes(len as u64));
        let mut copy = vec![0; len];
        group.bench_function("memcpy", |b| b.iter(|| copy.copy_from_slice(black_box(&bytes))));
        measure(&mut group, "aes-gcm", &bench::rust_crypto(), &bytes);
        measure(&mut group, "aws-lc-rs", &bench::aws_lc(), &bytes);
        group.finish();
    }
}

fn measure(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, cipher: &impl SealOpen, bytes: &[u8]) {
    let mut text = bytes.to_vec();
    group.bench_function(format!("seal, {name}"), |b| b.iter(|| cipher.seal(black_box(&mut text))));
    let mut sealed = bytes.to_vec();
    let tag = cipher.seal(&mut sealed);
    let fresh = || sealed.clone();
    group.bench_function(format!("open, {name}"), |b| {
        b.iter_batched_ref(fresh, |text| assert!(cipher.open(text, &tag)), BatchSize::LargeInput);
    });
}

criterion_group!(benches, seal, cipher);
criterion_main!(benches);
