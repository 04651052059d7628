//! `state_dir`, and the files of a worker in it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use jobd_proto::settings::Reader;
use rustix::fs::{Access, AtFlags, CWD, accessat};

use crate::job;

/// A file of a worker's name in `state_dir`: `lock` or `journal`.
pub fn file(folder: &Path, name: &str, kind: &str) -> PathBuf {
    folder.join(format!("{}.{kind}", job::ascii(name)))
}

/// `state_dir`, and whether it can be used.
pub(super) fn dir(reader: &mut Reader<'_>, name: &str) -> Option<PathBuf> {
    let path = reader.path("state_dir")?;
    if !path.is_dir() {
        reader.mistake(
            "state_dir",
            format!("state_dir: {} is no directory: create it, or let StateDirectory= of the service do so", path.display()),
        );
        return None;
    }
    let access = Access::WRITE_OK | Access::EXEC_OK;
    if let Err(error) = accessat(CWD, &path, access, AtFlags::EACCESS) {
        reader.warn(
            "state_dir",
            format!("state_dir: cannot write to {} ({error}): if this worker dies, ends that the database did not take are lost; give it to the user that jobd runs as", path.display()),
        );
        return Some(path);
    }
    for kind in ["lock", "journal"] {
        let file = self::file(&path, name, kind);
        let opened = File::options().read(true).write(true).open(&file);
        if let Err(error) = opened
            && error.kind() != io::ErrorKind::NotFound
        {
            reader.warn(
                "state_dir",
                format!("state_dir: cannot write to {} ({error}): if this worker dies, what it leaves may stay as it is; give the file to the user that jobd runs as", file.display()),
            );
        }
    }
    Some(path)
}
