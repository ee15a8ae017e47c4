//! What a disk costs at least: the figures that `cargo xtask peers` sets some of its bars against.
//!
//! `vmkeep-bounds scan DISK` is the bare loop of an unchanged scan: where the disk has data, each 64 KiB is read into a
//! reused buffer and hashed by keyed BLAKE3, nothing else, on as many threads as a backup takes.
//!
//! `vmkeep-bounds pages DISK EXTENTS` compresses what the extents name, and nothing else, in runs of 256 KiB at each
//! level, and counts the blocks of 64 KiB that they touch.

use std::error::Error;
use std::hint::black_box;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};

use vmkeep::backup;
use vmkeep::blockdiff::ExtentList;
use vmkeep::disk::{BlockRead, DiskError, RawFile};
use vmkeep::model::{BlockSize, ByteLen, ByteOffset, Extent};
use vmkeep::vault::{CompressionLevel, FrameEncoder};

/// What a thread takes at a time, as the scan of a backup does.
const STRETCH: u64 = 1 << 20;
/// Length of the runs that pages are compressed in.
const RUN: usize = 256 << 10;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let done = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["scan", disk] => scan(disk),
        ["pages", disk, extents] => pages(disk, extents),
        _ => Err("vmkeep-bounds scan DISK | pages DISK EXTENTS".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vmkeep-bounds: {error}");
            ExitCode::FAILURE
        }
    }
}

fn scan(path: &str) -> Result<(), Box<dyn Error>> {
    let disk = RawFile::open(path)?;
    let (stretches, next) = (stretches(&disk)?, AtomicUsize::new(0));
    let worker = || -> Result<(), DiskError> {
        let mut buffer = vec![0; BlockSize::default().bytes()];
        while let Some(stretch) = stretches.get(next.fetch_add(1, Ordering::Relaxed)) {
            let (mut at, end) = (stretch.start().0, stretch.end().0);
            while at < end {
                let len = buffer.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
                disk.read_at(ByteOffset(at), &mut buffer[..len])?;
                black_box(blake3::keyed_hash(&[3; 32], &buffer[..len]));
                at += len as u64;
            }
        }
        Ok(())
    };
    let threads = backup::Settings::default().workers;
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or(Ok(())))
    })?;
    let bytes: u64 = stretches.iter().map(|stretch| stretch.len().0).sum();
    println!("threads={threads} bytes={bytes}");
    Ok(())
}

/// Where the disk has data, in pieces that begin and end with blocks.
fn stretches(disk: &RawFile) -> Result<Vec<Extent>, DiskError> {
    let (mut stretches, mut from) = (Vec::new(), ByteOffset(0));
    while let Some(data) = disk.next_data(from)? {
        let blocks = BlockSize::default().blocks_touching(data);
        let whole = BlockSize::default().extent_of(blocks, disk.len());
        let (mut at, end) = (whole.start().max(from), whole.end());
        from = end;
        while at < end {
            let next = end.min(ByteOffset(at.0 + STRETCH));
            stretches.push(Extent::between(at, next));
            at = next;
        }
    }
    Ok(stretches)
}

fn pages(path: &str, extents: &str) -> Result<(), Box<dyn Error>> {
    let disk = RawFile::open(path)?;
    let extents = ExtentList::read_json(std::fs::File::open(extents)?, disk.len())?;
    let extents = extents.extents().as_slice();
    let (mut blocks, mut below) = (0, 0);
    for extent in extents {
        let touched = BlockSize::default().blocks_touching(*extent);
        blocks += touched.end().0 - touched.start.0.max(below);
        below = touched.end().0;
    }
    let bytes = ByteLen(extents.iter().map(|extent| extent.len().0).sum());
    println!("bytes={} blocks={blocks}", bytes.0);
    let levels = [CompressionLevel::Fast, CompressionLevel::Default, CompressionLevel::Best];
    for (name, level) in ["fast", "default", "best"].into_iter().zip(levels) {
        println!("{name}={}", compressed(&disk, extents, level)?);
    }
    Ok(())
}

/// Length of the content of `extents`, compressed in runs.
fn compressed(disk: &RawFile, extents: &[Extent], level: CompressionLevel) -> Result<u64, Box<dyn Error>> {
    let mut encoder = FrameEncoder::new(level)?;
    let (mut run, mut sum) = (Vec::with_capacity(RUN), 0);
    for extent in extents {
        let mut at = extent.start().0;
        while at < extent.end().0 {
            let len = (RUN - run.len()).min(usize::try_from(extent.end().0 - at)?);
            let old = run.len();
            run.resize(old + len, 0);
            disk.read_at(ByteOffset(at), &mut run[old..])?;
            at += len as u64;
            if run.len() == RUN {
                sum += encoder.encode(Vec::new(), run.as_slice().into())?.body.len() as u64;
                run.clear();
            }
        }
    }
    if !run.is_empty() {
        sum += encoder.encode(Vec::new(), run.as_slice().into())?.body.len() as u64;
    }
    Ok(sum)
}
