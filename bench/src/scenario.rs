//! What a run does, from a file or from flags.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};

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

/// Presence beside the edits: some clients of a room move their cursors.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Movers {
    /// How many of the room's clients.
    pub members: usize,
    /// States a second that each of them sends.
    pub rate_each: f64,
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
    /// Characters that an edit inserts.
    pub chars_per_edit: u32,
    /// Presence, if any.
    pub movers: Option<Movers>,
    /// Edits are offered in the warm-up alone.
    pub falls_silent: bool,
    /// Clients whose frames are read; what the others receive is counted in bytes and thrown away.
    pub sampled: usize,
    /// Further clients of the first room, who read nothing once they are synced.
    pub stalled: usize,
    /// Load before the measured window, in seconds.
    pub warmup_s: f64,
    /// The measured window, in seconds.
    pub window_s: f64,
    /// How long stragglers are waited for after it, in seconds.
    pub drain_s: f64,
    /// What the scenario asks of that at least.
    pub drain_s_min: f64,
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
        /// Characters that an edit inserts (one).
        chars: Option<u32>,
        /// Clients beside those, who read nothing once they are synced (none).
        stalled: Option<usize>,
        /// How long stragglers are waited for at least, in seconds.
        drain: Option<f64>,
    },
    /// One room in which cursors move.
    Presence {
        /// What reports call it; the file's name unless given.
        name: Option<String>,
        /// Clients in the room.
        clients: usize,
        /// How many of them move their cursors; all, unless given.
        movers: Option<usize>,
        /// States a second that each of those sends.
        states: f64,
        /// Edits a second in the room, by ten of its clients (none).
        rate: Option<f64>,
        /// Clients whose frames are read, beside the writers (all).
        sampled: Option<usize>,
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
        /// Edits a second in each room that all of them type before, in the warm-up (none).
        spoken: Option<f64>,
    },
}

const WRITERS_DEFAULT: usize = 10;

