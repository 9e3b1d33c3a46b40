//! What a run does, from a file or from flags.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// How a run offers its edits.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Pace {
    /// At scheduled times, whatever the server does.
    Open {
        /// Edits a second in each room, over all its writers.
        rate_per_room: f64,
        /// Whether each edit is due somewhere in its slot instead of at its start.
        jittered: bool,
    },
    /// As fast as the server delivers: a bounded number of edits of a room is in flight.
    Closed {
        /// That number.
        in_flight_edits: u64,
    },
    /// Not at all: connections only.
    Idle,
}

/// A run's shape.
#[derive(Clone, Debug, Serialize)]
pub struct Scenario {
    /// What reports call it.
    pub name: String,
    /// Rooms.
    pub rooms: usize,
    /// Connections in each room.
    pub clients_per_room: usize,
    /// How many of those write.
    pub writers_per_room: usize,
    /// How edits are offered.
    pub pace: Pace,
    /// Load before the measured window, in seconds.
    pub warmup_s: f64,
    /// The measured window, in seconds.
    pub window_s: f64,
    /// How long stragglers are waited for after it, in seconds.
    pub drain_s: f64,
}

/// A scenario as it stands in a file.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ScenarioFile {
    /// One room, many clients.
    Fanout {
        /// What reports call it; the file's name unless given.
        name: Option<String>,
        /// Clients in the room.
        clients: usize,
        /// How many of them write; ten, or all where there are fewer.
        writers: Option<usize>,
        /// Edits a second in the room.
        rate: f64,
        /// Whether edits are spread over their slots (yes).
        jittered: Option<bool>,
    },
    /// Many small rooms in which all write.
    Rooms {
        /// What reports call it; the file's name unless given.
        name: Option<String>,
        /// Rooms.
        rooms: usize,
        /// Clients in each (two).
        clients: Option<usize>,
        /// Edits a second in each room.
        rate: f64,
        /// Whether edits are spread over their slots (yes).
        jittered: Option<bool>,
    },
    /// As fast as the server can.
    Saturate {
        /// What reports call it; the file's name unless given.
        name: Option<String>,
        /// Rooms (one).
        rooms: Option<usize>,
        /// Clients in each room.
        clients: usize,
        /// How many of them write; ten, or all where there are fewer.
        writers: Option<usize>,
        /// Edits in flight in each room.
        in_flight: u64,
    },
    /// Connections that do nothing.
    Idle {
        /// What reports call it; the file's name unless given.
        name: Option<String>,
        /// Connections in all.
        connections: usize,
        /// Rooms that they are spread over.
        rooms: usize,
    },
}

const WRITERS_DEFAULT: usize = 10;

impl Scenario {
    /// Reads a scenario file.
    pub fn load(path: &Path) -> Result<Self> {
        let describe =
            |error: &dyn std::fmt::Display| Error::new(format!("{}: {error}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| describe(&error))?;
        let file: ScenarioFile = toml::from_str(&text).map_err(|error| describe(&error))?;
        let stem = path
            .file_stem()
            .map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        Self::from_file(file, &stem).map_err(|error| describe(&error))
    }

    /// Fills in the defaults and checks the bounds.
    pub fn from_file(file: ScenarioFile, default_name: &str) -> Result<Self> {
        let open = |rate_per_room, jittered: Option<bool>| Pace::Open {
            rate_per_room,
            jittered: jittered.unwrap_or(true),
        };
        let (name, rooms, clients, writers, pace) = match file {
            ScenarioFile::Fanout {
                name,
                clients,
                writers,
                rate,
                jittered,
            } => (
                name,
                1,
                clients,
                writers.unwrap_or(WRITERS_DEFAULT.min(clients)),
                open(rate, jittered),
            ),
            ScenarioFile::Rooms {
                name,
                rooms,
                clients,
                rate,
                jittered,
            } => {
                let clients = clients.unwrap_or(2);
                (name, rooms, clients, clients, open(rate, jittered))
            }
            ScenarioFile::Saturate {
                name,
                rooms,
                clients,
                writers,
                in_flight,
            } => {
                let writers = writers.unwrap_or(WRITERS_DEFAULT.min(clients));
                (
                    name,
                    rooms.unwrap_or(1),
                    clients,
                    writers,
                    Pace::Closed {
                        in_flight_edits: in_flight,
                    },
                )
            }
            ScenarioFile::Idle {
                name,
                connections,
                rooms,
            } => {
                if rooms == 0 || connections % rooms != 0 {
                    return Err(Error::new("connections must be a multiple of rooms"));
                }
                (name, rooms, connections / rooms, 1, Pace::Idle)
            }
        };
        let scenario = Self {
            name: name.unwrap_or_else(|| default_name.to_owned()),
            rooms,
            clients_per_room: clients,
            writers_per_room: writers,
            pace,
            warmup_s: 1.0,
            window_s: 5.0,
            drain_s: 2.0,
        };
        scenario.check()?;
        Ok(scenario)
    }

    fn check(&self) -> Result<()> {
        let least = if self.pace == Pace::Idle { 1 } else { 2 };
        if self.rooms == 0 || self.clients_per_room < least {
            return Err(Error::new(format!(
                "a scenario needs a room and {least} clients in each"
            )));
        }
        if self.writers_per_room == 0 || self.writers_per_room > self.clients_per_room {
            return Err(Error::new(
                "writers must be between 1 and the number of clients",
            ));
        }
        match self.pace {
            Pace::Open { rate_per_room, .. } if !(rate_per_room > 0.0 && rate_per_room <= 1e7) => {
                Err(Error::new(
                    "rate must be above 0 and at most 10 million edits a second",
                ))
            }
            Pace::Closed { in_flight_edits: 0 } => Err(Error::new("in_flight must be above 0")),
            _ => Ok(()),
        }
    }

    /// Connections in all.
    pub fn connections(&self) -> usize {
        self.rooms * self.clients_per_room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Scenario> {
        let file = toml::from_str(text).map_err(|error| Error::new(error.to_string()))?;
        Scenario::from_file(file, "file")
    }

    #[test]
    fn defaults_are_filled_in() {
        let scenario = parse("kind = 'fanout'\nclients = 100\nrate = 200.0").unwrap();
        assert_eq!(
            (
                scenario.rooms,
                scenario.clients_per_room,
                scenario.writers_per_room
            ),
            (1, 100, 10)
        );
        assert_eq!(
            scenario.pace,
            Pace::Open {
                rate_per_room: 200.0,
                jittered: true
            }
        );
        assert_eq!(scenario.name, "file");
        let scenario = parse("kind = 'idle'\nconnections = 5000\nrooms = 500").unwrap();
        assert_eq!(
            (scenario.clients_per_room, scenario.connections()),
            (10, 5_000)
        );
    }

    #[test]
    fn unknown_keys_and_impossible_shapes_are_refused() {
        assert!(parse("kind = 'fanout'\nclients = 10\nrate = 1.0\nspeed = 3").is_err());
        assert!(parse("kind = 'fanout'\nclients = 1\nrate = 1.0").is_err());
        assert!(parse("kind = 'fanout'\nclients = 10\nrate = 0.0").is_err());
        assert!(parse("kind = 'fanout'\nclients = 10\nwriters = 11\nrate = 1.0").is_err());
        assert!(parse("kind = 'idle'\nconnections = 5\nrooms = 2").is_err());
    }

    #[test]
    fn every_scenario_in_the_folder_loads() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let mut names: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| Scenario::load(&entry.unwrap().path()).unwrap().name)
            .collect();
        names.sort();
        names.dedup();
        assert!(names.len() >= 9, "{names:?}");
    }
}
