//! What the pages tell people to type is there: each Rust block is compiled as a doctest of some crate, and
//! each cargo command names a program, suite or benchmark of this workspace.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Blocks of these, and of none, are to read: settings of others, pictures, what programs print.
const READ: [&str; 6] = ["json", "sql", "text", "toml", "yaml", "promql"];
/// Programs of others, which the pages that use them introduce.
const OTHERS: [&str; 9] = [
    "apt-get",
    "curl",
    "docker",
    "export",
    "jq",
    "mlflow",
    "npm",
    "pip",
    "rotel/rotel/rotel-agent",
];

struct Page {
    path: PathBuf,
    blocks: Vec<Block>,
}

struct Block {
    line: usize,
    language: String,
    text: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn files(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            files(&path, extension, found);
        } else if path.extension().is_some_and(|is| is == extension) {
            found.push(path);
        }
    }
}

fn pages() -> Vec<Page> {
    let mut paths = vec![root().join("README.md"), root().join("CONTRIBUTING.md")];
    files(&root().join("docs"), "md", &mut paths);
    let pages: Vec<_> = paths.into_iter().map(page).collect();
    assert!(pages.iter().map(|page| page.blocks.len()).sum::<usize>() > 50);
    pages
}

fn page(path: PathBuf) -> Page {
    let text = fs::read_to_string(&path).unwrap();
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (number, line) in text.lines().enumerate() {
        match (line.trim_start().strip_prefix("```"), &mut open) {
            (Some(language), None) => {
                open = Some(Block {
                    line: number + 1,
                    language: language.trim().to_owned(),
                    text: String::new(),
                });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some(block)) => writeln!(block.text, "{line}").unwrap(),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "{}: a block has no end", path.display());
    Page { path, blocks }
}

impl Page {
    fn name(&self) -> String {
        let name = self.path.strip_prefix(root()).unwrap();
        name.to_str().unwrap().to_owned()
    }
}

#[test]
fn every_rust_block_is_compiled() {
    let mut sources = Vec::new();
    files(&root().join("crates"), "rs", &mut sources);
    let sources: String = sources
        .iter()
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let mut wrong = Vec::new();
    for page in pages() {
        let name = page.name();
        let included = sources.contains(&format!("include_str!(\"../../../{name}\")"));
        for block in &page.blocks {
            let at = format!("{name}:{}", block.line);
            let mut words = block.language.split(',');
            match words.next().unwrap_or_default() {
                "rust" if !included => wrong.push(format!("{at}: no crate includes the page")),
                "rust" => {
                    let skipped = |word| !matches!(word, "no_run" | "should_panic");
                    wrong.extend(
                        words
                            .filter(|word| skipped(word))
                            .map(|word| format!("{at}: {word}")),
                    );
                }
                "sh" | "console" => {}
                language if language.is_empty() || READ.contains(&language) => {}
                other => wrong.push(format!("{at}: {other:?} is no language of the pages")),
            }
        }
    }
    assert!(wrong.is_empty(), "not compiled: {wrong:#?}");
}

#[test]
fn every_command_is_there() {
    let mut wrong = Vec::new();
    for page in pages() {
        for block in &page.blocks {
            if !matches!(block.language.as_str(), "sh" | "console") {
                continue;
            }
            for command in commands(&block.text) {
                if let Err(problem) = check(&command) {
                    let at = format!("{}:{}", page.name(), block.line);
                    wrong.push(format!("{at}: {command:?}: {problem}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "commands that nobody can run: {wrong:#?}");
}

/// The commands of a block, as words, without variables before them and comments behind.
fn commands(text: &str) -> Vec<Vec<String>> {
    let joined = text.replace("\\\n", " ");
    let mut commands = Vec::new();
    for line in joined.lines() {
        let line = line.trim().trim_start_matches("$ ");
        let line = line.split(" #").next().unwrap_or_default();
        if line.starts_with('#') {
            continue;
        }
        let words: Vec<_> = line
            .split_whitespace()
            .skip_while(|word| {
                word.split_once('=').is_some_and(|(name, _)| {
                    name.chars().all(|c| c.is_ascii_uppercase() || c == '_')
                })
            })
            .map(str::to_owned)
            .collect();
        if !words.is_empty() {
            commands.push(words);
        }
    }
    commands
}

fn check(command: &[String]) -> Result<(), String> {
    let words: Vec<_> = command.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["cargo", "run" | "test" | "bench" | "install", ..] => cargo(&words),
        [".ci/run"] => Ok(()),
        // The crate of the command checks these.
        ["openworkflow", ..] => Ok(()),
        [other, ..] if OTHERS.contains(other) => Ok(()),
        _ => Err("no command of the pages; add it to this test with what checks it".to_owned()),
    }
}

fn cargo(words: &[&str]) -> Result<(), String> {
    let mut package = None;
    let mut rest = words.iter().skip(2);
    while let Some(&word) = rest.next() {
        let mut value = || rest.next().copied().unwrap_or_default();
        match word {
            "--" => break,
            "-p" | "--package" => {
                let name = value();
                let manifest = manifest_of(name).ok_or(format!("there is no package {name}"))?;
                package = Some(manifest);
            }
            "--example" => {
                let name = value();
                let path = root().join(format!("examples/{name}.rs"));
                if !path.exists() {
                    return Err(format!("there is no example {name}"));
                }
            }
            "--test" | "--bench" => {
                let name = value();
                let manifest = package.as_deref().ok_or("it names no package")?;
                let section = format!("[[{}]]\nname = \"{name}\"\n", word.trim_start_matches('-'));
                if !manifest.contains(&section) {
                    return Err(format!("there is no {word} {name}"));
                }
            }
            "--path" => {
                let path = value();
                if !root().join(path).join("Cargo.toml").exists() {
                    return Err(format!("there is no crate at {path}"));
                }
            }
            "--features" => {
                value();
            }
            "--workspace" | "--release" | "--locked" => {}
            other => return Err(format!("{other}: this test does not know it")),
        }
    }
    Ok(())
}

/// The manifest of a package of the workspace.
fn manifest_of(name: &str) -> Option<String> {
    let mut folders: Vec<_> = fs::read_dir(root().join("crates"))
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    folders.extend([root().join("tests"), root().join("examples")]);
    let named = format!("name = \"{name}\"\n");
    folders
        .into_iter()
        .filter_map(|folder| fs::read_to_string(folder.join("Cargo.toml")).ok())
        .find(|manifest| manifest.contains(&named))
}
