//! Hot rooms: the room is on one shard, and its further sessions on the shards that accepted them.

use crate::limits;
use crate::rig::{Replica, Rig, awareness, config, sync};
use collabblocks_server::shard::{
    Access, Claims, ConnId, ControlReply, ControlRequest, Event, Instant, Mail, SessionLimits,
    ShardConfig, ShardId,
};
use collabblocks_storage_engine::home_shard;
use collabblocks_wal::Disk;
use collabblocks_wal::sim_disk::SimDisk;
use std::sync::Arc;
use std::time::Duration;

/// Two shards; the room is at home on the first.
struct Two {
    shards: [Rig; 2],
    room: String,
    /// Mailboxes take nothing.
    full: bool,
    letters: usize,
    letter_bytes: usize,
}

fn hot_limits() -> SessionLimits {
    SessionLimits {
        hot_room_sessions: 1,
        presence_rate_max: 0,
        ..limits()
    }
}

impl Two {
    fn new(limits: SessionLimits) -> Self {
        Self::durable(false, limits)
    }

    fn durable(strict: bool, limits: SessionLimits) -> Self {
        Self::made(|id| config(strict, limits, id, 2))
    }

    fn made(config: impl Fn(u16) -> ShardConfig) -> Self {
        let rig = |id| {
            let disk: Arc<dyn Disk> = Arc::new(SimDisk::new());
            Rig::made(&disk, config(id))
        };
        let room = (0..).map(|n| format!("room-{n}"));
        Self {
            shards: [rig(0), rig(1)],
            room: room
                .into_iter()
                .find(|name| home_shard(name, 2) == 0)
                .unwrap(),
            full: false,
            letters: 0,
            letter_bytes: 0,
        }
    }

    /// Shards that ask who their clients are.
    fn asking() -> Self {
        Self::made(|id| ShardConfig {
            authenticates: true,
            ..config(false, hot_limits(), id, 2)
        })
    }

    /// A client of the room that was let in.
    fn open_as(&mut self, shard: usize, claims: Claims) -> ConnId {
        let rig = &mut self.shards[shard];
        let conn = rig.open_without_turn(&self.room);
        rig.turn();
        let verdict = Ok(claims);
        rig.feed(Event::Authenticated { conn, verdict });
        self.turn(shard);
        self.shards[shard].skip_head(conn);
        conn
    }

    /// The room, hot, with two sessions at home and one away; all have been greeted.
    fn hot(limits: SessionLimits) -> (Self, [ConnId; 2], ConnId) {
        let mut two = Self::new(limits);
        let at_home = [0, 1].map(|_| two.open(0));
        let away = two.open(1);
        two.settle();
        for conn in at_home {
            two.shards[0].data(conn);
        }
        assert_eq!(
            two.shards[1].data(away),
            [sync(0, &[0])],
            "the room's step 1"
        );
        (two, at_home, away)
    }

    /// A session by way of a shard, greeted if that is where it stays.
    fn open(&mut self, shard: usize) -> ConnId {
        let room = self.room.clone();
        let conn = self.shards[shard].open(&room);
        self.post();
        conn
    }

    /// A turn of a shard, and its mail.
    fn turn(&mut self, shard: usize) {
        self.shards[shard].turn();
        self.post();
    }

    /// Delivers mail, each letter in a turn of its own, until there is none.
    fn post(&mut self) {
        while let Some(from) = (0..2).find(|shard| !self.shards[*shard].mail.is_empty()) {
            let (to, mail) = self.shards[from].mail.remove(0);
            if self.full {
                self.shards[from].feed(Event::MailRefused { to, mail });
                continue;
            }
            let Mail::Letter(letter) = &mail else {
                panic!("a handoff is no mail");
            };
            self.letters += 1;
            self.letter_bytes += letter.bytes();
            let to = usize::from(to.0);
            let from = ShardId(from as u16);
            self.shards[to].feed(Event::Mail { from, mail });
            self.shards[to].turn();
        }
    }

