//! The generator against the floors in this process: every edit sent is delivered and counted.

use collabblocks_bench::dialect::Dialect;
use collabblocks_bench::floor::{Floor, Mode};
use collabblocks_bench::generator::{self, Outcome, Target};
use collabblocks_bench::join::Joining;
use collabblocks_bench::leave::Leaving;
use collabblocks_bench::run::{Watched, fresh_identity};
use collabblocks_bench::scenario::{Scenario, ScenarioFile};
use std::net::SocketAddr;

fn run(mode: Mode, file: ScenarioFile) -> (Scenario, Outcome) {
    let floor = Floor::bind(mode, SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = floor.address().unwrap();
    // It serves until the test's process ends.
    std::thread::spawn(move || floor.run());
    let mut scenario = Scenario::from_file(file, "test").unwrap();
    scenario.warmup_s = 0.2;
    scenario.window_s = 1.0;
    // Ends early once all has come; long, so that a busy machine does not fail the test.
    scenario.drain_s = 20.0;
    let target = target(address);
    let outcome = generator::run(&scenario, &target, &mut |_| Ok(())).unwrap();
    (scenario, outcome)
}

fn target(address: SocketAddr) -> Target {
    let (room_prefix, client_base) = fresh_identity();
    Target {
        address,
        tls: None,
        path_template: "/{room}".to_owned(),
        dialect: Dialect::YWebsocket,
        room_prefix,
        client_base,
        spin: false,
    }
}

fn assert_all_arrived(scenario: &Scenario, outcome: &Outcome) {
    let others = scenario.clients_per_room as u64 - 1;
    assert_eq!(outcome.undelivered, 0);
    assert_eq!(outcome.at_end.delivered, outcome.sent * others);
    assert_eq!(
        (
            outcome.at_end.repeated,
            outcome.at_end.skipped,
            outcome.at_end.foreign
        ),
        (0, 0, 0)
    );
    assert_eq!(outcome.oddities.unreadable, 0);
    assert_eq!(outcome.oddities.closed, 0);
}

#[test]
fn a_second_of_fanout_is_delivered_to_the_last_edit() {
    for mode in [Mode::Unbatched, Mode::Batched] {
        let file = ScenarioFile::Fanout {
            name: None,
            clients: 10,
            writers: Some(3),
            rate: 500.0,
            jittered: None,
            chars: Some(7),
            stalled: Some(3),
            drain: None,
        };
        let (scenario, outcome) = run(mode, file);
        assert_eq!(outcome.sent, 600, "1.2 s at 500 edits/s");
        assert_all_arrived(&scenario, &outcome);
        // The histograms hold the window's edits only: one slot may straddle each end.
        let in_window = outcome.delivery_ns.len();
        assert!((499 * 9..=501 * 9).contains(&in_window), "{in_window}");
        assert!(outcome.ack_ns.len().abs_diff(500) <= 1);
        assert!(outcome.delivery_ns.min() > 0);
    }
}

#[test]
fn every_state_of_a_moving_cursor_is_shown_or_followed_by_one_that_is() {
    // All are read; the writers and every fifth are.
    for (sampled, readers) in [(None, 20), (Some(4), 12)] {
        let file = ScenarioFile::Presence {
            name: None,
            clients: 20,
            movers: Some(15),
            states: 20.0,
            rate: Some(50.0),
            sampled,
        };
        let (_, outcome) = run(Mode::Batched, file);
        assert_eq!(outcome.readers, readers);
        assert_eq!(outcome.undelivered, 0);
        assert_eq!(outcome.at_end.delivered, outcome.owed);
        assert_eq!(outcome.owed, outcome.sent * (readers as u64 - 1));
        assert_eq!(outcome.thrown_bytes_in_window > 0, readers < 20);
        let shown = outcome.presence.unwrap();
        // 1.2 s of 15 cursors at 20 states/s; who moves a cursor is not shown it.
        let read_movers = (0..15)
            .filter(|index| *index < 10 || index % 5 == 4)
            .count() as u64;
        let movers = if readers == 20 { 15 } else { read_movers };
        assert_eq!(shown.owed, 24 * (15 * readers as u64 - movers));
        assert_eq!((shown.never, shown.odd), (0, 0));
        // A second of them, all shown; one slot may straddle each end.
        let in_window = 20 * (15 * readers as u64 - movers);
        assert!(shown.shown_ns.len().abs_diff(in_window) <= 2 * readers as u64);
    }
}

#[test]
fn who_joins_gets_the_whole_document_and_who_cannot_is_told_so() {
    let joining: Joining = toml::from_str(
        "kind = 'join'\nrooms = 3\ndocument_chars = 200_000\ndocument_edits = 4\njoins = 9\nover = 0.1",
    )
    .unwrap();
    joining.check().unwrap();
    for remembers in [true, false] {
        let floor = Floor::bind(Mode::Batched, SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let target = target(floor.address().unwrap());
        std::thread::spawn(move || {
            let floor = if remembers {
                floor.that_remembers()
            } else {
                floor
            };
            floor.run()
        });
        let measured = joining.measure(&target, Watched::default(), None);
        if remembers {
            let figures = measured.unwrap().figures;
            let value = |name: &str| figures.iter().find(|f| f.name == name).unwrap().value;
            assert!(value("load: edits/s") > 0.0 && value("join p50 ms") > 0.0);
            assert!(
                value("all joined, ms") >= 80.0,
                "the last is due after 89 ms"
            );
        } else {
            let error = measured.unwrap_err().to_string();
            assert!(error.contains("only 0 of 9 clients"), "{error}");
        }
    }
}

#[test]
fn rooms_are_typed_in_and_left_and_what_is_kept_of_each_is_a_figure() {
    let text =
        "kind = 'leave'\nrooms = 40\nbefore = 20\nat_once = 10\ndocument_chars = 5\nrest = 0.1";
    let leaving: Leaving = toml::from_str(text).unwrap();
    leaving.check().unwrap();
    let odd: Leaving = toml::from_str(&text.replace("at_once = 10", "at_once = 7")).unwrap();
    assert!(odd.check().is_err());
    let floor = Floor::bind(Mode::Batched, SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let target = target(floor.address().unwrap());
    std::thread::spawn(move || floor.run());
    let watched = Watched {
        pid: Some(std::process::id()),
        ..Watched::default()
    };
    let figures = leaving.measure(&target, watched).unwrap().figures;
    let value = |name: &str| figures.iter().find(|f| f.name == name).unwrap().value;
    assert!(value("rooms/s") > 0.0 && value("peak RSS MB") > 0.0);
    assert!(value("bytes per room").is_finite());
}

#[test]
fn those_who_have_spoken_are_silent_in_the_window() {
    let file = ScenarioFile::Idle {
        name: None,
        connections: 20,
        rooms: 2,
        spoken: Some(100.0),
    };
    let (scenario, outcome) = run(Mode::Unbatched, file);
    assert_eq!(
        outcome.sent, 40,
        "0.2 s at 100 edits/s in each of two rooms"
    );
    assert_all_arrived(&scenario, &outcome);
    assert!(outcome.sent_in_window <= 2, "{}", outcome.sent_in_window);
}

#[test]
fn rooms_do_not_hear_each_other() {
    let file = ScenarioFile::Rooms {
        name: None,
        rooms: 50,
        clients: None,
        rate: 10.0,
        jittered: Some(false),
    };
    let (scenario, outcome) = run(Mode::Unbatched, file);
    assert_eq!(outcome.sent, 600);
    assert_all_arrived(&scenario, &outcome);
}

#[test]
fn a_closed_loop_keeps_its_window_and_loses_nothing() {
    let file = ScenarioFile::Saturate {
        name: None,
        rooms: Some(2),
        clients: 5,
        writers: None,
        in_flight: 64,
    };
    let (scenario, outcome) = run(Mode::Batched, file);
    assert!(outcome.sent > 2 * 64 * 10, "{} edits", outcome.sent);
    assert_all_arrived(&scenario, &outcome);
    assert_eq!(outcome.oddities.given_up, 0);
}

#[test]
fn a_refused_upgrade_ends_the_run_with_the_servers_words() {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut keep = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
            keep.push(stream);
        }
    });
    let file = ScenarioFile::Fanout {
        name: None,
        clients: 2,
        writers: None,
        rate: 1.0,
        jittered: None,
        chars: None,
        stalled: None,
        drain: None,
    };
    let target = Target {
        address,
        tls: None,
        path_template: "/{room}".to_owned(),
        dialect: Dialect::YWebsocket,
        room_prefix: "r".to_owned(),
        client_base: 1 << 31,
        spin: false,
    };
    let scenario = Scenario::from_file(file, "test").unwrap();
    let error = generator::run(&scenario, &target, &mut |_| Ok(()))
        .unwrap_err()
        .to_string();
    assert!(error.contains("403 Forbidden"), "{error}");
}

