//! What a run found: figures, ratios, curves; as tables for people and as JSON for machines.

use std::fmt::{self, Write as _};

use serde_json::{Map, Value, json};

use super::machine::Machine;

/// Raise it when the meaning of the JSON changes.
const FORMAT: u32 = 1;

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Jobs, rows or processes a second.
    PerSecond,
    /// How often a second something wakes up.
    WakeUps,
    /// Microseconds.
    Micros,
    /// Milliseconds.
    Millis,
    /// Hundredths.
    Percent,
    /// KiB of memory.
    Kib,
    /// Bytes.
    Bytes,
    /// Seconds of CPU time in an hour.
    CpuPerHour,
    /// Things.
    Count,
}

impl Unit {
    /// Whether less of it is better.
    fn lower_is_better(self) -> bool {
        self != Self::PerSecond
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PerSecond | Self::WakeUps => "/s",
            Self::Micros => "µs",
            Self::Millis => "ms",
            Self::Percent => "%",
            Self::Kib => "KiB",
            Self::Bytes => "bytes",
            Self::CpuPerHour => "s CPU/h",
            Self::Count => "",
        })
    }
}

/// What one thing came to, a value per turn.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// `scenario/what`.
    pub name: String,
    /// What it counts; of a ratio, what is divided.
    pub unit: Unit,
    /// Whether it is a ratio.
    pub is_ratio: bool,
    /// In the order of the turns.
    pub values: Vec<f64>,
}

impl Figure {
    /// The middle value, or the mean of the two in the middle.
    pub fn median(&self) -> f64 {
        let sorted = self.sorted();
        let middle = sorted.len() / 2;
        if sorted.len().is_multiple_of(2) {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        } else {
            sorted[middle]
        }
    }

    /// The least value.
    pub fn min(&self) -> f64 {
        self.sorted()[0]
    }

    /// The greatest value.
    pub fn max(&self) -> f64 {
        *self.sorted().last().expect("a figure has values")
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }

    fn json(&self) -> Value {
        let lower = self.unit.lower_is_better();
        json!({
            "unit": if self.is_ratio { "1".to_owned() } else { self.unit.to_string() },
            "better": if lower { "lower" } else { "higher" },
            "median": self.median(),
            "min": self.min(),
            "max": self.max(),
            "values": self.values,
        })
    }

    fn line(&self) -> String {
        let unit = if self.is_ratio {
            String::new()
        } else {
            self.unit.to_string()
        };
        let space = if unit.is_empty() { "" } else { " " };
        format!(
            "| {} | {}{space}{unit} | {} – {} |",
            self.name,
            number(self.median()),
            number(self.min()),
            number(self.max())
        )
    }
}

/// One line of a plot: where each of its figures stands on the x axis.
#[derive(Clone, Debug)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// The x values and the names of the figures.
    pub points: Vec<(f64, String)>,
}

/// Figures to be drawn over something.
#[derive(Clone, Debug)]
pub struct Curve {
    /// The file's name, without `.svg`.
    pub name: &'static str,
    /// What stands above it.
    pub title: &'static str,
    /// What the x axis counts.
    pub x: &'static str,
    /// Its lines.
    pub series: Vec<Series>,
}

/// Everything that a run found.
#[derive(Debug, Default)]
pub struct Results {
    /// In the order in which they were first measured.
    pub figures: Vec<Figure>,
    /// Of two figures, formed within each turn.
    pub ratios: Vec<Figure>,
    /// To be drawn.
    pub curves: Vec<Curve>,
    /// What could not be measured, and why.
    pub left_out: Vec<String>,
}

impl Results {
    /// Adds the value of a turn.
    pub fn add(&mut self, name: &str, unit: Unit, value: f64) {
        eprintln!("  {name:<44} {:>12} {unit}", number(value));
        match self.figures.iter_mut().find(|figure| figure.name == name) {
            Some(figure) => figure.values.push(value),
            None => self.figures.push(Figure {
                name: name.to_owned(),
                unit,
                is_ratio: false,
                values: vec![value],
            }),
        }
    }

    /// Forms the ratio of two figures for each turn in which both were measured.
    pub fn ratio(&mut self, of: &str, to: &str) {
        let values = |name| self.figures.iter().find(|figure| figure.name == name);
        let (Some(of), Some(to)) = (values(of), values(to)) else {
            return;
        };
        let ratio = Figure {
            name: format!("{} : {}", of.name, short(&to.name)),
            unit: of.unit,
            is_ratio: true,
            values: of
                .values
                .iter()
                .zip(&to.values)
                .map(|(of, to)| of / to)
                .collect(),
        };
        eprintln!("  {:<44} {:>12}", ratio.name, number(ratio.median()));
        self.ratios.push(ratio);
    }

    /// Notes what could not be measured.
    pub fn leave_out(&mut self, what: &str) {
        eprintln!("  left out: {what}");
        self.left_out.push(what.to_owned());
    }

    /// For machines.
    pub fn json(&self, machine: &Machine, quick: bool) -> Value {
        let object = |figures: &[Figure]| -> Map<String, Value> {
            let entries = figures
                .iter()
                .map(|figure| (figure.name.clone(), figure.json()));
            entries.collect()
        };
        json!({
            "format": FORMAT,
            "form": form(quick),
            "machine": machine.json(),
            "figures": object(&self.figures),
            "ratios": object(&self.ratios),
            "left_out": self.left_out,
        })
    }

    /// For people, and for the README.
    pub fn markdown(&self, machine: &Machine) -> String {
        let mut text = format!("{}\n", machine.sentence());
        for (heading, figures) in [("figure", &self.figures), ("ratio", &self.ratios)] {
            if figures.is_empty() {
                continue;
            }
            write!(
                text,
                "\n| {heading} | median | min – max |\n|---|---|---|\n"
            )
            .expect("a string");
            for figure in figures {
                writeln!(text, "{}", figure.line()).expect("a string");
            }
        }
        for what in &self.left_out {
            write!(text, "\nLeft out: {what}.\n").expect("a string");
        }
        text
    }
}

/// What a run's form is called in the JSON files.
pub fn form(quick: bool) -> &'static str {
    if quick { "quick" } else { "full" }
}

fn short(name: &str) -> &str {
    name.rsplit_once('/').map_or(name, |(_, short)| short)
}

/// Three digits that say something, with commas between thousands.
pub fn number(value: f64) -> String {
    let size = value.abs();
    if size < 10.0 {
        return format!("{value:.2}");
    }
    if size < 100.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{size:.0}");
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if value < 0.0 {
        format!("-{grouped}")
    } else {
        grouped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_ratios_within_each_turn() {
        let mut results = Results::default();
        // A machine that is half as fast in the second turn.
        for (ours, theirs) in [(80.0, 100.0), (40.0, 50.0), (90.0, 100.0)] {
            results.add("s/ours", Unit::PerSecond, ours);
            results.add("s/theirs", Unit::PerSecond, theirs);
        }
        results.ratio("s/ours", "s/theirs");
        results.ratio("s/ours", "s/nobody");
        assert_eq!(results.ratios.len(), 1);
        let ratio = &results.ratios[0];
        assert_eq!(ratio.name, "s/ours : theirs");
        let close = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(close(ratio.median(), 0.8) && close(ratio.min(), 0.8) && close(ratio.max(), 0.9));
    }

    #[test]
    fn writes_numbers_for_people() {
        let cases = [
            (0.756, "0.76"),
            (12.34, "12.3"),
            (999.6, "1,000"),
            (1_234_567.0, "1,234,567"),
            (-4_200.0, "-4,200"),
        ];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
    }
}
