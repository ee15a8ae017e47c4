//! Simulated guests: a few small disks, and what is done to them between backups.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::dice::Dice;
use crate::common::{BLOCK, noise};

/// Content of a VM's disks by name, as it was at one time.
pub(crate) type Disks = BTreeMap<String, Arc<Vec<u8>>>;

const BLOCKS_MIN: u64 = 10;
const BLOCKS_MAX: u64 = 40;

/// Few enough that a block comes back to what it was.
const CONTENTS: u64 = 60;

#[derive(Clone, Debug)]
pub(crate) struct Guest {
    disks: Disks,
    most_disks: u64,
}

impl Guest {
    pub(crate) fn new(dice: &mut Dice) -> Self {
        let mut guest = Self { disks: Disks::new(), most_disks: dice.between(1, 2) };
        for number in 0..guest.most_disks {
            guest.add_disk(number, dice);
        }
        guest
    }

    fn add_disk(&mut self, number: u64, dice: &mut Dice) {
        let blocks = dice.between(BLOCKS_MIN, BLOCKS_MAX);
        let mut disk = vec![0; usize::try_from(blocks).unwrap() * BLOCK];
        for block in 0..blocks {
            if dice.percent(60) {
                write(&mut disk, block, dice);
            }
        }
        let name = if number == 0 { "os".to_owned() } else { format!("data{number}") };
        self.disks.insert(name, Arc::new(disk));
    }

    /// What the disks are now.
    pub(crate) fn snapshot(&self) -> Disks {
        self.disks.clone()
    }

    /// The guest works for a while; at times it does nothing.
    pub(crate) fn work(&mut self, dice: &mut Dice) {
        if self.most_disks > 1 && dice.percent(5) && self.disks.remove("data1").is_none() {
            self.add_disk(1, dice);
        }
        for disk in self.disks.values_mut() {
            let disk = Arc::make_mut(disk);
            for _ in 0..dice.below(6) {
                let blocks = (disk.len() / BLOCK).max(1) as u64;
                match dice.below(20) {
                    0 => resize(disk, dice.between(1, BLOCKS_MAX), dice),
                    1..4 => {
                        let start = usize::try_from(dice.below(blocks)).unwrap() * BLOCK;
                        let end = start + usize::try_from(dice.between(1, 5)).unwrap() * BLOCK;
                        let end = end.min(disk.len());
                        disk[start.min(end)..end].fill(0);
                    }
                    _ => {
                        let start = dice.below(blocks);
                        (start..blocks.min(start + dice.between(1, 3))).for_each(|b| write(disk, b, dice));
                    }
                }
            }
        }
    }
}

/// Grows or shrinks a disk; its end need not be a block's.
fn resize(disk: &mut Vec<u8>, blocks: u64, dice: &mut Dice) {
    let cut = if dice.percent(50) { 0 } else { dice.below(32) * 512 };
    let len = blocks * BLOCK as u64 - cut.min(BLOCK as u64 - 512);
    disk.resize(usize::try_from(len).unwrap(), 0);
}

/// Writes a block, or a part of it.
fn write(disk: &mut [u8], block: u64, dice: &mut Dice) {
    let start = usize::try_from(block).unwrap() * BLOCK;
    let end = (start + BLOCK).min(disk.len());
    let (content, len) = (dice.below(CONTENTS), usize::try_from(dice.between(20, 400)).unwrap());
    if dice.percent(70) {
        disk[start..end].fill(b'.');
    }
    let end = end.min(start + len);
    disk[start..end].copy_from_slice(&noise(content, end - start));
}