impl Scenario {
    /// Fills in the defaults and checks the bounds.
    pub fn from_file(file: ScenarioFile, default_name: &str) -> Result<Self> {
        let open = |rate_per_room, jittered: Option<bool>| Pace::Open {
            rate_per_room,
            jittered: jittered.unwrap_or(true),
        };
        let (mut chars_per_edit, mut stalled, mut movers, mut drain_s_min) = (1, 0, None, 0.0);
        let (mut sampled_clients, mut falls_silent) = (None, false);
        let (name, rooms, clients, writers, pace) = match file {
            ScenarioFile::Fanout {
                name,
                clients,
                writers,
                rate,
                jittered,
                chars,
                stalled: stalled_clients,
                drain,
            } => {
                chars_per_edit = chars.unwrap_or(1);
                stalled = stalled_clients.unwrap_or(0);
                drain_s_min = drain.unwrap_or(0.0);
                let writers = writers.unwrap_or(WRITERS_DEFAULT.min(clients));
                (name, 1, clients, writers, open(rate, jittered))
            }
            ScenarioFile::Presence {
                name,
                clients,
                movers: moving,
                states,
                rate,
                sampled,
            } => {
                sampled_clients = sampled;
                movers = Some(Movers {
                    members: moving.unwrap_or(clients),
                    rate_each: states,
                });
                let writers = WRITERS_DEFAULT.min(clients);
                let pace = rate.map_or(Pace::Idle, |rate| open(rate, None));
                (name, 1, clients, writers, pace)
            }
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
                spoken,
            } => {
                if rooms == 0 || connections % rooms != 0 {
                    return Err(Error::new("connections must be a multiple of rooms"));
                }
                falls_silent = spoken.is_some();
                let clients = connections / rooms;
                let (writers, pace) =
                    spoken.map_or((1, Pace::Idle), |rate| (clients, open(rate, None)));
                (name, rooms, clients, writers, pace)
            }
        };
        let name = name.unwrap_or_else(|| default_name.to_owned());
        let idle = Self::idle(&name, rooms, clients);
        let scenario = Self {
            writers_per_room: writers,
            pace,
            chars_per_edit,
            movers,
            falls_silent,
            sampled: sampled_clients.unwrap_or(rooms * clients),
            stalled,
            drain_s: idle.drain_s.max(drain_s_min),
            drain_s_min,
            ..idle
        };
        scenario.check()?;
        Ok(scenario)
    }

    /// Connections that do nothing.
    pub fn idle(name: &str, rooms: usize, clients_per_room: usize) -> Self {
        Self {
            name: name.to_owned(),
            rooms,
            clients_per_room,
            writers_per_room: 1,
            pace: Pace::Idle,
            chars_per_edit: 1,
            movers: None,
            falls_silent: false,
            sampled: rooms * clients_per_room,
            stalled: 0,
            warmup_s: 1.0,
            window_s: 5.0,
            drain_s: 2.0,
            drain_s_min: 0.0,
        }
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
        if self.chars_per_edit == 0 || self.chars_per_edit > 10_000 {
            return Err(Error::new("chars must be between 1 and 10,000"));
        }
        if let Some(movers) = self.movers
            && !(movers.members > 0
                && movers.members <= self.clients_per_room
                && movers.rate_each > 0.0)
        {
            return Err(Error::new(
                "movers must be between 1 and the number of clients, and states above 0",
            ));
        }
        if self.sampled == 0 || self.sampled > self.rooms * self.clients_per_room {
            return Err(Error::new(
                "sampled must be between 1 and the number of clients",
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
        self.rooms * self.clients_per_room + self.stalled
    }

    /// The room of a connection, by the order of connecting.
    #[inline]
    pub fn room_of(&self, connection: usize) -> usize {
        let room = connection / self.clients_per_room;
        // Those who stall come last, and are in the first room.
        if room < self.rooms { room } else { 0 }
    }

    /// Whether a connection reads nothing once it is synced.
    #[inline]
    pub fn is_stalled(&self, connection: usize) -> bool {
        connection >= self.rooms * self.clients_per_room
    }

    /// Whether what a connection receives is read. Writers are, for their echoes, and the others that
    /// are lie evenly among all.
    #[inline]
    pub fn is_sampled(&self, connection: usize) -> bool {
        let clients = self.rooms * self.clients_per_room;
        connection < self.writers_per_room
            || self.sampled == clients
            || (connection < clients
                && connection * self.sampled / clients != (connection + 1) * self.sampled / clients)
    }

    /// Clients whose frames are read.
    pub fn readers(&self) -> usize {
        let clients = self.rooms * self.clients_per_room;
        (0..clients).filter(|index| self.is_sampled(*index)).count()
    }

    /// Sets the times of a run, in seconds.
    pub fn set_times(&mut self, warmup_s: f64, window_s: f64, drain_s: f64) {
        self.warmup_s = warmup_s;
        self.window_s = window_s;
        self.drain_s = drain_s.max(self.drain_s_min);
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
    fn those_who_have_spoken_are_all_writers() {
        let silent = "kind = 'idle'\nconnections = 50\nrooms = 5";
        assert!(!parse(silent).unwrap().falls_silent);
        let scenario = parse(&format!("{silent}\nspoken = 20.0")).unwrap();
        assert!(scenario.falls_silent);
        assert_eq!(scenario.writers_per_room, 10);
    }

    #[test]
    fn those_who_stall_come_last_and_are_in_the_first_room() {
        let scenario =
            parse("kind = 'fanout'\nclients = 10\nrate = 1.0\nstalled = 5\ndrain = 9.0").unwrap();
        assert_eq!(scenario.connections(), 15);
        assert!(!scenario.is_stalled(9) && scenario.is_stalled(10));
        assert_eq!((scenario.room_of(9), scenario.room_of(14)), (0, 0));
        assert_eq!(scenario.drain_s, 9.0);
    }

    #[test]
    fn those_who_are_read_are_the_writers_and_some_of_all_others() {
        let text = "kind = 'presence'\nclients = 1000\nstates = 1.0\nrate = 5.0";
        let all = parse(text).unwrap();
        assert_eq!(all.readers(), 1_000);
        let some = parse(&format!("{text}\nsampled = 50")).unwrap();
        assert_eq!(some.readers(), 60);
        assert!((0..10).all(|writer| some.is_sampled(writer)));
        let late = (500..1_000).filter(|index| some.is_sampled(*index)).count();
        assert_eq!(late, 25);
        assert!(parse(&format!("{text}\nsampled = 0")).is_err());
        assert!(parse(&format!("{text}\nsampled = 1001")).is_err());
    }

    #[test]
    fn presence_moves_all_cursors_unless_told() {
        let scenario = parse("kind = 'presence'\nclients = 50\nstates = 10.0").unwrap();
        assert_eq!(scenario.movers.unwrap().members, 50);
        assert_eq!(scenario.pace, Pace::Idle);
        assert!(parse("kind = 'presence'\nclients = 5\nmovers = 6\nstates = 1.0").is_err());
    }
}
