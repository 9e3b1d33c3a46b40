//! Who is let in, what claims allow, and when they end.

use crate::limits;
use crate::rig::{Replica, Rig, awareness, config, frame, sync, upgrade};
use collabblocks_server::shard::{
    Access, Claims, ConnId, ControlRequest, Denied, Event, Instant, Request, SessionLimits,
    ShardConfig, ShardId, Verdict,
};
use collabblocks_storage_engine::home_shard;
use collabblocks_wal::Disk;
use collabblocks_wal::sim_disk::SimDisk;
use std::sync::Arc;
use std::time::Duration;

/// A shard that asks who its clients are.
fn asking(limits: SessionLimits, id: u16, shards: u16) -> Rig {
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new());
    let config = ShardConfig {
        authenticates: true,
        ..config(false, limits, id, shards)
    };
    Rig::made(&disk, config)
}

pub fn may(access: Access) -> Verdict {
    Ok(Claims {
        access,
        ..Claims::default()
    })
}

impl Rig {
    /// The answer to a question that was asked about it.
    fn answer(&mut self, conn: ConnId, verdict: Verdict) {
        let before = self.asked.len();
        self.asked.retain(|(asked, _)| *asked != conn);
        assert_eq!(self.asked.len() + 1, before, "it was asked once");
        self.feed(Event::Authenticated { conn, verdict });
        self.turn();
    }

    /// A client that was let in and greeted.
    pub fn open_as(&mut self, room: &str, verdict: Verdict) -> ConnId {
        let conn = self.open_without_turn(room);
        self.turn();
        self.answer(conn, verdict);
        self.skip_head(conn);
        conn
    }
}

#[test]
fn a_client_waits_for_the_answer_and_what_it_sent_meanwhile_is_kept() {
    let mut rig = asking(limits(), 0, 1);
    let conn = rig.open_without_turn("room?token=abc%20d&x=1");
    rig.turn();
    assert!(rig.bytes(conn).is_empty(), "not even the upgrade");
    assert!(rig.paused.contains(&conn), "it is not read");
    assert_eq!(rig.stats().authenticating, 1);
    let (_, request) = &rig.asked[0];
    assert_eq!(request.room, "room");
    assert_eq!(request.token().as_deref(), Some("abc d"));
    assert_eq!(request.parameter("x").as_deref(), Some("1"));
    assert_eq!(request.header("host"), Some("localhost"));
    assert_eq!(request.peer, crate::rig::PEER);
    // What was on its way already.
    rig.say(conn, &[&sync(0, &[0])]);
    rig.turn();
    rig.answer(conn, may(Access::ReadWrite));
    rig.skip_head(conn);
    assert!(!rig.paused.contains(&conn));
    let greeting = [sync(0, &[0]), sync(1, &[0, 0])];
    assert_eq!(
        rig.data(conn),
        greeting,
        "step 1, and the answer to its own"
    );
    assert_eq!(rig.stats().authenticating, 0);
}

#[test]
fn the_token_of_a_header_will_do() {
    let mut rig = asking(limits(), 0, 1);
    let conn = ConnId {
        slot: 9,
        generation: 1,
    };
    let peer = crate::rig::PEER;
    rig.feed(Event::Accepted { conn, peer });
    let head = String::from_utf8(upgrade("room")).unwrap();
    let more = "\r\nAuthorization: bearer xyz\r\nOrigin: http://localhost\r\nCookie: a=b\r\n\r\n";
    rig.raw(conn, head.replace("\r\n\r\n", more).into_bytes());
    rig.turn();
    let (_, request) = &rig.asked[0];
    assert_eq!(request.token().as_deref(), Some("xyz"));
    assert_eq!(request.origin(), Some("http://localhost"));
    assert_eq!(request.header("cookie"), Some("a=b"));
    assert_eq!(request.query(), None);
}

#[test]
fn a_token_is_the_parameter_or_else_that_of_a_bearer() {
    let token = |target: &str, authorization: &str| {
        let head = String::from_utf8(upgrade(target)).unwrap();
        let more = format!("\r\nAuthorization: {authorization}\r\n\r\n");
        let request = Request {
            room: "room".into(),
            peer: crate::rig::PEER,
            certificate: None,
            head: head.replace("\r\n\r\n", &more).into_bytes().into(),
        };
        request.token()
    };
    for (target, authorization, wanted) in [
        ("room?token=query", "Bearer header", Some("query")),
        ("room?other=query", "Bearer header", Some("header")),
        ("room", "Basic dXNlcjpwYXNz", None),
        ("room", "Bearer", None),
    ] {
        let found = token(target, authorization);
        assert_eq!(found.as_deref(), wanted, "{target} {authorization}");
    }
}

