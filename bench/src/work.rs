//! What there is to run: a load, documents and those who join them, or rooms that are left.

use crate::join::Joining;
use crate::leave::Leaving;
use crate::scenario::{Scenario, ScenarioFile};
use crate::{Error, Result};
use serde::Deserialize;
use std::path::Path;

/// One thing to run against a server.
#[derive(Clone, Debug)]
pub struct Work {
    /// What is done.
    pub task: Task,
    /// Through TLS alone: `tls = true` in the file. Others go to whatever the server speaks.
    pub tls: bool,
}

/// What clients do.
#[derive(Clone, Debug)]
pub enum Task {
    /// Clients who stay and talk for a while.
    Load(Scenario),
    /// Documents, and clients who come for them.
    Join(Joining),
    /// Rooms that nobody stays in.
    Leave(Leaving),
}

/// What is read first of a scenario file.
#[derive(Deserialize)]
struct Kind {
    kind: String,
    #[serde(default)]
    tls: bool,
}

impl Work {
    /// Reads a scenario file.
    pub fn load(path: &Path) -> Result<Self> {
        let describe =
            |error: &dyn std::fmt::Display| Error::new(format!("{}: {error}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| describe(&error))?;
        let stem = path
            .file_stem()
            .map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        let Kind { kind, tls } = toml::from_str(&text).map_err(|error| describe(&error))?;
        // The rest is for what is of that kind.
        let mut keys: toml::Table = toml::from_str(&text).map_err(|error| describe(&error))?;
        keys.remove("tls");
        let is = |task| Ok(Self { task, tls });
        if kind == "join" {
            let mut joining: Joining = keys.try_into().map_err(|error| describe(&error))?;
            joining.name.get_or_insert(stem);
            joining.check().map_err(|error| describe(&error))?;
            return is(Task::Join(joining));
        }
        if kind == "leave" {
            let mut leaving: Leaving = keys.try_into().map_err(|error| describe(&error))?;
            leaving.name.get_or_insert(stem);
            leaving.check().map_err(|error| describe(&error))?;
            return is(Task::Leave(leaving));
        }
        let file: ScenarioFile = keys.try_into().map_err(|error| describe(&error))?;
        let scenario = Scenario::from_file(file, &stem).map_err(|error| describe(&error))?;
        is(Task::Load(scenario))
    }

    /// What reports call it.
    pub fn name(&self) -> &str {
        match &self.task {
            Task::Load(scenario) => &scenario.name,
            Task::Join(joining) => joining.name(),
            Task::Leave(leaving) => leaving.name(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_in_the_folder_loads() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let mut names: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| Work::load(&entry.unwrap().path()).unwrap())
            .map(|work| work.name().to_owned())
            .collect();
        names.sort();
        names.dedup();
        assert!(names.len() >= 16, "{names:?}");
    }

    #[test]
    fn tls_is_a_key_of_every_kind_and_others_are_still_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("work.toml");
        let load = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Work::load(&path)
        };
        let (idle, left) = (
            "kind = 'idle'\nconnections = 4\nrooms = 2\n",
            "kind = 'leave'\nrooms = 4\nat_once = 2\ndocument_chars = 1\nrest = 0.0\n",
        );
        for text in [idle, left] {
            assert!(!load(text).unwrap().tls);
            assert!(load(&format!("{text}tls = true\n")).unwrap().tls);
            let error = load(&format!("{text}ssl = true\n")).unwrap_err();
            assert!(error.to_string().contains("ssl"), "{error}");
        }
    }
}
