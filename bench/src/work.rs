//! What there is to run: a load, or documents and those who join them.

use crate::join::Joining;
use crate::scenario::{Scenario, ScenarioFile};
use crate::{Error, Result};
use serde::Deserialize;
use std::path::Path;

/// One thing to run against a server.
#[derive(Clone, Debug)]
pub enum Work {
    /// Clients who stay and talk for a while.
    Load(Scenario),
    /// Documents, and clients who come for them.
    Join(Joining),
}

/// What is read first of a scenario file.
#[derive(Deserialize)]
struct Kind {
    kind: String,
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
        let Kind { kind } = toml::from_str(&text).map_err(|error| describe(&error))?;
        if kind == "join" {
            let mut joining: Joining = toml::from_str(&text).map_err(|error| describe(&error))?;
            joining.name.get_or_insert(stem);
            joining.check().map_err(|error| describe(&error))?;
            return Ok(Self::Join(joining));
        }
        let file: ScenarioFile = toml::from_str(&text).map_err(|error| describe(&error))?;
        let scenario = Scenario::from_file(file, &stem).map_err(|error| describe(&error))?;
        Ok(Self::Load(scenario))
    }

    /// What reports call it.
    pub fn name(&self) -> &str {
        match self {
            Self::Load(scenario) => &scenario.name,
            Self::Join(joining) => joining.name(),
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
}
