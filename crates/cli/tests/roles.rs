//! `--as` and `vmkeep roles`: what a user may do follows from the roles kept in the vault.

#![allow(clippy::unwrap_used)]

mod harness;

use harness::Scratch;

/// A vault with one point, and users of three roles.
fn scene() -> Scratch {
    let scratch = Scratch::with_vault();
    scratch.disk("os.raw", 1 << 20, &[(0, 5000, 1)]);
    scratch.summary("backup --vm web --disk os=os.raw");
    for (who, role) in
        [("rita", "backup-reader"), ("olaf", "backup-operator"), ("cora", "backup-contributor")]
    {
        scratch.summary(&format!("roles grant {who} {role}"));
    }
    scratch
}

#[test]
fn each_role_may_what_it_may_and_is_told_what_it_may_not() {
    let scratch = scene();
    let backup = "backup --vm web --disk os=os.raw";
    let table = [
        ("points", "yyyn"),
        ("verify", "yyyn"),
        ("diff web@1 web@latest", "yyyn"),
        (backup, "nyyn"),
        ("restore web@1 --to out --force", "nyyn"),
        ("hold web@1", "nnyn"),
        ("release web@1", "nnyn"),
        ("forget web@1", "nnyn"),
        ("undelete web@1", "nnyn"),
        ("sweep --dry-run", "nnyn"),
        ("roles list", "yyyn"),
        ("roles grant eve owner", "nnnn"),
        ("close web --yes", "nnyn"),
    ];
    for (command, may) in table {
        for (who, may) in ["rita", "olaf", "cora", "eve"].iter().zip(may.chars()) {
            let ran = scratch.json(&format!("{command} --as {who}"));
            if may == 'y' {
                ran.expect(0, &format!("{who}: {command}"));
            } else {
                let error = ran.expect(1, &format!("{who}: {command}")).error();
                let text = error["message"].as_str().unwrap();
                assert!(text.starts_with(&format!("{who} may not ")) && text.contains("roles"), "{text}");
            }
        }
    }
    let unknown = scratch.json("roles grant eve king").expect(1, "no such role").error();
    assert!(unknown["message"].as_str().unwrap().contains("king"), "{unknown}");
    scratch.json("verify").expect(0, "nothing is damaged by this");
}

#[test]
fn roles_list_shows_who_may_what_and_a_role_of_ones_own_works() {
    let scratch = scene();
    scratch.summary("roles define auditor --allow view,verify");
    scratch.summary("roles grant abe auditor");
    scratch.json("points --as abe").expect(0, "it allows to look");
    scratch.json("hold web@1 --as abe").expect(1, "and nothing else");
    scratch.summary("roles revoke abe auditor");
    scratch.json("points --as abe").expect(1, "it was taken");

    let listed = scratch.json("roles list").expect(0, "roles");
    let grants = listed.of_type("grant");
    assert!(grants.iter().any(|grant| grant["who"] == "rita" && grant["roles"][0] == "backup-reader"));
    let roles = listed.of_type("role");
    let auditor = roles.iter().find(|role| role["role"] == "auditor").unwrap();
    assert_eq!(auditor["allows"], serde_json::json!(["view", "verify"]));
    assert_eq!(roles.len(), 7);
    assert_eq!(listed.summary()["guarded"], false);
    scratch.json("roles define auditor --allow everything").expect(2, "no such operation");
}

#[test]
fn a_second_person_approves_for_a_time() {
    let scratch = scene();
    scratch.summary("roles grant max backup-mua-operator");
    assert_eq!(scratch.summary("roles grant mia backup-mua-admin")["guarded"], true);
    scratch.json("roles request destroy-keys --vm web --as max").expect(0, "asks");
    scratch.json("roles request destroy-keys --as rita").expect(1, "may not ask");
    scratch.json("roles request backup --as max").expect(1, "needs no approval");
    assert_eq!(scratch.json("roles list").of_type("request").len(), 1);

    scratch.json("roles approve cora destroy-keys --vm web --as max").expect(1, "who asks does not approve");
    scratch.json("roles approve mia destroy-keys --as mia").expect(1, "nor for herself");
    scratch.json("roles approve cora destroy-keys --for 8d --as mia").expect(1, "nor for ever");
    scratch.json("roles approve max destroy-keys --vm web --for 2h --as mia").expect(0, "approves");
    let listed = scratch.json("roles list");
    assert_eq!(listed.of_type("request").len(), 0, "{}", listed.stdout);
    let approvals = listed.of_type("approval");
    assert_eq!((approvals.len(), &approvals[0]["by"]), (1, &serde_json::json!("mia")));
}
