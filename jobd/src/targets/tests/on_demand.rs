//! Patterns, and the names that come and go with their rows.

use super::*;

fn named(name: &str) -> TargetName {
    TargetName::new(name).unwrap()
}

fn selected(names: &[&str]) -> Selection {
    Selection::Named(names.iter().map(|name| (*name).to_owned()).collect())
}

/// One pattern, `user/*`, with this concurrency, whose first search has found these names.
fn on_demand(concurrency: u32, names: &[&str]) -> Targets {
    let mut targets = Targets::new(0);
    targets.add(named("user/*"), concurrency).unwrap();
    let search = targets.searches().pop().unwrap();
    assert_eq!((search.prefix.as_str(), &search.after), ("user/", &None));
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    targets.found(&search, names, false);
    targets
}

fn status(targets: &Targets) -> Vec<String> {
    targets.status().into_keys().collect()
}

#[test]
fn a_target_that_is_to_rest_does_so_although_it_has_gone_with_its_last_job() {
    let now = Instant::now();
    let mut targets = on_demand(1, &["user/7"]);
    assert_eq!(targets.claims(now).len(), 1);
    targets.claimed(&named("user/7"), 1, vec![], now);
    assert_eq!(status(&targets), ["user/*"]);
    let until = now + Duration::from_secs(1);
    targets.rest(&named("user/7"), until);
    targets.want(&[named("user/7")]);
    assert_eq!(targets.claims(now), []);
    targets.wake(until);
    assert_eq!(targets.claims(until), [(named("user/7"), 1)]);
}

#[test]
fn a_pattern_makes_a_target_for_each_name_and_parts_with_it_when_it_is_empty() {
    let now = Instant::now();
    let mut targets = on_demand(1, &["user/8"]);
    targets.poll(&selected(&["user/7"])).unwrap();
    assert_eq!(targets.names(), [named("user/*")], "what the master knows");
    assert_eq!(
        targets.claims(now),
        [(named("user/7"), 1), (named("user/8"), 1)],
        "each has a limit of its own"
    );
    let row = vec![job(1, named("user/7"), Origin::Background)];
    assert!(targets.claimed(&named("user/7"), 1, row, now).is_empty());
    assert!(targets.claimed(&named("user/8"), 1, vec![], now).is_empty());
    assert_eq!(
        status(&targets),
        ["user/*", "user/7"],
        "nothing to do for 8"
    );
    assert_eq!(targets.status()["user/*"].extra["names"], 1);
    assert_eq!(targets.status()["user/7"].extra["pattern"], "user/*");
    assert_eq!(targets.startable(now).len(), 1);
    targets.ended(&named("user/7"), now);
    let claims = targets.claims(now);
    assert_eq!(claims[0].0, named("user/7"), "the first claim was full");
    assert!(
        targets
            .claimed(&named("user/7"), claims[0].1, vec![], now)
            .is_empty()
    );
    assert_eq!(status(&targets), ["user/*"]);
    assert_eq!(
        targets.poll(&selected(&["users"])),
        Err(TargetError::Invalid("users".into()))
    );
    targets.want(&[named("user/7"), named("other")]);
    assert_eq!(
        status(&targets),
        ["user/*", "user/7"],
        "a row has come back"
    );
}

#[test]
fn an_exact_name_wins_over_patterns_and_the_most_specific_pattern_over_others() {
    let now = Instant::now();
    let mut targets = on_demand(1, &[]);
    for (name, concurrency) in [("user/vip/*", 5), ("*", 9), ("user/1", 3)] {
        targets.add(named(name), concurrency).unwrap();
    }
    let polled = ["user/1", "user/2", "user/vip/2", "mail"];
    targets.poll(&selected(&polled)).unwrap();
    let claims: BTreeMap<String, u32> = targets
        .claims(now)
        .into_iter()
        .map(|(name, rows)| (name.to_string(), rows))
        .collect();
    let rows = polled.map(|name| claims[name]);
    assert_eq!((rows, claims.len()), ([3, 1, 5, 9], 4));
    // What a pattern had served goes to the next best, with its limit, or is served no longer.
    let busy = vec![job(1, named("user/vip/2"), Origin::Background)];
    assert!(
        targets
            .claimed(&named("user/vip/2"), 5, busy, now)
            .is_empty()
    );
    assert_eq!(targets.remove(&named("user/vip/*")), Err(TargetError::Busy));
    assert_eq!(targets.retire(&named("user/vip/*")).unwrap().1, 0);
    assert_eq!(targets.status()["user/vip/2"].concurrency, 1);
    targets.retire(&named("*")).unwrap();
    let (back, left) = targets.retire(&named("user/*")).unwrap();
    assert_eq!((back.len(), left), (1, 0));
    targets.claim_failed(&named("mail"), now);
    targets.claim_failed(&named("user/2"), now);
    targets.claim_failed(&named("user/vip/2"), now);
    assert_eq!(status(&targets), ["user/1"]);
}

