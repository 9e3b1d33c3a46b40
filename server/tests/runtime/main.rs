//! One suite over all runtimes: a toy core in place of the shard, real sockets and files.

mod harness;
mod stalls;
mod tls;
mod toy;

use collabblocks_server::identity::Answer;
use collabblocks_server::quarantine;
use collabblocks_server::runtime::{LogSync, RuntimeKind, UNAVAILABLE};
use collabblocks_server::shard::{Claims, ControlReply, ControlRequest, Request, ShardId};
use harness::{Set, alone, descriptors, echo, expect, file, get, until};
use stalls::{a_stop_is_watched_to_its_end, nothing_stalls_under_cpu_hogs};
use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tls::{
    a_full_mailbox_refuses_tls_too, a_header_that_is_required_is_insisted_on,
    a_slow_reader_under_tls_gets_all_in_order, a_turn_is_shared_under_tls,
    bytes_come_back_in_order_under_tls, the_control_plane_is_reached_through_tls,
    the_proxied_address_is_the_peers, tls_comes_after_the_header,
    two_thousand_tls_handoffs_lose_no_byte_and_no_descriptor, what_is_no_tls_is_refused,
};

macro_rules! on_each_runtime {
    ($($test:ident),* $(,)?) => {
        mod ring {
            $(#[test] fn $test() { let _alone = super::alone(); super::$test(super::RuntimeKind::Ring); })*
        }

        mod glommio {
            $(#[test] fn $test() { let _alone = super::alone(); super::$test(super::RuntimeKind::Glommio); })*
        }
    };
}

on_each_runtime!(
    bytes_come_back_in_order,
    a_turn_is_shared_by_all_its_recipients,
    more_bytes_are_there_than_there_are_buffers_for,
    two_thousand_handoffs_lose_no_byte_and_no_descriptor,
    a_full_mailbox_refuses_the_handoff,
    a_slow_reader_is_blocked_then_drained_and_gets_all_in_order,
    what_a_slow_reader_takes_is_told_and_it_is_told_why_it_is_closed,
    resets_during_sends_close_once_and_disturb_nobody,
    connections_that_come_and_go_leak_nothing,
    half_open_connections_are_held_and_let_go,
    running_out_of_descriptors_is_waited_out,
    nothing_is_lost_while_reading_is_off,
    the_last_bytes_reach_a_peer_that_goes_on_sending,
    the_log_is_written_and_synced,
    helper_threads_run_on_all_cores_of_the_process,
    a_failed_log_write_is_told,
    timers_fire,
    other_requests_go_to_the_control_plane,
    a_drain_stops_accepting_and_is_answered,
    a_fatal_error_reaches_its_hook,
    a_room_that_keeps_its_core_is_named_and_put_in_quarantine,
    a_stop_is_watched_to_its_end,
    an_authenticator_answers_at_once_or_later_or_never,
    nothing_stalls_under_cpu_hogs,
    bytes_come_back_in_order_under_tls,
    two_thousand_tls_handoffs_lose_no_byte_and_no_descriptor,
    a_full_mailbox_refuses_tls_too,
    a_slow_reader_under_tls_gets_all_in_order,
    a_turn_is_shared_under_tls,
    the_control_plane_is_reached_through_tls,
    what_is_no_tls_is_refused,
    the_proxied_address_is_the_peers,
    a_header_that_is_required_is_insisted_on,
    tls_comes_after_the_header,
);

fn an_authenticator_answers_at_once_or_later_or_never(runtime: RuntimeKind) {
    let mut set = Set::of(runtime);
    let decide = |request: Request, answer: Answer| match request.room.as_str() {
        "1" => answer.give(Ok(Claims::default())),
        "2" => drop(std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            answer.give(Ok(Claims::default()));
        })),
        "3" => panic!("on purpose"),
        _ => drop(answer),
    };
    set.authenticator = Some(Arc::new(decide));
    let stage = set.start();
    let mut all = Vec::new();
    for _ in 0..20 {
        for (hello, answer) in [
            ("ask 1\n", b"in"),
            ("ask 2\n", b"in"),
            ("ask 3\n", b"no"),
            ("ask 4\n", b"no"),
        ] {
            let mut stream = stage.connect(hello);
            // Comes while it is not read, or after.
            stream.write_all(b"more").unwrap();
            all.push((stream, answer));
        }
    }
    for (stream, answer) in &mut all {
        expect(stream, *answer);
        expect(stream, b"more");
        echo(stream, b"and more");
    }
    stage.end();

    // Without one, whoever asks all the same is told that nobody knows.
    let stage = Set::of(runtime).start();
    expect(&mut stage.connect("ask 1\n"), b"no");
    stage.end();
}

