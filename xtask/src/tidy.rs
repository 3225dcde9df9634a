//! `cargo xtask tidy`, also a test: what this repository asks of its own files.
//!
//! A rule is a function from the files to its complaints, each of which names the file and says what would
//! be right; [`Tidy::run`] lists the rules. Rules read the tracked files as text and must never build or
//! change anything, so that they hold on a clone that does not compile.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::command::Cmd;
use crate::project;

/// Checks the rules that no compiler knows: file headers, references, documented counters and features.
#[derive(Debug, clap::Args)]
pub struct Tidy {}

impl Tidy {
    /// Fails with all complaints of all rules.
    pub fn run(self) -> Result<()> {
        let files = tracked(&project::root())?;
        let complaints: Vec<String> = RULES.iter().flat_map(|rule| rule(&files)).collect();
        if complaints.is_empty() {
            return Ok(());
        }
        bail!("{} not tidy:\n{}", complaints.len(), complaints.join("\n"))
    }
}

/// A tracked text file, its path from the root.
struct File {
    path: String,
    text: String,
}

type Rule = fn(&[File]) -> Vec<String>;

const RULES: &[Rule] =
    &[headers, references, fuzz_table, fuzz_seeds, counters_are_documented, features_are_documented];

/// What git tracks, and what it would track once added.
fn tracked(root: &Path) -> Result<Vec<File>> {
    let listing = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let paths = Cmd::new("git").args(listing).directory(root).read()?;
    let mut files = Vec::new();
    for path in paths.split('\0').filter(|path| !path.is_empty()) {
        let full = root.join(path);
        // Deleted but not yet committed, or a link to a folder.
        if !full.is_file() {
            continue;
        }
        let bytes = fs::read(&full).with_context(|| format!("cannot read {}", full.display()))?;
        // Captures and corpora are bytes; rules are about text.
        if let Ok(text) = String::from_utf8(bytes) {
            files.push(File { path: path.to_owned(), text });
        }
    }
    Ok(files)
}

fn rust(files: &[File]) -> impl Iterator<Item = &File> {
    files.iter().filter(|file| file.path.ends_with(".rs"))
}

/// Every source file opens by saying what it is for.
fn headers(files: &[File]) -> Vec<String> {
    let headless = |file: &&File| !file.text.starts_with("//! ");
    rust(files)
        .filter(headless)
        .map(|file| format!("{}: must open with //! and what it is for and must never do", file.path))
        .collect()
}

/// Nothing refers to a place outside this repository: not by a path that climbs out of it, and not to the
/// places where somebody happened to work on it.
fn references(files: &[File]) -> Vec<String> {
    // In two pieces, or this file would complain about itself.
    let places = [
        concat!("../", "shared"),
        concat!("/work", "/main"),
        concat!("/work", "/wt"),
        concat!(".libr", "ary/"),
    ];
    let mut complaints = Vec::new();
    for file in files.iter().filter(|file| file.path != "Cargo.lock") {
        for (number, line) in file.text.lines().enumerate() {
            let climbs = climbs(line) > file.path.matches('/').count();
            if climbs || places.iter().any(|place| line.contains(place)) {
                complaints.push(format!(
                    "{}:{}: refers outside the project: {}",
                    file.path,
                    number + 1,
                    line.trim()
                ));
            }
        }
    }
    complaints
}

/// The longest run of `../` in a line that is a path of its own.
fn climbs(line: &str) -> usize {
    let mut longest = 0;
    let mut rest = line;
    while let Some(start) = rest.find("../") {
        let before = rest.get(..start).unwrap_or_default().chars().next_back();
        let run = rest.get(start..).unwrap_or_default();
        let length = run.as_bytes().chunks(3).take_while(|chunk| chunk == b"../").count();
        // `a/../b` climbs back from where it is, and `...//` is no path.
        if !before.is_some_and(|c| c == '/' || c == '.' || c.is_alphanumeric()) {
            longest = longest.max(length);
        }
        rest = run.get(3 * length..).unwrap_or_default();
    }
    longest
}

const FUZZ_TABLE: &str = "fuzz/src/main.rs";

/// A fuzz body that is not in the table is never fuzzed.
fn fuzz_table(files: &[File]) -> Vec<String> {
    let table = text_of(files, FUZZ_TABLE);
    let mut complaints = Vec::new();
    for file in
        rust(files).filter(|file| file.path.starts_with("agent/src/") || file.path.starts_with("proto/src/"))
    {
        for line in file.text.lines() {
            let Some(rest) = line.trim_start().strip_prefix("pub fn fuzz_") else { continue };
            let name = rest.split('(').next().unwrap_or_default();
            if !table.contains(&format!("::fuzz_{name})")) {
                complaints.push(format!("{}: fuzz_{name} is not in the table of {FUZZ_TABLE}", file.path));
            }
        }
    }
    complaints
}

/// A target starts from what its input looks like.
fn fuzz_seeds(files: &[File]) -> Vec<String> {
    let root = project::root();
    let mut complaints = Vec::new();
    for line in text_of(files, FUZZ_TABLE).lines() {
        let Some(target) = line.trim_start().strip_prefix("(\"").and_then(|rest| rest.split('"').next())
        else {
            continue;
        };
        let seeds = root.join("fuzz/corpus").join(target);
        if fs::read_dir(&seeds).map_or(0, Iterator::count) == 0 {
            complaints.push(format!("{FUZZ_TABLE}: {target} has no seeds in fuzz/corpus/{target}"));
        }
    }
    complaints
}