#[test]
fn what_was_set_for_a_name_is_kept_while_it_differs_from_its_pattern() {
    let now = Instant::now();
    let mut targets = on_demand(1, &[]);
    let user = |number: u32| named(&format!("user/{number}"));
    targets.set_concurrency(&user(1), 4).unwrap();
    let names = targets.select(&selected(&["user/2"])).unwrap();
    targets.pause(&names);
    for claim in targets.claims(now) {
        assert!(targets.claimed(&claim.0, claim.1, vec![], now).is_empty());
    }
    assert_eq!(status(&targets), ["user/*", "user/1", "user/2"]);
    assert_eq!(
        targets.remove(&user(1)),
        Err(TargetError::OnDemand(user(1), named("user/*")))
    );
    // The pattern's limit is that of those without one of their own.
    targets.poll(&selected(&["user/3"])).unwrap();
    targets.set_concurrency(&named("user/*"), 2).unwrap();
    let limits = targets.status();
    assert_eq!(
        (limits["user/1"].concurrency, limits["user/3"].concurrency),
        (4, 2)
    );
    // A pause of the pattern is one of every name, and so is its end.
    let pattern = targets.select(&selected(&["user/*"])).unwrap();
    targets.pause(&pattern);
    assert!(targets.claims(now).is_empty() && targets.searches().is_empty());
    targets.poll(&selected(&["user/9"])).unwrap();
    assert_eq!(
        status(&targets),
        ["user/*", "user/1"],
        "the others are as their pattern is"
    );
    targets
        .push_manual(job(1, user(5), Origin::Manual))
        .unwrap();
    assert_eq!(
        targets.startable(now).len(),
        1,
        "manual jobs ignore a pause"
    );
    targets.ended(&user(5), now);
    assert!(!targets.status().contains_key("user/5"));
    let name = targets.select(&selected(&["user/6"])).unwrap();
    targets.resume(&name);
    assert_eq!(targets.claims(now).len(), 1, "a name may go on by itself");
    targets.resume(&pattern);
    assert_eq!(targets.searches().len(), 1);
    targets.set_concurrency(&user(1), 2).unwrap();
    for claim in targets.claims(now) {
        assert!(targets.claimed(&claim.0, claim.1, vec![], now).is_empty());
    }
    targets.claim_failed(&user(6), now);
    assert_eq!(status(&targets), ["user/*", "user/6"]);
}

#[test]
fn a_name_of_a_pattern_and_a_target_of_its_own_take_turns() {
    let now = Instant::now();
    let mut targets = on_demand(1, &["user/1"]);
    assert_eq!(targets.claims(now).len(), 1);
    let row = vec![job(1, named("user/1"), Origin::Background)];
    assert!(targets.claimed(&named("user/1"), 1, row, now).is_empty());
    targets.add(named("user/1"), 7).unwrap();
    assert_eq!(targets.status()["user/*"].extra["names"], 0);
    assert_eq!(targets.startable(now).len(), 1);
    assert_eq!(targets.names().len(), 2);
    targets.retire(&named("user/1")).unwrap();
    targets.poll(&selected(&["user/1"])).unwrap();
    assert_eq!(
        targets.status()["user/1"].concurrency,
        1,
        "its pattern's again"
    );
    targets.ended(&named("user/1"), now);
    let claims = targets.claims(now);
    assert!(
        targets
            .claimed(&named("user/1"), claims[0].1, vec![], now)
            .is_empty()
    );
    assert_eq!(status(&targets), ["user/*"]);
}

#[test]
fn names_that_the_table_does_not_tell_apart_are_one_target() {
    let now = Instant::now();
    let mut targets = on_demand(1, &["user/a", "User/a"]);
    targets.add(named("Mail"), 1).unwrap();
    targets.add(named("*"), 1).unwrap();
    assert_eq!(status(&targets), ["*", "Mail", "user/*", "user/a"]);
    targets.ignore_case();
    targets
        .poll(&selected(&["USER/A", "mail", "User/b", "user/B"]))
        .unwrap();
    let claims = targets.claims(now);
    let names: Vec<&str> = claims.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["Mail", "User/b", "user/a"]);
    assert_eq!(targets.status()["User/b"].extra["pattern"], "user/*");
    let mut manual = Vec::new();
    targets
        .push_manual(job(1, named("USER/B"), Origin::Manual))
        .unwrap();
    manual.extend(targets.startable(now));
    assert_eq!(manual[0].target, named("User/b"));
}

/// So many names at a time cost no more than as many targets, and the rest have their turn.
#[test]
fn thousands_of_names_are_served_in_turns() {
    let now = Instant::now();
    let mut targets = Targets::new(0);
    targets.add(named("user/*"), 1).unwrap();
    let all: Vec<String> = (0..6_000)
        .map(|number| format!("user/{number:05}"))
        .collect();
    let mut waiting: std::collections::BTreeSet<String> = all.iter().cloned().collect();
    let (mut searches, mut claims, mut most) = (0, 0, 0);
    while !waiting.is_empty() {
        targets.search();
        while let Some(search) = targets.searches().pop() {
            searches += 1;
            let behind = search.after.clone().unwrap_or_default();
            let names: Vec<String> = waiting.range(behind.clone()..).cloned().collect();
            let names: Vec<String> = names.into_iter().filter(|name| *name != behind).collect();
            let more = names.len() > 64;
            targets.found(&search, names.into_iter().take(64).collect(), more);
        }
        most = most.max(targets.status().len() - 1);
        for (name, asked) in targets.claims(now) {
            claims += 1;
            let row = waiting.remove(name.as_str());
            let row = row.then(|| job(claims, name.clone(), Origin::Background));
            assert!(
                targets
                    .claimed(&name, asked, row.into_iter().collect(), now)
                    .is_empty()
            );
        }
        for job in targets.startable(now) {
            targets.ended(&job.target, now);
        }
    }
    for (name, asked) in targets.claims(now) {
        assert!(targets.claimed(&name, asked, vec![], now).is_empty());
    }
    assert_eq!(most, 4096);
    assert_eq!(status(&targets), ["user/*"]);
    // 94 searches of 64 names, and a few that go on where the limit was met.
    assert!(searches <= 200, "{searches} searches");
    assert!(claims <= 3 * 6_000, "{claims} claims");
}
