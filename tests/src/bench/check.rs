//! Whether a ratio got worse than the one kept in the repository. Never about absolute times.
//!
//! The baseline holds, for the short and for the full form, a ratio's median and the tolerance for it: by
//! what share of the kept median the measured one may be worse.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::options::Options;
use super::results::number;

/// For ratios that are new to the baseline; docs/PERFORMANCE.md says why.
const USUAL_TOLERANCE: f64 = 0.75;

/// For those of CPU times, which other load hardly changes.
const CPU_TOLERANCE: f64 = 0.25;

/// For those of short times, of which one lost time slice makes a multiple.
const TIME_TOLERANCE: f64 = 2.0;

/// A ratio of a result, or what is kept of it.
#[derive(Clone, Copy, Debug)]
struct Kept {
    median: f64,
    tolerance: f64,
}

/// Compares a stored result.
pub fn of_file(file: &Path, options: &Options) -> bool {
    match read(file) {
        Ok(result) => of_results(&result, options),
        Err(error) => {
            eprintln!("tests/bench/compare: {error}");
            false
        }
    }
}

/// Takes the ratios of a stored result over into the baseline.
pub fn adopt_file(file: &Path, options: &Options) -> bool {
    match read(file) {
        Ok(result) => {
            adopt(&result, &options.baseline);
            true
        }
        Err(error) => {
            eprintln!("tests/bench/compare: {error}");
            false
        }
    }
}

/// Compares a result with the baseline, prints a line for each ratio, and says whether none got worse or, unless
/// single scenarios were asked for, lost.
pub fn of_results(result: &Value, options: &Options) -> bool {
    let baseline = match read(&options.baseline) {
        Ok(baseline) => baseline,
        Err(error) => {
            eprintln!("tests/bench/compare: {error}");
            return false;
        }
    };
    let mut kept = kept(&baseline, &result["form"]);
    let mut passed = true;
    println!(
        "{:<56} {:>9} {:>9} {:>9}",
        "ratio", "measured", "kept", "limit"
    );
    for (name, ratio) in entries(&result["ratios"]) {
        let measured = ratio["median"].as_f64().expect("a median");
        let Some(kept) = kept.remove(&name) else {
            println!(
                "{name:<56} {:>9} {:>9} {:>9}  not kept yet",
                number(measured),
                "",
                ""
            );
            continue;
        };
        let limit = limit(kept, lower_is_better(&ratio));
        let worse = is_worse(measured, limit, lower_is_better(&ratio));
        passed &= !worse;
        let verdict = if worse { "WORSE" } else { "ok" };
        let (measured, limit) = (number(measured), number(limit));
        println!(
            "{name:<56} {measured:>9} {:>9} {limit:>9}  {verdict}",
            number(kept.median)
        );
    }
    for (name, kept) in kept {
        let kept = number(kept.median);
        println!("{name:<56} {:>9} {kept:>9} {:>9}  not measured", "", "");
        // Of everything, everything has to be there.
        passed &= !options.names.is_empty();
    }
    passed
}

/// What the measured median may come to.
fn limit(kept: Kept, lower_is_better: bool) -> f64 {
    if lower_is_better {
        kept.median * (1.0 + kept.tolerance)
    } else {
        kept.median * (1.0 - kept.tolerance)
    }
}

fn is_worse(measured: f64, limit: f64, lower_is_better: bool) -> bool {
    // Whatever cannot be compared has not passed.
    !(if lower_is_better {
        measured <= limit
    } else {
        measured >= limit
    })
}

fn lower_is_better(ratio: &Value) -> bool {
    ratio["better"] == "lower"
}