#[test]
fn who_is_denied_is_told_why_before_the_upgrade() {
    let why = || "show a token".into();
    for (denied, answer) in [
        (
            Denied::Unauthenticated(why()),
            "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer\r\n",
        ),
        (Denied::Forbidden(why()), "HTTP/1.1 403 Forbidden\r\n"),
        (
            Denied::Unavailable(why()),
            "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n",
        ),
    ] {
        let mut rig = asking(limits(), 0, 1);
        let conn = rig.open_without_turn("room");
        rig.turn();
        rig.answer(conn, Err(denied));
        let text = String::from_utf8(rig.bytes(conn)).unwrap();
        assert!(text.starts_with(answer), "{text}");
        assert!(text.ends_with("\r\n\r\nshow a token\n"), "{text}");
        assert!(rig.closed.contains(&conn));
        let stats = rig.stats();
        assert_eq!((stats.rooms, stats.connections), (0, 0));
        assert_eq!(stats.refused["denied"], 1);
    }
}

#[test]
fn strangers_and_pages_of_others_are_refused_without_a_question() {
    let mut rig = asking(limits(), 0, 1);
    let conn = ConnId {
        slot: 9,
        generation: 1,
    };
    let peer = ([192, 0, 2, 1], 5).into();
    rig.feed(Event::Accepted { conn, peer });
    rig.raw(conn, upgrade("room"));
    rig.turn();
    assert!(rig.bytes(conn).starts_with(b"HTTP/1.1 403 "));
    assert!(rig.asked.is_empty());
}

#[test]
fn an_answer_that_comes_too_late_is_nothing() {
    let mut rig = asking(limits(), 0, 1);
    let conn = rig.open_without_turn("room");
    rig.turn();
    rig.pass(Duration::from_secs(9));
    assert!(!rig.closed.contains(&conn));
    rig.pass(Duration::from_secs(3));
    assert!(rig.closed.contains(&conn));
    let text = String::from_utf8(rig.bytes(conn)).unwrap();
    assert!(text.starts_with("HTTP/1.1 503 "), "{text}");
    rig.answer(conn, may(Access::ReadWrite));
    assert!(rig.bytes(conn).is_empty());
    assert_eq!(rig.stats().rooms, 0);
}

#[test]
fn a_client_that_left_counts_until_its_answer_comes() {
    let one = SessionLimits {
        authenticating_max: 1,
        ..limits()
    };
    let mut rig = asking(one, 0, 1);
    let gone = rig.open_without_turn("room");
    rig.turn();
    rig.feed(Event::Closed { conn: gone });
    rig.turn();
    let early = rig.open_without_turn("room");
    rig.turn();
    let text = String::from_utf8(rig.bytes(early)).unwrap();
    assert!(text.starts_with("HTTP/1.1 503 "), "{text}");
    assert_eq!(rig.asked.len(), 1, "no further question");
    rig.answer(gone, may(Access::ReadWrite));
    assert_eq!(rig.stats().rooms, 0);
    rig.open_as("room", may(Access::ReadWrite));
}

#[test]
fn an_answer_about_a_client_that_left_is_none_about_the_next_in_its_place() {
    let mut rig = asking(limits(), 0, 1);
    let [gone, next] = [1, 2].map(|generation| ConnId {
        slot: 9,
        generation,
    });
    let peer = crate::rig::PEER;
    for conn in [gone, next] {
        rig.feed(Event::Accepted { conn, peer });
        rig.raw(conn, upgrade("room"));
        rig.turn();
        if conn == gone {
            rig.feed(Event::Closed { conn });
            rig.turn();
        }
    }
    rig.answer(gone, may(Access::ReadWrite));
    assert!(rig.bytes(next).is_empty(), "it waits on");
    assert_eq!(rig.stats().authenticating, 1);
    rig.answer(next, may(Access::ReadOnly));
    rig.skip_head(next);
    rig.say(next, &[&sync(2, &Replica::new(1).write("x"))]);
    rig.turn();
    assert_eq!(rig.stats().refused["read_only"], 1);
}

#[test]
fn an_orderly_end_does_not_wait_for_answers() {
    let mut rig = asking(limits(), 0, 1);
    let conn = rig.open_without_turn("room");
    rig.turn();
    rig.feed(Event::Control(ControlRequest::Drain));
    for _ in 0..4 {
        rig.turn();
        rig.settle();
    }
    assert!(rig.closed.contains(&conn));
    rig.answer(conn, may(Access::ReadWrite));
    assert!(rig.bytes(conn).is_empty());
}

