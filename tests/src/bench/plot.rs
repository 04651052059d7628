//! Curves as SVG, readable in a browser and beside a table.

use std::fmt::Write as _;
use std::path::Path;

use super::results::{Curve, Results, Series, number};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;
/// Room for what stands beside the axes: left, top, right, bottom.
const LEFT: f64 = 70.0;
const TOP: f64 = 60.0;
const RIGHT: f64 = 20.0;
const BOTTOM: f64 = 60.0;
/// Entries of the legend stand in a row below the title, so far from each other.
const LEGEND: f64 = 160.0;

/// Told apart by people who see no red or no green, too.
const COLOURS: [&str; 4] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7"];

/// Lines across.
const STEPS: u32 = 5;

/// A point with the spread of its turns.
#[derive(Clone, Copy, Debug)]
struct Point {
    x: f64,
    median: f64,
    min: f64,
    max: f64,
}

/// Writes each curve of the results to `folder`.
pub fn write_all(results: &Results, folder: &Path) {
    std::fs::create_dir_all(folder).expect("the folder for plots");
    for curve in &results.curves {
        let path = folder.join(format!("{}.svg", curve.name));
        std::fs::write(&path, draw(curve, results)).expect("write a plot");
        eprintln!("wrote {}", path.display());
    }
}

/// One curve. The x axis is in steps, one for each value: concurrencies and backlogs grow by factors.
fn draw(curve: &Curve, results: &Results) -> String {
    let series: Vec<(&Series, Vec<Point>)> = curve
        .series
        .iter()
        .map(|series| (series, points(series, results)))
        .collect();
    let all = || series.iter().flat_map(|(_, points)| points);
    let mut xs: Vec<f64> = all().map(|point| point.x).collect();
    xs.sort_by(f64::total_cmp);
    xs.dedup();
    let top = round_up(all().map(|point| point.max).fold(1.0, f64::max));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    text(&mut svg, WIDTH / 2.0, 22.0, "middle", curve.title);
    text(&mut svg, WIDTH / 2.0, HEIGHT - 12.0, "middle", curve.x);
    axes(&mut svg, &xs, top);
    for (number, (series, points)) in series.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        line(&mut svg, colour, points, &xs, top);
        #[expect(clippy::cast_precision_loss, reason = "a handful of lines")]
        let x = LEFT + LEGEND * number as f64;
        rectangle(&mut svg, x, TOP - 23.0, colour);
        text(&mut svg, x + 20.0, TOP - 14.0, "start", &series.name);
    }
    svg + "</svg>\n"
}

fn points(series: &Series, results: &Results) -> Vec<Point> {
    let figure = |name: &str| results.figures.iter().find(|figure| figure.name == name);
    let point = |(x, name): &(f64, String)| {
        figure(name).map(|figure| Point {
            x: *x,
            median: figure.median(),
            min: figure.min(),
            max: figure.max(),
        })
    };
    series.points.iter().filter_map(point).collect()
}

fn axes(svg: &mut String, xs: &[f64], top: f64) {
    for step in 0..=STEPS {
        let value = top * f64::from(step) / f64::from(STEPS);
        let y = y_of(value, top);
        writeln!(
            svg,
            "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>",
            WIDTH - RIGHT
        )
        .expect("a string");
        text(svg, LEFT - 8.0, y + 4.0, "end", &whole(value));
    }
    for x in xs {
        text(
            svg,
            x_of(*x, xs),
            HEIGHT - BOTTOM + 20.0,
            "middle",
            &whole(*x),
        );
    }
}

/// The medians joined, and a bar from the least to the greatest value of each.
fn line(svg: &mut String, colour: &str, points: &[Point], xs: &[f64], top: f64) {
    let mut path = String::new();
    for point in points {
        let (x, y) = (x_of(point.x, xs), y_of(point.median, top));
        let (low, high) = (y_of(point.min, top), y_of(point.max, top));
        write!(path, "{x:.1},{y:.1} ").expect("a string");
        writeln!(
            svg,
            "<line x1=\"{x:.1}\" y1=\"{low:.1}\" x2=\"{x:.1}\" y2=\"{high:.1}\" stroke=\"{colour}\"/>\
             <circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{colour}\"/>"
        )
        .expect("a string");
    }
    writeln!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
        path.trim_end()
    )
    .expect("a string");
}

fn rectangle(svg: &mut String, x: f64, y: f64, colour: &str) {
    writeln!(
        svg,
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"14\" height=\"10\" fill=\"{colour}\"/>"
    )
    .expect("a string");
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>"
    )
    .expect("a string");
}

/// A number on an axis.
fn whole(value: f64) -> String {
    if value < 100.0 {
        format!("{value}")
    } else {
        number(value)
    }
}

/// The next number with one digit that is not zero, so that lines stand at round values.
fn round_up(value: f64) -> f64 {
    let magnitude = 10_f64.powf(value.log10().floor());
    (value / magnitude).ceil() * magnitude
}

#[expect(clippy::cast_precision_loss, reason = "a handful of values")]
fn x_of(x: f64, xs: &[f64]) -> f64 {
    let at = xs.iter().take_while(|other| **other < x).count() as f64;
    let width = WIDTH - LEFT - RIGHT;
    LEFT + width * (at + 0.5) / xs.len().max(1) as f64
}

fn y_of(value: f64, top: f64) -> f64 {
    let height = HEIGHT - TOP - BOTTOM;
    HEIGHT - BOTTOM - height * value / top
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::results::Unit;

    #[test]
    fn draws_every_point_within_the_picture() {
        let mut results = Results::default();
        for value in [1_900.0, 2_100.0] {
            results.add("c/a-1", Unit::PerSecond, value);
            results.add("c/a-10", Unit::PerSecond, 2.0 * value);
        }
        let curve = Curve {
            name: "c",
            title: "jobs < processes & more",
            x: "slots",
            series: vec![Series {
                name: "a".to_owned(),
                points: [1.0, 10.0, 50.0].map(|x| (x, format!("c/a-{x}"))).to_vec(),
            }],
        };
        let svg = draw(&curve, &results);
        // The third was not measured.
        assert_eq!(svg.matches("<circle").count(), 2);
        assert!(svg.contains("jobs &lt; processes &amp; more") && svg.contains(">5,000<"));
        assert!((y_of(5_000.0, 5_000.0) - TOP).abs() < 1e-9);
    }
}
