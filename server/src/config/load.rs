//! Reading the configuration from its four sources, the later ones over the earlier.

use super::keys::Key;
use super::value::Value;
use super::{Config, rules};
use std::fmt;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Where a value comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// It is as it was built.
    Default,
    /// The file as a whole.
    WholeFile(PathBuf),
    /// A line of the file, from 1.
    File(PathBuf, usize),
    /// An environment variable.
    Env(String),
    /// A flag of the command line.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => f.write_str("default"),
            Source::WholeFile(path) => path.display().fmt(f),
            Source::File(path, line) => write!(f, "{}:{line}", path.display()),
            Source::Env(name) => write!(f, "environment {name}"),
            Source::Flag(flag) => write!(f, "flag --{flag}"),
        }
    }
}

/// Something that is wrong, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Where it was found.
    pub source: Source,
    /// The key that it is about, if it is about one.
    pub key: Option<&'static str>,
    /// What is wrong, and what to do.
    pub what: String,
}

impl fmt::Display for Problem {
    /// The place, the key unless the place says it, and what is wrong.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.source, self.key) {
            (Source::Default, _) => {}
            (Source::Flag(flag), _) => write!(f, "--{flag}: ")?,
            (source, _) => write!(f, "{source}: ")?,
        }
        match (&self.source, self.key) {
            (Source::Default | Source::WholeFile(_) | Source::File(..), Some(key)) => {
                write!(f, "{key}: {}", self.what)
            }
            _ => f.write_str(&self.what),
        }
    }
}

impl std::error::Error for Problem {}

/// What to read.
#[derive(Clone, Default, Debug)]
pub struct Inputs {
    /// The file, if there is one.
    pub file: Option<PathBuf>,
    /// The environment; variables that do not begin with `COLLABBLOCKS_` are left alone.
    pub env: Vec<(String, String)>,
    /// Values of flags, by the name of their key.
    pub flags: Vec<(&'static str, String)>,
    /// Keys that are not used by who reads: rules over several keys do not ask for them.
    pub unused: Vec<&'static str>,
}

/// A configuration that keeps to all rules, and where each value of it comes from.
#[derive(Clone, Debug)]
pub struct Effective {
    /// The values.
    pub config: Config,
    /// One for each of [`Key::all`], in its order.
    pub sources: Vec<Source>,
    /// What an operator should know and is no error.
    pub warnings: Vec<String>,
}

impl Effective {
    /// Where a key's value comes from. Panics if there is no such key.
    pub fn source(&self, name: &str) -> &Source {
        let at = Key::all().iter().position(|key| key.name == name);
        &self.sources[at.expect("a key of the configuration")]
    }

    /// The configuration as a file, each line with where its value comes from.
    pub fn print(&self) -> String {
        let mut lines = Vec::new();
        let mut group = "";
        for (key, source) in Key::all().iter().zip(&self.sources) {
            if key.group() != group {
                group = key.group();
                lines.push((format!("\n[{group}]"), None));
            }
            let name = key.name.rsplit('.').next().unwrap_or(key.name);
            lines.push((
                format!("{name} = {}", key.value(&self.config)),
                Some(source),
            ));
        }
        let width = lines
            .iter()
            .filter(|(_, source)| source.is_some())
            .map(|(line, _)| line.len())
            .max()
            .unwrap_or(0);
        let mut out = String::new();
        for (line, source) in lines {
            match source {
                Some(source) => out += &format!("{line:width$}  # {source}\n"),
                None => out += &format!("{line}\n"),
            }
        }
        out
    }
}

/// Variables of ours that are no keys.
const ENV_OTHER: &[&str] = &["COLLABBLOCKS_CONFIG", "COLLABBLOCKS_SEED"];

/// Reads the configuration; all that is wrong with it is told at once.
pub fn load(inputs: &Inputs) -> Result<Effective, Vec<Problem>> {
    let mut loading = Loading {
        config: Config::default(),
        sources: vec![Source::Default; Key::all().len()],
        warnings: Vec::new(),
        problems: Vec::new(),
    };
    if let Some(path) = &inputs.file {
        match std::fs::read_to_string(path) {
            Ok(text) => loading.file(path, &text),
            Err(error) => {
                let what = format!("the configuration file cannot be read: {error}");
                loading.problem(Source::WholeFile(path.clone()), None, what);
            }
        }
    }
    loading.env(&inputs.env);
    for (name, text) in &inputs.flags {
        let key = Key::find(name).expect("flags are made from the keys");
        loading.set(key, Source::Flag(key.flag()), |config| {
            (key.set_text)(config, text)
        });
    }
    if loading.problems.is_empty() {
        for (name, what) in rules::broken(&loading.config) {
            if inputs.unused.contains(&name) {
                continue;
            }
            let at = Key::all()
                .iter()
                .position(|key| key.name == name)
                .expect("rules name keys");
            loading.problem(loading.sources[at].clone(), Some(name), what);
        }
    }
    if loading.problems.is_empty() {
        let Loading {
            config,
            sources,
            warnings,
            ..
        } = loading;
        Ok(Effective {
            config,
            sources,
            warnings,
        })
    } else {
        Err(loading.problems)
    }
}

struct Loading {
    config: Config,
    sources: Vec<Source>,
    warnings: Vec<String>,
    problems: Vec<Problem>,
}

impl Loading {
    fn problem(&mut self, source: Source, key: Option<&'static str>, what: String) {
        self.problems.push(Problem { source, key, what });
    }

