//! The crate yrs-warp as a server: `yrs-warp-peer PORT [BUFFER]`.
//!
//! A broadcast group for each room, and `BUFFER` updates that may wait for a reader before it is
//! dropped (32, as in the crate's README, unless given). Documents live in memory alone.

use futures_util::StreamExt;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::Mutex;
use warp::Filter;
use warp::ws::{WebSocket, Ws};
use yrs::Doc;
use yrs::sync::Awareness;
use yrs_warp::broadcast::BroadcastGroup;
use yrs_warp::ws::{WarpSink, WarpStream};

type Rooms = Arc<Mutex<HashMap<String, Arc<BroadcastGroup>>>>;

#[tokio::main]
async fn main() {
    let numbers: Vec<usize> = std::env::args()
        .skip(1)
        .map(|word| word.parse().expect("usage: yrs-warp-peer PORT [BUFFER]"))
        .collect();
    let port = u16::try_from(numbers[0]).expect("a port is below 65,536");
    let buffer = numbers.get(1).copied().unwrap_or(32);
    let rooms = Rooms::default();
    let route = warp::path::param()
        .and(warp::ws())
        .map(move |room: String, ws: Ws| {
            let rooms = rooms.clone();
            ws.on_upgrade(move |socket| async move {
                let group = group(&rooms, room, buffer).await;
                take_part(&group, socket).await;
            })
        });
    warp::serve(route).run(([127, 0, 0, 1], port)).await;
}

async fn group(rooms: &Rooms, room: String, buffer: usize) -> Arc<BroadcastGroup> {
    let mut rooms = rooms.lock().await;
    if let Some(group) = rooms.get(&room) {
        return group.clone();
    }
    let awareness = Arc::new(Awareness::new(Doc::new()));
    let group = Arc::new(BroadcastGroup::new(awareness, buffer).await);
    rooms.insert(room, group.clone());
    group
}

async fn take_part(group: &BroadcastGroup, socket: WebSocket) {
    let (sink, stream) = socket.split();
    let sink = Arc::new(Mutex::new(WarpSink::from(sink)));
    let subscription = group.subscribe(sink, WarpStream::from(stream));
    // It ends with its connection, for whatever reason.
    let _ = subscription.completed().await;
}
