//! Figures with their names, and tables of them.

use serde::Serialize;
use std::fmt::Write;

/// The floors' names in every table.
pub const UNBATCHED: &str = "floor-unbatched";
/// The other floor's.
pub const BATCHED: &str = "floor-batched";

/// One number of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// What it is, with its unit: a column's head.
    pub name: String,
    /// The number.
    pub value: f64,
    /// Digits behind the point.
    #[serde(skip)]
    pub decimals: usize,
    /// The floor that it is set against.
    #[serde(skip)]
    pub floor: Option<&'static str>,
}

impl Figure {
    /// A number that stands for itself.
    pub fn new(name: impl Into<String>, value: f64, decimals: usize) -> Self {
        Self {
            name: name.into(),
            value,
            decimals,
            floor: None,
        }
    }

    /// The same, set against that of a floor in the same repeat.
    pub fn over(self, floor: &'static str) -> Self {
        Self {
            floor: Some(floor),
            ..self
        }
    }

    /// As it is read.
    pub fn text(&self) -> String {
        number(self.value, self.decimals)
    }
}

/// The middle of some values, and their ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Median.
    pub median: f64,
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
}

impl Spread {
    /// Of `values`; none of none.
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            f64::midpoint(values[middle - 1], values[middle])
        } else {
            values[middle]
        };
        Some(Self { median, min, max })
    }

    fn text(this: Option<Self>, decimals: usize) -> String {
        this.map_or_else(
            || "–".to_owned(),
            |s| {
                let [median, min, max] =
                    [s.median, s.min, s.max].map(|value| number(value, decimals));
                format!("{median} ({min}–{max})")
            },
        )
    }
}

fn number(value: f64, decimals: usize) -> String {
    if decimals == 0 {
        group(value)
    } else {
        format!("{value:.decimals$}")
    }
}

/// A large number with separated thousands.
pub fn group(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A run as a table sees it: who, in which repeat, and what came of it.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// The server.
    pub server: &'a str,
    /// The repeat.
    pub repeat: usize,
    /// Its figures.
    pub figures: &'a [Figure],
}

impl Row<'_> {
    fn figure(&self, name: &str) -> Option<f64> {
        let figure = self.figures.iter().find(|figure| figure.name == name)?;
        Some(figure.value)
    }
}

/// A Markdown table: a line for each server, a column for each figure, and one more for its ratio to
/// the floor's where there is one. Figures are medians over the repeats, with their ends.
pub fn table(rows: &[Row<'_>]) -> String {
    let mut columns: Vec<&Figure> = Vec::new();
    let mut servers: Vec<&str> = Vec::new();
    for row in rows {
        for figure in row.figures {
            if !columns.iter().any(|known| known.name == figure.name) {
                columns.push(figure);
            }
        }
        if !servers.contains(&row.server) {
            servers.push(row.server);
        }
    }
    let has_floor = |floor: &str| servers.contains(&floor);
    let (mut head, mut rule) = ("| server |".to_owned(), "|---|".to_owned());
    for column in &columns {
        let _ = write!(head, " {} |", column.name);
        rule += "---|";
        if let Some(floor) = column.floor.filter(|floor| has_floor(floor)) {
            let _ = write!(head, " × {floor} |");
            rule += "---|";
        }
    }
    let mut text = format!("{head}\n{rule}\n");
    for server in &servers {
        let of = |name: &str| {
            let runs = rows.iter().filter(|row| row.server == *server);
            Spread::of(runs.filter_map(|row| row.figure(name)).collect())
        };
        let _ = write!(text, "| {server} |");
        for column in &columns {
            let _ = write!(
                text,
                " {} |",
                Spread::text(of(&column.name), column.decimals)
            );
            if let Some(floor) = column.floor.filter(|floor| has_floor(floor)) {
                let ratios = ratios(rows, server, floor, &column.name);
                let _ = write!(text, " {} |", Spread::text(ratios, 2));
            }
        }
        text.push('\n');
    }
    text
}

/// A figure of `server` over that of `floor` in the same repeat.
fn ratios(rows: &[Row<'_>], server: &str, floor: &str, name: &str) -> Option<Spread> {
    let ratio = |row: &Row<'_>| {
        let base = rows
            .iter()
            .find(|other| other.server == floor && other.repeat == row.repeat)?
            .figure(name)?;
        (base > 0.0).then_some(row.figure(name)? / base)
    };
    let own = rows.iter().filter(|row| row.server == server);
    Spread::of(own.filter_map(ratio).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ends() {
        assert_eq!(Spread::of(vec![]), None);
        let odd = Spread::of(vec![3.0, 1.0, 2.0]).unwrap();
        assert_eq!((odd.median, odd.min, odd.max), (2.0, 1.0, 3.0));
        assert_eq!(Spread::of(vec![4.0, 1.0]).unwrap().median, 2.5);
    }

    #[test]
    fn thousands_are_grouped() {
        assert_eq!(group(7.0), "7");
        assert_eq!(group(1_234.4), "1,234");
        assert_eq!(group(16_000_000.0), "16,000,000");
    }

    #[test]
    fn ratios_are_formed_within_a_repeat_and_what_is_missing_is_a_dash() {
        let cost = |value| vec![Figure::new("cost µs", value, 1).over(UNBATCHED)];
        let (floor, own) = ([cost(2.0), cost(4.0)], [cost(3.0), cost(12.0)]);
        let both = [own[1].clone(), vec![Figure::new("ms", 1500.0, 0)]].concat();
        let row = |server, repeat, figures| Row {
            server,
            repeat,
            figures,
        };
        let text = table(&[
            row(UNBATCHED, 0, &floor[0]),
            row("ours", 0, &own[0]),
            row("ours", 1, &both),
            row(UNBATCHED, 1, &floor[1]),
        ]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "| server | cost µs | × floor-unbatched | ms |");
        assert!(lines[2].ends_with("| 1.00 (1.00–1.00) | – |"), "{text}");
        assert_eq!(
            lines[3],
            "| ours | 7.5 (3.0–12.0) | 2.25 (1.50–3.00) | 1,500 (1,500–1,500) |"
        );
        let alone = table(&[row("ours", 0, &own[0])]);
        assert!(alone.starts_with("| server | cost µs |\n"), "{alone}");
    }
}
