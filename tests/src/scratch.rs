//! A folder that is gone when the test is, however the test ends.

use std::path::{Path, PathBuf};

use crate::watchdog;

/// A new, empty folder under the system's temporary one; removed on drop, or by the
/// [`watchdog`] when the test process dies first. Its path is short enough for socket files.
#[derive(Debug)]
pub struct Scratch {
    folder: tempfile::TempDir,
}

impl Scratch {
    /// Makes the folder.
    pub fn new() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("jobd-test-")
            .tempdir()
            .expect("a scratch folder in the temporary folder");
        watchdog::remove_later(folder.path());
        Self { folder }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The path of `name` inside it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Writes a file into it and returns its path.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(name);
        std::fs::write(&path, content).expect("write into the scratch folder");
        path
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}
