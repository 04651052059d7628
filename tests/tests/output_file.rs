//! `output_file`: output in files, beside the columns or in place of them.

use std::os::unix::fs::symlink;
use std::path::Path;

use jobd_tests::Jobd;
use jobd_tests::disk::Disk;
use jobd_tests::ground::Ground;
use jobd_tests::programs::Daemon;
use jobd_tests::until;
use jobd_tests::wait::PATIENCE;

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[tokio::test]
async fn output_goes_to_a_file_as_it_comes_and_to_the_columns() {
    for ground in Ground::each().await {
        let logs = ground.scratch.join("logs");
        let go = ground.scratch.join("go");
        let script = format!(
            "echo out; echo err >&2; while [ ! -e {} ]; do sleep 0.02; done; echo late; exit 3",
            go.display()
        );
        let script = ground.scratch.write("job.sh", script);
        let ini = ground
            .ini()
            .set("launcher", format!("sh {}", script.display()))
            .set("output_file", format!("{}/%t/%i-%a.log", logs.display()))
            .target("user/../7", 1)
            .target("only", 1)
            .own("only", "output_file_only", "1")
            .target("none", 1)
            .own("none", "output_file", "none");
        let _jobd = Jobd::start(&ground.scratch, &ini).await;
        let id = ground.insert("user/../7", &[]).await;
        let file = logs.join(format!("user%2F..%2F7/{id}-1.log"));
        until("the first lines to be in the file", PATIENCE, async || {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            (text.lines().count() == 2).then_some(())
        })
        .await;
        std::fs::write(&go, "").expect("let it go on");
        assert_eq!(ground.verdict(id).await, "fail 3 - exit");
        let text = read(&file);
        assert!(
            text == "out\nerr\nlate\n" || text == "err\nout\nlate\n",
            "{text}"
        );
        assert_eq!(
            ground.text(id, "stdout").await.as_deref(),
            Some("out\nlate\n")
        );

        let id = ground.insert("only", &[]).await;
        assert_eq!(ground.verdict(id).await, "fail 3 - exit");
        assert_eq!(
            read(&logs.join(format!("only/{id}-1.log"))).lines().count(),
            3
        );
        for column in ["stdout", "stderr"] {
            assert_eq!(
                ground.text(id, column).await.as_deref(),
                Some(""),
                "{column}"
            );
        }
        let id = ground.insert("none", &[]).await;
        assert_eq!(ground.verdict(id).await, "fail 3 - exit");
        assert_eq!(ground.text(id, "stderr").await.as_deref(), Some("err\n"));
        assert!(!logs.join("none").exists());
    }
}

#[tokio::test]
async fn a_loud_job_is_in_its_file_to_the_last_byte() {
    let ground = Ground::sqlite().await;
    let logs = ground.scratch.join("logs");
    let ini = ground
        .ini()
        .set(
            "launcher",
            "sh -c 'head -c 50000000 /dev/zero | tr \"\\0\" x'",
        )
        .set("output_file", format!("{}/%i", logs.display()))
        .set("max_output_buffer", "1K")
        .target("a", 1);
    let _jobd = Jobd::start(&ground.scratch, &ini).await;
    let id = ground.insert("a", &[]).await;
    assert_eq!(ground.verdict(id).await, "ok 0 - -");
    let file = std::fs::metadata(logs.join(id.to_string())).expect("a file");
    assert_eq!(file.len(), 50_000_000);
}

#[tokio::test]
async fn a_file_takes_so_much_of_a_run_and_says_so_and_the_job_goes_on() {
    for ground in Ground::each().await {
        let logs = ground.scratch.join("logs");
        let ini = ground
            .ini()
            .set(
                "launcher",
                "sh -c 'head -c 300000 /dev/zero | tr \"\\0\" x\\; echo well >&2'",
            )
            .set("output_file", format!("{}/%t-%i", logs.display()))
            .set("output_file_max", "100000")
            .target("both", 1)
            .target("only", 1)
            .own("only", "output_file_only", "1")
            .target("free", 1)
            .own("free", "output_file_max", "0");
        let _jobd = Jobd::start(&ground.scratch, &ini).await;
        for target in ["both", "only"] {
            let id = ground.insert(target, &[]).await;
            assert_eq!(ground.verdict(id).await, "ok 0 - -", "{target}");
            let file = read(&logs.join(format!("{target}-{id}")));
            let (output, end) = file.split_at(100_000);
            assert!(output.bytes().all(|byte| byte == b'x'), "{target}");
            assert_eq!(
                end,
                "\njobd: output_file_max: what follows is not in this file\n"
            );
            // What the file does not have all of is in the columns.
            let length = ground.text(id, "LENGTH(stdout)").await;
            assert_eq!(length.as_deref(), Some("300000"), "{target}");
            let err = ground.text(id, "stderr").await.expect("stderr");
            assert!(
                err.starts_with("well\njobd: output_file ") && err.contains("first 100000 bytes"),
                "{target}: {err}"
            );
        }
        let id = ground.insert("free", &[]).await;
        assert_eq!(ground.verdict(id).await, "ok 0 - -");
        assert_eq!(read(&logs.join(format!("free-{id}"))).len(), 300_005);
    }
}

