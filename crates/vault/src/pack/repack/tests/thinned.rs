//! Frames are opened, thinned and sealed again, also after they were thinned or copied before.

use std::sync::Mutex;
use vmkeep_model::op;
use vmkeep_testkit::permit;

use proptest::prelude::*;
use vmkeep_envelope::{Codec, PackBuilder};
use vmkeep_model::{ContentHash, PAGE_SIZE};

use super::*;
use crate::format::{Part, Thinned, Unit};
use crate::pack::metadata::born_here;
use crate::pack::moved::birth_in;

/// Blocks by where they were born: birth pack, slot, index.
type Units = BTreeSet<(PackPlace, u32, u32)>;

/// What point 2 refers to, of the blocks that `wanted` chooses.
fn units_of(vault: &Vault, wanted: impl Fn(u64) -> bool) -> Units {
    let entries = ["os", "data"].into_iter().flat_map(|disk| entries(vault, 2, disk));
    entries
        .filter(|(block, _)| wanted(block.0))
        .map(|(_, entry)| match entry {
            Entry::Full { at, .. } => (at.at.pack, at.at.slot, at.at.index),
            Entry::Patched { .. } => unreachable!(),
        })
        .collect()
}

impl Fixture {
    /// Every data pack with those of `units` that lie in it; packs without any are left out.
    fn holding(&self, units: &Units) -> Vec<Source> {
        let (inner, lineage) = (&self.vault.inner, self.lineage());
        let mut sources = Vec::new();
        for source in self.sources(PackContent::Data) {
            let pack = source.pack;
            let index = inner.read_index(&lineage, &pack, &ObjectName::pack(lineage.id, &pack)).unwrap();
            let mut keep = BTreeMap::new();
            for (at, slot) in (0_u32..).zip(&index.slots) {
                let births: Vec<_> = slot.origin.births(&pack, at).collect();
                let is_kept = |unit: &Unit| {
                    let SlotBirth { session, id } = births[unit.part];
                    units.contains(&(PackPlace { lineage: None, session, name: id.pack }, id.slot, unit.born))
                };
                let entries: Vec<bool> = index.units(at).iter().map(|(_, unit)| is_kept(unit)).collect();
                if entries.contains(&true) {
                    keep.insert(at, Keep::Entries(entries));
                }
            }
            if !keep.is_empty() {
                sources.push(Source { pack, keep });
            }
        }
        sources
    }

    fn thin(&mut self, units: &Units, lineage: &Lineage) -> Vec<PackPlace> {
        self.repack(self.holding(units), lineage)
    }

    /// What the footers of `packs` tell of.
    fn told(&self, packs: &[PackPlace]) -> Vec<FooterSlot> {
        let lineage = self.lineage();
        let of = |pack| self.vault.inner.read_footer_of(&lineage, pack).unwrap().body.slots;
        packs.iter().flat_map(of).collect()
    }
}

/// Reads both disks of point 2: exactly the blocks that `kept` chooses can be had.
fn assert_reads(vault: &Vault, kept: impl Fn(u64) -> bool) {
    for disk in ["os", "data"] {
        let failed = read(vault, 2, disk, || {});
        let gone: BTreeSet<u64> = failed.iter().map(|(block, _)| block.0).collect();
        assert!(gone.iter().copied().eq((0..BLOCKS).filter(|&n| !kept(n))), "{disk}: {failed:?}");
        for (_, error) in failed {
            assert!(error.is_damage(), "{error:?}");
        }
    }
}

fn parts_of(slot: &FooterSlot) -> &Thinned {
    let Origin::Thinned(thinned) = &slot.origin else { panic!("{slot:?}") };
    thinned
}