#[test]
fn claims_go_along_with_a_connection_that_is_handed_off() {
    let room = (0..)
        .map(|n| format!("room-{n}"))
        .find(|name| home_shard(name, 2) == 1);
    let room = room.unwrap();
    let mut first = asking(limits(), 0, 2);
    let conn = first.open_without_turn(&room);
    first.turn();
    assert!(first.handed_off.is_empty(), "not before it is known");
    let claims = Claims {
        subject: Some("ann".into()),
        access: Access::ReadOnly,
        expires_at: Some(Instant(5_000_000_000)),
    };
    first.answer(conn, Ok(claims.clone()));
    let (_, to, handoff) = first.handed_off.pop().unwrap();
    assert_eq!(to, ShardId(1));
    assert_eq!(handoff.claims, claims);
    assert_eq!(handoff.peer, crate::rig::PEER);

    let mut home = asking(limits(), 1, 2);
    home.feed(Event::HandedOff { conn, handoff });
    home.turn();
    assert!(home.asked.is_empty(), "it is known");
    home.skip_head(conn);
    home.say(conn, &[&sync(2, &Replica::new(1).write("x"))]);
    home.turn();
    assert_eq!(home.stats().refused["read_only"], 1);
    home.until(6_100_000_000);
    assert_eq!(home.close_code(conn), Some(4401));
}

#[test]
fn a_read_only_session_hears_all_and_writes_nothing() {
    let mut rig = asking(limits(), 0, 1);
    let writer = rig.open_as("room", may(Access::ReadWrite));
    let doc = Replica::new(1);
    rig.say(writer, &[&sync(2, &doc.write("theirs"))]);
    rig.turn();
    rig.settle();
    rig.data(writer);
    let reader = rig.open_as("room", may(Access::ReadOnly));
    assert!(rig.data(reader).is_empty(), "it is not asked what it has");
    let own = Replica::new(2);
    let update = sync(2, &own.write("own"));
    rig.say(reader, &[&sync(0, &[0]), &awareness(&[(2, 1, "{}")])]);
    rig.say(reader, &[&update, &update, &sync(1, &own.state())]);
    rig.turn();
    assert!(rig.write.is_none(), "nothing of it is logged");
    rig.settle();
    let heard = rig.data(reader);
    let denials = heard.iter().filter(|message| message[..2] == [2, 0]);
    assert_eq!(denials.count(), 1, "told once: {heard:?}");
    own.hear(&heard);
    assert!(own.text().contains("theirs"), "its step 1 was answered");
    let stats = rig.stats();
    assert_eq!((stats.updates, stats.refused["read_only"]), (1, 3));
    assert_eq!(
        rig.data(writer),
        [awareness(&[(2, 1, "{}")])],
        "it is present"
    );
    let late = rig.open_as("room", may(Access::ReadWrite));
    rig.say(late, &[&sync(0, &[0])]);
    rig.turn();
    rig.settle();
    let other = Replica::new(3);
    other.hear(&rig.data(late));
    assert_eq!(other.text(), "theirs");
}

#[test]
fn a_read_only_session_may_speak_before_its_room_is_loaded() {
    let mut rig = asking(limits(), 0, 1);
    let writer = rig.open_as("room", may(Access::ReadWrite));
    rig.say(writer, &[&sync(2, &Replica::new(1).write("theirs"))]);
    rig.turn();
    rig.settle();
    rig.feed(Event::Closed { conn: writer });
    rig.turn();
    // The room leaves memory.
    rig.pass(Duration::from_secs(1));
    rig.settle();
    let reader = rig.open_as("room", may(Access::ReadOnly));
    assert!(!rig.jobs.is_empty(), "the room is loaded");
    rig.say(reader, &[&sync(2, &Replica::new(2).write("own"))]);
    rig.turn();
    rig.settle();
    assert_eq!(rig.stats().refused["read_only"], 1);
    assert_eq!(rig.stats().updates, 1);
}

#[test]
fn access_ends_when_the_claims_say() {
    let until = |second: u64| {
        Ok(Claims {
            expires_at: Some(Instant(second * 1_000_000_000)),
            ..Claims::default()
        })
    };
    let mut rig = asking(limits(), 0, 1);
    let ends = rig.open_as("room", until(20));
    let stays = rig.open_as("room", may(Access::ReadWrite));
    for second in [5, 10, 15, 19] {
        rig.until(second * 1_000_000_000);
        for conn in [ends, stays] {
            let mut pong = Vec::new();
            frame(0x8a, &[], &mut pong);
            rig.raw(conn, pong);
        }
        rig.turn();
        assert!(!rig.closed.contains(&ends), "at {second} s");
    }
    rig.until(21_100_000_000);
    let heard = rig.heard(ends);
    let (_, payload) = heard.iter().find(|(opcode, _)| *opcode == 8).unwrap();
    assert_eq!(payload[..2], 4401u16.to_be_bytes());
    assert!(payload[2..].starts_with(b"the access has expired"));
    assert!(rig.closed.contains(&ends) && !rig.closed.contains(&stays));
    assert_eq!(rig.stats().refused["expired"], 1);

    let conn = rig.open_without_turn("room");
    rig.turn();
    rig.answer(conn, until(20));
    assert!(
        rig.bytes(conn).starts_with(b"HTTP/1.1 401 "),
        "it has ended already"
    );
}
