//! Texts that are no UTF-8, as SQLite takes whatever somebody writes, and a binary column: one such row stops no other.

use super::refusals::refuse;
use super::*;

/// A text of these bytes in hexadecimal.
fn raw(hex: &str) -> String {
    format!("CAST(x'{hex}' AS TEXT)")
}

impl Ground {
    async fn set(&self, id: JobId, column: &str, hex: &str) {
        let text = raw(hex);
        self.run(&format!(
            "UPDATE jobs SET {column} = {text} WHERE id = {id}"
        ))
        .await;
    }
}

#[tokio::test]
async fn a_target_of_any_bytes_stops_no_promotion() {
    let mut ground = Ground::sqlite(Table::Full).await;
    let ids = ground.insert("mail", false, 2).await;
    ground.set(ids[0], "target", "6dff").await;
    ground
        .run("UPDATE jobs SET status = 'scheduled', run_at = 5 + id")
        .await;
    let promoted = ground.store.promote().await.unwrap();
    assert!(promoted.targets.contains("mail"), "{promoted:?}");
    assert_eq!(ground.statuses(&ids).await, ["waiting", "waiting"]);
}

#[tokio::test]
async fn errors_of_any_bytes_stop_no_end() {
    let mut ground = Ground::sqlite(Table::Full).await;
    let id = ground.insert("mail", false, 1).await[0];
    let jobs = ground.claim("mail", 1).await;
    ground.record(starts(&jobs)).await;
    ground.set(id, "errors", "5b22ff225d").await;
    let recorded = ground.record(finishes(&jobs)).await;
    assert_eq!(recorded.finished, [true]);
    let row = ground.row(id).await;
    let errors = other(&row, "errors").unwrap();
    assert!(errors.starts_with("[\"\\ufffd\",{"), "{errors}");
}

#[tokio::test]
async fn a_target_of_any_bytes_stops_no_cancellation_and_no_manual_claim() {
    let mut ground = Ground::sqlite(Table::Full).await;
    refuse(&ground).await;
    let ids = ground.insert("mail", true, 3).await;
    ground.set(ids[0], "target", "6dff").await;
    ground
        .run("UPDATE jobs SET own = 'done' WHERE id = 1")
        .await;
    let wishes = ids[..2].iter().map(|id| (*id, None)).collect();
    let fates = ground.store.cancel(wishes, false).await.unwrap();
    assert!(
        matches!(fates[&ids[0]], Cancelled::Refused { .. }),
        "{fates:?}"
    );
    assert_eq!(fates[&ids[1]], Cancelled::Ended);
    let token = ground.tokens.next(Origin::Manual);
    let wanted = vec![ids[0], ids[2]];
    let claimed = ground.store.claim_manual(token, wanted, vec![name("mail")]);
    let claimed = claimed.await.unwrap();
    assert_eq!(super::ids(&claimed.jobs), [ids[2]]);
    let told = format!("target 'm\u{fffd}' not found (job id={})", ids[0]);
    assert_eq!(claimed.errors[&ids[0]], told);
}

#[tokio::test]
async fn a_claim_of_any_bytes_hides_no_other() {
    let mut ground = Ground::sqlite(Table::Full).await;
    let ids = ground.insert("mail", false, 2).await;
    ground.claim("mail", 2).await;
    ground.set(ids[0], "worker", "772f31ff").await;
    let leases = ground.store.leases().await.unwrap();
    let holders: Vec<&str> = leases.iter().map(|lease| lease.worker.as_str()).collect();
    assert_eq!((holders.len(), holders[0]), (2, "w/1\u{fffd}"));
    let row = ground.store.row(ids[0], "w@h/1".to_owned()).await.unwrap();
    assert_eq!(row.unwrap().holder.as_deref(), Some("w"));
}

/// Names as a worker finds them, look after look.
async fn walk(ground: &Ground, prefix: &str) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for _ in 0..100 {
        let after = all.last().cloned();
        let found = ground.store.names(prefix.to_owned(), after).await.unwrap();
        all.extend(found.names);
        if !found.more {
            return all;
        }
    }
    panic!("it goes round: {all:?}");
}

#[tokio::test]
async fn names_of_any_bytes_hide_no_others_and_lead_nowhere_twice() {
    let mut ground = Ground::sqlite(Table::Full).await;
    // As bytes, U+FFFD comes before the first of these and behind the second.
    let broken = ["f5", "80", "6dff", "c328", "f09f98"];
    for hex in broken {
        let id = ground.insert("u/", false, 1).await[0];
        ground.set(id, "target", &format!("752f{hex}")).await;
    }
    let names = ["u/a", "u/m", "u/mail", "u/n", "u/é", "u/\u{fffd}", "u/😀"];
    for name in names {
        ground.insert(name, false, 2).await;
    }
    assert_eq!(walk(&ground, "u/").await, names);
    assert_eq!(walk(&ground, "u/m").await, names[2..3]);
    let all = (0..70).map(|number| format!("v/{number:02}"));
    let all: Vec<String> = all.collect();
    for name in &all {
        let id = ground.insert(name, false, 2).await[0];
        let more = format!("target || {}", raw("ff"));
        ground
            .run(&format!("UPDATE jobs SET target = {more} WHERE id = {id}"))
            .await;
    }
    assert_eq!(walk(&ground, "v/").await, all);
}

/// On a server a column that is no text takes any bytes.
#[tokio::test]
async fn names_in_a_binary_column_hide_no_others() {
    let mut ground = Ground::mysql(Table::Minimal).await;
    ground
        .run("ALTER TABLE jobs MODIFY target VARBINARY(255) NOT NULL")
        .await;
    ground.store.inspect().await.unwrap();
    for name in ["u/a", "u/b", "u/c"] {
        ground.insert(name, false, 2).await;
    }
    ground
        .run("UPDATE jobs SET target = CONCAT('u/a', x'ff') WHERE id IN (2, 3)")
        .await;
    assert_eq!(walk(&ground, "u/").await, ["u/a", "u/b", "u/c"]);
}

/// Rows whose targets are `u/` and two bytes that are no UTF-8, each another.
async fn broken(ground: &mut Ground, count: u32) {
    let ids = ground.insert("u/", false, count).await;
    let bytes = format!(
        "printf('%02x%02x', 128 + (id - {0}) / 112, 128 + (id - {0}) % 112)",
        ids[0]
    );
    ground
        .run(&format!(
            "UPDATE jobs SET target = CAST(unhex('752f' || {bytes}) AS TEXT)"
        ))
        .await;
}

#[tokio::test]
async fn a_name_behind_many_of_any_bytes_is_found() {
    let mut ground = Ground::sqlite(Table::Full).await;
    broken(&mut ground, 1000).await;
    for name in ["u/a", "u/😀"] {
        ground.insert(name, false, 1).await;
    }
    assert_eq!(walk(&ground, "u/").await, ["u/a", "u/😀"]);
}

/// More than a look steps over.
#[tokio::test]
async fn a_look_for_names_ends_among_those_of_any_bytes() {
    let mut ground = Ground::sqlite(Table::Full).await;
    broken(&mut ground, 5000).await;
    for name in ["u/a", "u/😀"] {
        ground.insert(name, false, 1).await;
    }
    assert_eq!(walk(&ground, "u/").await, ["u/a"]);
}
