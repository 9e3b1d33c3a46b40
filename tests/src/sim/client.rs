//! A simulated client: a real Yjs document behind the y-websocket protocol, with awareness as the
//! published provider has it, down to its habit of sending on what it hears.

use super::document::Document;
use super::frames::{self, BINARY, CLOSE, CONTINUED, PING, PONG};
use super::plan::{Role, SECOND};
use super::rng::Rng;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// How often a client says that it is still present.
const RENEW: u64 = SECOND;

/// How far a client's connection has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// Without one; tries again at this time.
    Offline { retry_at: u64 },
    /// The answer to its request is awaited.
    Head,
    /// It is a session.
    Open,
    /// It has left for good.
    Left,
}

/// An update, or a step 2 with content, that is to be echoed.
#[derive(Debug)]
struct Sent {
    bytes: Vec<u8>,
    /// A reply, which holds all that the server lacked.
    reply: bool,
    /// It may have built on what the server did not know yet: then the step 2 that followed it
    /// carries its content, and it has no echo.
    may_be_skipped: bool,
}

/// A client.
pub(crate) struct Client {
    pub id: u64,
    pub role: Role,
    pub room: usize,
    pub document: Document,
    pub phase: Phase,
    pub link: Option<u64>,
    /// Bytes for the socket.
    pub out: Vec<u8>,
    /// Whether it takes bytes from the socket.
    pub reading: bool,
    pub synced: bool,
    attempts: u32,
    greeted: bool,
    input: Vec<u8>,
    /// The slices that came of a message whose last one did not.
    begun: Option<Vec<u8>>,
    sent: VecDeque<Sent>,
    /// What was echoed, or relayed from another client that happened to send the same: the next echo
    /// that can be nothing else makes it clear, as echoes come in order.
    unclear: Vec<Vec<u8>>,
    /// What of its own was echoed on this connection.
    echoed: BTreeSet<Vec<u8>>,
    /// Answers come whole: an update that comes is an echo or another client's.
    whole_answers: bool,
    clock: u64,
    state: String,
    announced_at: u64,
    /// The others it has heard of.
    others: BTreeMap<u64, (u64, Option<String>)>,
    /// How far its own content has come back to it.
    pub returned: u32,
    /// What it was told that is worth being seen.
    pub seen: Vec<&'static str>,
}

impl Client {
    pub fn new(id: u64, role: Role, room: usize, retry_at: u64, whole_answers: bool) -> Self {
        Self {
            id,
            role,
            room,
            document: Document::new(id),
            phase: Phase::Offline { retry_at },
            link: None,
            out: Vec::new(),
            reading: true,
            synced: false,
            attempts: 0,
            greeted: false,
            input: Vec::new(),
            begun: None,
            sent: VecDeque::new(),
            unclear: Vec::new(),
            echoed: BTreeSet::new(),
            whole_answers,
            clock: 0,
            state: format!("{{\"client\":{id}}}"),
            announced_at: 0,
            others: BTreeMap::new(),
            returned: 0,
            seen: Vec::new(),
        }
    }

    /// Begins a connection; now and then it does not wait for the answer before it speaks.
    pub fn connect(&mut self, now: u64, link: u64, room: &str, rng: &mut Rng) {
        self.link = Some(link);
        self.phase = Phase::Head;
        self.out = frames::upgrade(room);
        self.input.clear();
        self.begun = None;
        self.sent.clear();
        self.unclear.clear();
        self.echoed.clear();
        self.synced = false;
        self.reading = true;
        self.greeted = false;
        if self.role == Role::Denied || rng.one_in(5) {
            self.greet(now, rng);
        }
        if self.role == Role::Denied
            && let Some(update) = self.document.edit(rng)
        {
            self.message(&frames::sync(2, &update), rng);
        }
    }

    /// The connection is gone.
    pub fn lost(&mut self, now: u64, rng: &mut Rng) {
        self.link = None;
        self.out.clear();
        self.sent.clear();
        self.unclear.clear();
        self.echoed.clear();
        self.attempts = (self.attempts + 1).min(4);
        let wait = SECOND / 20 * (1 << self.attempts);
        self.phase = Phase::Offline {
            retry_at: now + rng.range(wait / 2..wait),
        };
        for (_, state) in self.others.values_mut() {
            *state = None;
        }
        // A provider removes its own state too, one clock on, and sets it again one further.
        self.clock += 1;
    }

    /// Whether all it sent has been echoed.
    pub fn settled(&self) -> bool {
        self.out.is_empty() && self.sent.iter().all(|sent| sent.may_be_skipped)
    }