fn bytes_come_back_in_order(runtime: RuntimeKind) {
    let stage = Set::of(runtime).start();
    let mut stream = stage.connect("ec");
    std::thread::sleep(Duration::from_millis(20));
    stream.write_all(b"ho\n").unwrap();
    for len in [1, 10, 1000, 100_000, 3_000_000] {
        let bytes: Vec<u8> = (0..len).map(toy::pattern).collect();
        let mut writer = stream.try_clone().unwrap();
        let sent = bytes.clone();
        let thread = std::thread::spawn(move || writer.write_all(&sent).unwrap());
        expect(&mut stream, &bytes);
        thread.join().unwrap();
    }
    stage.end();
}

fn more_bytes_are_there_than_there_are_buffers_for(runtime: RuntimeKind) {
    // A core of the ring has 256 receive buffers of 16 KiB, which all connections share.
    const CLIENTS: usize = 600;
    const BYTES: usize = 150_000;
    let mut set = Set::of(runtime);
    set.shards = 1;
    let stage = set.start();
    let mut clients: Vec<TcpStream> = (0..CLIENTS).map(|_| stage.connect("echo\n")).collect();
    let received = || get(&stage.counts.received_bytes) as usize;
    until("all are there", || received() == CLIENTS * "echo\n".len());
    let sleeper = "first sleep 500\n";
    let _sleeper = stage.connect(sleeper);
    until("the core sleeps", || {
        received() >= CLIENTS * "echo\n".len() + sleeper.len()
    });
    let bytes = |client: usize| -> Vec<u8> { (client..client + BYTES).map(toy::pattern).collect() };
    for (client, stream) in clients.iter_mut().enumerate() {
        stream.write_all(&bytes(client)).unwrap();
    }
    for (client, stream) in clients.iter_mut().enumerate() {
        expect(stream, &bytes(client));
    }
    stage.end();
}

fn a_turn_is_shared_by_all_its_recipients(runtime: RuntimeKind) {
    // More than fit one submission, and more than there are receive buffers.
    const MEMBERS: u64 = 2200;
    let mut set = Set::of(runtime);
    set.shards = 1;
    let stage = set.start();
    let mut members: Vec<TcpStream> = (0..MEMBERS).map(|_| stage.connect("broadcast\n")).collect();
    let received = || get(&stage.counts.received_bytes);
    until("all joined", || received() == MEMBERS * 10);
    for round in 0..3u8 {
        members[usize::from(round)]
            .write_all(&[round; 100])
            .unwrap();
        for member in &mut members {
            expect(member, &[round; 100]);
        }
    }
    // All at once.
    for member in &mut members {
        member.write_all(b"x").unwrap();
    }
    let all = vec![b'x'; MEMBERS as usize];
    for member in &mut members {
        expect(member, &all);
    }
    stage.end();
}

