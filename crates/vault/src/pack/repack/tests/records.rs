//! Records of where slots went, and packs that hold slots from elsewhere.

use super::*;

#[test]
fn a_record_goes_on_from_the_one_before() {
    let fixture = Fixture::new();
    let lineage = fixture.lineage();
    let slot = |slot, pack: u8, at| MovedSlotBody { slot, pack: ([pack; 16], [pack; 16]), at };
    let birth = ([1; 16], [2; 16]);
    let first = next_moved(&lineage, birth, None, &BTreeSet::new(), vec![slot(4, 7, 0), slot(1, 8, 3)]);
    assert_eq!((first.k, first.slots.clone()), (1, vec![slot(1, 8, 3), slot(4, 7, 0)]));
    // Pack 7 was repacked and slot 4 of it was dead; slot 1 stays where it is.
    let emptied = BTreeSet::from([([7; 16], [7; 16])]);
    let second = next_moved(&lineage, birth, Some(&first), &emptied, Vec::new());
    assert_eq!((second.k, second.slots.clone()), (2, vec![slot(1, 8, 3)]));
    let third = next_moved(&lineage, birth, Some(&first), &emptied, vec![slot(4, 9, 5), slot(1, 9, 6)]);
    assert_eq!(third.slots, [slot(1, 9, 6), slot(4, 9, 5)]);
    let bytes = crate::format::encode(&third).unwrap();
    assert_eq!(crate::format::decode_body::<MovedBody>(&bytes).unwrap(), third);
}

/// Nothing of the audit stands in the way of packs whose slots were born elsewhere.
#[test]
fn slots_of_a_moved_pack_are_opened_by_place() {
    let mut fixture = Fixture::new();
    fixture.repack_all();
    let lineage = fixture.lineage();
    for (pack, (_, slots)) in fixture.packs() {
        let name = ObjectName::pack(lineage.id, &pack);
        let index = fixture.vault.inner.read_index(&lineage, &pack, &name).unwrap();
        for at in 0..slots {
            let kind = index.slots[at as usize].kind;
            fixture.vault.inner.plain_slot(&lineage, &pack, &index, &name, at, kind).unwrap();
        }
    }
}
