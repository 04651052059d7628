//! One end as the journal holds it, in bytes. Knows no file.
//!
//! ```text
//!   length u32 | checksum u32 | body: one line of JSON, stdout, stderr
//! ```
//!
//! Numbers are little-endian; `length` is that of the body, the checksum (CRC-32C) is of length and body. A
//! record that was not written to its end, or of which a bit has changed since, is not taken for one.

use std::io::{self, Read};
use std::time::{Duration, Instant, SystemTime};

use crc::{CRC_32_ISCSI, Crc};
use jobd_proto::{JobId, JobResult, TargetName};
use serde::{Deserialize, Serialize};

use crate::fate::{Again, Reason};
use crate::job::{ClaimToken, Job, Terms};
use crate::launcher::Usage;
use crate::store::Finish;

const CHECKSUM: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// Length and checksum.
const PREFIX: usize = 8;

/// Everything but the outputs.
#[derive(Debug, Deserialize, Serialize)]
struct Head {
    id: JobId,
    target: TargetName,
    token: String,
    attempt: u32,
    result: JobResult,
    code: Option<i32>,
    signal: Option<String>,
    /// Not there in records of older versions.
    #[serde(default)]
    reason: Option<Reason>,
    #[serde(default)]
    again: Option<Again>,
    /// Likewise.
    #[serde(default)]
    usage: Option<Usage>,
    /// When it ended, by this host's clock: it outlives a restart of the machine.
    ended_ms: u64,
    /// Bytes of standard output; standard error is the rest.
    stdout: usize,
}

/// What stands in a journal at some place.
#[derive(Debug)]
pub enum Next {
    /// A record, and the bytes that it takes.
    Record(Box<Finish>, u64),
    /// Nothing more.
    End,
    /// Something that is no whole record.
    Damage,
}

/// Adds a record.
pub fn encode(finish: &Finish, out: &mut Vec<u8>) {
    let ended = SystemTime::now().checked_sub(finish.ended.elapsed());
    let ended = ended.and_then(|ended| ended.duration_since(SystemTime::UNIX_EPOCH).ok());
    let head = Head {
        id: finish.job.id,
        target: finish.job.target.clone(),
        token: finish.job.token.as_str().to_owned(),
        attempt: finish.job.attempt,
        result: finish.result,
        code: finish.code,
        signal: finish.signal.clone(),
        reason: finish.reason,
        again: finish.again,
        usage: finish.usage,
        ended_ms: ended.map_or(0, |ended| u64::try_from(ended.as_millis()).unwrap_or(0)),
        stdout: finish.stdout.len(),
    };
    let start = out.len();
    out.extend_from_slice(&[0; PREFIX]);
    // A Vec takes everything, and nothing here has keys that are no text.
    let _ = serde_json::to_writer(&mut *out, &head);
    out.push(b'\n');
    out.extend_from_slice(finish.stdout.as_bytes());
    out.extend_from_slice(finish.stderr.as_bytes());
    let length = u32::try_from(out.len() - start - PREFIX);
    // The outputs of a job have at most 2 GiB together, by the config's limit.
    let length = length
        .expect("a record is smaller than 4 GiB")
        .to_le_bytes();
    let sum = checksum(length, &out[start + PREFIX..]).to_le_bytes();
    out[start..start + PREFIX].copy_from_slice(&[length, sum].concat());
}

/// Reads the record at which `input` stands, `left` bytes before its end.
pub fn read(input: &mut impl Read, left: u64) -> io::Result<Next> {
    if left == 0 {
        return Ok(Next::End);
    }
    if left < PREFIX as u64 {
        return Ok(Next::Damage);
    }
    let mut prefix = [0; PREFIX];
    input.read_exact(&mut prefix)?;
    let [l0, l1, l2, l3, sum @ ..] = prefix;
    let length = [l0, l1, l2, l3];
    let bytes = u64::from(u32::from_le_bytes(length));
    if bytes > left - PREFIX as u64 {
        return Ok(Next::Damage);
    }
    let mut body = vec![0; usize::try_from(bytes).unwrap_or(usize::MAX)];
    input.read_exact(&mut body)?;
    if checksum(length, &body) != u32::from_le_bytes(sum) {
        return Ok(Next::Damage);
    }
    Ok(decode(&body).map_or(Next::Damage, |finish| {
        Next::Record(Box::new(finish), PREFIX as u64 + bytes)
    }))
}

fn checksum(length: [u8; 4], body: &[u8]) -> u32 {
    let mut digest = CHECKSUM.digest();
    digest.update(&length);
    digest.update(body);
    digest.finalize()
}

fn decode(body: &[u8]) -> Option<Finish> {
    let end = body.iter().position(|byte| *byte == b'\n')?;
    let head: Head = serde_json::from_slice(&body[..end]).ok()?;
    let (stdout, stderr) = body[end + 1..].split_at_checked(head.stdout)?;
    let token = ClaimToken::read(&head.token)?;
    let ended = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(head.ended_ms))?;
    // A clock that was set back says that it ended just now.
    let ago = ended.elapsed().unwrap_or_default();
    let now = Instant::now();
    Some(Finish {
        job: Job {
            id: head.id,
            target: head.target,
            origin: token.origin(),
            token,
            attempt: head.attempt,
            interruptions: 0,
            again: false,
            terms: Terms::default(),
        },
        result: head.result,
        code: head.code,
        signal: head.signal,
        reason: head.reason,
        again: head.again,
        usage: head.usage,
        stdout: String::from_utf8(stdout.to_vec()).ok()?,
        stderr: String::from_utf8(stderr.to_vec()).ok()?,
        ended: now.checked_sub(ago).unwrap_or(now),
    })
}