/// Each counter that the agent's source names is explained where an operator looks for it.
fn counters_are_documented(files: &[File]) -> Vec<String> {
    let documents = documents(files);
    let mut complaints = BTreeSet::new();
    for file in rust(files).filter(|file| file.path.starts_with("agent/src/") && !is_test(&file.path)) {
        for name in counters(production(&file.text)) {
            if !documents.contains(&format!("`{name}`")) {
                complaints
                    .insert(format!("{}: the counter `{name}` is documented in no .md file", file.path));
            }
        }
    }
    complaints.into_iter().collect()
}

/// The string literals of a source that are counters' names: `spandrel_<station>_<what>`, whole.
fn counters(source: &str) -> BTreeSet<&str> {
    let letters = |name: &str| name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    source
        .split('"')
        .filter(|literal| {
            literal.starts_with("spandrel_") && literal.matches('_').count() >= 2 && letters(literal)
        })
        .collect()
}

const FEATURES: &str = "agent/src/probe/feature.rs";

/// Each row of the feature table stands in the README's, by its name.
fn features_are_documented(files: &[File]) -> Vec<String> {
    let readme = text_of(files, "README.md");
    let source = production(text_of(files, FEATURES));
    let rows: Vec<&str> =
        source.split("name: \"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    if rows.is_empty() {
        return vec![format!("{FEATURES}: no row `name: \"…\"` found; has the feature table moved?")];
    }
    let documented = |name: &&&str| readme.lines().any(|line| line.starts_with('|') && line.contains(**name));
    let absent = rows.iter().filter(|name| !documented(name));
    absent.map(|name| format!("README.md: the feature {name:?} of {FEATURES} is in no table")).collect()
}

/// A file that holds tests only.
fn is_test(path: &str) -> bool {
    path.ends_with("tests.rs") || path.ends_with("/testing.rs") || path.contains("/tests/")
}

/// A source without its tests.
fn production(source: &str) -> &str {
    source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default()
}

fn text_of<'a>(files: &'a [File], path: &str) -> &'a str {
    files.iter().find(|file| file.path == path).map_or("", |file| file.text.as_str())
}

fn documents(files: &[File]) -> String {
    files.iter().filter(|file| file.path.ends_with(".md")).map(|file| file.text.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_is_tidy() {
        let complaints = Tidy {}.run().err().map(|error| error.to_string());
        assert_eq!(complaints, None);
    }

    fn file(path: &str, text: &str) -> Vec<File> {
        vec![File { path: path.to_owned(), text: text.to_owned() }]
    }

    #[test]
    fn a_file_without_a_header_is_named() {
        assert_eq!(headers(&file("a.rs", "//! For this.\n")).len(), 0);
        assert_eq!(headers(&file("a.rs", "use std;\n")).len(), 1);
    }

    #[test]
    fn a_path_may_climb_to_the_root_but_not_out_of_it() {
        assert!(references(&file("a/b/c.rs", "include_str!(\"../../README.md\")")).is_empty());
        assert_eq!(references(&file("a/b/c.rs", concat!("see ", "../../..", "/notes.md"))).len(), 1);
        assert_eq!(references(&file("README.md", "see ../notes.md")).len(), 1);
        assert!(references(&file("README.md", "so on.../x, GET /a/../b, [a](b/../c.md)")).is_empty());
        assert_eq!(references(&file("a/b/c.rs", concat!("// ../", "shared/x"))).len(), 1);
    }

    #[test]
    fn a_counter_is_a_whole_literal_and_tests_do_not_count() {
        let source = "by(\"spandrel_stream_bytes_total\"); f(\"spandrel_x\"); f(\"a spandrel_b_c\");\
            \n#[cfg(test)]\nmod tests { \"spandrel_a_b\" }";
        assert_eq!(counters(production(source)), BTreeSet::from(["spandrel_stream_bytes_total"]));
        assert_eq!(counters_are_documented(&file("agent/src/x.rs", source)).len(), 1);
        let mut files = file("agent/src/x.rs", source);
        files.extend(file("ARCHITECTURE.md", "| `spandrel_stream_bytes_total` |"));
        assert!(counters_are_documented(&files).is_empty());
    }

    #[test]
    fn a_feature_stands_in_a_table_of_the_readme() {
        let mut files = file(FEATURES, "Row { name: \"ring buffer\" }");
        assert_eq!(features_are_documented(&files).len(), 1);
        files.extend(file("README.md", "the ring buffer\n"));
        assert_eq!(features_are_documented(&files).len(), 1, "a mention is no row");
        files.extend(file("b/README.md", ""));
        files[1].text = "| ring buffer | 5.8 |\n".to_owned();
        assert!(features_are_documented(&files).is_empty());
    }

    #[test]
    fn a_feature_table_that_has_moved_is_noticed() {
        assert_eq!(features_are_documented(&file("README.md", "")).len(), 1);
    }

    #[test]
    fn a_fuzz_body_that_is_not_in_the_table_is_named() {
        let mut files = file("agent/src/a/fuzz.rs", "pub fn fuzz_a(data: &[u8]) {");
        assert_eq!(fuzz_table(&files).len(), 1);
        files.extend(file(FUZZ_TABLE, "(\"a\", spandrel::a::fuzz::fuzz_a),"));
        assert!(fuzz_table(&files).is_empty());
    }
}
