//! Tables as `kubectl` prints them: a line of titles, then a line for each object, columns at least
//! six wide and three apart.

/// Rows under titles.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    titles: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// Whether the line of titles is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Titles {
    /// It is.
    Shown,
    /// It is not.
    Hidden,
}

// === impl Table ===

impl Table {
    /// A table with these titles.
    pub(crate) fn new<T: Into<String>>(titles: impl IntoIterator<Item = T>) -> Self {
        Self { titles: titles.into_iter().map(Into::into).collect(), rows: Vec::new() }
    }

    /// Adds a row; one of no text is `<none>`.
    pub(crate) fn add(&mut self, cells: impl IntoIterator<Item = String>) {
        let cell =
            |cell: String| if cell.is_empty() { "<none>".to_owned() } else { one_line(&cell) };
        self.rows.push(cells.into_iter().map(cell).collect());
    }

    /// Whether it has no rows.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as text.
    pub(crate) fn print(&self, titles: Titles) -> String {
        self.print_as_wide_as(titles, &self.widths())
    }

    /// The same, with columns of given widths where its own are not wider.
    pub(crate) fn print_as_wide_as(&self, titles: Titles, widths: &[usize]) -> String {
        let own = self.widths();
        let widths: Vec<usize> = own
            .iter()
            .enumerate()
            .map(|(column, own)| (*own).max(widths.get(column).copied().unwrap_or_default()))
            .collect();
        let mut text = String::new();
        if titles == Titles::Shown {
            line(&mut text, &self.titles, &widths);
        }
        for row in &self.rows {
            line(&mut text, row, &widths);
        }
        text
    }

    /// How wide its columns are.
    pub(crate) fn widths(&self) -> Vec<usize> {
        let wide = |column: usize| {
            let rows = self.rows.iter().filter_map(|row| row.get(column));
            let cells = rows.chain(self.titles.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
        };
        (0..self.titles.len()).map(|column| (wide(column) + GAP).max(LEAST)).collect()
    }
}

fn line(text: &mut String, cells: &[String], widths: &[usize]) {
    let before = text.len();
    for (cell, width) in cells.iter().zip(widths) {
        text.push_str(cell);
        text.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count())));
    }
    text.truncate(before + text[before..].trim_end().len());
    text.push('\n');
}

/// A cell is one line, whatever a message holds.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Between columns.
const GAP: usize = 3;
/// The narrowest column.
const LEAST: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(["NAME", "READY", "AGE"]);
        table.add(["a-long-name", "1/1", "5m"].map(str::to_owned));
        table.add(["b", "", "10\nd"].map(str::to_owned));
        let text =
            "NAME          READY    AGE\na-long-name   1/1      5m\nb             <none>   10 d\n";
        assert_eq!(table.print(Titles::Shown), text);
        let rows = text.split_once('\n').expect("titles").1;
        assert_eq!(table.print(Titles::Hidden), rows);
    }
}
