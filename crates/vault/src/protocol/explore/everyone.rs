//! Two writers of one lineage, a reader with a pin and two sweepers, all at once; and that exploring one order of steps
//! that may change places finds what exploring all orders finds.

use super::actor::Actor;
use super::runs::{both_forgotten, first_forgotten, overtaken};
use super::whole::{Explored, explore_whole};
use super::world::World;
use super::{Change, Rules, State, explore, wander};

/// Who takes part: writers, readers and sweepers, `S` one that repacks, `u` one who undeletes.
fn of(who: &str, world: World, rules: Rules) -> State {
    let actor = |kind| match kind {
        'w' => Actor::writer(None, 1, rules),
        'r' => Actor::reader(1, rules),
        's' => Actor::sweeper(false, 1, rules),
        'S' => Actor::sweeper(true, 1, rules),
        _ => Actor::marker(1, Change::Undelete, rules),
    };
    State::new(world, who.chars().map(actor).collect(), 0)
}

/// Explores the whole, with as many answers lost to one of them as said.
fn whole(who: &str, at: usize, losses: u8) {
    let time = std::time::Instant::now();
    let start = of(who, first_forgotten(), Rules::default()).with_losses(at, losses);
    let Explored { states, steps, ends, finite } =
        explore_whole(&start, true, who.contains('S')).unwrap_or_else(|e| panic!("{e}"));
    assert!(finite, "a process can become again what it was");
    let ends = ends.len();
    println!(
        "{who}, {losses} lost to {at}: {states} states by {steps} steps to {ends} ends in {:?}",
        time.elapsed()
    );
}

/// Every interleaving of the five. No answer is lost here. With one answer lost, at any call of any of them, every four of
/// the five are explored below, and all five by `cargo xtask explore`.
#[test]
fn everyone_in_every_way() {
    whole("wwrss", 0, 0);
}

#[test]
fn everyone_but_a_writer_with_an_answer_lost() {
    for at in 0..3 {
        whole("wrss", at, 1);
    }
}

#[test]
fn everyone_but_the_reader_with_an_answer_lost_to_a_writer() {
    whole("wwss", 0, 1);
}

#[test]
fn everyone_but_the_reader_with_an_answer_lost_to_a_sweeper() {
    whole("wwss", 2, 1);
}

#[test]
fn everyone_but_a_sweeper_with_an_answer_lost() {
    for at in [0, 2, 3] {
        whole("wwrs", at, 1);
    }
}

#[test]
fn a_writer_a_reader_and_two_sweepers_that_repack() {
    whole("wrSS", 0, 0);
}

#[test]
fn two_writers_and_two_sweepers_of_which_one_repacks() {
    whole("wwsS", 0, 0);
}

#[test]
#[ignore = "minutes: cargo xtask explore"]
fn everyone_where_a_sweeper_repacks() {
    whole("wwrsS", 0, 0);
}

#[test]
#[ignore = "minutes: cargo xtask explore"]
fn everyone_with_an_answer_lost_to_a_writer() {
    whole("wwrss", 0, 1);
}

#[test]
#[ignore = "minutes: cargo xtask explore"]
fn everyone_with_an_answer_lost_to_the_reader() {
    whole("wwrss", 2, 1);
}

#[test]
#[ignore = "minutes: cargo xtask explore"]
fn everyone_with_an_answer_lost_to_a_sweeper() {
    whole("wwrss", 3, 1);
}

/// With one and two answers lost to anybody, along many ways.
#[test]
fn everyone_with_answers_lost_along_many_ways() {
    for losses in 1..3 {
        let start = State { losses, ..of("wwrss", first_forgotten(), Rules::default()) };
        let runs = wander(&start, 7 + u64::from(losses), 200_000).unwrap_or_else(|e| panic!("{e}"));
        println!("200000 states in {runs} runs");
    }
}

#[test]
fn states_by_numbers_are_as_many_as_states() {
    for who in ["ww", "wS", "rus", "Ss"] {
        let start = of(who, both_forgotten(), Rules::default());
        let explored = explore_whole(&start, false, who.contains('S')).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(Ok(explored.states), explore(start, who.contains('S')), "{who}");
    }
}

#[test]
fn one_order_leads_to_the_same_ends() {
    let runs = [
        ("ww", 1),
        ("wr", 1),
        ("ws", 1),
        ("wS", 1),
        ("rs", 1),
        ("ss", 1),
        ("SS", 0),
        ("rus", 0),
        ("wws", 0),
        ("wss", 0),
        ("wrs", 1),
        ("rss", 0),
    ];
    for (who, losses) in runs {
        for (world, at) in [(first_forgotten(), 0), (both_forgotten(), who.len() - 1)] {
            let start = of(who, world, Rules::default()).with_losses(at, losses);
            let [all, one] = [false, true].map(|reduce| {
                explore_whole(&start, reduce, who.contains('S')).unwrap_or_else(|e| panic!("{who}: {e}"))
            });
            assert!(one.states < all.states, "{who}");
            assert_eq!(one.ends, all.ends, "{who}");
        }
    }
}

/// Rules, each left out, with what is lost then.
fn left_out() -> [(Rules, &'static str); 4] {
    let all = Rules::default();
    [
        (Rules { void: false, ..all }, "kept point 3"),
        (Rules { keep_newest: false, ..all }, "point"),
        (Rules { read_back: false, ..all }, "which is not its own"),
        (Rules { honour_pins: false, ..all }, "pinned point"),
    ]
}

fn world_for(rules: Rules) -> World {
    if rules.keep_newest { first_forgotten() } else { both_forgotten() }
}

#[test]
fn one_order_finds_what_is_wrong_where_all_do() {
    for (rules, _) in left_out() {
        for who in ["ww", "rs", "ws", "wrs", "wws"] {
            let start = of(who, world_for(rules), rules).with_losses(0, 1);
            let one = explore_whole(&start, true, false).map(drop);
            assert_eq!(one.is_err(), explore(start, false).is_err(), "{who}: {rules:?} {one:?}");
        }
    }
    let rules = Rules { reread_retired: false, ..Rules::default() };
    for (start, wrong) in [(overtaken(rules), true), (overtaken(Rules::default()), false)] {
        assert_eq!(explore_whole(&start, true, false).is_err(), wrong);
    }
}

/// Not rereading the retirement is not among them: for that to matter, somebody else must forget a point in between.
#[test]
fn with_a_rule_left_out_something_is_lost_among_everyone() {
    for (rules, loss) in left_out() {
        let start = of("wwrss", world_for(rules), rules).with_losses(0, u8::from(!rules.read_back));
        let told = explore_whole(&start, true, false).expect_err("the rule is not missed");
        assert!(told.contains(loss), "another loss than {loss:?}: {told}");
    }
}
