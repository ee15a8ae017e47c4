//! The file system within an image, through the e2fsprogs.

use std::ffi::OsString;
use std::fs::{self, File};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::image::PAGE;
use crate::failure::{At, Failure, Result};
use crate::process;

/// Where the partition begins.
const OFFSET: u64 = 1 << 20;
const DISK_ID: &str = "5d1b7c02-9a41-4e0c-8f7b-3a1d5c6e7f80";
const PARTITION_ID: &str = "7c0e1a94-52b3-4d68-9e1f-0b2c3d4e5f60";
const FILE_SYSTEM_ID: &str = "3e9f4b5a-6c7d-4811-a2b3-c4d5e6f70819";
/// The time that file systems and files are dated with.
pub(crate) const EPOCH_SECONDS: u64 = 1_717_200_000;

/// An ext4 file system in the one partition of an image.
#[derive(Debug)]
pub(crate) struct FileSystem {
    image: PathBuf,
}

impl FileSystem {
    /// Makes an image of `len` bytes with a partition that holds the files of `tree`.
    pub(crate) fn create(image: &Path, len: u64, tree: &Path) -> Result<Self> {
        File::create(image).and_then(|file| file.set_len(len)).at(image)?;
        let table = [
            "-U",
            DISK_ID,
            "-n",
            "1:2048:0",
            "-t",
            "1:8300",
            "-u",
            &format!("1:{PARTITION_ID}"),
            "-c",
            "1:root",
        ];
        process::output(process::command("sgdisk").args(table).arg(image))?;
        // The backup of the partition table takes the last 33 sectors.
        let blocks = (len - 2 * OFFSET) / PAGE;
        let extended =
            format!("offset={OFFSET},hash_seed={FILE_SYSTEM_ID},root_owner=0:0,lazy_itable_init=0,nodiscard");
        let mut make = dated("mke2fs");
        make.args([
            "-q",
            "-t",
            "ext4",
            "-b",
            "4096",
            "-L",
            "root",
            "-U",
            FILE_SYSTEM_ID,
            "-E",
            &extended,
            "-d",
        ]);
        process::output(make.arg(tree).arg(image).arg(blocks.to_string()))?;
        Ok(Self::open(image))
    }

    pub(crate) fn open(image: &Path) -> Self {
        Self { image: image.to_owned() }
    }

    /// Pages of the image that hold data of these files, sorted. `scratch` is a folder for a list of commands.
    pub(crate) fn pages_of(&self, scratch: &Path, files: &[String]) -> Result<Vec<u64>> {
        let commands: Vec<String> = files.iter().map(|file| format!("dump_extents -l {file}")).collect();
        let said = self.debugfs(scratch, &commands, &[])?;
        let extents = said.lines().filter_map(extent);
        let mut pages: Vec<u64> = extents.flatten().map(|block| block + OFFSET / PAGE).collect();
        pages.sort_unstable();
        pages.dedup();
        if pages.is_empty() {
            return Err(Failure::new(format!("debugfs found no blocks of {} files:\n{said}", files.len())));
        }
        Ok(pages)
    }

    /// Writes files of the host into a folder of the file system.
    pub(crate) fn write(&self, scratch: &Path, files: &[PathBuf], folder: &str) -> Result<()> {
        let command = |file: &PathBuf| {
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            format!("write {} {folder}/{name}", file.display())
        };
        let commands: Vec<String> = files.iter().map(command).collect();
        self.debugfs(scratch, &commands, &["-w"]).map(drop)
    }

    fn debugfs(&self, scratch: &Path, commands: &[String], words: &[&str]) -> Result<String> {
        let list = scratch.join("debugfs.commands");
        fs::write(&list, commands.join("\n") + "\n").at(&list)?;
        let mut image = OsString::from(&self.image);
        image.push(format!("?offset={OFFSET}"));
        let said = process::output(dated("debugfs").args(words).arg("-f").arg(&list).arg(image));
        fs::remove_file(&list).at(&list)?;
        said
    }
}

/// The blocks that a line of `dump_extents -l` names, as in ` 0/ 0   1/  1     0 - 20479   4241 -  24720  20480`:
/// level, number, logical blocks, physical blocks, length.
fn extent(line: &str) -> Option<RangeInclusive<u64>> {
    let numbers = line.split([' ', '/', '-']).filter(|word| !word.is_empty());
    let numbers: Vec<u64> = numbers.map_while(|word| word.parse().ok()).collect();
    match numbers[..] {
        [_, _, _, _, _, _, first, last, _] => Some(first..=last),
        _ => None,
    }
}

/// A program of the e2fsprogs that takes the same time for now on every run.
fn dated(program: &str) -> Command {
    let mut command = process::command(program);
    let now = EPOCH_SECONDS.to_string();
    command
        .env("E2FSPROGS_FAKE_TIME", &now)
        .env("SOURCE_DATE_EPOCH", &now)
        .env("LC_ALL", "C")
        .env("TZ", "UTC");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_are_found_between_commands_and_headings() {
        assert_eq!(extent(" 0/ 0   1/  1     0 - 20479   4241 -  24720  20480 "), Some(4241..=24_720));
        assert_eq!(extent(" 1/ 1   3/  5     7 -     7   99 -  99  1 Uninit"), Some(99..=99));
        assert_eq!(extent("debugfs: dump_extents -l /srv/db/base.tables"), None);
        assert_eq!(extent("Level Entries       Logical        Physical Length Flags"), None);
    }
}
