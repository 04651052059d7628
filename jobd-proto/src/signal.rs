//! Names of signals. Must not send any.

/// Those of 1 to 31, without `SIG`. Linux numbers; the same on every architecture that jobd is built for (x86, ARM,
/// RISC-V).
pub const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// The largest signal number.
pub const MAX: i32 = 64;

/// `SIGKILL` for 9, `SIG34` for a number without a name.
pub fn name(number: i32) -> String {
    let known = usize::try_from(number)
        .ok()
        .and_then(|n| NAMES.get(n.checked_sub(1)?));
    match known {
        Some(known) => format!("SIG{known}"),
        None => format!("SIG{number}"),
    }
}

/// The number for `KILL`, `SIGKILL`, `sigkill`, `SIG34` or `9`; `None` for anything else and for
/// numbers outside 1 to [`MAX`].
pub fn number(name: &str) -> Option<i32> {
    let upper = name.trim().to_ascii_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    let position = NAMES.iter().position(|known| *known == short);
    match position {
        Some(at) => i32::try_from(at + 1).ok(),
        None if short.bytes().all(|byte| byte.is_ascii_digit()) => short
            .parse()
            .ok()
            .filter(|number| (1..=MAX).contains(number)),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_found_by_its_name() {
        for signal in 1..=MAX {
            assert_eq!(number(&name(signal)), Some(signal));
            assert_eq!(number(&signal.to_string()), Some(signal));
        }
        assert_eq!(
            (name(9).as_str(), name(15).as_str()),
            ("SIGKILL", "SIGTERM")
        );
        assert_eq!(number("kill"), Some(9));
        for wrong in ["", "SIG", "0", "65", "-9", "NOPE", "+9"] {
            assert_eq!(number(wrong), None, "{wrong}");
        }
    }
}
