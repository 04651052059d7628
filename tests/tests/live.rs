//! `jobctl logs -f`, `run` and `top` in a real pseudo-terminal and in pipes, at real daemons: what a job writes is seen
//! while it writes it, all of it in the end, and the terminal is left as it was.

use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jobd_tests::programs::{self, Daemon};
use jobd_tests::wait::PATIENCE;
use jobd_tests::{Database, Ini, Jobd, Master, Scratch, Server};
use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};

struct World {
    scratch: Scratch,
    database: Database,
    jobd: Daemon,
    master: Daemon,
}

impl World {
    /// Jobs run this shell script, with the id as `$1`. `wait NAME` in it waits until the test lets it go on.
    async fn new(script: &str) -> Self {
        let database = Server::shared().await.database().await;
        database.minimal_table().await;
        let scratch = Scratch::new();
        let folder = scratch.join("");
        let wait = format!(
            "wait() {{ while [ ! -e {}/$1 ]; do sleep 0.02; done; }}\n",
            folder.display()
        );
        let path = scratch.write("job.sh", wait + script);
        let ini = Ini::listen();
        let master = Master::start(&scratch, &ini).await;
        let worker = Ini::worker(&database)
            .set("poll_interval", "0.1")
            .set("launcher", format!("bash {} {{id}}", path.display()))
            .set("master_host", "127.0.0.1")
            .set("master_port", ini.port())
            .target("mail", 4);
        let jobd = Jobd::ready(&scratch, &worker).await;
        Master::has_workers(&master, 1).await;
        Self {
            scratch,
            database,
            jobd,
            master,
        }
    }

    fn go_on(&self, name: &str) {
        self.scratch.write(name, "");
    }

    /// A config of jobctl that names this port.
    fn config(&self, port: u16) -> PathBuf {
        let config = Ini::worker(&self.database)
            .unset("launcher")
            .unset("log_level_console")
            .set("port", port);
        self.scratch
            .write(&format!("jobctl-{port}.conf"), config.text())
    }

    /// The arguments before a command, for the worker, for the master, and for nobody at all.
    fn ways(&self) -> [Vec<String>; 3] {
        let way = |port, more: &[&str]| {
            let config = self.config(port).display().to_string();
            let more = more.iter().map(|&word| word.to_owned());
            ["--config".to_owned(), config]
                .into_iter()
                .chain(more)
                .collect()
        };
        [
            way(self.jobd.addr.port(), &[]),
            way(self.master.addr.port(), &["--master"]),
            way(1, &[]),
        ]
    }
}

/// A jobctl in a terminal.
struct Terminal {
    child: Box<dyn Child + Send + Sync>,
    screen: Arc<Mutex<vt100::Parser>>,
    /// Ends when all is read and the program has closed its side.
    reader: JoinHandle<()>,
    keys: Box<dyn std::io::Write + Send>,
    master: Box<dyn MasterPty + Send>,
}