/// A server that answers every upgrade, and then says what it is given, in pieces of some size.
fn scripted(says: Vec<u8>, piece: usize) -> SocketAddr {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, says) = (stream.unwrap(), says.clone());
            std::thread::spawn(move || {
                let _ = stream.read(&mut [0; 1024]);
                let _ = stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n");
                for piece in says.chunks(piece) {
                    if stream.write_all(piece).is_err() {
                        return;
                    }
                }
                while matches!(stream.read(&mut [0; 1024]), Ok(1..)) {}
            });
        }
    });
    address
}

#[test]
fn a_document_in_several_frames_is_one_and_counts_when_its_last_byte_came() {
    let mut document = vec![0, 1];
    document.extend(std::iter::repeat_n(b'x', 500_000));
    let mut says = Vec::new();
    for (at, part) in document.chunks(200_000).enumerate() {
        let last = (at + 1) * 200_000 >= document.len();
        says.push(if last { 0x80 } else { 0 } | if at == 0 { 2 } else { 0 });
        says.push(127);
        says.extend((part.len() as u64).to_be_bytes());
        says.extend(part);
    }
    let joining: Joining = toml::from_str(
        "kind = 'join'\nrooms = 1\ndocument_chars = 500_000\ndocument_edits = 1\njoins = 3\nover = 0.0",
    )
    .unwrap();
    let scenario = Scenario::idle("test", 1, 1);
    for piece in [1_000, 600_000] {
        let target = target(scripted(says.clone(), piece));
        let mut crowd = generator::join::Crowd::new(&joining, &scenario, &target).unwrap();
        crowd.join(3, 0.0).unwrap();
        // Without its last byte it is never whole.
        let target = self::target(scripted(says[..says.len() - 1].to_vec(), piece));
        let mut crowd = generator::join::Crowd::new(&joining, &scenario, &target).unwrap();
        assert!(crowd.join(1, 0.0).is_err());
    }
}