fn two_thousand_handoffs_lose_no_byte_and_no_descriptor(runtime: RuntimeKind) {
    const THREADS: usize = 4;
    const EACH: usize = 500;
    let stage = Set::of(runtime).start();
    drop(stage.connect("echo\n"));
    until("the first is gone", || get(&stage.counts.closed) == 1);
    let before = descriptors();
    let bytes: usize = std::thread::scope(|scope| {
        let stage = &stage;
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                scope.spawn(move || {
                    let mut bytes = 0;
                    for number in 0..EACH {
                        let len = 1 + (thread * 7919 + number * 104_729) % 5000;
                        let payload: Vec<u8> =
                            (0..len).map(|at| toy::pattern(at + number)).collect();
                        let mut stream = stage.connect("other echo\n");
                        let (first, second) = payload.split_at(len / 2);
                        stream.write_all(first).unwrap();
                        stream.write_all(second).unwrap();
                        expect(&mut stream, &payload);
                        bytes += len;
                    }
                    bytes
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    let counts = &stage.counts;
    assert_eq!(get(&counts.handed_off), (THREADS * EACH) as u64);
    until("all closed", || {
        get(&counts.closed) == 1 + (THREADS * EACH) as u64
    });
    until("no descriptor is left", || descriptors() == before);
    assert!(bytes > 1_000_000);
    stage.end();
}

fn a_full_mailbox_refuses_the_handoff(runtime: RuntimeKind) {
    let stage = Set::of(runtime).start();
    // Shard 0 sleeps in its turn while connections of shard 1 are for it.
    let before = descriptors();
    let mut streams: Vec<TcpStream> = (0..3000).map(|_| stage.connect("")).collect();
    until("all accepted", || get(&stage.counts.accepted) == 3000);
    let mut sleeper = stage.connect("first sleep 3000\n");
    std::thread::sleep(Duration::from_millis(100));
    for stream in &mut streams {
        stream.write_all(b"first echo\nhallo").unwrap();
    }
    let (mut full, mut echoed) = (0, 0);
    for stream in &mut streams {
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).unwrap();
        match &answer {
            b"full" => {
                full += 1;
                echo(stream, b"still here");
            }
            _ => {
                assert_eq!(&answer, b"hall");
                expect(stream, b"o");
                echoed += 1;
            }
        }
    }
    assert_eq!(get(&stage.counts.refused), full);
    assert!(full > 0, "the mailbox was never full");
    assert!(echoed >= 1024, "the mailbox was never used");
    echo(&mut sleeper, b"awake");
    drop((streams, sleeper));
    until("no descriptor is left", || descriptors() == before);
    stage.end();
}

fn a_slow_reader_is_blocked_then_drained_and_gets_all_in_order(runtime: RuntimeKind) {
    const BYTES: usize = 12_000_000;
    let stage = Set::of(runtime).start();
    let mut streams: Vec<TcpStream> = (0..3)
        .map(|_| stage.connect(&format!("pour {BYTES}\n")))
        .collect();
    until("all three are blocked", || get(&stage.counts.blocked) >= 3);
    // Others are served meanwhile.
    echo(&mut stage.connect("echo\n"), b"hallo");
    for stream in &mut streams {
        let (mut at, mut buffer) = (0, vec![0; 50_000]);
        while at < BYTES {
            let len = stream.read(&mut buffer).unwrap();
            assert!(len > 0, "ended at {at}");
            let right = buffer[..len]
                .iter()
                .enumerate()
                .all(|(index, byte)| *byte == toy::pattern(at + index));
            assert!(right, "other bytes after {at}");
            at += len;
        }
    }
    until("all are drained", || {
        get(&stage.counts.blocked) == get(&stage.counts.drained)
    });
    stage.end();
}

fn what_a_slow_reader_takes_is_told_and_it_is_told_why_it_is_closed(runtime: RuntimeKind) {
    const BYTES: usize = 16_000_000;
    let stage = Set::of(runtime).start();
    let mut buffer = vec![0; 50_000];
    let mut expect_pattern = |stream: &mut TcpStream| {
        let mut at = 0;
        while at < BYTES {
            let most = buffer.len().min(BYTES - at);
            let len = stream.read(&mut buffer[..most]).unwrap();
            assert!(len > 0, "ended at {at}");
            let mut bytes = buffer[..len].iter().enumerate();
            assert!(bytes.all(|(index, byte)| *byte == toy::pattern(at + index)));
            at += len;
        }
    };
    let mut stream = stage.connect(&format!("flood {BYTES}\n"));
    until("it is blocked", || get(&stage.counts.blocked) == 1);
    expect_pattern(&mut stream);
    expect(&mut stream, toy::FAREWELL);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "and nothing after it");
    // One that is not closed: in sixteenths, at most.
    let mut stream = stage.connect(&format!("gush {BYTES}\n"));
    until("it is blocked", || get(&stage.counts.blocked) == 2);
    expect_pattern(&mut stream);
    until("it is drained", || get(&stage.counts.drained) == 1);
    let progress = get(&stage.counts.progress);
    assert!((2..=16).contains(&progress), "{progress}");
    stage.end();
}

fn reset(stream: &TcpStream) {
    socket2::SockRef::from(stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
}

fn resets_during_sends_close_once_and_disturb_nobody(runtime: RuntimeKind) {
    let stage = Set::of(runtime).start();
    let before = descriptors();
    let mut bystander = stage.connect("echo\n");
    for round in 0..100 {
        let mut stream = stage.connect("pour 10000000\n");
        let mut some = vec![0; 1 + round * 500];
        stream.read_exact(&mut some).unwrap();
        reset(&stream);
        drop(stream);
        echo(&mut bystander, b"fine");
    }
    // The toy asserts that each is closed once.
    until("all are closed", || get(&stage.counts.closed) == 100);
    drop(bystander);
    until("no descriptor is left", || descriptors() == before);
    stage.end();
}

fn connections_that_come_and_go_leak_nothing(runtime: RuntimeKind) {
    let stage = Set::of(runtime).start();
    let before = descriptors();
    for round in 0..1000 {
        // Some say nothing, some leave in the middle, some are closed by the server, some are reset.
        let mut stream = stage.connect(["", "echo\nxyz", "nonsense\n", "other echo\n"][round % 4]);
        match round % 5 {
            0 => reset(&stream),
            1 => stream.shutdown(Shutdown::Write).unwrap(),
            2 if round % 4 == 1 => expect(&mut stream, b"xyz"),
            _ => {}
        }
    }
    let counts = &stage.counts;
    until("no descriptor is left", || descriptors() == before);
    assert!(
        get(&counts.accepted) > 700,
        "resets may overtake accepts, nothing else"
    );
    stage.end();
}

fn half_open_connections_are_held_and_let_go(runtime: RuntimeKind) {
    let stage = Set::of(runtime).start();
    let before = descriptors();
    let flood: Vec<TcpStream> = (0..2000).map(|_| stage.connect("")).collect();
    echo(&mut stage.connect("other echo\n"), b"served all the same");
    until("all accepted", || get(&stage.counts.accepted) == 2001);
    drop(flood);
    until("all closed", || get(&stage.counts.closed) == 2001);
    until("no descriptor is left", || descriptors() == before);
    stage.end();
}

fn running_out_of_descriptors_is_waited_out(runtime: RuntimeKind) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    // An accept that is under way goes by the limit of when it was started: lowered before.
    let was = getrlimit(Resource::Nofile);
    let highest = descriptors() as u64 + 200;
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(highest),
            maximum: was.maximum,
        },
    )
    .unwrap();
    let mut set = Set::of(runtime);
    set.shards = 1;
    let mut stage = set.start();
    let mut stream = stage.connect("echo\n");
    echo(&mut stream, b"before");
    let mut fillers = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        fillers.push(file);
    }
    fillers.pop();
    // The client's socket takes the last descriptor, so the server has none for its end.
    let mut late = TcpStream::connect(stage.address).unwrap();
    std::thread::sleep(Duration::from_millis(350));
    echo(&mut stream, b"served all the same");
    assert!(
        stage
            .server
            .as_ref()
            .unwrap()
            .control()
            .ask(ShardId(0), ControlRequest::Stats { id: 5 })
    );
    let errors = match stage.replies.blocking_recv() {
        Some((ShardId(0), ControlReply::Stats { id: 5, stats })) => stats.runtime.accept_errors,
        other => panic!("{other:?}"),
    };
    drop(fillers);
    setrlimit(Resource::Nofile, was).unwrap();
    assert!(
        (1..=8).contains(&errors),
        "{errors} failed accepts in 350 ms of back-off"
    );
    late.write_all(b"echo\n").unwrap();
    late.set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    echo(&mut late, b"after");
    stage.end();
}

