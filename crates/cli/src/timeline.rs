//! When backups are due, as a picture: in the terminal, and as SVG.

use std::fmt::Write;

use vmkeep::model::Timestamp;

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// Some days of several VMs.
#[derive(Debug)]
pub(crate) struct Timeline {
    /// Its first instant.
    pub(crate) from: Timestamp,
    /// Its length.
    pub(crate) days: u32,
    /// The VMs.
    pub(crate) rows: Vec<Row>,
}

/// A VM of a timeline.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: String,
    /// What its policy says.
    pub(crate) about: String,
    /// When its backups are due, ascending.
    pub(crate) at: Vec<Timestamp>,
}

impl Timeline {
    /// Midnight, in UTC, of the day it begins on.
    fn midnight(&self) -> i64 {
        self.from.0.div_euclid(DAY_MS) * DAY_MS
    }

    /// Days that it touches.
    fn days_touched(&self) -> i64 {
        let end = self.from.0 + i64::from(self.days) * DAY_MS;
        (end - self.midnight() + DAY_MS - 1) / DAY_MS
    }

    /// Cells of a day in the terminal: fewer when there are many days.
    fn cells_per_day(&self) -> i64 {
        match self.days {
            0..=7 => 12,
            8..=21 => 4,
            _ => 1,
        }
    }

    /// Lines for a terminal, in UTC: a cell is a dot, or how many backups are due in it.
    pub(crate) fn lines(&self) -> Vec<String> {
        let per_day = self.cells_per_day();
        let cell_ms = DAY_MS / per_day;
        let names = self.rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0).max(5);
        let days = self.days_touched();
        let date = |day: i64| Timestamp(self.midnight() + day * DAY_MS).to_string();
        let mut lines = vec![format!("a cell is {} hours, in UTC; a day begins at |", cell_ms / HOUR_MS)];
        if per_day > 1 {
            let width = usize::try_from(per_day).unwrap_or(1);
            // Year and month are cut where there is no room for them.
            let head = |day| {
                let text = date(day).get(..10).unwrap_or_default().to_owned();
                let short = if width >= 10 { text.as_str() } else { text.get(8..).unwrap_or_default() };
                format!("|{short:<width$}")
            };
            lines.push(format!("{:<names$}  {}", "", (0..days).map(head).collect::<String>()));
        } else {
            lines.push(format!("{:<names$}  from {}", "", date(0).get(..10).unwrap_or_default()));
        }
        for row in &self.rows {
            let mut text = String::new();
            for cell in 0..days * per_day {
                if cell % per_day == 0 {
                    text.push('|');
                }
                let from = self.midnight() + cell * cell_ms;
                let due = row.at.iter().filter(|at| (from..from + cell_ms).contains(&at.0)).count();
                text.push(match due {
                    0 => '.',
                    n => u32::try_from(n).ok().and_then(|n| char::from_digit(n, 10)).unwrap_or('+'),
                });
            }
            lines.push(format!("{:<names$}  {text}  {}", row.name, row.about));
        }
        lines
    }

    /// The same as an SVG image: a row for each VM, a dot for each backup that is due.
    pub(crate) fn svg(&self) -> String {
        const LABEL: i64 = 180;
        const ROW: i64 = 24;
        const HEAD: i64 = 34;
        let day_width: i64 = if self.days <= 21 { 120 } else { 24 };
        let days = self.days_touched();
        let rows = i64::try_from(self.rows.len()).unwrap_or(0);
        let (width, height) = (LABEL + days * day_width + 10, HEAD + rows * ROW + 10);
        let mut svg = String::new();
        // Writing to a string cannot fail.
        let _ = write!(
            svg,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <title>Backups that are due, in UTC</title>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
        );
        for day in 0..=days {
            let x = LABEL + day * day_width;
            let _ = writeln!(
                svg,
                "<line x1=\"{x}\" y1=\"20\" x2=\"{x}\" y2=\"{}\" stroke=\"#ccc\"/>",
                height - 10
            );
            let date = Timestamp(self.midnight() + day * DAY_MS).to_string();
            if day < days && (day_width > 60 || day % 5 == 0) {
                let _ = writeln!(
                    svg,
                    "<text x=\"{}\" y=\"16\">{}</text>",
                    x + 2,
                    date.get(..10).unwrap_or_default()
                );
            }
        }
        for (row, y) in self.rows.iter().zip((0..).map(|row| HEAD + row * ROW + ROW / 2)) {
            let (name, about) = (escaped(&row.name), escaped(&row.about));
            let _ =
                writeln!(svg, "<text x=\"4\" y=\"{}\">{name}<title>{name}: {about}</title></text>", y + 4);
            for at in &row.at {
                let x = LABEL + (at.0 - self.midnight()) * day_width / DAY_MS;
                let _ = writeln!(
                    svg,
                    "<circle cx=\"{x}\" cy=\"{y}\" r=\"4\" fill=\"#06c\"><title>{name}: {at}</title></circle>"
                );
            }
        }
        svg.push_str("</svg>\n");
        svg
    }
}

/// Text as XML takes it.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-01-01, 06:00 UTC.
    const FROM: Timestamp = Timestamp(1_767_247_200_000);

    fn timeline(days: u32, hours: &[i64]) -> Timeline {
        let at = hours.iter().map(|hour| Timestamp(FROM.0 + hour * HOUR_MS)).collect();
        Timeline { from: FROM, days, rows: vec![Row { name: "web".to_owned(), about: "a<b".to_owned(), at }] }
    }

    #[test]
    fn a_backup_is_in_the_cell_of_its_time() {
        let lines = timeline(2, &[0, 20, 21]).lines();
        assert_eq!(lines[0], "a cell is 2 hours, in UTC; a day begins at |");
        assert_eq!(lines[1].trim_end(), "       |2026-01-01  |2026-01-02  |2026-01-03");
        assert_eq!(lines[2], "web    |...1........|.2..........|............  a<b");
        assert!(timeline(30, &[1]).lines()[2].starts_with("web    |1|.|.|"));
    }

    #[test]
    fn the_image_has_a_dot_for_each_and_is_xml() {
        let svg = timeline(2, &[0, 20, 21]).svg();
        assert_eq!(svg.matches("<circle").count(), 3);
        assert!(svg.contains("a&lt;b") && !svg.contains("a<b"));
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        // 06:00 is a quarter of a day of 120.
        assert!(svg.contains("<circle cx=\"210\" cy=\"46\""), "{svg}");
    }
}
