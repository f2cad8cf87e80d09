//! Tables for a person.

/// Columns as wide as their widest cell; those of `right` are flush right.
pub fn table<const N: usize>(rows: &[[String; N]], right: &[usize]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| {
        let cell = |(column, (cell, width)): (usize, (&String, usize))| match right.contains(&column) {
            true => format!("{cell:>width$}"),
            false => format!("{cell:<width$}"),
        };
        let cells: Vec<String> = row.iter().zip(widths).enumerate().map(cell).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_are_aligned() {
        let rows = [["NAME", "SIZE", ""], ["a", "1 B", "x"], ["longer", "10 B", ""]];
        let rows = rows.map(|row| row.map(str::to_owned));
        assert_eq!(super::table(&rows, &[1]), "NAME    SIZE\na        1 B  x\nlonger  10 B\n");
    }
}
