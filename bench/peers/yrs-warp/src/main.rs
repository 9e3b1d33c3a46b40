//! The crate yrs-warp as a server: `yrs-warp-peer PORT [BUFFER [LOG]]`.
//!
//! A broadcast group for each room, and `BUFFER` updates that may wait for a reader before it is
//! dropped (32, as in the crate's README, unless given). Documents live in memory alone. With `LOG`
//! every update is appended to that file, which is synced 2 ms after an update came: what durability
//! costs at the least, as nothing waits for it and nothing is ever read back.

use futures_util::StreamExt;
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;
use tokio::sync::Mutex;
use warp::Filter;
use warp::ws::{WebSocket, Ws};
use yrs::sync::Awareness;
use yrs::{Doc, Subscription};
use yrs_warp::broadcast::BroadcastGroup;
use yrs_warp::ws::{WarpSink, WarpStream};

/// A room's group, and what logs its updates.
type Room = (Arc<BroadcastGroup>, Option<Subscription>);
type Rooms = Arc<Mutex<HashMap<String, Room>>>;
type Log = Option<mpsc::Sender<Vec<u8>>>;

/// Bytes of the log, written once before it is used: syncs then wait for data alone.
const LOG_BYTES: u64 = 64 << 20;

#[tokio::main]
async fn main() {
    let usage = "usage: yrs-warp-peer PORT [BUFFER [LOG]]";
    let words: Vec<String> = std::env::args().skip(1).collect();
    let port: u16 = words.first().expect(usage).parse().expect(usage);
    let buffer = words.get(1).map_or(32, |word| word.parse().expect(usage));
    let log: Log = words.get(2).map(|path| start_log(path));
    let rooms = Rooms::default();
    let route = warp::path::param()
        .and(warp::ws())
        .map(move |room: String, ws: Ws| {
            let (rooms, log) = (rooms.clone(), log.clone());
            ws.on_upgrade(move |socket| async move {
                let group = group(&rooms, room, buffer, log).await;
                take_part(&group, socket).await;
            })
        });
    warp::serve(route).run(([127, 0, 0, 1], port)).await;
}

async fn group(rooms: &Rooms, room: String, buffer: usize, log: Log) -> Arc<BroadcastGroup> {
    let mut rooms = rooms.lock().await;
    if let Some((group, _)) = rooms.get(&room) {
        return group.clone();
    }
    let doc = Doc::new();
    let logged = log.map(|log| {
        doc.observe_update_v1(move |_, event| {
            log.send(event.update.clone()).expect("the log goes on");
        })
        .expect("a new document is not borrowed")
    });
    let awareness = Arc::new(Awareness::new(doc));
    let group = Arc::new(BroadcastGroup::new(awareness, buffer).await);
    rooms.insert(room, (group.clone(), logged));
    group
}

/// A thread that appends what it is sent and syncs it, starting over at the end of the file.
fn start_log(path: &str) -> mpsc::Sender<Vec<u8>> {
    let file = File::create(path).expect("the log can be made");
    file.write_all_at(&vec![0; LOG_BYTES as usize], 0)
        .and_then(|()| file.sync_all())
        .expect("the log can be written");
    let (sender, updates) = mpsc::channel::<Vec<u8>>();
    std::thread::spawn(move || {
        let mut at = 0;
        while let Ok(first) = updates.recv() {
            std::thread::sleep(Duration::from_millis(2));
            let mut batch = first;
            for update in updates.try_iter() {
                batch.extend((update.len() as u32).to_le_bytes());
                batch.extend(update);
            }
            if at + batch.len() as u64 > LOG_BYTES {
                at = 0;
            }
            file.write_all_at(&batch, at)
                .and_then(|()| file.sync_data())
                .expect("the log can be written");
            at += batch.len() as u64;
        }
    });
    sender
}

async fn take_part(group: &BroadcastGroup, socket: WebSocket) {
    let (sink, stream) = socket.split();
    let sink = Arc::new(Mutex::new(WarpSink::from(sink)));
    let subscription = group.subscribe(sink, WarpStream::from(stream));
    // It ends with its connection, for whatever reason.
    let _ = subscription.completed().await;
}
