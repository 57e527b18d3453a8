//! Plain text tables.

use std::io::{self, Write};

/// Columns of text under one or two lines of heads; the first and last column are left-aligned, the others right-aligned.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
    heads: usize,
}

impl Table {
    /// A table whose first rows are `heads`.
    pub(crate) fn new(heads: &[&[&str]]) -> Table {
        let rows = heads.iter().map(|row| row.iter().map(|cell| (*cell).to_owned()).collect()).collect();
        Table { rows, heads: heads.len() }
    }

    /// Adds a row of as many cells as the heads have.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Prints it. Cells are ASCII, so that their width is their length.
    pub(crate) fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width =
            |column: usize| self.rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for (number, row) in self.rows.iter().enumerate() {
            if number == self.heads {
                let rule = widths.iter().sum::<usize>() + 2 * columns.saturating_sub(1);
                writeln!(out, "{}", "-".repeat(rule))?;
            }
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                if column > 0 {
                    line.push_str("  ");
                }
                let pad = " ".repeat(widths[column] - cell.len());
                if column == 0 || column + 1 == columns {
                    line += &(cell.clone() + &pad)
                } else {
                    line += &(pad + cell)
                }
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn numbers_line_up_on_the_right_and_names_on_the_left() {
        let mut table = Table::new(&[&["way", "p50", "note"]]);
        table.row(vec!["none".into(), "1234.5".into(), "x".into()]);
        table.row(vec!["gpreempt".into(), "20.0".into(), "y".into()]);
        let mut out = Vec::new();
        table.print(&mut out).unwrap();
        let want = "\
way          p50  note
----------------------
none      1234.5  x
gpreempt    20.0  y
";
        assert_eq!(String::from_utf8(out).unwrap(), want);
    }
}
