//! What the pages tell people to type is understood: the lines of their shell blocks, and of the table of
//! commands.

use std::fs;
use std::path::{Path, PathBuf};

use crate::program::run;

fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let docs = fs::read_dir(root.join("docs")).expect("there are pages");
    let docs = docs.map(|entry| entry.expect("a page can be listed").path());
    let pages = docs.filter(|path| path.extension().is_some_and(|is| is == "md"));
    pages.chain([root.join("README.md")]).collect()
}

#[test]
fn lines_of_the_pages_are_understood() {
    let mut tried = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).expect("a page can be read");
        let lines = text.lines().map(|line| line.trim_start_matches("$ "));
        for line in lines.filter(|line| line.starts_with("openworkflow ") && !line.contains(" = "))
        {
            let line = line.split(" #").next().unwrap_or_default();
            let mut args: Vec<_> = line.split_whitespace().skip(1).collect();
            // It stops before anything is done, and after the options before it were understood.
            args.push("--help");
            let ran = run(&args);
            assert_eq!(ran.code, 0, "{}: {line}: {}", page.display(), ran.stderr);
            tried += 1;
        }
    }
    assert!(tried > 2, "{tried} lines were found");
}

#[test]
fn the_table_has_every_command() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/command.md");
    let text = fs::read_to_string(page).expect("the page can be read");
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let told: Vec<_> = rows
        .map(|row| row.split('`').nth(1).unwrap_or_default())
        .collect();
    for group in [&[][..], &["run"]] {
        let mut args = group.to_vec();
        args.push("--help");
        let help = run(&args).ok();
        let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
        let commands = commands.take_while(|line| !line.is_empty());
        for command in commands
            .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
            .filter_map(|line| line.split_whitespace().next())
        {
            let mut words = group.to_vec();
            words.push(command);
            let name = words.join(" ");
            let is_told = told.iter().any(|row| {
                row.split(", `")
                    .any(|one| one == name || one.starts_with(&format!("{name} ")))
            });
            assert!(
                is_told
                    || ["help", "run", "run help"].contains(&&*name)
                    || text.contains(&format!("`{name} ")),
                "docs/command.md does not tell of `{name}`"
            );
        }
    }
}
