//! qcow2 images made by qemu-img read as the disk they were made from.

#![allow(clippy::unwrap_used)] // helpers unwrap as tests do

mod tools;

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;
use tools::{data_bytes, folder_with_raw, open_in, qemu_img, qemu_img_is_here};
use vmkeep_disk::{BlockRead, DiskError, Format, OpenOptions, conformance, open};
use vmkeep_model::{ByteLen, ByteOffset};

/// Converts `raw` with these options, and checks that the image reads the same and has its holes.
fn check_converted(options: &str) {
    if !qemu_img_is_here() {
        return;
    }
    let (folder, content) = folder_with_raw();
    qemu_img(folder.path(), &format!("convert -f raw -O qcow2 {options} raw image"));
    let image = open_in(&folder, "image", &[]).unwrap();
    conformance::reads(&*image, &content);
    assert!(data_bytes(&*image) < 2 << 20, "the image has no holes");
}

#[test]
fn plain() {
    check_converted("");
}

#[test]
fn version_2() {
    check_converted("-o compat=0.10");
}

#[test]
fn compressed() {
    check_converted("-c");
}

#[test]
fn compressed_version_2() {
    check_converted("-c -o compat=0.10");
}

#[test]
fn small_and_large_clusters() {
    check_converted("-o cluster_size=512");
    check_converted("-o cluster_size=4k,refcount_bits=1");
    check_converted("-c -o cluster_size=512");
    check_converted("-o cluster_size=256k");
}

#[test]
fn internal_snapshots_do_not_disturb() {
    if !qemu_img_is_here() {
        return;
    }
    let (folder, content) = folder_with_raw();
    qemu_img(folder.path(), "convert -f raw -O qcow2 raw image");
    qemu_img(folder.path(), "snapshot -c before image");
    conformance::reads(&*open_in(&folder, "image", &[]).unwrap(), &content);
}

#[test]
fn a_persistent_bitmap_does_not_disturb() {
    if !qemu_img_is_here() {
        return;
    }
    let (folder, content) = folder_with_raw();
    qemu_img(folder.path(), "convert -f raw -O qcow2 raw image");
    qemu_img(folder.path(), "bitmap --add image changes");
    conformance::reads(&*open_in(&folder, "image", &[]).unwrap(), &content);
}

/// Three images, of which each holds other clusters, on a base shorter than they are.
fn folder_with_chain(base_format: &str) -> (TempDir, Vec<u8>) {
    let (folder, mut content) = folder_with_raw();
    let in_folder = |words: &str| qemu_img(folder.path(), words);
    in_folder(&format!("convert -f raw -O {base_format} raw base"));
    in_folder(&format!("create -q -f qcow2 -b base -F {base_format} middle 4M"));
    content.resize(4 << 20, 0);
    let mut changed = content.clone();
    changed[70_000..200_000].fill(0xc1);
    changed[131_072..131_072 + 65_536].fill(0); // zeros over data of the base
    changed[(3 << 20) + 100..(3 << 20) + 5000].fill(0xc2);
    fs::write(folder.path().join("wanted"), &changed).unwrap();
    // A rebase keeps in `middle` what differs from its base.
    in_folder("convert -f raw -O qcow2 wanted flat");
    in_folder("create -q -f qcow2 -b flat -F qcow2 top 4M");
    in_folder(&format!("rebase -f qcow2 -b base -F {base_format} top"));
    (folder, changed)
}

#[test]
fn backing_chains_on_raw_and_qcow2_bases() {
    if !qemu_img_is_here() {
        return;
    }
    for base_format in ["raw", "qcow2"] {
        let (folder, content) = folder_with_chain(base_format);
        let top = open_in(&folder, "top", &["base"]).unwrap();
        conformance::reads(&*top, &content);
        assert!(data_bytes(&*top) < 3 << 20, "the chain has no holes");
        qemu_img(folder.path(), "create -q -f qcow2 -b top -F qcow2 over");
        let over = open_in(&folder, "over", &["base", "top"]).unwrap();
        conformance::reads(&*over, &content);
    }
}

#[test]
fn a_backing_file_in_another_folder_and_through_a_link() {
    if !qemu_img_is_here() {
        return;
    }
    let (folder, content) = folder_with_raw();
    fs::create_dir(folder.path().join("images")).unwrap();
    std::os::unix::fs::symlink(folder.path().join("raw"), folder.path().join("link")).unwrap();
    qemu_img(&folder.path().join("images"), "create -q -f qcow2 -b ../link -F raw image");
    conformance::reads(&*open_in(&folder, "images/image", &["raw"]).unwrap(), &content);
    conformance::reads(&*open_in(&folder, "images/image", &["link"]).unwrap(), &content);
}

