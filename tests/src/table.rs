//! Tables for people, in plain text.

/// Rows under headings, in columns as wide as they need; every column but the first is set to the right.
#[must_use]
pub fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let headings: Vec<String> = headings.iter().map(|text| (*text).to_owned()).collect();
    let widths: Vec<usize> = (0..headings.len())
        .map(|column| {
            let cells = std::iter::once(&headings).chain(rows);
            let widths = cells.filter_map(|row| Some(row.get(column)?.chars().count()));
            widths.max().unwrap_or_default()
        })
        .collect();
    let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
    let mut text = String::new();
    for row in [&headings, &rule].into_iter().chain(rows) {
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let padding = " ".repeat(width - cell.chars().count());
            text.push_str("  ");
            if column == 0 {
                text.push_str(cell);
                text.push_str(&padding);
            } else {
                text.push_str(&padding);
                text.push_str(cell);
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::table;

    #[test]
    fn columns_are_as_wide_as_they_need() {
        let text = table(&["name", "n"], &[vec!["a".to_owned(), "100".to_owned()]]);
        assert_eq!(text, "  name    n\n  ----  ---\n  a     100\n");
    }
}
