//! How much memory this process uses, in the words of the installed base.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The `memoryUsage` of a `status` reply, all in bytes. Its names come from Node.js; tools print
/// every key, so none may go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct MemoryUsage {
    /// Memory that the process holds now.
    pub rss: u64,
    /// Data segment: what was asked of the system.
    pub heap_total: u64,
    /// Memory of this process alone: held now and not shared with files.
    pub heap_used: u64,
    /// Always 0 here.
    pub external: u64,
    /// Always 0 here.
    pub array_buffers: u64,
    /// Keys of a version that this one does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl MemoryUsage {
    /// Reads `/proc/self/statm`; all zeros where there is none.
    pub fn of_this_process() -> Self {
        std::fs::read_to_string("/proc/self/statm")
            .ok()
            .and_then(|text| Self::from_statm(&text))
            .unwrap_or_default()
    }

    /// Columns: size, resident, shared, text, lib, data, dirty; in pages.
    fn from_statm(text: &str) -> Option<Self> {
        // Every platform that jobd is built for runs with these pages by default.
        const PAGE: u64 = 4096;
        let pages: Vec<u64> = text
            .split_ascii_whitespace()
            .map_while(|n| n.parse().ok())
            .collect();
        let (resident, shared, data) = (pages.get(1)?, pages.get(2)?, pages.get(5)?);
        Some(Self {
            rss: resident * PAGE,
            heap_total: data * PAGE,
            heap_used: resident.saturating_sub(*shared) * PAGE,
            ..Self::default()
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn reads_the_columns_of_statm() {
        let usage = MemoryUsage::from_statm("5000 1000 400 10 0 2000 0\n").unwrap();
        assert_eq!(
            serde_json::to_string(&usage).unwrap(),
            r#"{"rss":4096000,"heapTotal":8192000,"heapUsed":2457600,"external":0,"arrayBuffers":0}"#
        );
        assert_eq!(MemoryUsage::from_statm("1 2"), None);
        assert!(MemoryUsage::of_this_process().rss > 100_000);
    }
}