#[test]
fn what_is_left_of_frames_is_sealed_anew_and_found() {
    let mut fixture = Fixture::of_frames(8);
    let (whole, restricted) = (fixture.lineage(), fixture.map_alone());
    let size = |fixture: &Fixture| -> u64 {
        let lineage = fixture.lineage();
        let of = |pack: PackPlace| fixture.vault.inner.read_footer_of(&lineage, &pack).unwrap().size;
        fixture.sources(PackContent::Data).into_iter().map(|source| of(source.pack)).sum()
    };
    let reader = fixture.opened();
    read_all(&reader);

    // Twice: a third of the frames of point 1 is dropped, then half of what is left.
    let all = units_of(&fixture.vault, |_| true);
    let made = fixture.thin(&all, &whole);
    assert_eq!(all.len() as u64, 2 * BLOCKS);
    assert!(size(&fixture) < 2 * BLOCKS * (SIZE.bytes_u64() + 200));
    let told = fixture.told(&made);
    let kept: u64 = told.iter().map(|slot| slot.blocks.len() as u64).sum();
    assert_eq!(kept, 2 * BLOCKS);
    assert!(told.iter().all(|slot| parts_of(slot).sealed.is_none() && slot.blocks.len() <= 32));
    // Neighbours share a slot, up to the length of a frame.
    assert!(told.iter().any(|slot| parts_of(slot).parts.len() > 2) && told.len() <= 6, "{told:?}");
    for vault in [&reader, &fixture.opened()] {
        assert_reads(vault, |_| true);
        // What was dropped is an error, and no other bytes.
        let failed = read(vault, 1, "os", || {});
        assert!(failed.iter().all(|(block, e)| block.0 % 3 == 0 && e.is_damage()), "{failed:?}");
        assert_eq!(failed.len() as u64, BLOCKS / 3);
    }
    let half = units_of(&fixture.vault, |n| n % 2 == 0);
    fixture.thin(&half, &whole);
    for vault in [&reader, &fixture.opened()] {
        assert_reads(vault, |n| n % 2 == 0);
    }

    // Copied as they are, they keep what they were sealed as; and are thinned after that.
    let made = fixture.thin(&half, &restricted);
    assert!(fixture.told(&made).iter().all(|slot| parts_of(slot).sealed.is_some()));
    let before = size(&fixture);
    let few = units_of(&fixture.vault, |n| n % 4 == 0);
    fixture.thin(&few, &restricted);
    assert!(size(&fixture) + 4096 > before, "a slot of which anything is kept is copied whole");
    fixture.thin(&few, &whole);
    assert!(size(&fixture) < before / 3 * 2);
    for vault in [&reader, &fixture.opened()] {
        assert_reads(vault, |n| n % 4 == 0);
    }
}

#[test]
fn a_reader_goes_on_while_frames_are_thinned_under_it() {
    let mut fixture = Fixture::of_frames(6);
    let (lineage, reader) = (fixture.lineage(), fixture.opened());
    let all = units_of(&fixture.vault, |_| true);
    read_all(&reader);
    for _ in 0..3 {
        let failed = read(&reader, 2, "os", || drop(fixture.thin(&all, &lineage)));
        assert!(failed.is_empty(), "{failed:?}");
        assert_reads(&reader, |_| true);
    }
}

#[test]
fn what_is_damaged_is_not_sealed_anew() {
    let mut fixture = Fixture::of_frames(8);
    let lineage = fixture.lineage();
    let all = units_of(&fixture.vault, |_| true);
    let sources = fixture.holding(&all);
    // One whose bytes changed, and one whose footer has another hash.
    let (flipped, forged) = (sources[0].pack, sources[1].pack);
    fixture.damage(&ObjectName::pack(lineage.id, &flipped), &flipped, 1, 5000);
    let forged = fixture.forge(&forged, |slots| slots[0].blocks[7].1 = ContentHash([9; 16]));
    let mut sources = sources;
    sources[1].pack = forged;
    let count = sources.len();
    let (made, skipped) = fixture.repack_some(sources, &lineage);
    let packs: BTreeSet<PackPlace> = skipped.iter().map(|(pack, _)| *pack).collect();
    assert_eq!(packs, BTreeSet::from([flipped, forged]));
    for (pack, error) in &skipped {
        let right = match error {
            VaultError::Damaged { .. } => *pack == flipped,
            VaultError::Malformed { .. } => *pack == forged,
            _ => false,
        };
        assert!(right, "{pack}: {error:?}");
    }
    // They are where they were; of the others nothing is missing, and of these nothing is in the new packs.
    let there = fixture.packs();
    assert!(there.contains_key(&flipped) && there.contains_key(&forged) && count > 2);
    for slot in fixture.told(&made) {
        assert!(parts_of(&slot).parts.iter().all(|part| part.birth.id.pack != flipped.name));
    }
}

