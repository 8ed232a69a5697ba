//! `check`: one line per test of this machine, a hint where one fails, and an exit code.

use comfy_table::Cell;
use serde::Serialize;

use super::error::Error;
use super::exit::Exit;
use super::{print, show, table};
use crate::config::cli::Output;

/// What one test of this machine found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    /// What was tested.
    pub name: String,
    /// Whether the agent can run with it.
    pub ok: bool,
    /// What was found.
    pub detail: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Exit code of the process, where this is the first test that fails.
    pub code: u8,
}

/// Shows the lines; the code is that of the first one that failed.
pub fn report_checks(lines: &[Line], output: Output) -> Result<Exit, Error> {
    let text = match output {
        Output::Table => as_table(lines),
        Output::Json | Output::Yaml => show::structured(&lines, output)?,
    };
    print(&text)?;
    let failed = lines.iter().find(|line| !line.ok);
    Ok(failed.map_or(Exit::OK, |line| Exit::from_code(line.code)))
}

fn as_table(lines: &[Line]) -> String {
    let mut text = table::render(
        &["", "CODE", "CHECK", "FOUND"],
        lines.iter().map(|line| {
            let mark = match (line.ok, &line.hint) {
                (true, None) => "ok",
                (true, Some(_)) => "warn",
                (false, _) => "FAIL",
            };
            let code = line.code.to_string();
            let cells = [mark, &code, line.name.as_str(), line.detail.as_str()];
            cells.map(Cell::new).to_vec()
        }),
    );
    for line in lines {
        if let Some(hint) = &line.hint {
            text.extend(["\n", &line.name, ": ", hint]);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_decides_the_code_and_its_hint_is_shown() {
        let line = |name: &str, ok, hint: Option<&str>, code| Line {
            name: name.to_owned(),
            ok,
            detail: "found".to_owned(),
            hint: hint.map(str::to_owned),
            code,
        };
        let lines = [
            line("kernel", true, None, 71),
            line("other owners", true, Some("beware"), 71),
            line("bpffs", false, Some("mount it"), 73),
            line("capabilities", false, None, 77),
        ];
        let text = as_table(&lines);
        for wanted in [
            "ok    71    kernel",
            "warn  71    other",
            "FAIL  73    bpffs",
            "\nbpffs: mount it",
            "\nother owners: beware",
        ] {
            assert!(text.contains(wanted), "{wanted}: {text}");
        }
        let exit = report_checks(&lines, Output::Table).expect("stdout is there");
        assert_eq!(exit, Exit::CANNOT_CREATE);
    }
}