fn nothing_is_lost_while_reading_is_off(runtime: RuntimeKind) {
    let stage = Set::of(runtime).start();
    let mut stream = stage.connect("choke\n");
    let bytes: Vec<u8> = (0..400_000).map(toy::pattern).collect();
    let start = Instant::now();
    let mut writer = stream.try_clone().unwrap();
    let sent = bytes.clone();
    let thread = std::thread::spawn(move || {
        for piece in sent.chunks(50_000) {
            writer.write_all(piece).unwrap();
            std::thread::sleep(Duration::from_millis(3));
        }
    });
    expect(&mut stream, &bytes);
    thread.join().unwrap();
    assert!(
        start.elapsed() >= Duration::from_nanos(toy::CHOKE_NS),
        "reading was never off"
    );
    // Bytes and the end of the stream that come while reading is off are told when it is on again.
    let told = get(&stage.counts.received_bytes);
    stream.write_all(&[1; 10]).unwrap();
    until("reading is off", || {
        get(&stage.counts.received_bytes) == told + 10
    });
    stream.write_all(&[1; 5000]).unwrap();
    drop(stream);
    until("the end is told", || get(&stage.counts.closed) == 1);
    assert_eq!(get(&stage.counts.received_bytes), told + 5010);
    stage.end();
}