impl Terminal {
    fn start(columns: u16, way: &[String], arguments: &[&str], colour: bool) -> Self {
        let size = PtySize {
            rows: 24,
            cols: columns,
            pixel_width: 0,
            pixel_height: 0,
        };
        let pair = native_pty_system().openpty(size).expect("a terminal");
        let mut command = CommandBuilder::new(programs::path("jobctl"));
        command.args(way);
        command.args(arguments);
        command.env("HOME", env!("CARGO_TARGET_TMPDIR"));
        command.env("TERM", "xterm-256color");
        command.env_remove("NO_COLOR");
        if !colour {
            command.env("NO_COLOR", "1");
        }
        let child = pair.slave.spawn_command(command).expect("jobctl");
        let mut output = pair.master.try_clone_reader().expect("its screen");
        let screen = Arc::new(Mutex::new(vt100::Parser::new(24, columns, 0)));
        let shown = screen.clone();
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = output.read(&mut buffer) {
                shown.lock().expect("a screen").process(&buffer[..read]);
            }
        });
        Self {
            child,
            screen,
            reader,
            keys: pair.master.take_writer().expect("its keys"),
            master: pair.master,
        }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("press a key");
        self.keys.flush().expect("press a key");
    }

    fn text(&self) -> String {
        self.screen.lock().expect("a screen").screen().contents()
    }

    async fn until(&self, what: &str, condition: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = self.text();
            if condition(&text) {
                return text;
            }
            assert!(Instant::now() < deadline, "{what}:\n{text}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn sees(&self, wanted: &str) -> String {
        self.until(wanted, |text| text.contains(wanted)).await
    }

    /// Waits for the end, and for the terminal to be as it was: the exit code and the screen.
    async fn ends(mut self) -> (u32, String) {
        let deadline = Instant::now() + PATIENCE;
        while !self.reader.is_finished() {
            assert!(Instant::now() < deadline, "still runs:\n{}", self.text());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let status = self.child.wait().expect("its end");
        // What a shell sets for its commands, and finds after them.
        let modes = self.master.get_termios().expect("the terminal's modes");
        let flags = format!("{:?}", modes.local_flags);
        assert!(
            flags.contains("ECHO") && flags.contains("ICANON"),
            "{flags}"
        );
        let text = {
            let shown = self.screen.lock().expect("a screen");
            let screen = shown.screen();
            assert!(!screen.alternate_screen() && !screen.hide_cursor());
            screen.contents()
        };
        (status.exit_code(), text)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It has ended already, in most tests.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn jobctl(way: &[String], arguments: &[&str]) -> Output {
    let mut command = Command::new(programs::path("jobctl"));
    command
        .args(way)
        .args(arguments)
        .env("HOME", env!("CARGO_TARGET_TMPDIR"));
    programs::output(&mut command).await
}

#[tokio::test]
async fn logs_follow_to_the_end_through_worker_and_master() {
    let world = World::new("echo one; wait b$1; echo two; echo oops >&2; wait c$1; exit 3").await;
    let ways = world.ways();
    for (columns, way) in [(80, &ways[0]), (200, &ways[1])] {
        let id = world.database.insert_one("mail", "waiting").await;
        let followed = ["logs", &id.to_string(), "-f"].map(str::to_owned);
        let followed = followed.each_ref().map(String::as_str);
        let terminal = Terminal::start(columns, way, &followed, columns > 80);
        // The job goes on only when its first line was seen.
        terminal.sees("one").await;
        world.go_on(&format!("b{id}"));
        let text = terminal.sees("oops").await;
        assert!(!text.contains("job "), "nothing else:\n{text}");
        world.go_on(&format!("c{id}"));
        let (code, text) = terminal.ends().await;
        let lines: Vec<&str> = text.lines().collect();
        let failed = format!("jobctl: job {id}: failed with exit code 3");
        assert_eq!(lines.last(), Some(&failed.as_str()), "{text}");
        assert!(lines.contains(&"one") && lines.contains(&"two"), "{text}");
        assert_eq!((code, lines.len()), (0, 4), "each line once:\n{text}");
        // What has ended is read from its row.
        let row = jobctl(way, &followed).await;
        assert_eq!(row.stdout, b"one\ntwo\n");
    }
}

#[tokio::test]
async fn logs_fall_back_to_the_table_and_say_so() {
    let world = World::new("echo one; wait go; echo two").await;
    let id = world.database.insert_one("mail", "waiting").await;
    let id = id.to_string();
    let nobody = &world.ways()[2];
    let terminal = Terminal::start(80, nobody, &["logs", &id, "-f"], false);
    let told = "its row is looked at until it is done";
    let is_told = |text: &str| text.replace('\n', " ").contains(told);
    terminal.until(told, is_told).await;
    terminal.sees(&format!("job {id} (mail) is running")).await;
    world.go_on("go");
    let (code, text) = terminal.ends().await;
    assert!(text.contains("cannot reach"), "{text}");
    assert!(text.ends_with("one\ntwo"), "the bar is gone:\n{text}");
    assert_eq!(code, 0);
}

#[tokio::test]
async fn ctrl_c_leaves_job_and_terminal_alone() {
    let world = World::new("echo one; wait go; exit 4").await;
    let ways = world.ways();
    let logs: &[&str] = &["logs", "-f", "last"];
    for (columns, arguments) in [(80, logs), (200, &["run", "mail"])] {
        if arguments == logs {
            world.database.insert_one("mail", "waiting").await;
        }
        let mut terminal = Terminal::start(columns, &ways[0], arguments, true);
        terminal.sees("one").await;
        terminal.press("\x03");
        let (code, text) = terminal.ends().await;
        assert_eq!(code, 130, "{text}");
        assert!(!text.contains("waiting:"), "no bar is left:\n{text}");
    }
    world.go_on("go");
    for row in world.database.rows().await {
        let row = world.database.done(row.id).await;
        assert_eq!(row.return_code, Some(4));
    }
}

#[tokio::test]
async fn run_shows_a_job_live_and_ends_with_its_code() {
    let script = r"case $1 in
        1) echo one; wait b; echo two >&2; exit 7;;
        2) echo quick;;
        *) head -c 3000000 /dev/zero | tr '\0' x; echo; printf '\377' >&2;;
    esac";
    let world = World::new(script).await;
    let ways = world.ways();
    let terminal = Terminal::start(80, &ways[1], &["run", "mail"], true);
    terminal.sees("one").await;
    world.go_on("b");
    let (code, text) = terminal.ends().await;
    assert_eq!(
        (code, text.trim_end()),
        (7, "one\ntwo\njobctl: job 1: failed with exit code 7")
    );
    let quick = jobctl(&ways[0], &["run", "mail"]).await;
    assert_eq!(
        (quick.status.code(), &*quick.stdout),
        (Some(0), &b"quick\n"[..])
    );
    // Faster than a follower is served: a pipe gets all of it, once.
    let loud = jobctl(&ways[1], &["run", "mail"]).await;
    let whole = [vec![b'x'; 3_000_000], b"\n".to_vec()].concat();
    assert!(loud.stdout == whole, "{} bytes", loud.stdout.len());
    assert_eq!(loud.status.code(), Some(0), "{loud:?}");
    let json = jobctl(&ways[0], &["run", "mail", "--json"]).await;
    assert!(json.stdout.starts_with(b"{"));
}

#[tokio::test]
async fn top_follows_the_chosen_job_and_comes_back() {
    let world = World::new("echo line of $1; wait go").await;
    let ways = world.ways();
    let id = world.database.insert_one("mail", "waiting").await;
    world.database.reaches(id, "running").await;
    for (columns, colour) in [(80, true), (200, false)] {
        let mut top = Terminal::start(columns, &ways[1], &["top", "--every", "200ms"], colour);
        top.until("the job", |text| {
            text.contains("JOB") && text.contains("running")
        })
        .await;
        top.press("\t\tf");
        top.sees(&format!("line of {id}")).await;
        top.press("\x03");
        top.sees("press Enter to go back").await;
        top.press("\r");
        top.sees(&format!("job {id} goes on")).await;
        top.press("q");
        let (code, _) = top.ends().await;
        assert_eq!(code, 0);
    }
    world.go_on("go");
    assert_eq!(world.database.done(id).await.result.as_deref(), Some("ok"));
}
