//! A log file that renames itself when it is full: `FILE`, `FILE.1` … `FILE.N`.
//!
//! Written by one thread behind a bounded queue, so it may block; it must never fail. What cannot
//! be written (full disk, broken disk, lost directory) is counted, and said once writing works
//! again. It formats nothing and knows no level.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Pause between two attempts to open a file that could not be opened.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);

/// The log file. Every `write` takes one whole line and succeeds.
#[derive(Debug)]
pub(super) struct RotatingFile {
    path: PathBuf,
    /// Size in bytes at which it is rotated; 0 for never.
    max_size: u64,
    keep: u32,
    /// `None` after it could not be opened; tried again after [`REOPEN_PAUSE`].
    file: Option<File>,
    /// Bytes in the current file.
    size: u64,
    /// Size that triggers the next rotation; moves on when a rotation fails.
    rotate_at: u64,
    /// Set by whoever wants the file opened anew, taken back here.
    reopen: Arc<AtomicBool>,
    last_attempt: Instant,
    lost_lines: u64,
    /// The last write stopped in the middle of a line.
    torn: bool,
}

impl RotatingFile {
    /// Opens `path` for appending, creating it if need be (mode 0640 less the umask).
    ///
    /// # Errors
    /// The path is wrong or forbidden. A disk without room is no error: that passes.
    pub(super) fn open(path: &Path, max_size: u64, keep: u32) -> io::Result<Self> {
        let file = match open_append(path) {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => None,
            opened => Some(opened?),
        };
        let mut rotating = Self {
            path: path.to_owned(),
            max_size,
            keep,
            file: None,
            size: 0,
            rotate_at: max_size,
            reopen: Arc::default(),
            last_attempt: Instant::now(),
            lost_lines: 0,
            torn: false,
        };
        rotating.take(file);
        Ok(rotating)
    }

    /// Setting it to true opens the path anew before the next line is written.
    pub(super) fn reopen_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.reopen)
    }

    fn take(&mut self, file: Option<File>) {
        let metadata = file.as_ref().and_then(|file| file.metadata().ok());
        self.size = metadata.map_or(0, |metadata| metadata.len());
        self.rotate_at = self.max_size;
        self.file = file;
    }

    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        if self.reopen.swap(false, Ordering::Relaxed) {
            self.take(open_append(&self.path).ok());
        } else if self.file.is_none() && self.last_attempt.elapsed() >= REOPEN_PAUSE {
            self.last_attempt = Instant::now();
            self.take(Some(open_append(&self.path)?));
        }
        let length = line.len() as u64;
        if self.max_size > 0 && self.size > 0 && self.size + length > self.rotate_at {
            self.rotate();
        }
        if self.torn {
            self.write_part(b"\n")?;
            self.torn = false;
        }
        if self.lost_lines > 0 {
            let notice = format!("({} log lines could not be written)\n", self.lost_lines);
            self.write_part(notice.as_bytes())?;
            self.lost_lines = 0;
        }
        self.write_part(line)
    }

    fn write_part(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let file = self.file.as_mut().ok_or(io::ErrorKind::NotFound)?;
        let whole = bytes.len();
        while !bytes.is_empty() {
            match file.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.size += written as u64;
                    bytes = &bytes[written..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.torn |= bytes.len() < whole;
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// A rotation that fails goes on with the same file and tries again one `max_size` later.
    fn rotate(&mut self) {
        if self.shift().is_err() {
            self.rotate_at = self.size + self.max_size;
        }
    }

    fn shift(&mut self) -> io::Result<()> {
        if self.keep == 0 {
            if let Some(file) = &self.file {
                file.set_len(0)?;
                self.size = 0;
            }
            return Ok(());
        }
        for number in (1..self.keep).rev() {
            match fs::rename(self.numbered(number), self.numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(&self.path, self.numbered(1))?;
        self.last_attempt = Instant::now();
        let file = open_append(&self.path).ok();
        self.take(file);
        Ok(())
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }
}

impl Write for RotatingFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.append(line).is_err() {
            self.lost_lines += 1;
        }
        Ok(line.len())
    }

    /// Nothing is held back.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn open_append(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o640).open(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn write(file: &mut RotatingFile, text: &str) {
        assert_eq!(file.write(text.as_bytes()).unwrap(), text.len());
    }

    fn read(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn a_full_file_moves_up_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jobd.log");
        let mut file = RotatingFile::open(&path, 10, 2).unwrap();
        for number in 0..8 {
            write(&mut file, &format!("line{number}\n"));
        }
        assert_eq!(read(&path), "line7\n");
        assert_eq!(read(&file.numbered(1)), "line6\n");
        assert_eq!(read(&file.numbered(2)), "line5\n");
        assert!(!file.numbered(3).exists());
    }

    #[test]
    fn a_line_is_never_split_and_an_old_file_is_continued() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jobd.log");
        fs::write(&path, "old\n").unwrap();
        let mut file = RotatingFile::open(&path, 10, 1).unwrap();
        write(&mut file, "12345\n");
        assert_eq!(read(&path), "old\n12345\n");
        write(&mut file, "a line longer than the whole limit\n");
        assert_eq!(read(&path), "a line longer than the whole limit\n");
        assert_eq!(read(&file.numbered(1)), "old\n12345\n");
    }

    #[test]
    fn nothing_is_kept_and_nothing_rotates_where_the_settings_say_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("anew.log");
        let mut file = RotatingFile::open(&path, 10, 0).unwrap();
        write(&mut file, "123456\n");
        write(&mut file, "abcdef\n");
        assert_eq!(read(&path), "abcdef\n");
        let path = folder.path().join("endless.log");
        let mut file = RotatingFile::open(&path, 0, 5).unwrap();
        for _ in 0..100 {
            write(&mut file, "123456\n");
        }
        assert_eq!(read(&path).len(), 700);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_file_that_was_moved_away_is_opened_anew_on_request() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jobd.log");
        let mut file = RotatingFile::open(&path, 0, 0).unwrap();
        write(&mut file, "one\n");
        let moved = folder.path().join("moved");
        fs::rename(&path, &moved).unwrap();
        write(&mut file, "two\n");
        file.reopen_flag().store(true, Ordering::Relaxed);
        write(&mut file, "three\n");
        assert_eq!(read(&moved), "one\ntwo\n");
        assert_eq!(read(&path), "three\n");
    }

    #[test]
    fn a_full_disk_costs_lines_and_says_how_many() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jobd.log");
        let mut file = RotatingFile::open(Path::new("/dev/full"), 0, 0).unwrap();
        write(&mut file, "lost\n");
        write(&mut file, "lost as well\n");
        file.path.clone_from(&path);
        file.reopen_flag().store(true, Ordering::Relaxed);
        write(&mut file, "room again\n");
        assert_eq!(
            read(&path),
            "(2 log lines could not be written)\nroom again\n"
        );
    }

    #[test]
    fn a_rotation_that_fails_goes_on_with_the_same_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jobd.log");
        let mut file = RotatingFile::open(&path, 10, 1).unwrap();
        // A folder that is not empty cannot be replaced by a file, for root neither.
        fs::create_dir_all(file.numbered(1).join("inside")).unwrap();
        for number in 0..4 {
            write(&mut file, &format!("line{number}\n"));
        }
        assert_eq!(read(&path), "line0\nline1\nline2\nline3\n");
    }

    #[test]
    fn a_wrong_path_is_an_error_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing/jobd.log");
        assert!(RotatingFile::open(&missing, 0, 0).is_err());
        assert!(RotatingFile::open(folder.path(), 0, 0).is_err());
    }
}
