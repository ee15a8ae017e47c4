//! Property 4, no vault-wide index on the path: a backup of one VM touches no object of another and lists nothing
//! that grows with the vault: only the sessions that are open now, to go on from an abandoned one. (Restore, verify and diff are held to it in the tests of `vmkeep-restore`.)
#![allow(clippy::unwrap_used)] // in helpers too

mod common;

use std::collections::BTreeSet;

use common::{SpreadDisk, back_up, counted_vault, opened_anew, settings};
use object_store::path::Path;
use vmkeep_model::ByteLen;
use vmkeep_testkit::{CountingStore, RequestKind, snapshot};

const VMS: [&str; 3] = ["web", "db", "mail"];

fn names(store: &CountingStore) -> BTreeSet<Path> {
    snapshot(store).into_keys().collect()
}

#[test]
fn a_backup_touches_no_object_of_another_vm() {
    let (vault, store) = counted_vault(1);
    let mut disk = SpreadDisk::new(ByteLen(64 << 30), ByteLen(1 << 20));
    let (mut seen, mut own) = (names(&store), [const { BTreeSet::new() }; 3]);
    for point in 0..6 {
        // A handle that remembers nothing, and one that does.
        let vault = if point % 2 == 0 { opened_anew(&store, 10 + point) } else { vault.clone() };
        for (which, vm) in VMS.into_iter().enumerate() {
            store.reset();
            let report = back_up(&vault, vm, &disk, &settings());
            let calls = store.take_log();
            let now = names(&store);
            own[which].extend(now.difference(&seen).cloned());
            seen = now;

            let lineage = report.point.id.lineage.to_string();
            let domain = own[which].iter().find_map(|path| path.as_ref().strip_prefix("keys/"));
            let domain = domain.and_then(|rest| rest.split('/').next()).unwrap();
            let session = format!("sessions/{}/open", report.point.session);
            for (kind, path) in calls {
                let named = path.parts().nth(1).is_some_and(|part| part.as_ref() == lineage);
                let fits = match kind {
                    RequestKind::List => {
                        path.as_ref() == "sessions" || path.as_ref() == format!("keys/{domain}")
                    }
                    RequestKind::Delete => path.as_ref() == session,
                    // Whether a repair has noted that something of the VM is lost: none has.
                    RequestKind::Head if path.as_ref().starts_with("journal/") => !seen.contains(&path),
                    _ => named || own[which].contains(&path) || path.as_ref() == session,
                };
                assert!(fits, "point {} of {vm}: {kind:?} of {path}", report.point.id.number);
            }
        }
        disk.change([3, 7]);
    }
}