    fn set(
        &mut self,
        key: &Key,
        source: Source,
        set: impl FnOnce(&mut Config) -> Result<(), String>,
    ) {
        match set(&mut self.config) {
            Ok(()) => {
                let at = Key::all()
                    .iter()
                    .position(|one| one.name == key.name)
                    .expect("a key of the table");
                self.sources[at] = source;
            }
            Err(what) => self.problem(source, Some(key.name), what),
        }
    }

    fn file(&mut self, path: &Path, text: &str) {
        let line = |offset: usize| {
            1 + text.as_bytes()[..offset.min(text.len())]
                .iter()
                .filter(|b| **b == b'\n')
                .count()
        };
        let table = match DeTable::parse(text) {
            Ok(table) => table,
            Err(error) => {
                let at = error.span().map_or(1, |span| line(span.start));
                let what = error.message().replace('\n', ", ");
                let source = Source::File(path.into(), at);
                return self.problem(source, None, format!("not TOML: {what}"));
            }
        };
        let mut found = Vec::new();
        flatten(table.get_ref(), "", &mut found);
        found.sort_by_key(|(_, offset, _)| *offset);
        for (name, offset, value) in found {
            let source = Source::File(path.into(), line(offset));
            match Key::find(&name) {
                Some(key) => self.set(key, source, |config| {
                    (key.set_value)(config, &Value::of(value))
                }),
                None => self.problem(
                    source,
                    None,
                    unknown(
                        "key",
                        &name,
                        Key::all().iter().map(|key| key.name.to_string()),
                    ),
                ),
            }
        }
    }

    fn env(&mut self, env: &[(String, String)]) {
        let names: Vec<String> = Key::all().iter().map(Key::env).collect();
        for (name, text) in env
            .iter()
            .filter(|(name, _)| name.starts_with("COLLABBLOCKS_"))
        {
            let source = Source::Env(name.clone());
            if let Some(at) = names.iter().position(|one| one == name) {
                let key = &Key::all()[at];
                self.set(key, source, |config| (key.set_text)(config, text));
            } else if ENV_OTHER.contains(&name.as_str()) {
                continue;
            } else if looks_like_a_key(name, &names) {
                self.problem(
                    source,
                    None,
                    unknown("variable", name, names.iter().cloned()),
                );
            } else {
                self.warnings.push(format!(
                    "environment variable {name} is no key of the configuration and is ignored"
                ));
            }
        }
    }
}

/// Whether a variable was most likely meant as a key. Others are left alone: Kubernetes sets
/// `COLLABBLOCKS_SERVICE_HOST` and the like for a service of that name, and tests have their own.
fn looks_like_a_key(name: &str, names: &[String]) -> bool {
    let bare = name.trim_start_matches("COLLABBLOCKS_");
    super::GROUPS
        .iter()
        .any(|(group, _)| bare.starts_with(&format!("{}_", group.to_ascii_uppercase())))
        || names.iter().any(|known| distance(known, name) <= 2)
}

fn flatten<'a, 'i>(
    table: &'a DeTable<'i>,
    prefix: &str,
    found: &mut Vec<(String, usize, &'a DeValue<'i>)>,
) {
    for (name, value) in table {
        let full = format!("{prefix}{}", name.get_ref());
        let group = super::GROUPS.iter().any(|(group, _)| *group == full);
        match Spanned::get_ref(value) {
            DeValue::Table(inner) if group || !inner.is_empty() => {
                flatten(inner, &format!("{full}."), found)
            }
            other => found.push((full, name.span().start, other)),
        }
    }
}

/// The sentence for an unknown name, with the known one that is nearest.
fn unknown(what: &str, name: &str, known: impl Iterator<Item = String>) -> String {
    match nearest(name, known) {
        Some(near) => format!("unknown {what} {name}; did you mean {near}?"),
        None => {
            format!("unknown {what} {name}; `collabblocks config default` prints all there are")
        }
    }
}

/// The known name nearest to one, if any is near enough to be meant.
pub(crate) fn nearest(name: &str, known: impl Iterator<Item = String>) -> Option<String> {
    let last = |name: &str| name.rsplit('.').next().unwrap_or(name).to_string();
    known
        .map(|one| {
            // A key in the wrong group is as near as its own name says, plus one.
            let direct = distance(name, &one);
            let bare = distance(&last(name), &last(&one)) + 1;
            (direct.min(bare), one)
        })
        .min()
        .filter(|(distance, one)| *distance <= 2.max(one.len() / 3))
        .map(|(_, one)| one)
}

/// Edits (insert, delete, replace, swap of neighbours) between two names.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut least = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    least = least.min(rows[i - 2][j - 2] + 1);
                }
                least
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
