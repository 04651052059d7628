//! The file in `state_dir` that keeps ends of jobs while the database does not take them, so that they
//! survive jobd and the machine. Decides nothing; all calls block.
//!
//! A line that names the version, then [`record`]s, appended and synced. A record counts once its
//! `append` has returned; what a crash leaves behind it is cut off before the next one. Only the jobd that
//! has it locked touches the file. Mode 0600: the outputs of jobs are nobody else's business.

mod record;

use std::fs::{self, File};
use std::io::{self, BufReader, Read as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use self::record::Next;
use crate::store::Finish;

/// How every journal of this version begins.
const HEADER: &[u8] = b"jobd journal 1\n";

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    /// Up to here it is whole and synced.
    len: u64,
}

/// What opening it found.
#[derive(Debug)]
pub struct Opened {
    /// To go on with.
    pub journal: Journal,
    /// The ends that it holds.
    pub ends: Vec<Finish>,
    /// Where it is damaged, and how many bytes from there on are of no use.
    pub damage: Option<(u64, u64)>,
}

/// Why it cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The jobd that writes it is alive.
    #[error("another jobd of this name has it")]
    Locked,
    /// Its file system has no locks, or none to spare.
    #[error("cannot lock it: {0}; put state_dir on a local disk")]
    Unlockable(Errno),
    /// It begins like no journal of this version.
    #[error("it is no journal of this version of jobd")]
    Foreign,
    /// The system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Journal {
    /// Opens it, or creates it, and reads what it holds.
    pub fn open(path: &Path) -> Result<Opened, OpenError> {
        let file = open_file(path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(OpenError::Locked),
            Err(error) => return Err(OpenError::Unlockable(error)),
        }
        let size = file.metadata()?.len();
        let mut input = BufReader::new(&file);
        let mut header = Vec::new();
        (&mut input)
            .take(HEADER.len() as u64)
            .read_to_end(&mut header)?;
        if !HEADER.starts_with(&header) {
            return Err(OpenError::Foreign);
        }
        let mut ends = Vec::new();
        let mut len = header.len() as u64;
        let damage = loop {
            match record::read(&mut input, size - len)? {
                Next::Record(finish, bytes) => {
                    ends.push(*finish);
                    len += bytes;
                }
                Next::End => break None,
                Next::Damage => break Some((len, size - len)),
            }
        };
        drop(input);
        let mut journal = Self {
            path: path.to_owned(),
            file,
            len,
        };
        if header.len() < HEADER.len() {
            journal.begin()?;
        }
        Ok(Opened {
            journal,
            ends,
            damage,
        })
    }

    /// Bytes of it, beyond those of an empty one.
    pub fn bytes(&self) -> u64 {
        self.len.saturating_sub(HEADER.len() as u64)
    }

    /// Adds ends. After an error none of them counts, and the next call writes over what there is of them.
    pub fn append(&mut self, ends: &[Finish]) -> io::Result<()> {
        let mut bytes = Vec::new();
        for end in ends {
            record::encode(end, &mut bytes);
        }
        self.file.set_len(self.len)?;
        self.file.write_all_at(&bytes, self.len)?;
        self.file.sync_data()?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Forgets everything.
    pub fn clear(&mut self) -> io::Result<()> {
        let empty = HEADER.len() as u64;
        self.file.set_len(empty)?;
        self.len = empty;
        self.file.sync_data()
    }

    /// Puts a journal with these ends in its place, in one step.
    pub fn replace(&mut self, ends: &[Finish]) -> io::Result<()> {
        let path = self.path.with_extension("journal.new");
        let file = open_file(&path)?;
        file.set_len(0)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        let mut new = Self { path, file, len: 0 };
        new.begin()?;
        new.append(ends)?;
        fs::rename(&new.path, &self.path)?;
        self.file = new.file;
        self.len = new.len;
        sync_folder(&self.path)
    }

    fn begin(&mut self) -> io::Result<()> {
        self.file.write_all_at(HEADER, 0)?;
        self.len = HEADER.len() as u64;
        self.file.sync_all()?;
        sync_folder(&self.path)
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    let no_follow = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or_default();
    options.mode(0o600).custom_flags(no_follow).open(path)
}

/// A new name lasts once its folder is synced.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests;
