//! The client against the servers of QEMU and nbdkit.

#![allow(clippy::unwrap_used)] // helpers unwrap as tests do

mod tools;

use std::error::Error;

use tools::{Server, content, is_here, run, write_sparse};
use vmkeep_disk::{BlockRead, DiskError, conformance};
use vmkeep_model::{ByteLen, ByteOffset, Extent, ExtentSet};
use vmkeep_nbd::{ConnectOptions, NbdDisk, NbdError, bitmap_context};

fn data_bytes(disk: &NbdDisk) -> u64 {
    disk.data_extents().unwrap().byte_count().0
}

#[test]
fn qemu_nbd_conforms_and_knows_holes() {
    if !is_here("qemu-nbd", "qemu-utils") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    write_sparse(&folder.path().join("raw"), &content());
    let server = Server::qemu_nbd(folder.path(), &["-f", "raw", "-r", "-x", "disk", "raw"]);
    let disk = server.disk(&ConnectOptions::new("disk"));
    conformance::reads(&disk, &content());
    assert!(data_bytes(&disk) < 800_000, "{}", data_bytes(&disk));
    disk.close().unwrap();
    let plain = ConnectOptions { contexts: Vec::new(), ..ConnectOptions::new("disk") };
    let disk = server.disk(&plain);
    conformance::reads(&disk, &content());
    assert!(matches!(disk.data_extents(), Err(NbdError::NoContext { .. })));

    let refused = NbdDisk::connect_unix(&server.socket, &ConnectOptions::new("other"));
    assert!(matches!(refused, Err(NbdError::Refused { .. })), "{refused:?}");
}

#[test]
fn a_dirty_bitmap_is_read_as_it_was_written() {
    if !is_here("qemu-nbd", "qemu-utils") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    run(at, "qemu-img", &["create", "-q", "-f", "qcow2", "d.qcow2", "10M"]);
    run(at, "qemu-img", &["bitmap", "--add", "-g", "4096", "d.qcow2", "b0"]);
    let writes = [(0_u64, 4096_u64), (8192, 1), (1_000_000, 300_000), (10_485_248, 512)];
    let mut model = ExtentSet::new();
    for (start, len) in writes {
        let command = format!("write -P 7 {start} {len}");
        run(at, "qemu-io", &["-f", "qcow2", "-c", &command, "d.qcow2"]);
        let end = (start + len).next_multiple_of(4096);
        model.insert(Extent::between(ByteOffset(start / 4096 * 4096), ByteOffset(end)));
    }
    let server = Server::qemu_nbd(at, &["-f", "qcow2", "-r", "-B", "b0", "d.qcow2"]);
    let disk = server.disk(&ConnectOptions::new("").with_bitmap("b0").with_bitmap("none"));
    assert_eq!(disk.dirty_extents("b0").unwrap(), model);
    let missing = disk.dirty_extents("none");
    assert!(matches!(&missing, Err(NbdError::NoContext { context }) if *context == bitmap_context("none")));
    let mut byte = [0; 1];
    disk.read_at(ByteOffset(1_299_999), &mut byte).unwrap();
    assert_eq!(byte, [7]);
}

#[test]
fn the_storage_daemon_conforms() {
    if !is_here("qemu-storage-daemon", "qemu-utils") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut content = content();
    content.truncate(3 << 20);
    write_sparse(&folder.path().join("raw"), &content);
    let words = [
        "--blockdev",
        "driver=file,node-name=f,filename=raw",
        "--nbd-server",
        "addr.type=unix,addr.path=sock",
        "--export",
        "type=nbd,id=e,node-name=f,name=disk",
    ];
    let server = Server::storage_daemon(folder.path(), &words);
    conformance::reads(&server.disk(&ConnectOptions::new("disk")), &content);
}

#[test]
fn nbdkit_conforms_with_and_without_extents_and_when_it_is_slow() {
    if !is_here("nbdkit", "nbdkit") {
        return;
    }
    let cases: [(&[&str], bool); 3] = [
        (&["file", "raw"], true),
        (&["--filter=noextents", "file", "raw"], false),
        (&["--filter=delay", "file", "raw", "rdelay=1ms"], true),
    ];
    for (words, knows_holes) in cases {
        let folder = tempfile::tempdir().unwrap();
        write_sparse(&folder.path().join("raw"), &content());
        let server = Server::nbdkit(folder.path(), words);
        let disk = server.disk(&ConnectOptions::new(""));
        conformance::reads(&disk, &content());
        let all = content().len() as u64;
        let data = if disk.connection().export().contexts.is_empty() { all } else { data_bytes(&disk) };
        assert_eq!(data < all, knows_holes, "{words:?}: {data}");
    }
}

#[test]
fn smallest_and_largest_blocks_of_a_server_are_kept() {
    if !is_here("nbdkit", "nbdkit") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut content = content();
    content.truncate(3 << 20);
    write_sparse(&folder.path().join("raw"), &content);
    let words = [
        "--filter=blocksize-policy",
        "file",
        "raw",
        "blocksize-minimum=4096",
        "blocksize-preferred=4096",
        "blocksize-maximum=65536",
        "blocksize-error-policy=error",
    ];
    let server = Server::nbdkit(folder.path(), &words);
    let disk = server.disk(&ConnectOptions::new(""));
    assert_eq!((disk.connection().export().block_min, disk.connection().export().read_max), (4096, 65_536));
    conformance::reads(&disk, &content);
}

#[test]
fn a_read_that_the_server_fails_is_an_error_and_the_next_one_goes_on() {
    if !is_here("nbdkit", "nbdkit") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    write_sparse(&folder.path().join("raw"), &content());
    std::fs::write(folder.path().join("fail"), "").unwrap();
    // The filter looks for the file at each request by the path from its own folder, the root.
    let path = folder.path().join("fail");
    let mark = format!("error-pread-file={}", path.display());
    let words = ["--filter=error", "file", "raw", "error-pread=EIO", "error-pread-rate=100%", &mark];
    let server = Server::nbdkit(folder.path(), &words);
    let disk = server.disk(&ConnectOptions::new(""));
    let mut buf = vec![0; 3 << 20];
    let failed = disk.read_at(ByteOffset(0), &mut buf).unwrap_err();
    let DiskError::Io { source, .. } = &failed else { panic!("{failed:?}") };
    let below = source.get_ref().and_then(|e| (e as &dyn Error).downcast_ref::<NbdError>());
    assert!(matches!(below, Some(NbdError::Request { code: 5, .. })), "{below:?}");
    std::fs::remove_file(path).unwrap();
    disk.read_at(ByteOffset(0), &mut buf).unwrap();
    assert_eq!(buf, content()[..3 << 20]);
}

#[test]
fn a_server_that_dies_is_an_error_for_every_thread() {
    if !is_here("nbdkit", "nbdkit") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let server = Server::nbdkit(folder.path(), &["--filter=delay", "memory", "1M", "rdelay=10"]);
    let disk = server.disk(&ConnectOptions::new(""));
    assert_eq!(disk.len(), ByteLen(1 << 20));
    std::thread::scope(|threads| {
        let waiting: Vec<_> =
            (0..4).map(|_| threads.spawn(|| disk.read_at(ByteOffset(0), &mut [0; 512]))).collect();
        drop(server);
        for thread in waiting {
            assert!(matches!(thread.join().unwrap(), Err(DiskError::Io { .. })));
        }
    });
}