    /// What has not been echoed.
    pub fn unsettled(&self) -> Vec<&[u8]> {
        self.sent.iter().map(|sent| sent.bytes.as_slice()).collect()
    }

    /// The clients it sees.
    pub fn sees(&self) -> Vec<u64> {
        let others = self.others.iter().filter(|(_, (_, state))| state.is_some());
        others.map(|(client, _)| *client).collect()
    }

    /// A local edit; it is sent at once if there is a connection.
    pub fn edit(&mut self, rng: &mut Rng) {
        if let Some(update) = self.document.edit(rng)
            && self.phase == Phase::Open
        {
            self.message(&frames::sync(2, &update), rng);
            if self.role.writes() {
                self.expect(update, false);
            }
        }
    }

    /// Moves its cursor.
    pub fn announce(&mut self, now: u64, rng: &mut Rng) {
        self.clock += 1;
        self.announced_at = now;
        self.state = format!("{{\"client\":{},\"at\":{}}}", self.id, rng.range(0..100));
        if self.phase == Phase::Open {
            self.send_own_state(rng);
        }
    }

    /// Says that it is still there, if it did not lately.
    pub fn renew(&mut self, now: u64, rng: &mut Rng) {
        if now >= self.announced_at + RENEW {
            self.clock += 1;
            self.announced_at = now;
            if self.phase == Phase::Open {
                self.send_own_state(rng);
            }
        }
    }

    pub fn expect(&mut self, bytes: Vec<u8>, reply: bool) {
        self.sent.push_back(Sent {
            bytes,
            reply,
            may_be_skipped: false,
        });
    }

    pub fn message(&mut self, payload: &[u8], rng: &mut Rng) {
        frames::masked(BINARY, payload, rng, &mut self.out);
    }

    fn greet(&mut self, now: u64, rng: &mut Rng) {
        self.greeted = true;
        self.message(&frames::sync(0, &self.document.state_vector()), rng);
        self.announced_at = now;
        self.send_own_state(rng);
    }

    fn send_own_state(&mut self, rng: &mut Rng) {
        let own = (self.id, self.clock, Some(self.state.as_str()));
        let message = frames::awareness([own].into_iter());
        self.message(&message, rng);
    }

    /// Bytes came. What they acknowledge is pushed to `acknowledged`.
    pub fn on_bytes(
        &mut self,
        now: u64,
        bytes: &[u8],
        rng: &mut Rng,
        acknowledged: &mut Vec<Vec<u8>>,
    ) -> Result<(), String> {
        self.input.extend_from_slice(bytes);
        if self.phase == Phase::Head {
            let Some(end) = self.input.windows(4).position(|w| w == b"\r\n\r\n") else {
                return Ok(());
            };
            let head = String::from_utf8_lossy(&self.input[..end]).into_owned();
            if head.starts_with("HTTP/1.1 503 ") {
                self.seen.push("busy");
            }
            let denied = self.role == Role::Denied;
            if denied || !head.starts_with("HTTP/1.1 101 ") {
                let own = match self.role {
                    Role::Denied => "403",
                    // The clock may jump to its end before the shard hears the answer.
                    Role::Brief => "401",
                    _ => "503",
                };
                let wanted = ["503", "408", own];
                return match wanted.contains(&&head[9..12]) {
                    true => Ok(()),
                    false => Err(format!("its request was answered with {head:?}")),
                };
            }
            self.input.drain(..end + 4);
            self.phase = Phase::Open;
            self.attempts = 0;
            if !self.greeted {
                self.greet(now, rng);
            }
        }
        while let Some((last, opcode, mut payload)) = frames::take(&mut self.input) {
            match opcode {
                BINARY | CONTINUED => {
                    let begun = self.begun.take();
                    if begun.is_some() != (opcode == CONTINUED) {
                        return Err("a message within another, or the rest of none".into());
                    }
                    if let Some(mut begun) = begun {
                        begun.append(&mut payload);
                        payload = begun;
                    }
                    if last {
                        self.on_message(&payload, rng, acknowledged)?;
                    } else {
                        self.begun = Some(payload);
                    }
                }
                _ if !last => return Err("a control frame in pieces".into()),
                PING => frames::masked(PONG, &payload, rng, &mut self.out),
                CLOSE => {
                    let code = payload
                        .first_chunk()
                        .map_or(1005, |code| u16::from_be_bytes(*code));
                    if code == 4401 {
                        self.seen.push("access ended");
                    }
                    let ended = code == 4401 && self.role == Role::Brief;
                    if !ended && !matches!(code, 1000 | 1001 | 1011 | 1012 | 1013) {
                        let reason = String::from_utf8_lossy(&payload[2..]);
                        return Err(format!(
                            "an honest client was closed with {code} {reason:?}"
                        ));
                    }
                    frames::masked(CLOSE, &payload, rng, &mut self.out);
                }
                other => return Err(format!("a frame with opcode {other}")),
            }
        }
        Ok(())
    }

