//! jobctl in a real pseudo-terminal, with somebody at the keys and the screen as it would be seen.

use std::io::{Read as _, Write};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};

use crate::jobctl::LIMIT;

/// Lines of every terminal here.
pub(crate) const LINES: u16 = 24;

/// A running jobctl and its terminal; it is killed with the test.
pub(crate) struct Terminal {
    child: Box<dyn Child + Send + Sync>,
    screen: Arc<Mutex<vt100::Parser>>,
    written: Arc<Mutex<Vec<u8>>>,
    /// Ends when all is read and the program has closed its side.
    reader: JoinHandle<()>,
    keys: Box<dyn Write + Send>,
    master: Box<dyn MasterPty + Send>,
}

impl Terminal {
    /// Starts jobctl in a terminal of so many columns.
    pub(crate) fn start(columns: u16, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::sized(columns, LINES, arguments, environment)
    }

    /// The same with a number of lines.
    pub(crate) fn sized(
        columns: u16,
        lines: u16,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_jobctl"));
        command.args(arguments);
        command.env("HOME", env!("CARGO_TARGET_TMPDIR"));
        command.env_remove("NO_COLOR");
        for (name, value) in environment {
            command.env(name, value);
        }
        Self::of(command, columns, lines)
    }

    /// The same with another program.
    pub(crate) fn of(mut command: CommandBuilder, columns: u16, lines: u16) -> Self {
        let pair = native_pty_system().openpty(size(columns, lines)).unwrap();
        for (name, value) in [("TZ", "UTC"), ("TERM", "xterm-256color")] {
            command.env(name, value);
        }
        let child = pair.slave.spawn_command(command).unwrap();
        let mut output = pair.master.try_clone_reader().unwrap();
        let screen = Arc::new(Mutex::new(vt100::Parser::new(lines, columns, 0)));
        let shown = Arc::clone(&screen);
        let written = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&written);
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = output.read(&mut buffer) {
                kept.lock().unwrap().extend_from_slice(&buffer[..read]);
                shown.lock().unwrap().process(&buffer[..read]);
            }
        });
        Self {
            child,
            screen,
            written,
            reader,
            keys: pair.master.take_writer().unwrap(),
            master: pair.master,
        }
    }

    /// Types.
    pub(crate) fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    /// Writes on the screen as another program does.
    pub(crate) fn spoil(&self, text: &str) {
        let terminal = self.master.tty_name().unwrap();
        std::fs::write(terminal, text).unwrap();
    }

    /// Gives the terminal another size, of which the program is told.
    pub(crate) fn resize(&self, columns: u16, lines: u16) {
        let mut screen = self.screen.lock().unwrap();
        screen.screen_mut().set_size(lines, columns);
        self.master.resize(size(columns, lines)).unwrap();
    }

    /// Sends a signal to the program.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.process_id().unwrap().to_string();
        let sent = std::process::Command::new("kill")
            .args(["-s", name, &id])
            .status();
        assert!(sent.unwrap().success());
    }

    /// Whether what is typed is shown.
    pub(crate) fn echoes(&self) -> bool {
        use rustix::termios::{LocalModes, tcgetattr};
        let terminal = std::fs::File::open(self.master.tty_name().unwrap()).unwrap();
        tcgetattr(terminal)
            .unwrap()
            .local_modes
            .contains(LocalModes::ECHO)
    }

    /// Waits until what is typed is not shown.
    #[track_caller]
    pub(crate) fn hides(&self) {
        let deadline = Instant::now() + LIMIT;
        while self.echoes() {
            assert!(Instant::now() < deadline, "it shows what is typed");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What stands on the screen.
    pub(crate) fn text(&self) -> String {
        self.screen.lock().unwrap().screen().contents()
    }

    /// All that was written to it so far.
    pub(crate) fn written(&self) -> String {
        String::from_utf8_lossy(&self.written.lock().unwrap()).into_owned()
    }

    /// Looks at the screen's state.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&vt100::Screen) -> T) -> T {
        look(self.screen.lock().unwrap().screen())
    }

    /// Waits until each of these stands on the screen.
    #[track_caller]
    pub(crate) fn sees(&self, wanted: &[&str]) -> String {
        let deadline = Instant::now() + LIMIT;
        loop {
            let text = self.text();
            if wanted.iter().all(|wanted| text.contains(wanted)) {
                return text;
            }
            assert!(
                Instant::now() < deadline,
                "{wanted:?} are not all in:\n{text}"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until this is gone from the screen.
    #[track_caller]
    pub(crate) fn sees_no(&self, unwanted: &str) {
        let deadline = Instant::now() + LIMIT;
        while self.text().contains(unwanted) {
            assert!(
                Instant::now() < deadline,
                "{unwanted:?} is still in:\n{}",
                self.text()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for the end, and for all that was written before; returns the exit code and what is left on the screen.
    #[track_caller]
    pub(crate) fn ends(&mut self) -> (u32, String) {
        let deadline = Instant::now() + LIMIT;
        while !self.reader.is_finished() {
            assert!(Instant::now() < deadline, "still runs:\n{}", self.text());
            std::thread::sleep(Duration::from_millis(10));
        }
        (self.child.wait().unwrap().exit_code(), self.text())
    }

    /// Waits until nothing has been written for as long as that.
    #[track_caller]
    pub(crate) fn stands_still(&self, still: Duration) {
        let deadline = Instant::now() + LIMIT;
        let mut written = self.written().len();
        let mut since = Instant::now();
        while since.elapsed() < still {
            std::thread::sleep(Duration::from_millis(10));
            let now = self.written().len();
            if now != written {
                (written, since) = (now, Instant::now());
            }
            assert!(Instant::now() < deadline, "it is drawn again and again");
        }
    }
}

fn size(columns: u16, lines: u16) -> PtySize {
    PtySize {
        rows: lines,
        cols: columns,
        pixel_width: 0,
        pixel_height: 0,
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It has ended already, in most tests.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