impl Fixture {
    /// Stores a pack with the slots of `pack` under a footer that was changed, and gives its name.
    fn forge(&mut self, pack: &PackPlace, change: impl FnOnce(&mut Vec<FooterSlot>)) -> PackPlace {
        let (sweep, inner, lineage) = (self.sweep(), Arc::clone(&self.vault.inner), self.lineage());
        let name = ObjectName::pack(lineage.id, pack);
        let footer = inner.read_footer_of(&lineage, pack).unwrap();
        let (mut body, head) = (footer.body.clone(), footer.head);
        let index = footer.into_index();
        let mut builder = RepackBuilder::new(head.slots, 0).unwrap();
        for (at, slot) in (0_u32..).zip(&index.slots) {
            let bytes = inner.read_slots(&name, &index, slot.range()).unwrap();
            builder.push(&bytes, slot.sealed_as(pack, at).unwrap()).unwrap();
            body.slots[at as usize].origin = slot.origin.moved_from(pack, at);
        }
        change(&mut body.slots);
        body.session = sweep;
        let counter = std::sync::atomic::AtomicU64::new(0);
        let context = SealContext { session: sweep, counter: &counter, entropy: &*inner.ports.entropy };
        let sealed = builder.seal(lineage.domain.map_key().unwrap(), &body.encode(), &context).unwrap();
        let place = PackPlace { lineage: None, session: sweep, name: sealed.name };
        inner.objects.create(&ObjectName::pack(lineage.id, &place), &sealed.object).unwrap();
        place
    }

    /// Says that every slot lies in `to` that is said to lie in `from`, at the same place.
    fn redirect(&self, from: &PackPlace, to: &PackPlace) {
        let (inner, lineage) = (&self.vault.inner, self.lineage());
        let births: BTreeSet<PackPlace> =
            units_of(&self.vault, |_| true).into_iter().map(|(pack, ..)| pack).collect();
        for birth in births {
            let mut record = inner.newest_moved(&lineage, &birth, 0).unwrap().unwrap();
            for slot in record.slots.iter_mut().filter(|slot| place_of(slot.pack) == *from) {
                slot.pack = (to.session.0, to.name.0);
            }
            record.k += 1;
            let context = inner.sealer.context(&*inner.ports.entropy);
            assert_eq!(inner.create_moved(&record, &context).unwrap(), Created::Ours);
        }
    }
}

#[test]
fn a_footer_that_lies_about_its_parts_gives_errors_and_never_other_bytes() {
    type Change = fn(&mut Thinned);
    let changes: [(&str, Change); 4] = [
        ("parts in another order", |thinned| thinned.parts.reverse()),
        ("births changed places", |thinned| {
            let last = thinned.parts.len() - 1;
            let (first, other) = (thinned.parts[0].birth, thinned.parts[last].birth);
            (thinned.parts[0].birth, thinned.parts[last].birth) = (other, first);
        }),
        ("a range moved", |thinned| thinned.parts[0].kept.iter_mut().for_each(|kept| kept.start += 1)),
        ("a slot that was never there", |thinned| thinned.parts[0].birth.id.slot += 1000),
    ];
    for (what, change) in changes {
        let mut fixture = Fixture::of_frames(8);
        let lineage = fixture.lineage();
        let made = fixture.thin(&units_of(&fixture.vault, |_| true), &lineage);
        let from = made[0];
        let forged = fixture.forge(&from, |slots| {
            let slot = slots.iter_mut().find(|slot| parts_of(slot).parts.len() > 1).unwrap();
            let mut thinned = parts_of(slot).clone();
            change(&mut thinned);
            slot.origin = Origin::Thinned(Arc::new(thinned));
        });
        fixture.redirect(&from, &forged);
        let vault = fixture.opened();
        // `read` compares every block that is given.
        let failed = [read(&vault, 2, "os", || {}), read(&vault, 2, "data", || {})].concat();
        assert!(!failed.is_empty(), "{what}");
        for (block, error) in failed {
            assert!(matches!(*error, VaultError::Malformed { .. }), "{what}: block {block}: {error:?}");
        }
        let point = vault.point(&"web@2".parse().unwrap()).unwrap();
        let noticed = ["os", "data"].into_iter().any(|disk| {
            let reader = point.disk(&permit::<op::Restore>(), &disk.parse().unwrap()).unwrap();
            entries(&vault, 2, disk).iter().any(|(block, entry)| reader.check_entry(*block, entry).is_err())
        });
        assert!(noticed, "{what}: the footers and the map agree");
    }
}

