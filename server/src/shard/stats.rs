//! A shard's figures since start, read by the control plane.

use collabblocks_storage_engine::EngineStats;
use hdrhistogram::Histogram;
use std::collections::BTreeMap;

/// The longest time that a histogram tells apart, 100 s.
const NS_MAX: u64 = 100_000_000_000;

fn histogram(high: u64) -> Histogram<u64> {
    Histogram::new_with_bounds(1, high, 2).expect("constant bounds are valid")
}

/// Counted by the runtime.
#[derive(Clone, Debug)]
pub struct RuntimeStats {
    /// Nanoseconds this core's loop was not waiting.
    pub busy_ns: u64,
    /// Nanoseconds since the loop began.
    pub elapsed_ns: u64,
    /// Turns of the loop.
    pub turns: u64,
    /// Nanoseconds from the first event of a turn until all of it was handled, but for its sends.
    pub turn_ns: Histogram<u64>,
    /// Events that found no room in a mailbox.
    pub mailbox_full: u64,
    /// Connections that were refused before anything of theirs reached the shard: by the PROXY
    /// protocol's rules, or because their TLS failed.
    pub fronts_refused: u64,
    /// TLS handshakes that ended well.
    pub tls_handshakes: u64,
    /// Those of them that resumed an earlier session.
    pub tls_resumed: u64,
    /// Accept calls that failed for want of file descriptors.
    pub accept_errors: u64,
    /// Bytes received.
    pub bytes_received: u64,
    /// Bytes sent.
    pub bytes_sent: u64,
    /// Batches of the log that were given to a thread as well, as the ring took long.
    pub hedged_writes: u64,
}

impl Default for RuntimeStats {
    fn default() -> Self {
        Self {
            busy_ns: 0,
            elapsed_ns: 0,
            turns: 0,
            turn_ns: histogram(NS_MAX),
            mailbox_full: 0,
            fronts_refused: 0,
            tls_handshakes: 0,
            tls_resumed: 0,
            accept_errors: 0,
            bytes_received: 0,
            bytes_sent: 0,
            hedged_writes: 0,
        }
    }
}

/// All figures of a shard.
#[derive(Clone, Debug)]
pub struct Stats {
    /// The runtime's.
    pub runtime: RuntimeStats,
    /// The storage engine's.
    pub engine: EngineStats,
    /// Connections now.
    pub connections: u64,
    /// Connections since start.
    pub connections_total: u64,
    /// Questions under way who a client is, now.
    pub authenticating: u64,
    /// Connections handed to other shards since start.
    pub handoffs_total: u64,
    /// Sessions now.
    pub sessions: u64,
    /// Rooms with sessions now.
    pub rooms: u64,
    /// Rooms that are hot now.
    pub hot_rooms: u64,
    /// Sessions here whose room is on another core, now.
    pub away_sessions: u64,
    /// Letters to other cores since start.
    pub letters: u64,
    /// Their bytes.
    pub letter_bytes: u64,
    /// Clients present in rooms now.
    pub presence_clients: u64,
    /// Sessions that are behind now.
    pub sessions_behind: u64,
    /// Updates taken since start.
    pub updates: u64,
    /// Their bytes.
    pub update_bytes: u64,
    /// Updates that held nothing new.
    pub updates_known: u64,
    /// Presence states taken since start.
    pub presence_states: u64,
    /// Sends of the turns since start (frames of a turn to one connection are one send).
    pub sends: u64,
    /// Their bytes.
    pub send_bytes: u64,
    /// Bytes of frames that wait for the log now.
    pub ack_queue_bytes: u64,
    /// Bytes of large answers that are being sent, or kept for who asks the same, now.
    pub answer_bytes: u64,
    /// Bytes that wait for sockets that take none, now.
    pub held_back_bytes: u64,
    /// Sessions whose answer waits for others to have got theirs, now.
    pub answers_waiting: u64,
    /// What was refused or closed, by reason.
    pub refused: BTreeMap<&'static str, u64>,
    /// Nanoseconds from handing a batch to the disk until it was durable.
    pub commit_ns: Histogram<u64>,
    /// Bytes of a batch.
    pub batch_bytes: Histogram<u64>,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            runtime: RuntimeStats::default(),
            engine: EngineStats::default(),
            connections: 0,
            connections_total: 0,
            authenticating: 0,
            handoffs_total: 0,
            sessions: 0,
            rooms: 0,
            hot_rooms: 0,
            away_sessions: 0,
            letters: 0,
            letter_bytes: 0,
            presence_clients: 0,
            sessions_behind: 0,
            updates: 0,
            update_bytes: 0,
            updates_known: 0,
            presence_states: 0,
            sends: 0,
            send_bytes: 0,
            ack_queue_bytes: 0,
            answer_bytes: 0,
            held_back_bytes: 0,
            answers_waiting: 0,
            refused: BTreeMap::new(),
            commit_ns: histogram(NS_MAX),
            batch_bytes: histogram(1 << 30),
        }
    }
}
