//! `verify --budget`: a part of the vault at a time, and what the vault remembers of it.

#![allow(clippy::unwrap_used)]

mod harness;

use harness::{Scratch, flip};

fn vault() -> Scratch {
    let scratch = Scratch::with_vault();
    scratch.disk("disk", 8 << 20, &[(0, 4 << 20, 1)]);
    for seed in 2..6 {
        scratch.summary("backup --vm web --disk os=disk");
        scratch.change("disk", seed << 20, 1 << 19, seed);
    }
    scratch
}

#[test]
fn regular_runs_cover_the_vault_in_the_number_of_runs_that_is_printed() {
    let scratch = vault();
    let (mut objects, mut bytes) = (0, 0);
    for n in 1..=4 {
        let summary = scratch.summary("verify --budget 25%");
        assert_eq!((&summary["clean"], &summary["depth"]), (&true.into(), &"sealed".into()));
        assert_eq!((&summary["period_runs"], &summary["round_taken"]), (&4.into(), &(n % 4).into()));
        assert_eq!(summary["verified_until"].is_null(), n < 4, "{summary}");
        objects += summary["objects"].as_u64().unwrap();
        bytes += summary["bytes"].as_u64().unwrap();
        if n == 4 {
            assert_eq!(summary["total_objects"], objects);
            assert_eq!(summary["total_bytes"], bytes);
        }
    }
    let text = scratch.ok("verify --vault v --key-file key --budget 1G --depth blocks").stdout;
    assert!(text.contains("every pack is checked within") && text.contains("verified until"), "{text}");
    let log = scratch.json("log --kind verified").expect(0, "log");
    assert_eq!(log.of_type("entry").len(), 5);
    assert!(log.of_type("entry")[3]["what"].as_str().unwrap().contains("; verified until "));
}

#[test]
fn damage_is_told_at_once_and_again_until_it_is_looked_at() {
    let scratch = vault();
    let pack = scratch.data_pack();
    flip(&pack, 5000);
    let ran = scratch.json("verify --budget 100%").expect(3, "damaged");
    let told = ran.of_type("damaged_object");
    assert_eq!((told.len(), &told[0]["vm"], &told[0]["disk"]), (1, &"web".into(), &"os".into()));
    assert!(told[0]["ranges"].as_array().unwrap()[0][1].as_u64().unwrap() >= 65_536, "{told:?}");
    assert!(pack.ends_with(told[0]["object"].as_str().unwrap()));
    assert_eq!(ran.summary()["vault_clean"], false);
    let text = scratch.run("verify --vault v --key-file key --budget 100%").expect(3, "text").stdout;
    assert!(text.contains("authentication failed") && text.contains("web disk os"), "{text}");
    flip(&pack, 5000);
    // A part of a round that finds nothing does not take it back; a whole one does, and so does a full verification.
    let summary = scratch.summary("verify --depth sealed");
    assert_eq!((&summary["clean"], &summary["depth"]), (&true.into(), &"sealed".into()));
    let summary = scratch.summary("verify --budget 1%");
    assert_eq!((&summary["vault_clean"], summary["verified_until"].is_null()), (&true.into(), false));
}

#[test]
fn a_budget_that_is_none_is_refused() {
    let scratch = vault();
    for words in ["0", "0%", "101%", "5.%", ".5%", "1.2345%", "-5%", "5 %", "much", "1000%", "+5%"] {
        let arguments = ["verify", "--vault", "v", "--key-file", "key", "--budget"];
        let out = scratch.command("").args(arguments).arg(words).output().unwrap();
        assert_eq!(out.status.code(), Some(2), "{words}");
    }
    for words in ["--budget 5% web@1", "--budget 5% --structure", "--budget 5% --depth structure"] {
        scratch.run(&format!("verify --vault v --key-file key {words}")).expect(2, words);
    }
    for words in ["0.001%", "99.5%", "100%", "5%"] {
        scratch.summary(&format!("verify --budget {words}"));
    }
}