/// Patches of blocks 4 (2 pages), 5 (1 page), 7 (3 pages) and 9 (1 page), born in one slot.
#[test]
fn patches_are_dropped_as_wholes() {
    let mut fixture = Fixture::new();
    let (inner, lineage, session) = (Arc::clone(&fixture.vault.inner), fixture.lineage(), fixture.sweep());
    let pages: Vec<u8> = (0..7_u8).flat_map(|page| vec![page + 1; PAGE_SIZE]).collect();
    let mut builder = PackBuilder::new(PackContent::Data, 0);
    let plain_len = u32::try_from(pages.len()).unwrap();
    builder.push(SlotKind::Patches, Codec::Stored, plain_len, &pages).unwrap();
    let len = u64::from(builder.slots()[0].len);
    let mut slot = born_here(PointNumber(2), SlotKind::Patches, Codec::Stored, plain_len, len);
    let patch = |block, pages| (BlockIndex(block), pages, ContentHash([1; 16]));
    slot.patches = vec![patch(4, 2), patch(5, 1), patch(7, 3), patch(9, 1)];
    let body = FooterBody {
        lineage: lineage.id,
        session,
        point: PointNumber(2),
        disk: Some(("os".parse().unwrap(), SIZE)),
        slots: vec![slot],
    };
    let (data, map) = (lineage.domain.data_key().unwrap(), lineage.domain.map_key().unwrap());
    let context = inner.sealer.context(&*inner.ports.entropy);
    let sealed = builder.seal(data, map, &body.encode(), &context).unwrap();
    let birth = PackPlace { lineage: None, session, name: sealed.name };
    inner.objects.create(&ObjectName::pack(lineage.id, &birth), &sealed.object).unwrap();

    let found = Mutex::new(Vec::new());
    let look = |fixture: &Fixture, first, count| {
        let vault = fixture.opened().inner;
        let read = vault.at_slot(&lineage, &birth, 0, |at| {
            let plain =
                vault.plain_slot(&lineage, &at.pack, &at.index, &at.name, at.at, SlotKind::Patches)?;
            found.lock().unwrap().push(plain.len() / PAGE_SIZE);
            let first = at.unit(first, count).map(|unit| unit as usize * PAGE_SIZE);
            Ok(first.map(|at| {
                plain[at..][..count as usize * PAGE_SIZE].chunks(PAGE_SIZE).map(|page| page[0]).collect()
            }))
        });
        read.unwrap().unwrap_or_default()
    };
    let looked = |fixture: &Fixture| -> [Vec<u8>; 4] {
        [(0, 2), (2, 1), (3, 3), (6, 1)].map(|(first, count)| look(fixture, first, count))
    };
    assert_eq!(looked(&fixture), [vec![1, 2], vec![3], vec![4, 5, 6], vec![7]]);
    let keep = |pack, entries: &[bool]| {
        vec![Source { pack, keep: BTreeMap::from([(0, Keep::Entries(entries.to_vec()))]) }]
    };
    let made = fixture.repack(keep(birth, &[true, false, true, true]), &lineage);
    assert_eq!(looked(&fixture), [vec![1, 2], vec![], vec![4, 5, 6], vec![7]]);
    let made = fixture.repack(keep(made[0], &[false, true, true]), &lineage);
    assert_eq!(looked(&fixture), [vec![], vec![], vec![4, 5, 6], vec![7]]);
    assert_eq!(found.lock().unwrap().last(), Some(&4), "pages in the slot");
    let told = fixture.told(&made);
    let mut part = Part::new(birth_in(&birth, 0), PointNumber(2));
    part.keep(3, 4);
    assert_eq!(parts_of(&told[0]).parts, [part]);
    assert!(look(&fixture, 5, 1) == [6] && look(&fixture, 6, 2).is_empty(), "pages past the last");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is dropped, in whichever order, with the data key or without: what is kept is found.
    #[test]
    fn what_is_kept_is_found_however_often_it_is_thinned(
        frame in 1_usize..20,
        rounds in prop::collection::vec((any::<bool>(), prop::collection::vec(prop::bool::weighted(0.7), 16)), 1..5),
    ) {
        let mut fixture = Fixture::of_frames(frame);
        let reader = fixture.opened();
        let mut kept: BTreeSet<u64> = (0..BLOCKS).collect();
        let mut found = kept.clone();
        for (keyed, choice) in rounds {
            kept.retain(|&n| choice[usize::try_from(n).unwrap() % choice.len()]);
            let units = units_of(&fixture.vault, |n| kept.contains(&n));
            let lineage = if keyed { fixture.lineage() } else { fixture.map_alone() };
            // A copied slot still has the others; those may be found or not.
            let before = fixture.holding(&units);
            fixture.repack(before, &lineage);
            if keyed {
                found.clone_from(&kept);
            }
            for vault in [&reader, &fixture.opened()] {
                for disk in ["os", "data"] {
                    for (block, error) in read(vault, 2, disk, || {}) {
                        prop_assert!(!kept.contains(&block.0) && error.is_damage(), "{}: {:?}", block, error);
                    }
                }
            }
        }
        prop_assert!(kept.is_subset(&found));
    }
}
