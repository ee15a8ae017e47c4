//! Cost and size over time as an SVG: bars for money, a line for bytes.

use std::fmt::Write as _;

use crate::decimal::minor_text;

/// One month of a chart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChartPoint {
    /// What stands under it.
    pub label: String,
    /// Cost in minor units; below zero counts as zero.
    pub minor: i128,
    /// Size in bytes.
    pub bytes: u64,
}

/// What a chart says beside its points.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChartTitle {
    /// Above it.
    pub title: String,
    /// ISO 4217 code.
    pub currency: String,
    /// Digits after the point of an amount.
    pub digits: u16,
}

/// Most points drawn; of more, the last.
pub const CHART_POINTS_MAX: usize = 240;

const WIDTH: usize = 900;
const HEIGHT: usize = 360;
const LEFT: usize = 90;
const TOP: usize = 50;
const PLOT_WIDTH: usize = 720;
const PLOT_HEIGHT: usize = 250;

/// The chart as a text of SVG 1.1, 900 x 360.
pub fn svg_chart(title: &ChartTitle, points: &[ChartPoint]) -> String {
    let points = &points[points.len().saturating_sub(CHART_POINTS_MAX)..];
    let cost_max = points.iter().map(|p| p.minor.max(0).unsigned_abs()).max().unwrap_or(0);
    let bytes_max = points.iter().map(|p| u128::from(p.bytes)).max().unwrap_or(0);
    let step = PLOT_WIDTH / points.len().max(1);
    let bottom = TOP + PLOT_HEIGHT;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"28\" font-size=\"16\">{}</text>\n",
        escaped(&title.title)
    );
    let mut line = String::new();
    let label_every = points.len().div_ceil(12).max(1);
    for (index, point) in points.iter().enumerate() {
        let cost = point.minor.max(0).unsigned_abs();
        let height = scaled(cost, cost_max);
        let (x, y) = (LEFT + index * step, bottom - height);
        let width = (step * 3 / 5).max(1);
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"#7aa6c2\"><title>{}: {} {}, \
             {} bytes</title></rect>",
            escaped(&point.label),
            minor_text(point.minor, title.digits),
            escaped(&title.currency),
            point.bytes
        );
        let _ = write!(line, "{},{} ", x + width / 2, bottom - scaled(point.bytes.into(), bytes_max));
        if index % label_every == 0 {
            let label = escaped(&point.label);
            let _ = writeln!(svg, "<text x=\"{x}\" y=\"{}\">{label}</text>", bottom + 18);
        }
    }
    let right = LEFT + PLOT_WIDTH;
    let _ = writeln!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"#b5462f\" stroke-width=\"2\"/>\n\
         <path d=\"M{LEFT} {TOP}V{bottom}H{right}V{TOP}\" fill=\"none\" stroke=\"#444\"/>\n\
         <text x=\"{}\" y=\"{}\" text-anchor=\"end\" fill=\"#37667f\">{} {}</text>\n\
         <text x=\"{}\" y=\"{}\" fill=\"#b5462f\">{}</text>\n</svg>",
        line.trim_end(),
        LEFT - 6,
        TOP + 4,
        minor_text(i128::try_from(cost_max).unwrap_or(i128::MAX), title.digits),
        escaped(&title.currency),
        right + 6,
        TOP + 4,
        size_text(bytes_max)
    );
    svg
}

/// `value` of `max` as a height.
fn scaled(value: u128, max: u128) -> usize {
    if max == 0 {
        return 0;
    }
    // Both below 2^64 for bytes and far below 2^100 for money; a thousandth of a height is lost at most.
    let (value, max) = if max > 1 << 100 { (value >> 28, max >> 28) } else { (value, max) };
    usize::try_from(value.saturating_mul(PLOT_HEIGHT as u128) / max).unwrap_or(0).min(PLOT_HEIGHT)
}

fn size_text(bytes: u128) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut tenths = bytes * 10;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < units.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, units[unit])
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: &[ChartPoint]) -> String {
        let title =
            ChartTitle { title: "a < b & \"c\"\u{1}".to_owned(), currency: "EUR".to_owned(), digits: 2 };
        svg_chart(&title, points)
    }

    fn point(minor: i128, bytes: u64) -> ChartPoint {
        ChartPoint { label: "2026-01".to_owned(), minor, bytes }
    }

    #[test]
    fn the_largest_fills_the_plot_and_half_of_it_half() {
        let svg = chart(&[point(500, 1 << 40), point(1000, 1 << 39), point(-5, 0)]);
        assert!(
            svg.contains("height=\"250\" fill=\"#7aa6c2\"><title>2026-01: 10.00 EUR, 549755813888 bytes")
        );
        assert!(
            svg.contains("height=\"125\" fill=\"#7aa6c2\"><title>2026-01: 5.00 EUR, 1099511627776 bytes")
        );
        assert!(svg.contains("points=\"162,50 402,175 642,300\""), "{svg}");
        assert!(svg.contains(">1.0 TiB<"));
    }

    #[test]
    fn texts_cannot_break_out() {
        assert!(chart(&[]).contains("a &lt; b &amp; &quot;c&quot;\u{fffd}"));
    }

    #[test]
    fn extremes_are_drawn() {
        let svg = chart(&vec![point(i128::MAX, u64::MAX); 1000]);
        assert_eq!(svg.matches("<title>").count(), CHART_POINTS_MAX);
    }
}
