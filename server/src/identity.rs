//! Who clients are, decided by whoever embeds the server: off the data cores, at once or later.

use crate::mailbox::Wake;
use crate::runtime::clock;
use crate::shard::{Authenticated, ConnId, Denied, Instant, Request, Verdict};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, sync_channel};
use std::time::SystemTime;

/// Questions of all shards that wait to be taken up; a client that finds so many is answered 503.
pub const QUESTIONS_MAX: usize = 1024;

/// Decides who is let in, and what they may do. It is asked before the upgrade, once for each
/// connection to a room, and only about clients that `access` and `allowed_origins` let that far.
///
/// It is called on one thread, `identity`, beside the data cores. Work that takes its time belongs
/// elsewhere: move the [`Answer`] there, and return. A client waits for it no longer than
/// `limits.authenticate_timeout_ms`.
pub trait Authenticator: Send + Sync {
    /// A client wants into a room.
    fn authenticate(&self, request: Request, answer: Answer);
}

impl<F: Fn(Request, Answer) + Send + Sync> Authenticator for F {
    fn authenticate(&self, request: Request, answer: Answer) {
        self(request, answer);
    }
}

/// The way back to the shard that asked. Good for one answer, from any thread; dropped without one, it
/// answers that the client may try again (503).
#[derive(Debug)]
pub struct Answer {
    conn: ConnId,
    to: Option<Sender<Authenticated>>,
    wake: Arc<Wake>,
}

impl Answer {
    /// Lets the client in, or not.
    pub fn give(mut self, verdict: Verdict) {
        self.send(verdict);
    }

    fn send(&mut self, verdict: Verdict) {
        let Some(to) = self.to.take() else {
            return;
        };
        let conn = self.conn;
        // A shard that has ended does not want it any more.
        let _ = to.send(Authenticated { conn, verdict });
        self.wake.notify();
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let why = "it could not be found out who you are; try later";
        self.send(Err(Denied::Unavailable(why.into())));
    }
}

/// A time of day as the shards count time. What is past stays past; a clock that is set later changes
/// nothing any more.
pub fn instant_of(time: SystemTime) -> Instant {
    let now = clock();
    let left = time.duration_since(SystemTime::now()).unwrap_or_default();
    Instant(
        now.0
            .saturating_add(u64::try_from(left.as_nanos()).unwrap_or(u64::MAX)),
    )
}

struct Question {
    request: Request,
    answer: Answer,
}

/// The thread that asks. It ends when all shards have.
#[derive(Clone, Debug)]
pub(crate) struct Asking(SyncSender<Question>);

impl std::fmt::Debug for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Question").field(&self.answer).finish()
    }
}

impl Asking {
    pub fn start(authenticator: Arc<dyn Authenticator>) -> io::Result<Self> {
        let (sender, questions) = sync_channel(QUESTIONS_MAX);
        std::thread::Builder::new()
            .name("identity".into())
            .spawn(move || ask_all(&questions, &*authenticator))?;
        Ok(Self(sender))
    }
}

fn ask_all(questions: &Receiver<Question>, authenticator: &dyn Authenticator) {
    while let Ok(Question { request, answer }) = questions.recv() {
        // Its answer is dropped with it, and says that the client may try again.
        let asked = catch_unwind(AssertUnwindSafe(|| {
            authenticator.authenticate(request, answer);
        }));
        if asked.is_err() {
            tracing::error!("the authenticator panicked; the client is answered 503");
        }
    }
}

/// One shard's way to the authenticator. Lives on its core, never blocks.
#[derive(Debug)]
pub struct Asker {
    asking: Option<Asking>,
    answers: Sender<Authenticated>,
    wake: Arc<Wake>,
}

impl Asker {
    pub(crate) fn new(
        asking: Option<Asking>,
        answers: Sender<Authenticated>,
        wake: Arc<Wake>,
    ) -> Self {
        Self {
            asking,
            answers,
            wake,
        }
    }

