//! Text in columns.

/// Which side a column's cells stand at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
}

/// Lines without trailing blanks. Columns are as wide as their widest cell, two blanks apart; a cell beyond the last
/// column's side stands left.
pub(super) fn table(sides: &[Side], rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().enumerate().map(|(column, cell)| {
            let width = widths[column];
            match sides.get(column) {
                Some(Side::Right) => format!("{cell:>width$}"),
                _ => format!("{cell:<width$}"),
            }
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["STEP", "N"], ["1", "1,000"], ["", "7"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(table(&[Side::Left, Side::Right], &rows), "STEP      N\n1     1,000\n          7\n");
    }
}
