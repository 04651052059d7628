//! A disk that is full soon.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::Process;
use crate::programs::{output, path};
use crate::scratch::Scratch;
use crate::wait::{PATIENCE, until};

/// A disk of 64 KiB at a folder's place that only programs of [`Disk::program`] see, and that is gone with the process
/// that holds it.
#[derive(Debug)]
pub struct Disk {
    holder: Process,
    folder: PathBuf,
    programs: PathBuf,
}

impl Disk {
    /// `None` where the system does not let us mount one.
    ///
    /// # Panics
    /// When the path is not absolute.
    pub async fn mount(place: &Path, scratch: &Scratch) -> Option<Self> {
        let allowed = output(Command::new("unshare").args(["-m", "true"])).await;
        if !allowed.status.success() {
            return None;
        }
        let mut command = Command::new("unshare");
        let script =
            r#"mount -t tmpfs -o size=64k tmpfs "$0" && touch "$0/ready" && exec sleep 600"#;
        command.args(["-m", "sh", "-c", script]).arg(place);
        let holder = Process::start(&command, &scratch.join("disk.log"));
        let root = PathBuf::from(format!("/proc/{}/root", holder.id()));
        let folder = root.join(place.strip_prefix("/").expect("an absolute path"));
        until("the small disk", PATIENCE, async || {
            folder.join("ready").exists().then_some(())
        })
        .await;
        Some(Self {
            holder,
            folder,
            programs: scratch.join("on-the-disk"),
        })
    }

    /// What runs one of our programs where the disk is seen.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn program(&self, name: &str) -> PathBuf {
        let script = format!(
            "#!/bin/sh\nexec nsenter -t {} -m -- {} \"$@\"\n",
            self.holder.id(),
            path(name).display()
        );
        fs::write(&self.programs, script).expect("write a program");
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&self.programs, executable).expect("make it a program");
        self.programs.clone()
    }

    /// To the last byte.
    ///
    /// # Panics
    /// When everything found room.
    pub fn fill(&self) {
        let zeros = vec![0; 1 << 20];
        fs::write(self.folder.join("full"), zeros).expect_err("it has less room");
    }
}
