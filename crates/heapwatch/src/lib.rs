//! An allocator for tests that looks for secrets in the memory that is given back.
//!
//! A test makes [`HeapWatch`] its global allocator, tells the secrets to [`watch`] for, lets them live and die, and asks
//! for [`hits`]: blocks that still showed a piece of a secret when they were freed.
//!
//! ```
//! use vmkeep_heapwatch::{HeapWatch, hits, watch};
//!
//! #[global_allocator]
//! static HEAP: HeapWatch = HeapWatch;
//!
//! let mut secret = *b"a secret of some length, 32 long";
//! watch(&secret);
//! let before = hits();
//! drop(secret.to_vec()); // freed as it is
//! assert!(hits() > before);
//! # secret.fill(0);
//! ```
//!
//! - A secret is looked for in pieces of 8 bytes, so that half of it is found too. What is kept of each is the piece under
//!   a mask, in static memory: the list does not hold what it looks for.
//! - A block that grows or shrinks counts as freed, as if it had moved: whether it does is up to the system.
//! - What is not seen: stacks, registers, static memory, memory that is never freed, and what C libraries allocate.
//!
//! It also counts: [`peak_of`] tells how much memory a piece of work had at once beyond what there was before.
//!
//! It is slow and is for tests alone: nothing ships it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Bytes of a piece.
const PIECE: usize = 8;
const MASK: u64 = 0x9e6d_31c5_a70f_52b8;

/// As a hash table has them: each piece, under the mask, at the first free place from where its hash points. Zero is a free
/// place, and a piece that none is made of but by a chance of one in 2^64.
static PIECES: [AtomicU64; PLACES] = [const { AtomicU64::new(0) }; PLACES];
const PLACES: usize = 1 << 15;
/// At least half of the places stay free, so that looking for what is not there ends soon.
const PIECES_MAX: usize = PLACES / 2;
static COUNT: AtomicUsize = AtomicUsize::new(0);
static HITS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Hits of blocks that this thread freed. No destructor and no lazy part: an allocator may ask for it at any time.
    static HERE: Cell<usize> = const { Cell::new(0) };
}

/// Watches for `secret` from now on, in blocks that any thread frees.
///
/// # Panics
/// When it is shorter than 8 bytes, has a piece of 8 equal bytes, which other memory may well have too, or there is no room for more.
pub fn watch(secret: &[u8]) {
    assert!(secret.len() >= PIECE, "too short to be told from other bytes");
    let rest = &secret[secret.len() - PIECE..];
    for piece in secret.chunks_exact(PIECE).chain([rest]) {
        assert!(piece.iter().any(|byte| *byte != piece[0]), "too plain to be told from other bytes");
        let piece = piece.iter().fold(0, |window, byte| push(window, *byte));
        add(piece);
    }
}

fn add(piece: u64) {
    assert!(COUNT.fetch_add(1, Ordering::SeqCst) < PIECES_MAX, "no room to watch for more");
    for at in places(piece) {
        let taken = PIECES[at].compare_exchange(0, piece ^ MASK, Ordering::SeqCst, Ordering::SeqCst);
        if taken.is_ok() || taken == Err(piece ^ MASK) {
            return;
        }
    }
}

/// Blocks that showed a piece of a secret when any thread freed them.
pub fn hits() -> usize {
    HITS.load(Ordering::SeqCst)
}

/// Those that this thread freed: for tests that run beside others in one process.
pub fn hits_here() -> usize {
    HERE.with(Cell::get)
}

/// Bytes that are allocated now, and the most of them at once since it was last set back.
static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// Runs `work`; gives what it returns, and the most bytes that were allocated at once meanwhile beyond those that were before.
///
/// It counts what all threads do: nothing else may run beside it.
pub fn peak_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = LIVE.load(Ordering::SeqCst);
    PEAK.store(before, Ordering::SeqCst);
    let done = work();
    (done, PEAK.load(Ordering::SeqCst).saturating_sub(before))
}

/// The system's allocator, and a look at every block before the system has it back.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeapWatch;

// SAFETY: every block comes from `System` with the caller's layout and goes back to it with the same; what is done in
// between reads the block and neither allocates nor unwinds.
unsafe impl GlobalAlloc for HeapWatch {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // Zeroed, so that each byte of the block has a value when the block is looked at.
        // SAFETY: the caller's promises of `alloc` are those of `alloc_zeroed`.
        unsafe { self.alloc_zeroed(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are passed on.
        let block = unsafe { System.alloc_zeroed(layout) };
        if !block.is_null() {
            let live = LIVE.fetch_add(layout.size(), Ordering::SeqCst) + layout.size();
            PEAK.fetch_max(live, Ordering::SeqCst);
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block is live until the next line, and is the caller's alone.
        unsafe { search(block, layout.size()) };
        LIVE.fetch_sub(layout.size(), Ordering::SeqCst);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(block, layout) };
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller promises that the size is not zero and, rounded up to the alignment, fits an `isize`; the
        // alignment is that of a layout.
        let new_layout = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        // SAFETY: the layout's size is not zero.
        let new = unsafe { self.alloc(new_layout) };
        if !new.is_null() {
            let kept = layout.size().min(new_size);
            // SAFETY: both blocks have that many bytes, and a new block overlaps none that is live.
            unsafe { std::ptr::copy_nonoverlapping(block, new, kept) };
            // SAFETY: the caller gives the old block up, since the new one is there.
            unsafe { self.dealloc(block, layout) };
        }
        new
    }
}

/// Counts a hit when a piece stands anywhere in the block.
///
/// # Safety
/// `block` is valid for reads of `len` bytes, and nothing writes to it meanwhile.
unsafe fn search(block: *const u8, len: usize) {
    if COUNT.load(Ordering::Relaxed) == 0 {
        return;
    }
    let mut window = 0;
    for at in 0..len {
        // SAFETY: `at` is within the block.
        let byte = unsafe { block.add(at) };
        // The block was zeroed when it was made. A typed write may have left padding undefined since; a volatile read
        // takes what is in memory, whatever was last written there.
        // SAFETY: the caller says that the block may be read.
        let byte = unsafe { byte.read_volatile() };
        window = push(window, byte);
        if at + 1 >= PIECE && is_watched(window) {
            HITS.fetch_add(1, Ordering::SeqCst);
            // A thread that ends has no such cell any more, and frees blocks still.
            let _ = HERE.try_with(|here| here.set(here.get() + 1));
            return;
        }
    }
}

fn push(window: u64, byte: u8) -> u64 {
    window << 8 | u64::from(byte)
}

fn is_watched(piece: u64) -> bool {
    places(piece)
        .map(|at| PIECES[at].load(Ordering::Relaxed))
        .take_while(|known| *known != 0)
        .any(|known| known == piece ^ MASK)
}

/// Where a piece may be: every place, from the one that its hash points to.
fn places(piece: u64) -> impl Iterator<Item = usize> {
    let hash = piece.wrapping_mul(MASK | 1) >> 32;
    let first = usize::try_from(hash).unwrap_or(0);
    (0..PLACES).map(move |step| first.wrapping_add(step) % PLACES)
}
