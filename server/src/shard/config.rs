//! What a shard must be told; plain data, a copy for each.

use super::pace::Pace;
use super::types::ShardId;
use std::collections::BTreeSet;
use std::time::Duration;

/// A shard's settings.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// Its number.
    pub id: ShardId,
    /// How many there are.
    pub shards: u16,
    /// Peers, too, get an update only once it is durable.
    pub strict: bool,
    /// Who may connect at all.
    pub admission: Admission,
    /// Whether it is asked who a client is; if not, whoever may connect may write.
    pub authenticates: bool,
    /// Seeds hashes of what clients choose; random in production.
    pub hash_seed: u64,
    /// Rooms that are not opened: each held its core before.
    pub quarantine: BTreeSet<String>,
    /// Bounds on what clients may do.
    pub limits: SessionLimits,
    /// Bounds on what they send.
    pub guard: collabblocks_storage_engine::Limits,
}

/// Who may connect, before it is asked who it is. All there is by default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Loopback peers only; of browsers, pages served from loopback, and the origins listed.
    Loopback(Vec<String>),
    /// Anybody who reaches the port; of browsers, pages of this host and the origins listed.
    Open(Vec<String>),
}

/// Bounds on connections and sessions. `docs/limits.md` says what happens at each.
#[derive(Clone, Copy, Debug)]
pub struct SessionLimits {
    /// Connections on this shard.
    pub connections_max: usize,
    /// Sessions in one room.
    pub sessions_per_room_max: usize,
    /// Sessions in one room over which further ones stay on the cores that accept them; 0: none do.
    pub hot_room_sessions: usize,
    /// Bytes of a request head.
    pub http_head_bytes_max: usize,
    /// Time for a request head to arrive.
    pub http_head_timeout: Duration,
    /// Time for the question who a client is.
    pub authenticate_timeout: Duration,
    /// Such questions under way.
    pub authenticating_max: usize,
    /// Bytes of one WebSocket message.
    pub frame_bytes_max: usize,
    /// Bytes of half-sent messages of all connections together. Past it, whoever sends more of a
    /// large one is closed.
    pub half_read_bytes_max: usize,
    /// Bytes of a room name.
    pub room_name_bytes_max: usize,
    /// Clients whose presence one session may own.
    pub awareness_clients_max: usize,
    /// Awareness messages of one session in a second that are heard at once; 0: any number. Of more,
    /// the latest state of each client is heard later.
    pub presence_rate_max: u32,
    /// Awareness messages heard at once after a silence.
    pub presence_burst: u32,
    /// How deliveries wait as a room grows.
    pub pace: Pace,
    /// Bytes kept for the sessions of a room that are behind, before they get a diff instead.
    pub queue_soft_bytes: usize,
    /// Bytes waiting for one connection before it is closed.
    pub queue_hard_bytes: usize,
    /// Bytes waiting for all connections whose sockets hold bytes back, before some are closed.
    pub queue_core_bytes_max: usize,
    /// Time for a connection whose socket holds bytes back to take some before it is closed.
    pub slow_reader_timeout: Duration,
    /// Messages of one session kept while its room loads.
    pub load_queue_commands_max: usize,
    /// Bytes of them.
    pub load_queue_bytes_max: usize,
    /// Bytes of those of all sessions of a room.
    pub load_queue_room_bytes_max: usize,
    /// Bytes of those of all sessions of this shard.
    pub load_queue_core_bytes_max: usize,
    /// Time for a room to load.
    pub load_timeout: Duration,
    /// Times a session may repeat a gap after it was answered.
    pub gap_repeats_max: u32,
    /// Silence towards a client after which a keepalive frame goes out.
    pub keepalive: Duration,
    /// Silence of a client after which it is pinged, and again after which it is let go.
    pub ping: Duration,
    /// Bytes of a sync answer in one slice.
    pub slice_bytes: usize,
    /// Bytes of distinct large answers under way: once they are so many, further ones wait until some
    /// have gone out.
    pub answer_bytes_max: usize,
}

impl SessionLimits {
    /// Bytes of an update from which it goes out in slices, as a large answer does.
    pub fn large_bytes(&self) -> usize {
        self.slice_bytes / 4
    }
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self {
            connections_max: 100_000,
            sessions_per_room_max: 50_000,
            hot_room_sessions: 512,
            http_head_bytes_max: 16 << 10,
            http_head_timeout: Duration::from_secs(10),
            authenticate_timeout: Duration::from_secs(10),
            authenticating_max: 4096,
            frame_bytes_max: (32 << 20) + (64 << 10),
            half_read_bytes_max: 256 << 20,
            room_name_bytes_max: 512,
            awareness_clients_max: 64,
            presence_rate_max: 20,
            presence_burst: 5,
            pace: Pace::default(),
            queue_soft_bytes: 1 << 20,
            queue_hard_bytes: 64 << 20,
            queue_core_bytes_max: 256 << 20,
            slow_reader_timeout: Duration::from_secs(30),
            load_queue_commands_max: 1000,
            load_queue_bytes_max: 5 << 20,
            load_queue_room_bytes_max: 32 << 20,
            load_queue_core_bytes_max: 256 << 20,
            load_timeout: Duration::from_secs(10),
            gap_repeats_max: 5,
            keepalive: Duration::from_secs(20),
            ping: Duration::from_secs(30),
            slice_bytes: 256 << 10,
            answer_bytes_max: 128 << 20,
        }
    }
}