fn the_last_bytes_reach_a_peer_that_goes_on_sending(runtime: RuntimeKind) {
    const BYTES: usize = 3_000_000;
    let stage = Set::of(runtime).start();
    let before = descriptors();
    for _ in 0..3 {
        let mut stream = stage.connect(&format!("pourclose {BYTES}\n"));
        let mut writer = stream.try_clone().unwrap();
        // Its errors are of no interest: the server stops reading in the end.
        let thread = std::thread::spawn(move || while writer.write_all(&[7; 1000]).is_ok() {});
        let mut at = 0;
        let mut buffer = vec![0; 20_000];
        loop {
            let len = stream
                .read(&mut buffer)
                .unwrap_or_else(|error| panic!("after {at}: {error}"));
            if len == 0 {
                break;
            }
            assert!(
                buffer[..len]
                    .iter()
                    .enumerate()
                    .all(|(index, byte)| *byte == toy::pattern(at + index))
            );
            at += len;
        }
        assert_eq!(at, BYTES);
        thread.join().unwrap();
    }
    until("no descriptor is left", || descriptors() == before);
    stage.end();
}

fn the_log_is_written_and_synced(runtime: RuntimeKind) {
    for sync in [LogSync::Dsync, LogSync::Fdatasync, LogSync::Thread] {
        let mut set = Set::of(runtime);
        set.sync = sync;
        set.shards = 1;
        let stage = set.start();
        let mut stream = stage.connect("log\n");
        for _ in 0..50 {
            stream.write_all(b"x").unwrap();
            expect(&mut stream, b"w");
        }
        let log = file(stage.dir.path(), "log-0");
        for block in 0..50 {
            let at = block * 4096;
            assert_eq!(log[at..at + 8], (at as u64).to_le_bytes());
            assert!(log[at + 8..at + 4096].iter().all(|byte| *byte == b'x'));
        }
        assert!(log[50 * 4096..].iter().all(|byte| *byte == 0));
        stage.end();
    }
}

fn helper_threads_run_on_all_cores_of_the_process(runtime: RuntimeKind) {
    let mut set = Set::of(runtime);
    set.sync = LogSync::Thread;
    let stage = set.start();
    let mut stream = stage.connect("log\n");
    // Once it has written, it has settled where it runs.
    echo_is(&mut stream, b"x", b"w");
    let cores = |dir: &std::path::Path| {
        let status = std::fs::read_to_string(dir.join("status")).unwrap_or_default();
        let line = status.lines().find(|l| l.starts_with("Cpus_allowed:"));
        line.map(str::to_owned)
    };
    let all = cores(std::path::Path::new("/proc/self"));
    let mut seen = 0;
    until("those of the log and the ticker are not pinned", || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
        let helpers = tasks.filter(|task| {
            let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            name.starts_with("log-") || name.starts_with("ticker")
        });
        let pinned = helpers.map(|task| cores(&task.path()) != all);
        let pinned: Vec<bool> = pinned.collect();
        seen = pinned.len();
        pinned.iter().all(|pinned| !pinned)
    });
    assert!(seen >= 2, "only {seen} such threads");
    stage.end();
}

fn a_failed_log_write_is_told(runtime: RuntimeKind) {
    for sync in [LogSync::Dsync, LogSync::Fdatasync, LogSync::Thread] {
        let mut set = Set::of(runtime);
        set.sync = sync;
        set.segments = false;
        let stage = set.start();
        let mut stream = stage.connect("log\nx");
        expect(&mut stream, b"e");
        // A full device fails in the write, not in the open.
        std::os::unix::fs::symlink("/dev/full", stage.dir.path().join("log-0")).unwrap();
        std::os::unix::fs::symlink("/dev/full", stage.dir.path().join("log-1")).unwrap();
        echo_is(&mut stream, b"x", b"e");
        assert_eq!(get(&stage.counts.log_errors), 2);
        stage.end();
    }
}

fn echo_is(stream: &mut TcpStream, sent: &[u8], back: &[u8]) {
    stream.write_all(sent).unwrap();
    expect(stream, back);
}

fn timers_fire(runtime: RuntimeKind) {
    let stage = Set::of(runtime).start();
    let mut stream = stage.connect("delay\n");
    for _ in 0..10 {
        let start = Instant::now();
        echo_is(&mut stream, b"x", b"t");
        let waited = start.elapsed();
        assert!(
            waited >= Duration::from_nanos(toy::CHOKE_NS),
            "too early: {waited:?}"
        );
    }
    assert!(get(&stage.counts.timers) >= 10);
    stage.end();
}

