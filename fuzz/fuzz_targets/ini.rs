//! Whatever stands in a config file: it is read without a panic, and every entry names a line that
//! the file has.
//!
//! `cargo +nightly fuzz run ini -- -max_total_time=60`

#![no_main]

use std::path::Path;

use jobd_proto::settings::IniFile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = IniFile::parse(Path::new("fuzz.conf"), text);
});
