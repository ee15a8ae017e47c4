//! Recovery points on an object store: format, packs, block map, commit, verify.