fn other_requests_go_to_the_control_plane(runtime: RuntimeKind) {
    let mut stage = Set::of(runtime).start();
    let before = descriptors();
    let streams: Vec<TcpStream> = (0..3).map(|_| stage.connect("pass\nGET")).collect();
    // Two fit the channel; one is told to come back.
    let mut refused = Vec::new();
    until("one is refused", || {
        for stream in &streams {
            let mut text = Vec::new();
            stream.set_nonblocking(true).unwrap();
            let _ = { stream }.read_to_end(&mut text);
            if !text.is_empty() {
                refused.push(text);
            }
        }
        !refused.is_empty()
    });
    assert_eq!(refused, [UNAVAILABLE]);
    let mut told = HashSet::new();
    for _ in 0..2 {
        let passed = stage.passed.blocking_recv().unwrap();
        assert_eq!(passed.bytes, b"pass\nGET");
        let mut socket = TcpStream::from(passed.socket);
        assert!(socket.nodelay().unwrap());
        socket.write_all(b"control").unwrap();
        assert_eq!(
            socket.read(&mut [0; 9]).unwrap_err().kind(),
            std::io::ErrorKind::WouldBlock
        );
        told.insert(socket.peer_addr().unwrap());
    }
    let mut answered = 0;
    for mut stream in streams {
        if told.contains(&stream.local_addr().unwrap()) {
            stream.set_nonblocking(false).unwrap();
            expect(&mut stream, b"control");
            answered += 1;
        }
    }
    assert_eq!(answered, 2);
    until("no descriptor is left", || descriptors() == before);
    stage.end();
}

fn a_drain_stops_accepting_and_is_answered(runtime: RuntimeKind) {
    let mut stage = Set::of(runtime).start();
    let mut streams: Vec<TcpStream> = (0..20).map(|_| stage.connect("echo\n")).collect();
    streams.iter_mut().for_each(|stream| echo(stream, b"hallo"));
    let link = stage.server.as_ref().unwrap().control();
    for shard in 0..link.shards() {
        assert!(link.ask(ShardId(shard), ControlRequest::Drain));
    }
    let mut drained = HashSet::new();
    while drained.len() < 2 {
        match stage.replies.blocking_recv() {
            Some((shard, ControlReply::Drained)) => assert!(drained.insert(shard)),
            other => panic!("{other:?}"),
        }
    }
    for stream in &mut streams {
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0, "closed in order");
    }
    until("nobody listens", || {
        TcpStream::connect(stage.address).is_err()
    });
    stage.end();
}

fn a_fatal_error_reaches_its_hook(runtime: RuntimeKind) {
    let mut stage = Set::of(runtime).start();
    let _stream = stage.connect("first fatal\n");
    until("the hook is called", || {
        !stage.fatal.lock().unwrap().is_empty()
    });
    assert_eq!(
        *stage.fatal.lock().unwrap(),
        [(ShardId(0), "asked to".to_owned())]
    );
    stage.server.take().unwrap().stop();
}

fn a_room_that_keeps_its_core_is_named_and_put_in_quarantine(runtime: RuntimeKind) {
    let mut set = Set::of(runtime);
    set.watchdog.report_after = Duration::from_millis(200);
    set.watchdog.exit_after = Duration::from_millis(800);
    let mut stage = set.start();
    // A turn that takes as long outside of any room blames none.
    let _sleeper = stage.connect("first sleep 1500\n");
    let fatal = |count: usize| {
        let seen = stage.fatal.clone();
        until("the stall is given up", || {
            seen.lock().unwrap().len() == count
        });
        stage.fatal.lock().unwrap()[count - 1].clone()
    };
    let (shard, why) = fatal(1);
    assert_eq!(shard, ShardId(0));
    assert!(why.ends_with("in event turn_end, in no room"), "{why}");
    let rooms = || quarantine::rooms(stage.dir.path()).unwrap();
    assert_eq!(rooms(), Vec::<String>::new());
    let _sticky = stage.connect("first other stick 1500\n");
    let (shard, why) = fatal(2);
    assert_eq!(shard, ShardId(1));
    let place = format!("in room {:?}", toy::STICKY_ROOM);
    assert!(why.ends_with(&place), "{why}");
    assert_eq!(rooms(), [toy::STICKY_ROOM]);
    stage.server.take().unwrap().stop();
}