    fn on_message(
        &mut self,
        mut message: &[u8],
        rng: &mut Rng,
        acknowledged: &mut Vec<Vec<u8>>,
    ) -> Result<(), String> {
        let rest = &mut message;
        match frames::read_uint(rest) {
            0 => {
                let step = frames::read_uint(rest);
                let body = frames::read_bytes(rest);
                match step {
                    0 if !self.role.writes() => {
                        return Err("who may only read was asked for what it has".into());
                    }
                    0 => self.on_request(body, rng),
                    1 => {
                        self.document.apply(body)?;
                        self.synced = true;
                        acknowledged.push(body.to_vec());
                    }
                    2 => self.on_update(body, acknowledged)?,
                    other => return Err(format!("sync step {other}")),
                }
            }
            1 => self.on_awareness(frames::read_bytes(rest), rng),
            2 if self.role == Role::ReadOnly => {
                if frames::read_uint(rest) != 0 || frames::read_bytes(rest).is_empty() {
                    return Err("a denial without a reason".into());
                }
                self.seen.push("told that it may not write");
            }
            other => return Err(format!("message type {other}")),
        }
        match rest.is_empty() {
            true => Ok(()),
            false => Err("a frame with more than one message".into()),
        }
    }

    fn on_request(&mut self, vector: &[u8], rng: &mut Rng) {
        for sent in &mut self.sent {
            sent.may_be_skipped = true;
        }
        let reply = self.document.diff(vector);
        self.message(&frames::sync(1, &reply), rng);
        if reply != [0, 0] {
            // Of others it may hold what builds on content that is nowhere now; the rest is echoed.
            let may_be_cut = !Document::is_own(&reply, self.id);
            self.expect(reply, true);
            if let Some(sent) = self.sent.back_mut() {
                sent.may_be_skipped = may_be_cut;
            }
        }
    }

    fn on_update(&mut self, update: &[u8], acknowledged: &mut Vec<Vec<u8>>) -> Result<(), String> {
        self.returned = self.returned.max(Document::reach(update, self.id));
        let own = Document::is_own(update, self.id);
        if let Some(index) = self.sent.iter().position(|sent| sent.bytes == update) {
            match self
                .sent
                .iter()
                .take(index)
                .find(|sent| !sent.may_be_skipped)
            {
                None => {
                    let reply = self
                        .sent
                        .drain(..=index)
                        .next_back()
                        .is_some_and(|sent| sent.reply);
                    if own && !reply {
                        self.echoed.insert(update.to_vec());
                    }
                    self.unclear.push(update.to_vec());
                }
                Some(before) if own => {
                    return Err(format!(
                        "update {update:?} was echoed before {:?}",
                        before.bytes
                    ));
                }
                // Another client's.
                Some(_) => {}
            }
            if own {
                acknowledged.append(&mut self.unclear);
            }
        } else if self.whole_answers && self.echoed.contains(update) {
            return Err(format!("update {update:?} was echoed twice"));
        }
        self.document.apply(update)
    }

    fn on_awareness(&mut self, mut body: &[u8], rng: &mut Rng) {
        let body = &mut body;
        let mut changed = Vec::new();
        for _ in 0..frames::read_uint(body) {
            let client = frames::read_uint(body);
            let clock = frames::read_uint(body);
            let state =
                String::from_utf8(frames::read_bytes(body).to_vec()).expect("a state is text");
            let state = (state != "null").then_some(state);
            if client == self.id {
                if clock > self.clock || (clock == self.clock && state.is_none()) {
                    // It is here, whatever is said.
                    self.clock = clock + u64::from(state.is_none());
                    changed.push(client);
                }
                continue;
            }
            let known = self.others.get(&client);
            let newer = known.is_none_or(|(have, old)| {
                clock > *have || (clock == *have && state.is_none() && old.is_some())
            });
            if newer {
                self.others.insert(client, (clock, state));
                changed.push(client);
            }
        }
        if changed.is_empty() {
            return;
        }
        let entries: Vec<(u64, u64, Option<&str>)> = changed
            .into_iter()
            .map(|client| match self.others.get(&client) {
                Some((clock, state)) => (client, *clock, state.as_deref()),
                None => (client, self.clock, Some(self.state.as_str())),
            })
            .collect();
        let message = frames::awareness(entries.into_iter());
        self.message(&message, rng);
    }
}
