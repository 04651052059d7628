//! What jobs say of how far they have come, on every table.

use super::*;

fn reports(jobs: &[Job], text: &str) -> Vec<Report> {
    let report = |job: &Job| Report {
        id: job.id,
        token: job.token.clone(),
        text: text.to_owned(),
    };
    jobs.iter().map(report).collect()
}

async fn said(ground: &mut Ground, job: &Job) -> Option<String> {
    let row = ground.row(job.id).await;
    other(&row, "progress").map(str::to_owned)
}

pub(super) async fn a_row_says_how_far_its_own_run_has_come(mut ground: Ground) {
    ground.insert("mail", false, 70).await;
    let jobs = ground.claim("mail", 70).await;
    let (running, accepted) = jobs.split_at(69);
    ground.record(starts(running)).await;
    let locked = ground.store.progress(reports(&jobs, "40 é")).await.unwrap();
    assert_eq!(locked, []);
    if ground.shape == Table::Minimal {
        assert_eq!(said(&mut ground, &jobs[0]).await, None);
        return;
    }
    for job in [&jobs[0], &jobs[63], &jobs[64], &jobs[68]] {
        assert_eq!(said(&mut ground, job).await.as_deref(), Some("40 é"));
    }
    assert_eq!(said(&mut ground, &accepted[0]).await, None);

    let stranger = Report {
        token: ground.tokens.next(Origin::Background),
        ..reports(&jobs, "stranger").remove(0)
    };
    let nobody = Report {
        id: JobId(999_999),
        ..stranger.clone()
    };
    ground.record(finishes(&jobs[1..2])).await;
    let back = Batch {
        releases: jobs[2..3].to_vec(),
        ..Batch::default()
    };
    ground.record(back).await;
    let late = [reports(&jobs[1..3], "late"), vec![stranger, nobody]].concat();
    assert_eq!(ground.store.progress(late).await.unwrap(), []);
    assert_eq!(
        said(&mut ground, &jobs[0]).await.as_deref(),
        Some("40 é"),
        "its claim is not the stranger's"
    );
    assert_eq!(said(&mut ground, &jobs[1]).await.as_deref(), Some("40 é"));
    assert_eq!(said(&mut ground, &jobs[2]).await, None, "it begins anew");

    let long = "é\u{1f41f}".repeat(300);
    let long = ground.store.progress(reports(&jobs[..1], &long)).await;
    assert_eq!(long.unwrap(), []);
    let cut = said(&mut ground, &jobs[0]).await.unwrap();
    assert!(cut.starts_with("é\u{1f41f}é") && cut.len() >= 250, "{cut}");
}

/// Where there is one lock for all rows, it is waited for.
#[tokio::test]
async fn a_report_waits_for_no_lock_on_mysql() {
    let mut ground = Ground::mysql(Table::Full).await;
    ground.insert("mail", false, 3).await;
    let jobs = ground.claim("mail", 3).await;
    ground.record(starts(&jobs)).await;
    let DatabaseSettings::MySql(settings) = &ground.settings else {
        unreachable!("it is one on MySQL");
    };
    let mut other = jobd_proto::table::connect_mysql(settings).await.unwrap();
    let lock = format!(
        "BEGIN; UPDATE jobs SET time_created = 5 WHERE id = {}",
        jobs[1].id
    );
    let lock = AssertSqlSafe(lock);
    sqlx::raw_sql(lock).execute(&mut other).await.unwrap();
    let begun = Instant::now();
    let locked = ground.store.progress(reports(&jobs, "7 half")).await;
    assert_eq!(locked.unwrap(), [jobs[1].id]);
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
    sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap();
    assert_eq!(said(&mut ground, &jobs[1]).await, None);
    assert_eq!(said(&mut ground, &jobs[2]).await.as_deref(), Some("7 half"));
    let again = ground
        .store
        .progress(reports(&jobs[1..2], "8"))
        .await
        .unwrap();
    assert_eq!(again, []);
    assert_eq!(said(&mut ground, &jobs[1]).await.as_deref(), Some("8"));
}