    /// All that is under way ends.
    fn settle(&mut self) {
        for _ in 0..1000 {
            self.post();
            for rig in &mut self.shards {
                rig.settle();
            }
            if self.shards.iter().all(|rig| rig.mail.is_empty()) {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    /// Time passes.
    fn pass(&mut self, duration: Duration) {
        for _ in 0..10 {
            for shard in 0..2 {
                self.shards[shard].pass(duration / 10);
            }
            self.post();
        }
        self.settle();
    }
}

#[test]
fn sessions_of_a_hot_room_stay_where_they_are_accepted_until_it_cools_down() {
    let (mut two, at_home, away) = Two::hot(hot_limits());
    two.shards[0].feed(Event::Closed { conn: at_home[0] });
    two.shards[0].feed(Event::Closed { conn: at_home[1] });
    two.turn(0);
    let still = two.open(1);
    assert!(
        !two.shards[1].data(still).is_empty(),
        "one is left, and one comes: it is hot"
    );
    two.shards[1].feed(Event::Closed { conn: away });
    two.shards[1].feed(Event::Closed { conn: still });
    two.turn(1);
    let room = two.room.clone();
    two.shards[1].open_without_turn(&room);
    two.shards[1].turn();
    assert_eq!(two.shards[1].handed_off.len(), 1, "it has cooled down");
}

#[test]
fn edits_go_both_ways_and_no_author_hears_its_own_before_it_is_durable() {
    let (mut two, at_home, away) = Two::hot(hot_limits());
    let other = two.open(1);
    two.settle();
    two.shards[1].data(other);
    let doc = Replica::new(1);
    let far = sync(2, &doc.write("from afar "));
    two.shards[1].say(away, &[&far]);
    two.turn(1);
    for conn in at_home {
        assert_eq!(two.shards[0].data(conn), std::slice::from_ref(&far));
    }
    assert_eq!(
        two.shards[1].data(other),
        std::slice::from_ref(&far),
        "those beside it"
    );
    assert!(two.shards[1].data(away).is_empty(), "not durable yet");
    let near = sync(2, &Replica::new(2).write("near"));
    two.shards[0].say(at_home[0], &[&near]);
    two.turn(0);
    assert_eq!(two.shards[1].data(away), std::slice::from_ref(&near));
    two.settle();
    assert_eq!(two.shards[1].data(away), [far], "its echo");
    assert_eq!(two.shards[0].data(at_home[0]), [near], "and this one's");
    assert!(two.shards[1].data(other).len() == 1);
}

#[test]
fn strict_means_that_those_far_away_wait_too() {
    let mut two = Two::durable(true, hot_limits());
    let at_home = [0, 1].map(|_| two.open(0));
    let away = two.open(1);
    two.settle();
    two.shards[1].data(away);
    let update = sync(2, &Replica::new(1).write("x"));
    two.shards[0].say(at_home[0], &[&update]);
    two.turn(0);
    assert!(two.shards[1].data(away).is_empty());
    two.settle();
    assert_eq!(two.shards[1].data(away), [update]);
}

#[test]
fn a_turn_is_one_letter_however_many_sessions_and_updates_there_are() {
    let (mut two, at_home, _) = Two::hot(hot_limits());
    let many: Vec<ConnId> = (0..50).map(|_| two.open(1)).collect();
    two.settle();
    for conn in &many {
        two.shards[1].data(*conn);
    }
    (two.letters, two.letter_bytes) = (0, 0);
    let doc = Replica::new(1);
    let updates: Vec<_> = (0..10)
        .map(|n| sync(2, &doc.write(&format!("{n}"))))
        .collect();
    for update in &updates {
        two.shards[0].say(at_home[0], &[update]);
    }
    two.shards[0].say(at_home[1], &[&awareness(&[(7, 1, "{}")])]);
    two.turn(0);
    assert_eq!(two.letters, 1);
    let one: usize = updates.iter().map(|update| update.len() + 2).sum();
    assert!(two.letter_bytes < 2 * one, "{} of {one}", two.letter_bytes);
    for conn in many {
        let heard = two.shards[1].data(conn);
        assert_eq!(heard[..10], updates);
        assert_eq!(heard[10], awareness(&[(7, 1, "{}")]));
    }
}

#[test]
fn presence_between_cores_grows_with_the_clients_and_not_with_their_square() {
    let (mut two, _, _) = Two::hot(hot_limits());
    let conns: Vec<ConnId> = (0..100).map(|_| two.open(1)).collect();
    two.settle();
    for round in 1..4u32 {
        // All move, twice in a turn, and each repeats what it heard of all others.
        for (n, conn) in conns.iter().enumerate() {
            let client = 1000 + n as u64;
            for clock in [2 * round, 2 * round + 1] {
                two.shards[1].say(*conn, &[&awareness(&[(client, clock, "{\"x\":1}")])]);
            }
        }
        (two.letters, two.letter_bytes) = (0, 0);
        two.turn(1);
        let once = two.letter_bytes;
        assert!(
            once < 100 * 100,
            "{once} bytes for 100 clients, there and back"
        );
        for conn in &conns {
            for heard in two.shards[1].data(*conn) {
                if heard[0] == 1 {
                    two.shards[1].say(*conn, &[&heard]);
                }
            }
        }
        two.turn(1);
        assert_eq!(
            two.letter_bytes, once,
            "what the room knows is not told to it"
        );
    }
}

#[test]
fn presence_of_those_who_leave_disappears_everywhere() {
    let (mut two, at_home, away) = Two::hot(hot_limits());
    let state = awareness(&[(7, 5, "{\"a\":1}")]);
    two.shards[1].say(away, &[&state]);
    two.turn(1);
    for conn in at_home {
        assert_eq!(two.shards[0].data(conn), std::slice::from_ref(&state));
    }
    let newcomer = two.open(1);
    two.settle();
    assert!(two.shards[1].data(newcomer).contains(&state));
    two.shards[1].feed(Event::Closed { conn: away });
    two.turn(1);
    let gone = awareness(&[(7, 5, "null")]);
    assert_eq!(two.shards[0].data(at_home[0]), std::slice::from_ref(&gone));
    assert_eq!(two.shards[1].data(newcomer), [gone]);
}

#[test]
fn a_slow_reader_far_away_is_told_what_it_missed() {
    for soft in [1 << 20, 10] {
        let small = SessionLimits {
            queue_soft_bytes: soft,
            ..hot_limits()
        };
        let (mut two, at_home, away) = Two::hot(small);
        let doc = Replica::new(1);
        two.shards[1].block(away);
        two.turn(1);
        for text in ["much ", "longer ", "than ten bytes"] {
            two.shards[0].say(at_home[0], &[&sync(2, &doc.write(text))]);
            two.turn(0);
        }
        two.settle();
        assert!(two.shards[1].data(away).is_empty());
        two.shards[1].drain(away);
        two.turn(1);
        two.settle();
        let other = Replica::new(2);
        let heard = two.shards[1].data(away);
        assert_eq!(
            heard.len(),
            if soft == 10 { 1 } else { 3 },
            "frames, or a diff"
        );
        other.hear(&heard);
        assert_eq!(other.text(), doc.text());
        two.shards[0].say(at_home[0], &[&sync(2, &doc.write("!"))]);
        two.turn(0);
        other.hear(&two.shards[1].data(away));
        assert_eq!(other.text(), doc.text());
    }
}

#[test]
fn a_core_that_takes_no_mail_gets_one_diff_for_all_its_sessions() {
    for soft in [1 << 20, 10] {
        let small = SessionLimits {
            queue_soft_bytes: soft,
            ..hot_limits()
        };
        let (mut two, at_home, away) = Two::hot(small);
        let other = two.open(1);
        two.settle();
        two.shards[1].data(other);
        let doc = Replica::new(1);
        two.full = true;
        for n in 0..20 {
            two.shards[0].say(at_home[0], &[&sync(2, &doc.write(&format!("{n} ")))]);
            two.shards[0].say(at_home[1], &[&awareness(&[(7, n, "{}")])]);
            two.turn(0);
        }
        two.settle();
        assert!(two.shards[1].data(away).is_empty());
        two.full = false;
        two.letters = 0;
        two.pass(Duration::from_millis(10));
        let heard = two.shards[1].data(away);
        assert_eq!(two.shards[1].data(other), heard);
        let replica = Replica::new(2);
        replica.hear(&heard);
        assert_eq!(replica.text(), doc.text());
        let updates = heard.iter().filter(|message| message[0] == 0).count();
        // The first letter came back and goes first.
        assert_eq!(updates, if soft == 10 { 2 } else { 20 });
        assert_eq!(
            heard.last(),
            Some(&awareness(&[(7, 19, "{}")])),
            "the latest"
        );
        assert!(two.letters <= 4, "{}", two.letters);
    }
}

#[test]
fn what_is_said_to_a_home_that_takes_no_mail_waits_and_its_sayers_are_not_read() {
    let (mut two, at_home, away) = Two::hot(hot_limits());
    let doc = Replica::new(1);
    two.full = true;
    let mut said = 0;
    while !two.shards[1].paused.contains(&away) {
        said += 1;
        assert!(said < 100, "it is read for ever");
        two.shards[1].say(away, &[&sync(2, &doc.write(&"x".repeat(10_000)))]);
        two.turn(1);
    }
    two.full = false;
    two.pass(Duration::from_millis(10));
    assert!(two.shards[1].paused.is_empty());
    let other = Replica::new(2);
    other.hear(&two.shards[0].data(at_home[0]));
    assert!(other.text() == doc.text());
    assert_eq!(two.shards[1].data(away).len(), said, "each is echoed");
}

#[test]
fn a_large_document_comes_in_slices_that_all_cores_share() {
    let small = SessionLimits {
        slice_bytes: 4 << 10,
        ..hot_limits()
    };
    let (mut two, at_home, away) = Two::hot(small);
    let doc = Replica::new(1);
    two.shards[0].say(
        at_home[0],
        &[&sync(2, &doc.replace(&"long ".repeat(100), 100))],
    );
    two.turn(0);
    two.settle();
    two.shards[1].data(away);
    two.letter_bytes = 0;
    two.shards[1].say(away, &[&sync(0, &[0])]);
    two.turn(1);
    // It is blocked after each slice.
    let other = Replica::new(2);
    for _ in 0..100 {
        other.hear(&two.shards[1].data(away));
        two.shards[1].block(away);
        two.turn(1);
        two.shards[1].drain(away);
        two.turn(1);
    }
    two.settle();
    other.hear(&two.shards[1].data(away));
    assert!(other.text() == doc.text());
    assert!(
        two.letter_bytes < 1000,
        "{} bytes by mail",
        two.letter_bytes
    );
}

#[test]
fn a_drain_closes_those_far_away_once_what_they_said_is_acknowledged() {
    let (mut two, _, away) = Two::hot(hot_limits());
    let update = sync(2, &Replica::new(1).write("x"));
    two.shards[1].say(away, &[&update]);
    two.turn(1);
    for rig in &mut two.shards {
        rig.feed(Event::Control(ControlRequest::Drain));
    }
    two.turn(1);
    two.turn(0);
    two.pass(Duration::from_millis(10));
    for rig in &two.shards {
        assert!(matches!(rig.replies[..], [ControlReply::Drained]));
    }
    let frames = two.shards[1].heard(away);
    assert_eq!(frames[0], (2, update), "its echo comes first");
    assert_eq!(frames[1].1[..2], 1012u16.to_be_bytes());
}

#[test]
fn who_is_refused_far_away_is_told_why_and_hears_nothing_more() {
    let (mut two, at_home, away) = Two::hot(hot_limits());
    two.shards[1].say(away, &[&sync(2, &[9, 9, 9])]);
    two.shards[0].say(at_home[0], &[&sync(2, &Replica::new(1).write("x"))]);
    two.turn(1);
    let frames = two.shards[1].heard(away);
    assert_eq!(frames.len(), 1, "{frames:?}");
    assert_eq!(frames[0].1[..2], 4400u16.to_be_bytes());
    assert!(two.shards[1].closed.contains(&away));
}

#[test]
fn a_read_only_session_away_hears_all_and_writes_nothing() {
    let mut two = Two::asking();
    let writer = two.open_as(0, Claims::default());
    two.open_as(0, Claims::default());
    let read_only = Claims {
        access: Access::ReadOnly,
        ..Claims::default()
    };
    let reader = two.open_as(1, read_only);
    let away = two.open_as(1, Claims::default());
    two.settle();
    assert_eq!(
        two.shards[0].handed_off.len() + two.shards[1].handed_off.len(),
        0
    );
    two.shards[0].data(writer);
    two.shards[1].data(away);
    assert_eq!(
        two.shards[1].data(reader),
        [] as [Vec<u8>; 0],
        "it is not asked"
    );

    let (theirs, own) = (Replica::new(1), Replica::new(2));
    let update = sync(2, &own.write("not for you"));
    let letters = two.letters;
    two.shards[1].say(reader, &[&update, &sync(1, &own.state()), &update]);
    two.turn(1);
    two.settle();
    assert_eq!(two.letters, letters, "the home hears nothing of it");
    let told = two.shards[1].data(reader);
    assert!(
        matches!(told.as_slice(), [told] if told[..2] == [2, 0]),
        "{told:?}"
    );
    assert_eq!(two.shards[0].stats().updates, 0);

    two.shards[0].say(writer, &[&sync(2, &theirs.write("for all"))]);
    two.turn(0);
    two.settle();
    own.hear(&two.shards[1].data(reader));
    assert!(own.text().contains("for all"));
    two.shards[1].say(reader, &[&awareness(&[(2, 1, "{}")])]);
    two.turn(1);
    two.settle();
    assert_eq!(
        two.shards[1].data(away).len(),
        2,
        "an update, and who is there"
    );
}

#[test]
fn access_to_a_hot_room_ends_away_too() {
    let mut two = Two::asking();
    two.open_as(0, Claims::default());
    two.open_as(0, Claims::default());
    let brief = Claims {
        expires_at: Some(Instant(two.shards[1].now + 2_000_000_000)),
        ..Claims::default()
    };
    let ends = two.open_as(1, brief);
    let stays = two.open_as(1, Claims::default());
    two.settle();
    assert!(two.shards[1].handed_off.is_empty(), "they are there");
    two.shards[1].pass(Duration::from_millis(1900));
    two.settle();
    assert!(!two.shards[1].closed.contains(&ends));
    two.shards[1].pass(Duration::from_millis(1200));
    two.settle();
    assert_eq!(two.shards[1].close_code(ends), Some(4401));
    assert!(!two.shards[1].closed.contains(&stays));
}
