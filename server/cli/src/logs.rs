//! Logs on standard error, written by a thread of their own: a reader that is slow or stuck never
//! holds up a core. Lines that find the queue full are dropped and counted. Only errors are waited
//! for, and not for long, since the process may end right after one.

use collabblocks_server::config::{Log, LogFormat, LogLevel};
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait for standard error.
const LINES_MAX: usize = 4_096;

/// How long an error waits to be written.
const ERROR_WAIT: Duration = Duration::from_millis(200);

/// Keeps the log going; what still waits is written when it is dropped.
#[derive(Debug)]
pub struct Logs {
    sender: SyncSender<Message>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
enum Message {
    Line(Vec<u8>),
    /// All before it is written: tell the sender.
    Flush(SyncSender<()>),
    End,
}

/// Begins to log as configured, for the whole process.
pub fn start(config: &Log) -> Logs {
    let (logs, writer) = spawn(io::stderr());
    let level = match config.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let builder = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(writer);
    match config.format {
        LogFormat::Json => builder.json().flatten_event(true).init(),
        LogFormat::Text => builder.with_ansi(false).init(),
    }
    logs
}

fn spawn(out: impl Write + Send + 'static) -> (Logs, Writer) {
    let (sender, receiver) = sync_channel(LINES_MAX);
    // The one atomic: lines are logged on every core, and counting those lost must not wait.
    let lost = Arc::new(AtomicU64::new(0));
    let writer = Writer {
        sender: sender.clone(),
        lost: lost.clone(),
    };
    let thread = std::thread::Builder::new()
        .name("log".into())
        .spawn(move || drain(&receiver, &lost, out));
    (
        Logs {
            sender,
            thread: thread.ok(),
        },
        writer,
    )
}

fn drain(receiver: &Receiver<Message>, lost: &AtomicU64, mut out: impl Write) {
    // Nowhere is left to tell of an error of the log itself.
    loop {
        match receiver.recv() {
            Ok(Message::Line(line)) => {
                let _ = out.write_all(&line);
            }
            Ok(Message::Flush(done)) => {
                let _ = out.flush();
                let _ = done.try_send(());
            }
            Ok(Message::End) | Err(_) => break,
        }
        let count = lost.swap(0, Ordering::Relaxed);
        if count > 0 {
            let _ = writeln!(
                out,
                "{{\"level\":\"WARN\",\"message\":\"log lines were lost\",\"lines\":{count}}}"
            );
        }
    }
    let _ = out.flush();
}

impl Drop for Logs {
    fn drop(&mut self) {
        // Errors mean that the thread has ended: nothing waits.
        let _ = self.sender.send(Message::End);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[derive(Clone, Debug)]
struct Writer {
    sender: SyncSender<Message>,
    lost: Arc<AtomicU64>,
}

/// One event's bytes, sent as a whole when the event has been written.
#[derive(Debug)]
struct Line<'a> {
    writer: &'a Writer,
    bytes: Vec<u8>,
    wait: bool,
}

impl<'a> MakeWriter<'a> for Writer {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line {
            writer: self,
            bytes: Vec::new(),
            wait: false,
        }
    }

    fn make_writer_for(&'a self, metadata: &tracing::Metadata<'_>) -> Line<'a> {
        let mut line = self.make_writer();
        line.wait = *metadata.level() == tracing::Level::ERROR;
        line
    }
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        if self.bytes.is_empty() {
            return;
        }
        let line = std::mem::take(&mut self.bytes);
        if let Err(TrySendError::Full(_)) = self.writer.sender.try_send(Message::Line(line)) {
            self.writer.lost.fetch_add(1, Ordering::Relaxed);
        }
        if self.wait {
            let (done, written) = sync_channel(1);
            if self.writer.sender.try_send(Message::Flush(done)).is_ok() {
                // Too long a wait is given up: what waits may still be written.
                let _ = written.recv_timeout(ERROR_WAIT);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    /// Takes nothing before it is let go.
    struct Stuck {
        go: Receiver<()>,
        written: std::sync::mpsc::Sender<Vec<u8>>,
    }

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // A sender that is gone lets all through.
            let _ = self.go.recv();
            let _ = self.written.send(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stuck_reader_costs_lines_and_no_time() {
        let (go, going) = channel();
        let (written, reader) = channel();
        let (logs, writer) = spawn(Stuck { go: going, written });
        for number in 0..3 * LINES_MAX {
            writeln!(writer.make_writer(), "{number}").unwrap();
        }
        drop(go);
        drop(logs);
        let text = String::from_utf8(reader.into_iter().flatten().collect()).unwrap();
        let lines = text.lines().count();
        assert!((LINES_MAX..LINES_MAX + 4).contains(&lines), "{lines}");
        assert!(
            text.starts_with("0\n") && text.contains("log lines were lost"),
            "{text}"
        );
    }

    #[test]
    fn what_waits_is_written_at_the_end() {
        let (written, reader) = channel();
        let (_, going) = channel();
        let (logs, writer) = spawn(Stuck { go: going, written });
        for number in 0..100 {
            writeln!(writer.make_writer(), "{number}").unwrap();
        }
        drop(logs);
        let text = String::from_utf8(reader.into_iter().flatten().collect()).unwrap();
        assert!(text.ends_with("\n99\n"), "{text}");
    }

    #[test]
    fn an_error_is_written_before_the_process_can_end() {
        let (written, reader) = channel();
        let (_, going) = channel();
        let (logs, writer) = spawn(Stuck { go: going, written });
        let mut line = writer.make_writer();
        line.wait = true;
        line.write_all(b"the disk failed\n").unwrap();
        drop(line);
        assert_eq!(reader.try_recv().unwrap(), b"the disk failed\n");
        drop(logs);
    }
}
