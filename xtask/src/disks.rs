//! `cargo xtask disks`: a realistic VM disk and later versions of it.
//!
//! - `disk-v0.raw`: GPT, one ext4 partition with programs and libraries of this machine, a database, text, and
//!   data that does not compress;
//! - `disk-v1.raw`: v0 with 1 % of the disk's pages overwritten, scattered over all files;
//! - `disk-v1db.raw`: v0 with as many pages overwritten, all of the database;
//! - `disk-v2.raw`: v1 with 80 MiB of new files written through the file system;
//! - `disk-v3.raw`: v2 under another name.
//!
//! Only file content is overwritten, so that the file systems of all versions stay whole. The same seed on the same
//! machine gives the same files with the same content; times within inodes may differ, and another machine has other
//! programs: compare tools on one build of the disks only.

mod churn;
mod filesystem;
pub(crate) mod image;
mod tree;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::args::Args;
use crate::failure::{At, Failure, Result};
use crate::random::Random;
use crate::tools;
use filesystem::FileSystem;

/// Share of the disk's pages that v1 and v1db overwrite.
const CHURN_PERCENT: u64 = 1;
/// Size of the new files of v2.
const NEW_FILES_MIB: u64 = 80;

/// Every version, in the order in which they are made.
pub(crate) const VERSIONS: [&str; 5] = ["v0", "v1", "v1db", "v2", "v3"];

/// The file of a version.
pub(crate) fn path_of(folder: &Path, version: &str) -> PathBuf {
    folder.join(format!("disk-{version}.raw"))
}

pub(crate) fn run(mut args: Args) -> Result<()> {
    let folder = PathBuf::from(args.position("DIR")?);
    let (gib, fill_mib): (u64, u64) = (args.number("size", 8)?, args.number("fill", 3500)?);
    let seed = args.number("seed", 20_240_601)?;
    args.end()?;
    if gib == 0 || gib > 1024 || fill_mib == 0 || fill_mib * 100 > gib * 1024 * 85 {
        return Err(Failure::new("--size is 1 to 1024 GiB, and --fill at most 85 % of it"));
    }
    tools::ensure(&tools::TEST_TOOLS)?;
    fs::create_dir_all(&folder).at(&folder)?;
    let folder = folder.canonicalize().at(&folder)?;
    for version in VERSIONS {
        remove(&path_of(&folder, version))?;
    }
    let of = |version| path_of(&folder, version);

    let tree = folder.join("tree");
    println!("files ({fill_mib} MiB)");
    let paths = tree::make(&tree, fill_mib << 20, seed)?;

    println!("v0");
    let v0 = FileSystem::create(&of("v0"), gib << 30, &tree)?;
    fs::remove_dir_all(&tree).at(&tree)?;

    let count = (gib << 30) / image::PAGE * CHURN_PERCENT / 100;
    println!("v1: {count} pages, scattered over {} files", paths.len());
    churn::overwrite(
        &of("v0"),
        &of("v1"),
        v0.pages_of(&folder, &paths)?,
        count,
        &mut Random::new(seed, "v1"),
    )?;
    println!("v1db: {count} pages, all of the database");
    let database = v0.pages_of(&folder, &[tree::DATABASE.to_owned()])?;
    churn::overwrite(&of("v0"), &of("v1db"), database, count, &mut Random::new(seed, "v1db"))?;

    println!("v2: {NEW_FILES_MIB} MiB of new files");
    image::copy_sparse(&of("v1"), &of("v2"))?;
    let new = folder.join("new");
    let files = tree::make_new_files(&new, NEW_FILES_MIB, seed)?;
    FileSystem::open(&of("v2")).write(&folder, &files, "/srv")?;
    fs::remove_dir_all(&new).at(&new)?;
    fs::hard_link(of("v2"), of("v3")).at(&of("v3"))?;

    let facts = facts(&folder)?;
    let path = folder.join("facts.tsv");
    fs::write(&path, &facts).at(&path)?;
    print!("\n{facts}");
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).at(path),
        _ => Ok(()),
    }
}

/// A line per version: its sizes, and what changed since the version it was made from.
fn facts(folder: &Path) -> Result<String> {
    let mut facts = String::from("version\tbytes\tallocated\tsince\tpages_changed\tblocks_changed\n");
    for (version, base) in
        [("v0", None), ("v1", Some("v0")), ("v1db", Some("v0")), ("v2", Some("v1")), ("v3", Some("v2"))]
    {
        let path = path_of(folder, version);
        let (len, allocated) = (fs::metadata(&path).at(&path)?.len(), image::allocated(&path)?);
        let difference = base.map(|base| image::compare(&path_of(folder, base), &path)).transpose()?;
        if version == "v2"
            && difference.is_some_and(|d| d.pages < (NEW_FILES_MIB << 20) / image::PAGE * 9 / 10)
        {
            return Err(Failure::new("debugfs did not write the new files of v2; is there room for them?"));
        }
        let (pages, blocks) = difference.map(|d| (d.pages, d.blocks)).unwrap_or_default();
        let line =
            writeln!(facts, "{version}\t{len}\t{allocated}\t{}\t{pages}\t{blocks}", base.unwrap_or("-"));
        line.map_err(|e| Failure::new(e.to_string()))?;
    }
    Ok(facts)
}