    /// Asks; what cannot be asked is answered by that.
    pub(crate) fn ask(&self, conn: ConnId, request: Request) {
        let answer = Answer {
            conn,
            to: Some(self.answers.clone()),
            wake: self.wake.clone(),
        };
        if let Some(Asking(questions)) = &self.asking {
            // One that finds no place is dropped with its answer.
            let _ = questions.try_send(Question { request, answer });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::{Access, Claims};
    use std::sync::mpsc::channel;
    use std::time::Duration;

    fn request(room: &str) -> Request {
        Request {
            room: room.into(),
            peer: ([127, 0, 0, 1], 1).into(),
            certificate: None,
            head: Box::default(),
        }
    }

    fn conn(slot: u32) -> ConnId {
        ConnId {
            slot,
            generation: 1,
        }
    }

    #[test]
    fn each_question_has_one_answer_whatever_becomes_of_it() {
        let (kept, keeps) = channel();
        let decide = move |request: Request, answer: Answer| match request.room.as_str() {
            "in" => answer.give(Ok(Claims::default())),
            "later" => kept.send(answer).unwrap(),
            "panic" => panic!("on purpose"),
            _ => drop(answer),
        };
        let asking = Asking::start(Arc::new(decide)).unwrap();
        let (answers, answered) = channel();
        let wake = Arc::new(Wake::new().unwrap());
        let asker = Asker::new(Some(asking), answers.clone(), wake.clone());
        let next = || answered.recv_timeout(Duration::from_secs(20)).unwrap();
        for (slot, room) in (0..).zip(["in", "panic", "dropped"]) {
            asker.ask(conn(slot), request(room));
            let Authenticated { conn: who, verdict } = next();
            assert_eq!(who, conn(slot));
            match room {
                "in" => assert_eq!(verdict, Ok(Claims::default())),
                _ => assert!(matches!(verdict, Err(Denied::Unavailable(_))), "{room}"),
            }
        }
        asker.ask(conn(9), request("later"));
        let answer = keeps.recv_timeout(Duration::from_secs(20)).unwrap();
        assert!(answered.try_recv().is_err());
        // The answers before have called it.
        assert!(wake.awoke() && wake.falls_asleep());
        let claims = Claims {
            access: Access::ReadOnly,
            ..Claims::default()
        };
        answer.give(Ok(claims.clone()));
        assert_eq!(next().verdict, Ok(claims));
        assert!(!wake.must_wake(), "the answer woke the shard");
        drop(asker);

        let nobody = Asker::new(None, answers, wake);
        nobody.ask(conn(3), request("in"));
        assert!(matches!(next().verdict, Err(Denied::Unavailable(_))));
    }

    #[test]
    fn questions_that_find_no_place_are_answered() {
        let (go, goes) = sync_channel::<()>(0);
        let goes = std::sync::Mutex::new(goes);
        let stuck = move |_: Request, answer: Answer| {
            let _ = goes.lock().unwrap().recv();
            drop(answer);
        };
        let asking = Asking::start(Arc::new(stuck)).unwrap();
        let (answers, answered) = channel();
        let asker = Asker::new(Some(asking), answers, Arc::new(Wake::new().unwrap()));
        // One may be in the authenticator's hands.
        for slot in 0..QUESTIONS_MAX as u32 + 2 {
            asker.ask(conn(slot), request("r"));
        }
        let refused = answered.recv_timeout(Duration::from_secs(20)).unwrap();
        assert!(matches!(refused.verdict, Err(Denied::Unavailable(_))));
        drop(go);
        for _ in 0..QUESTIONS_MAX + 1 {
            answered.recv_timeout(Duration::from_secs(20)).unwrap();
        }
    }

    #[test]
    fn a_time_of_day_becomes_a_time_of_the_shards() {
        let now = clock();
        let in_a_minute = instant_of(SystemTime::now() + Duration::from_secs(60));
        let left = in_a_minute.0 - now.0;
        assert!((59_000_000_000..=61_000_000_000).contains(&left), "{left}");
        let past = instant_of(SystemTime::UNIX_EPOCH);
        assert!(past <= clock());
    }
}
