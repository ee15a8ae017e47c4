//! The whole content of a small store as a value, and back.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::TryStreamExt;
use futures::executor::block_on;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

/// Every object of `store`.
///
/// Runs to its end on the calling thread, which must not be inside another `futures` executor.
///
/// # Panics
/// When the store fails.
pub fn snapshot(store: &dyn ObjectStore) -> BTreeMap<Path, Bytes> {
    let read_all = async {
        let mut objects = BTreeMap::new();
        for meta in store.list(None).try_collect::<Vec<_>>().await? {
            let bytes = store.get(&meta.location).await?.bytes().await?;
            objects.insert(meta.location, bytes);
        }
        Ok::<_, object_store::Error>(objects)
    };
    block_on(read_all).expect("a test takes snapshots of stores that work")
}

/// A memory store that holds `objects`.
///
/// # Panics
/// Never: a memory store takes any object.
pub fn store_of(objects: &BTreeMap<Path, Bytes>) -> InMemory {
    let store = InMemory::new();
    for (path, bytes) in objects {
        block_on(store.put(path, bytes.clone().into())).expect("a memory store takes any object");
    }
    store
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_made_of_a_snapshot_has_the_same_snapshot() {
        let objects: BTreeMap<Path, Bytes> =
            [("a/b", "1"), ("a/c", ""), ("d", "22")].map(|(p, b)| (Path::from(p), Bytes::from(b))).into();
        let store = store_of(&objects);
        assert_eq!(snapshot(&store), objects);
        block_on(store.put(&Path::from("e"), "3".into())).unwrap();
        assert_ne!(snapshot(&store), objects);
    }
}
