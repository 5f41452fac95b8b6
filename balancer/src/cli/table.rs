//! Tables of plain text: aligned, one line a row, coloured only where a person looks at a terminal.

use std::env;

/// Between two columns.
const GAP: &str = "  ";

/// How text may look where it goes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Style {
    pub(super) colour: bool,
    /// The columns of the terminal, if it is one.
    pub(super) width: Option<usize>,
    pub(super) height: Option<usize>,
}

/// A cell, and how it is meant.
#[derive(Debug, Clone)]
pub(super) struct Cell {
    text: String,
    mood: Mood,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    Plain,
    Good,
    Doubtful,
    Bad,
}

/// Rows below a heading. A column whose name begins with `>` is of numbers, which stand to the right.
#[derive(Debug)]
pub(super) struct Table {
    heads: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Style {
    /// Colours only on a terminal, and not against the wish of `NO_COLOR` (no-color.org).
    pub(super) fn of_stdout() -> Self {
        if !super::is_terminal() {
            return Self::default();
        }
        let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
        let known = |it: u16| Some(usize::from(it)).filter(|it| *it > 0);
        Self {
            colour: env::var_os("NO_COLOR").is_none_or(|it| it.is_empty()),
            width: size.and_then(|it| known(it.ws_col)),
            height: size.and_then(|it| known(it.ws_row)),
        }
    }

    /// As much of a line as fits; what stands between ESC and `m` takes no room.
    pub(super) fn cut(&self, line: &str) -> String {
        let Some(width) = self.width else {
            return line.to_owned();
        };
        let mut cut = String::with_capacity(line.len());
        let (mut room, mut escaped) = (width, false);
        for letter in line.chars() {
            if letter == '\x1b' {
                escaped = true;
            } else if escaped {
                escaped = letter != 'm';
            } else if room == 0 {
                continue;
            } else {
                room -= 1;
            }
            cut.push(letter);
        }
        cut
    }

    fn paint(&self, mood: Mood, text: &str) -> String {
        let code = match mood {
            Mood::Plain => return text.to_owned(),
            Mood::Good => 32,
            Mood::Doubtful => 33,
            Mood::Bad => 31,
        };
        match self.colour {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }
}

impl Cell {
    pub(super) fn new(text: impl Into<String>, mood: Mood) -> Self {
        Self {
            text: clean(text.into()),
            mood,
        }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text, Mood::Plain)
    }
}

impl Table {
    pub(super) fn new(heads: &[&'static str]) -> Self {
        Self {
            heads: heads.to_vec(),
            rows: Vec::new(),
        }
    }

    pub(super) fn row(&mut self, cells: Vec<Cell>) {
        debug_assert_eq!(cells.len(), self.heads.len(), "a row fills every column");
        self.rows.push(cells);
    }

    pub(super) fn show(&self, style: Style) -> String {
        let widths: Vec<usize> = (0..self.heads.len()).map(|at| self.width_of(at)).collect();
        let heads = self.heads.iter().map(|it| it.trim_start_matches('>'));
        let heads: Vec<Cell> = heads.map(Cell::from).collect();
        let mut text = String::new();
        for row in std::iter::once(&heads).chain(&self.rows) {
            let cells = (0..).zip(row).zip(&widths);
            let shown = cells.map(|((at, cell), width)| self.aligned(at, cell, *width, style));
            let line = shown.collect::<Vec<_>>().join(GAP);
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    fn width_of(&self, column: usize) -> usize {
        let head = self.heads[column].trim_start_matches('>').chars().count();
        let cells = self.rows.iter().map(|it| it[column].text.chars().count());
        cells.fold(head, usize::max)
    }

    fn aligned(&self, column: usize, cell: &Cell, width: usize, style: Style) -> String {
        let pad = " ".repeat(width - cell.text.chars().count());
        let text = style.paint(cell.mood, &cell.text);
        match self.heads[column].starts_with('>') {
            true => format!("{pad}{text}"),
            false => format!("{text}{pad}"),
        }
    }
}

/// Names come from the registry: none of them may steer the terminal of who looks at them.
pub(super) fn clean(text: String) -> String {
    match text.chars().any(char::is_control) {
        true => text
            .chars()
            .map(|it| if it.is_control() { '?' } else { it })
            .collect(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_numbers_stand_to_the_right() {
        let text = example().show(Style::default());
        assert_eq!(text, "NODE    RPS\nn1       10\nnode-2    9\n");
    }

    #[test]
    fn colours_change_no_column() {
        let style = Style {
            colour: true,
            ..Style::default()
        };
        let text = example().show(style);
        assert_eq!(
            text,
            "NODE    RPS\n\x1b[32mn1\x1b[0m       10\nnode-2    9\n"
        );
    }

    #[test]
    fn a_line_is_cut_where_the_terminal_ends_and_colours_end_with_it() {
        let style = Style {
            width: Some(3),
            ..Style::default()
        };
        assert_eq!(style.cut("\x1b[32mabcdef\x1b[0m"), "\x1b[32mabc\x1b[0m");
        assert_eq!(Style::default().cut("abcdef"), "abcdef");
    }

    #[test]
    fn a_name_cannot_steer_the_terminal() {
        let cell = Cell::from("n1\x1b[2J\r\n");
        assert_eq!(cell.text, "n1?[2J??");
    }

    fn example() -> Table {
        let mut table = Table::new(&["NODE", ">RPS"]);
        table.row(vec![Cell::new("n1", Mood::Good), "10".into()]);
        table.row(vec!["node-2".into(), "9".into()]);
        table
    }
}