#[tokio::test]
async fn a_disk_that_is_full_in_the_middle_of_a_job_harms_no_job() {
    let ground = Ground::sqlite().await;
    let folder = ground.scratch.join("disk");
    std::fs::create_dir(&folder).expect("a folder");
    let Some(disk) = Disk::mount(&folder, &ground.scratch).await else {
        // A system that lets nobody mount has no small disk to fill.
        return;
    };
    let ini = ground
        .ini()
        .set(
            "launcher",
            "sh -c 'head -c 300000 /dev/zero | tr \"\\0\" x\\; echo well >&2'",
        )
        .set("output_file", format!("{}/%i", folder.display()))
        .set("output_file_only", "1")
        .target("a", 1);
    let mut jobd = Daemon::launch(&disk.program("jobd"), &ground.scratch, &ini);
    jobd.listening().await;
    for _ in 0..2 {
        let id = ground.insert("a", &[]).await;
        assert_eq!(ground.verdict(id).await, "ok 0 - -");
        let length = ground.text(id, "LENGTH(stdout)").await;
        assert_eq!(length.as_deref(), Some("300000"));
        let err = ground.text(id, "stderr").await.expect("stderr");
        assert!(
            err.starts_with("well\njobd: cannot write output_file ")
                && err.contains("No space left"),
            "{err}"
        );
    }
}

#[tokio::test]
async fn what_cannot_be_written_harms_no_job() {
    for ground in Ground::each().await {
        let folder = ground.scratch.join("logs");
        std::fs::create_dir(&folder).expect("a folder");
        let victim = ground.scratch.write("victim", "untouched");
        symlink(&victim, folder.join("linked")).expect("a link");
        let fifo = std::process::Command::new("mkfifo")
            .arg(folder.join("fifo"))
            .status();
        assert!(fifo.expect("mkfifo").success());
        let ini = ground
            .ini()
            .set(
                "launcher",
                "sh -c 'head -c 300000 /dev/zero | tr \"\\0\" x\\; echo well >&2'",
            )
            .set("output_file", format!("{}/%t", folder.display()))
            .set("output_file_only", "1")
            .target("linked", 1)
            .target("fifo", 1)
            .target("full", 1)
            .own("full", "output_file", "/dev/full")
            .target("folder", 1)
            .own(
                "folder",
                "output_file",
                format!("{}/victim/%i", ground.scratch.path().display()),
            );
        let _jobd = Jobd::start(&ground.scratch, &ini).await;
        for target in ["linked", "fifo", "full", "folder"] {
            let id = ground.insert(target, &[]).await;
            assert_eq!(ground.verdict(id).await, "ok 0 - -", "{target}");
            let length = ground.text(id, "LENGTH(stdout)").await;
            assert_eq!(length.as_deref(), Some("300000"), "{target}");
            let err = ground.text(id, "stderr").await.expect("stderr");
            assert!(
                err.starts_with("well\njobd: cannot write output_file "),
                "{target}: {err}"
            );
        }
        assert_eq!(read(&victim), "untouched");
    }
}

/// Who runs jobs as another user gives that user no way to have jobd write elsewhere.
#[tokio::test]
async fn a_link_that_stands_below_what_all_files_share_is_not_followed() {
    for ground in Ground::each().await {
        let (disk, secret) = (ground.scratch.join("disk"), ground.scratch.join("secret"));
        for folder in [&disk, &secret] {
            std::fs::create_dir(folder).expect("a folder");
        }
        let logs = ground.scratch.join("logs");
        symlink(&disk, &logs).expect("a link above");
        symlink(&secret, disk.join("linked")).expect("a link below");
        std::fs::create_dir(disk.join("deep")).expect("a folder");
        symlink(&secret, disk.join("deep/1")).expect("a link below");
        let mut ini = ground
            .ini()
            .set("launcher", "echo well")
            .set("output_file", format!("{}/%t/%a/%i", logs.display()))
            .target("linked", 1)
            .target("deep", 1)
            .target("plain", 1);
        if rustix::process::geteuid().is_root() {
            ini = ini.set("user", "nobody");
        }
        let _jobd = Jobd::start(&ground.scratch, &ini).await;
        for (target, link) in [("linked", "linked"), ("deep", "1")] {
            let id = ground.insert(target, &[]).await;
            assert_eq!(ground.verdict(id).await, "ok 0 - -", "{target}");
            let out = ground.text(id, "stdout").await;
            assert_eq!(out.as_deref(), Some("well\n"), "{target}");
            let err = ground.text(id, "stderr").await.expect("stderr");
            let why = format!(": {link} is no folder, and no link is followed\n");
            assert!(err.ends_with(&why), "{target}: {err}");
        }
        let found = std::fs::read_dir(&secret).expect("the folder").count();
        assert_eq!(found, 0, "written through a link");
        let id = ground.insert("plain", &[]).await;
        assert_eq!(ground.verdict(id).await, "ok 0 - -");
        assert_eq!(read(&disk.join(format!("plain/1/{id}"))), "well\n");
    }
}
