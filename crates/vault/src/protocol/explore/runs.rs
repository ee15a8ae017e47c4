//! What is explored state by state, and that it finds what is wrong when a rule is left out.

use std::collections::BTreeSet;

use vmkeep_model::PointNumber;

use super::actor::Actor;
use super::world::{self, L, Value, World, id, pack_name};
use super::{Change, PointStub, Record, Request, Rules, State, explore};
use crate::layout::ObjectName;

/// Explores, and tells how far that was.
fn all(start: State, repack: bool) {
    let time = std::time::Instant::now();
    let states = explore(start, repack).unwrap_or_else(|e| panic!("{e}"));
    println!("{states} states in {:?}", time.elapsed());
}

fn writer() -> Actor {
    Actor::writer(None, 2, Rules::default())
}

fn sweeper(repack: bool) -> Actor {
    Actor::sweeper(repack, 3, Rules::default())
}

fn reader() -> Actor {
    Actor::reader(1, Rules::default())
}

pub(super) fn both_forgotten() -> World {
    World::with_two_points().forget(1).forget(2)
}

/// Point 1 is forgotten and nothing else can go: reads of what cannot change are not interleaved.
pub(super) fn first_forgotten() -> World {
    let fixed = world::Fixed { retirable: BTreeSet::from([1]) };
    World { fixed: Some(fixed), ..World::with_two_points().forget(1) }
}

fn writer_once() -> Actor {
    Actor::writer(None, 1, Rules::default())
}

fn once(repack: bool) -> Actor {
    Actor::sweeper(repack, 1, Rules::default())
}

#[test]
fn a_writer_and_two_sweepers() {
    all(State::new(first_forgotten(), vec![writer_once(), once(false), once(false)], 0), false);
}

#[test]
fn a_writer_a_reader_and_a_sweeper_with_an_answer_lost() {
    all(State::new(first_forgotten(), vec![writer_once(), reader(), once(false)], 1), false);
}

#[test]
fn two_writers_and_a_sweeper_with_an_answer_lost() {
    all(State::new(first_forgotten(), vec![writer_once(), writer_once(), once(false)], 1), false);
}

#[test]
fn two_sweepers_and_a_reader_with_an_answer_lost() {
    all(State::new(first_forgotten(), vec![once(false), once(false), reader()], 1), false);
}

#[test]
fn a_writer_and_a_sweeper_that_repacks() {
    all(State::new(both_forgotten(), vec![writer(), sweeper(true)], 2), true);
}

#[test]
fn two_writers() {
    all(State::new(both_forgotten(), vec![writer(), writer()], 2), false);
}

#[test]
fn two_sweepers_that_repack() {
    all(State::new(both_forgotten(), vec![sweeper(true), sweeper(true)], 0), true);
}

#[test]
fn a_successor_that_goes_on_from_an_open_session_beside_a_sweeper() {
    let heir = Actor::writer(Some(1), 1, Rules::default());
    all(State::new(both_forgotten(), vec![writer(), heir, sweeper(false)], 0), false);
}

#[test]
fn a_reader_an_undelete_and_a_sweeper() {
    let undelete = Actor::marker(1, Change::Undelete, Rules::default());
    all(State::new(both_forgotten(), vec![reader(), undelete, sweeper(false)], 1), false);
}

/// Explores with a rule left out, and expects to be told of `loss`.
fn finds(loss: &str, start: State) {
    let told = explore(start, false).expect_err("the rule is not missed");
    assert!(told.contains(loss), "another loss than {loss:?}: {told}");
}

#[test]
fn without_void_a_running_session_loses_its_packs() {
    let rules = Rules { void: false, ..Rules::default() };
    let actors = vec![Actor::writer(None, 1, rules), Actor::sweeper(false, 1, rules)];
    finds("kept point 3", State::new(first_forgotten(), actors, 0));
}

#[test]
fn without_the_newest_kept_a_writer_loses_its_base() {
    let rules = Rules { keep_newest: false, ..Rules::default() };
    let actors = vec![Actor::writer(None, 1, rules), Actor::sweeper(false, 1, rules)];
    finds("needs", State::new(both_forgotten(), actors, 0));
}