#[test]
fn a_backing_file_without_a_format_is_detected_in_version_2_too() {
    if !qemu_img_is_here() {
        return;
    }
    let (folder, content) = folder_with_raw();
    qemu_img(folder.path(), "create -q -f qcow2 -o compat=0.10 -b raw -F raw image");
    conformance::reads(&*open_in(&folder, "image", &["raw"]).unwrap(), &content);
}

#[test]
fn an_allowed_external_data_file_is_read() {
    if !qemu_img_is_here() {
        return;
    }
    let (folder, content) = folder_with_raw();
    qemu_img(folder.path(), "convert -f raw -O qcow2 -o data_file=data raw image");
    conformance::reads(&*open_in(&folder, "image", &["data"]).unwrap(), &content);
    File::options().write(true).open(folder.path().join("data")).unwrap().set_len(1 << 20).unwrap();
    let image = open_in(&folder, "image", &["data"]).unwrap();
    let error = image.read_at(ByteOffset(2 << 20), &mut [0; 4096]).unwrap_err();
    assert!(matches!(error, DiskError::Damaged { .. }), "{error}");
}

#[test]
fn an_explicit_format_is_not_overruled() {
    if !qemu_img_is_here() {
        return;
    }
    let (folder, content) = folder_with_raw();
    qemu_img(folder.path(), "convert -f raw -O qcow2 raw image");
    let open_as = |name: &str, format| {
        let options = OpenOptions { format: Some(format), ..OpenOptions::default() };
        open(folder.path().join(name), &options)
    };
    conformance::reads(&*open_as("image", Format::Qcow2).unwrap(), &content);
    let bytes = fs::read(folder.path().join("image")).unwrap();
    conformance::reads(&*open_as("image", Format::Raw).unwrap(), &bytes);
    for format in [Format::Qcow2, Format::Vhd] {
        let error = open_as("raw", format).unwrap_err();
        assert!(matches!(error, DiskError::Damaged { .. }), "{error}");
    }
}

#[test]
fn a_huge_empty_image_is_mapped_in_no_time() {
    if !qemu_img_is_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    qemu_img(folder.path(), "create -q -f qcow2 base 32T");
    qemu_img(folder.path(), "create -q -f qcow2 -b base -F qcow2 top");
    let top = open_in(&folder, "top", &["base"]).unwrap();
    assert_eq!(top.len(), ByteLen(32 << 40));
    assert_eq!(top.next_data(ByteOffset(0)).unwrap(), None);
}

#[test]
fn tokio_tasks_may_read() {
    if !qemu_img_is_here() {
        return;
    }
    let (folder, content) = folder_with_raw();
    qemu_img(folder.path(), "convert -f raw -O qcow2 -c -o cluster_size=512 raw image");
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let image: Arc<dyn BlockRead> = Arc::from(open_in(&folder, "image", &[]).unwrap());
    runtime.block_on(async move { conformance::reads(&*image, &content) });
}

#[test]
fn a_file_cut_while_it_is_open_is_noticed_where_data_or_tables_are_lost() {
    if !qemu_img_is_here() {
        return;
    }
    for options in ["", "-o cluster_size=512", "-c -o cluster_size=512"] {
        let (folder, content) = folder_with_raw();
        qemu_img(folder.path(), &format!("convert -f raw -O qcow2 {options} raw image"));
        let path = folder.path().join("image");
        let len = file_len(&path);
        for left in [len / 2, 70_000, 4096, 0] {
            let whole = fs::read(&path).unwrap();
            let image = open_in(&folder, "image", &[]).unwrap();
            File::options().write(true).open(&path).unwrap().set_len(left).unwrap();
            let error = image.read_at(ByteOffset(0), &mut vec![0; content.len()]).unwrap_err();
            assert!(matches!(error, DiskError::Shrank { .. } | DiskError::Damaged { .. }), "{error}");
            let error = image.next_data(ByteOffset(0)).unwrap_err();
            assert!(matches!(error, DiskError::Shrank { .. } | DiskError::Damaged { .. }), "{error}");
            fs::write(&path, whole).unwrap();
        }
    }
}

fn file_len(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}