/// Takes a result's ratios over; tolerances stay as they are.
fn adopt(result: &Value, path: &Path) {
    let mut baseline = read(path).unwrap_or_else(|_| json!({}));
    let form = result["form"].as_str().expect("a form").to_owned();
    let mut kept = kept(&baseline, &result["form"]);
    for (name, ratio) in entries(&result["ratios"]) {
        let median = ratio["median"].as_f64().expect("a median");
        let usual = if name.contains("-cpu") {
            CPU_TOLERANCE
        } else if lower_is_better(&ratio) {
            TIME_TOLERANCE
        } else {
            USUAL_TOLERANCE
        };
        let tolerance = kept.get(&name).map_or(usual, |kept| kept.tolerance);
        kept.insert(name, Kept { median, tolerance });
    }
    let kept = kept.into_iter().map(|(name, kept)| {
        let median = (kept.median * 1000.0).round() / 1000.0;
        (name, json!({"median": median, "tolerance": kept.tolerance}))
    });
    baseline[form] = Value::Object(kept.collect());
    let text = serde_json::to_string_pretty(&baseline).expect("JSON");
    std::fs::write(path, text + "\n").expect("write the baseline");
}

fn kept(baseline: &Value, form: &Value) -> BTreeMap<String, Kept> {
    let form = form.as_str().expect("a form");
    let ratios = entries(&baseline[form]).into_iter();
    ratios
        .map(|(name, kept)| {
            let value = |key: &str| {
                kept[key]
                    .as_f64()
                    .unwrap_or_else(|| panic!("{name}: no {key}"))
            };
            let kept = Kept {
                median: value("median"),
                tolerance: value("tolerance"),
            };
            (name, kept)
        })
        .collect()
}

fn entries(object: &Value) -> Vec<(String, Value)> {
    let object = object.as_object().cloned().unwrap_or_default();
    object.into_iter().collect()
}

fn read(path: &Path) -> Result<Value, String> {
    let text =
        std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scratch;
    use clap::Parser as _;

    fn result(median: f64, better: &str) -> Value {
        json!({"form": "quick", "ratios": {"a : b": {"median": median, "better": better}}})
    }

    fn options(scratch: &Scratch) -> Options {
        let baseline = scratch.join("baseline.json");
        Options::parse_from(["bench", "--baseline", baseline.to_str().unwrap()])
    }

    #[test]
    fn fails_beyond_the_tolerance_on_the_bad_side_only() {
        let scratch = Scratch::new();
        let options = options(&scratch);
        let kept = json!({"quick": {"a : b": {"median": 0.5, "tolerance": 0.2}}});
        scratch.write("baseline.json", kept.to_string());
        for (median, better, passes) in [
            (0.41, "higher", true),
            (0.39, "higher", false),
            (5.0, "higher", true),
            (0.59, "lower", true),
            (0.61, "lower", false),
            (0.01, "lower", true),
            (f64::NAN, "higher", false),
        ] {
            let measured = is_worse(
                median,
                limit(
                    Kept {
                        median: 0.5,
                        tolerance: 0.2,
                    },
                    better == "lower",
                ),
                better == "lower",
            );
            assert_eq!(!measured, passes, "{median} {better}");
            if median.is_finite() {
                assert_eq!(
                    of_results(&result(median, better), &options),
                    passes,
                    "{median} {better}"
                );
            }
        }
    }

    #[test]
    fn a_kept_ratio_that_was_not_measured_fails_unless_scenarios_were_named() {
        let scratch = Scratch::new();
        let mut options = options(&scratch);
        let ratio = json!({"median": 0.5, "tolerance": 0.2});
        let kept = json!({"quick": {"a : b": ratio, "c : d": ratio}});
        scratch.write("baseline.json", kept.to_string());
        let result = result(0.5, "higher");
        assert!(!of_results(&result, &options));
        options.names.push("throughput".to_owned());
        assert!(of_results(&result, &options));
    }

    #[test]
    fn adopts_medians_and_keeps_tolerances() {
        let scratch = Scratch::new();
        let options = options(&scratch);
        let kept = json!({"quick": {"a : b": {"median": 0.5, "tolerance": 0.2}}});
        scratch.write("baseline.json", kept.to_string());
        adopt(&result(0.75, "higher"), &options.baseline);
        let baseline = read(&options.baseline).unwrap();
        assert_eq!(
            baseline["quick"]["a : b"],
            json!({"median": 0.75, "tolerance": 0.2})
        );
        assert!(
            !of_results(&result(0.5, "higher"), &options),
            "the old ratio is worse now"
        );
    }
}