#[test]
fn without_reading_back_a_writer_is_told_of_a_point_that_is_not_its_own() {
    let rules = Rules { read_back: false, ..Rules::default() };
    let actors = vec![Actor::writer(None, 1, rules), Actor::writer(None, 1, rules)];
    finds("which is not its own", State::new(first_forgotten(), actors, 1));
}

#[test]
fn without_looking_for_pins_a_reader_loses_its_point() {
    let rules = Rules { honour_pins: false, ..Rules::default() };
    let actors = vec![Actor::reader(1, rules), Actor::sweeper(false, 1, rules)];
    finds("pinned point", State::new(first_forgotten(), actors, 0));
}

/// A writer that stops before it commits point 3, which another takes, which is forgotten, with a point 4 above.
pub(super) fn overtaken(rules: Rules) -> State {
    let mut state = State::new(both_forgotten(), vec![Actor::writer(None, 1, rules)], 0);
    let target = ObjectName::Point(L, PointNumber(3));
    while !matches!(state.asks(0), Some(Request::Create(name, _)) if *name == target) {
        state = state.step(0, true, false);
    }
    for (number, pack) in [(3, 30), (4, 40)] {
        let (session, own) = (id(90 + pack), (id(pack), id(pack)));
        let stub = Record::Point(PointStub { session, base: number - 1 });
        state.world.objects.insert(ObjectName::Point(L, PointNumber(number)), Value::Record(stub));
        state.world.objects.insert(pack_name(own), Value::Pack(vec![(own, 0)], number));
        state.world.maps.insert(session, BTreeSet::from([world::Ref { pack: own, slot: 0, birth: number }]));
        state.world.committed.insert(number, session);
    }
    state.world = std::mem::take(&mut state.world).forget(3);
    let sweeper = State::new(World::default(), vec![Actor::sweeper(false, 1, rules)], 0);
    state.processes.extend(sweeper.processes);
    state
}

#[test]
fn a_writer_that_was_overtaken_and_swept_is_told_so() {
    all(overtaken(Rules::default()), false);
}

#[test]
fn without_rereading_the_retirement_a_writer_is_told_of_a_point_that_does_not_count() {
    let rules = Rules { reread_retired: false, ..Rules::default() };
    finds("which is not its own", overtaken(rules));
}

/// A sweeper that stops before it ends the session of a writer, which commits point 3 all the same. Point 4 uses what that
/// session stored, and point 3 is forgotten.
fn a_late_void(rules: Rules) -> State {
    let actors = vec![Actor::writer(None, 1, rules), Actor::sweeper(false, 1, rules)];
    let mut state = State::new(both_forgotten(), actors, 0);
    let target = ObjectName::Point(L, PointNumber(3));
    for process in 0..2 {
        while !matches!(state.asks(process), Some(Request::Create(name, _)) if *name == target) {
            state = state.step(process, true, false);
        }
    }
    while state.asks(0).is_some() {
        state = state.step(0, true, false);
    }
    let (session, own) = (id(130), (id(40), id(40)));
    let mut refs = state.world.point(3).expect("the writer has committed").clone();
    refs.insert(world::Ref { pack: own, slot: 0, birth: 4 });
    let stub = Record::Point(PointStub { session, base: 3 });
    state.world.objects.insert(ObjectName::Point(L, PointNumber(4)), Value::Record(stub));
    state.world.objects.insert(pack_name(own), Value::Pack(vec![(own, 0)], 4));
    state.world.maps.insert(session, refs);
    state.world.committed.insert(4, session);
    state.world = std::mem::take(&mut state.world).forget(3);
    let sweeper = State::new(World::default(), vec![Actor::sweeper(false, 1, rules)], 0);
    state.processes.extend(sweeper.processes);
    state
}

#[test]
fn a_void_that_comes_when_its_number_was_used_and_swept_ends_nothing() {
    all(a_late_void(Rules::default()), false);
}

#[test]
fn without_rereading_the_retirement_a_late_void_takes_what_points_use() {
    let rules = Rules { reread_retired: false, ..Rules::default() };
    finds("kept point 4", a_late_void(rules));
}
