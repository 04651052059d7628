//! Users, groups, umask, niceness and limits of a target's jobs.

use jobd_tests::ground::Ground;
use jobd_tests::programs::{Daemon, output, path};
use jobd_tests::wait::PATIENCE;
use jobd_tests::{Ini, Jobd, until};
use rustix::process::Signal;
use std::process::Command;

/// What a program prints, without its last line feed.
async fn printed(program: &str, arguments: &[&str]) -> String {
    let output = output(Command::new(program).args(arguments)).await;
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.trim_end().to_owned()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Both shells' built-ins and files of `/proc` tell it.
const TELL: &str = "umask; ulimit -Sn; ulimit -Hn; ulimit -c; cut -d' ' -f19 /proc/self/stat; echo $0 $1 $JOBD_ID; \
                    cut -d' ' -f5 /proc/$$/stat | grep -qx $$ && echo leads; cat";

#[tokio::test]
async fn a_process_is_made_what_its_target_asks_for() {
    for ground in Ground::each().await {
        let script = ground.scratch.write("tell.sh", TELL);
        let ini = ground
            .ini()
            .set("launcher", format!("sh {} 'a b'", script.display()))
            .set("umask", "077")
            .target("own", 1)
            .own("own", "umask", "027")
            .own("own", "nice", "7")
            .own("own", "limit.nofile", "123:456")
            .own("own", "limit.core", "0")
            .target("all", 1);
        let _jobd = Jobd::start(&ground.scratch, &ini).await;
        let id = ground.insert_data("own", b"payload").await;
        assert_eq!(ground.verdict(id).await, "ok 0 - -");
        let expected = format!(
            "0027\n123\n456\n0\n7\n{} a b {id}\nleads\npayload",
            script.display()
        );
        assert_eq!(ground.text(id, "stdout").await, Some(expected));
        let id = ground.insert("all", &[]).await;
        assert_eq!(ground.verdict(id).await, "ok 0 - -");
        let out = ground.text(id, "stdout").await.expect("output");
        assert!(out.starts_with("0077\n"), "{out}");
    }
}

#[tokio::test]
async fn jobs_of_another_user_have_that_users_groups_and_die_like_others() {
    let ground = Ground::mysql().await;
    let ini = ground
        .ini()
        .set("launcher", "sh -c 'id -u\\; id -g\\; id -G\\; echo $USER $LOGNAME $HOME\\; grep CapEff /proc/self/status'")
        .target("nobody", 1)
        .own("nobody", "user", "nobody")
        .target("grouped", 1)
        .own("grouped", "user", "nobody")
        .own("grouped", "group", "daemon")
        .own("grouped", "launcher.env.HOME", "/elsewhere")
        .target("slow", 1)
        .own("slow", "user", "nobody")
        .own("slow", "timeout", "0.5s")
        .own("slow", "launcher", "sh -c 'setsid sleep 1000 & exec sleep 1000'");
    if !is_root() {
        let mut daemon = Daemon::launch(&path("jobd"), &ground.scratch, &ini);
        assert_eq!(daemon.process.wait(PATIENCE).await.code(), Some(78));
        assert!(daemon.process.log().contains("user: only root may"));
        return;
    }
    let ini: Ini = ini.set("name", jobd_tests::programs::unique_name("w"));
    let _jobd = Jobd::start(&ground.scratch, &ini).await;
    let uid = printed("id", &["-u", "nobody"]).await;
    let gid = printed("id", &["-g", "nobody"]).await;
    let groups = printed("id", &["-G", "nobody"]).await;
    let id = ground.insert("nobody", &[]).await;
    assert_eq!(ground.verdict(id).await, "ok 0 - -");
    let out = ground.text(id, "stdout").await.expect("output");
    let begin = format!("{uid}\n{gid}\n{groups}\nnobody nobody /");
    assert!(out.starts_with(&begin), "{out}");
    assert!(out.ends_with("CapEff:\t0000000000000000\n"), "{out}");

    let daemon = printed("sh", &["-c", "grep ^daemon: /etc/group | cut -d: -f3"]).await;
    let id = ground.insert("grouped", &[]).await;
    assert_eq!(ground.verdict(id).await, "ok 0 - -");
    let out = ground.text(id, "stdout").await.expect("output");
    assert!(
        out.starts_with(&format!("{uid}\n{daemon}\n{daemon}")),
        "{out}"
    );
    assert!(out.contains("nobody nobody /elsewhere\n"), "{out}");

    let id = ground.insert("slow", &[]).await;
    assert_eq!(ground.verdict(id).await, "fail - SIGTERM timeout");
    let worker = ini.get("name").expect("a name");
    until("nobody to be left", PATIENCE, async || {
        jobd_tests::left::of_worker(worker).is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_had_is_the_jobs_failure_and_named() {
    for ground in Ground::each().await {
        let script = ground.scratch.write("no-program", "");
        let ini = ground
            .ini()
            .set("umask", "022")
            .target("missing", 1)
            .own("missing", "launcher", "/nonexistent/program {id}")
            .target("unfit", 1)
            .own("unfit", "launcher", script.display())
            .target("exits", 1)
            .own(
                "exits",
                "launcher",
                "sh -c 'echo jobd --launch >&2\\; exit 126'",
            )
            .target("more", 1)
            .own("more", "limit.nofile", "4000000000");
        let _jobd = Jobd::start(&ground.scratch, &ini).await;
        for (target, verdict, err) in [
            (
                "missing",
                "fail 127 - spawn",
                "jobd: cannot launch: /nonexistent/program: No such file",
            ),
            (
                "unfit",
                "fail 126 - spawn",
                "/no-program: Permission denied",
            ),
            ("exits", "fail 126 - exit", "jobd --launch\n"),
            (
                "more",
                "fail 126 - spawn",
                "jobd: cannot launch: limit.nofile: ",
            ),
        ] {
            let id = ground.insert(target, &[]).await;
            assert_eq!(ground.verdict(id).await, verdict, "{target}");
            let said = ground.text(id, "stderr").await.expect("stderr");
            assert!(said.contains(err), "{target}: {said}");
        }
    }
}

#[tokio::test]
async fn no_program_speaks_for_the_shim() {
    let text = r#"printf '\0jobd --launch %s\nforged' "$JOBD_CLAIM" >&2
        for n in 3 4 5 6 7 8 9; do (printf forged >&$n) 2>/dev/null; done
        echo out; exit $2"#;
    for ground in Ground::each().await {
        let script = ground.scratch.write("forge.sh", text);
        let ini = ground
            .ini()
            .set("launcher", format!("sh {} {{id}} 126", script.display()))
            .set("umask", "022")
            .target("plain", 1)
            .own("plain", "progress", "0")
            .target("reports", 1)
            .target("short", 1)
            .own("short", "max_output_buffer", "4")
            .own("short", "launcher", "/nonexistent/program");
        let _jobd = Jobd::start(&ground.scratch, &ini).await;
        for (target, progress) in [("plain", None), ("reports", Some("forged"))] {
            let id = ground.insert(target, &[]).await;
            assert_eq!(ground.verdict(id).await, "fail 126 - exit", "{target}");
            assert_eq!(ground.text(id, "stdout").await.as_deref(), Some("out\n"));
            assert_eq!(ground.text(id, "progress").await.as_deref(), progress);
        }
        // However little of its output is kept.
        let id = ground.insert("short", &[]).await;
        assert_eq!(ground.verdict(id).await, "fail 127 - spawn");
    }
}

#[tokio::test]
async fn a_job_whose_user_has_too_many_processes_goes_back() {
    if !is_root() {
        return;
    }
    let ground = Ground::mysql().await;
    let ini = ground
        .ini()
        .set("launcher", "true")
        .target("a", 1)
        .own("a", "user", "nobody");
    let crowded = ini.clone().own("a", "limit.nproc", "0");
    // Another one of `nobody`: the kernel asks how many there are before it counts the one that asks.
    let mut other = tokio::process::Command::new("sleep");
    let _other = other
        .arg("60")
        .uid(65534)
        .kill_on_drop(true)
        .spawn()
        .expect("sleep");
    let mut jobd = Jobd::start(&ground.scratch, &crowded).await;
    let id = ground.insert("a", &[]).await;
    until("the job to go back", PATIENCE, async || {
        let log = jobd.process.log();
        log.contains("cannot start a process now").then_some(())
    })
    .await;
    std::fs::write(&jobd.config, ini.text()).expect("write the config");
    jobd.process.signal(Signal::HUP);
    assert_eq!(ground.verdict(id).await, "ok 0 - -");
}

#[tokio::test]
async fn mistakes_name_the_key_and_what_may_stand_there() {
    let ground = Ground::sqlite().await;
    let ini = ground
        .ini()
        .target("a", 1)
        .own("a", "user", "no-such-user")
        .own("a", "umask", "9")
        .own("a", "nice", "20")
        .own("a", "limit.nofiles", "5")
        .own("a", "limit.nofile", "5:4");
    let mut daemon = Daemon::launch(&path("jobd"), &ground.scratch, &ini);
    assert_eq!(daemon.process.wait(PATIENCE).await.code(), Some(78));
    let log = daemon.process.log();
    let user = if is_root() {
        "user: there is no user no-such-user"
    } else {
        "user: only root may"
    };
    for expected in [
        user,
        "umask must be an octal number",
        "nice must be a whole number from -20 to 19",
        "limit.nofiles is no limit of setrlimit(2): take one of as, core,",
        "limit.nofile must be a number, a size or unlimited",
    ] {
        let line = log.lines().find(|line| line.contains(expected));
        let line = line.unwrap_or_else(|| panic!("{expected} in\n{log}"));
        assert!(line.contains(".conf:"), "{line}");
    }
}
