//! Looking after the certificate: its files are read again on SIGHUP, and every few seconds.

use super::Shards;
use crate::certificate::Certificate;
use crate::validity::{Reminder, Standing, UnixSeconds, Validity};
use rustls::ServerConfig;
use std::io;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Interval, interval};

/// Time between two looks. The files are read, as a change need not show in their times.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The certificate that is served, if there is TLS.
pub(super) struct Renewal(Option<Watched>);

struct Watched {
    certificate: Certificate,
    hangup: Signal,
    clock: Interval,
    /// Not all shards have heard of it yet.
    unheard: Option<ServerConfig>,
    /// The dates of what is served.
    shown: watch::Sender<Option<Validity>>,
    reminder: Reminder,
}

impl Renewal {
    /// Tells the dates of what is served through `shown`.
    pub(super) fn new(
        certificate: Option<Certificate>,
        shown: watch::Sender<Option<Validity>>,
    ) -> io::Result<Self> {
        let watch = |certificate: Certificate| -> io::Result<Watched> {
            shown.send_replace(Some(certificate.validity()));
            Ok(Watched {
                certificate,
                hangup: signal(SignalKind::hangup())?,
                clock: interval(LOOK_EVERY),
                unheard: None,
                shown,
                reminder: Reminder::default(),
            })
        };
        certificate.map(watch).transpose().map(Self)
    }

    /// Waits until the files are to be looked at.
    pub(super) async fn due(&mut self) {
        match &mut self.0 {
            None => std::future::pending().await,
            Some(Watched { hangup, clock, .. }) => {
                tokio::select! {
                    _ = hangup.recv() => {}
                    _ = clock.tick() => {}
                }
            }
        }
    }

    /// Reads the files, and has the shards serve what has changed.
    pub(super) fn look(&mut self, shards: &dyn Shards) {
        let Some(watched) = &mut self.0 else { return };
        match watched.certificate.look_again() {
            None => {}
            Some(Ok(config)) => {
                tracing::info!(
                    "the files of the certificate have changed: new connections are shown the new one"
                );
                watched.unheard = Some(config);
                let validity = watched.certificate.validity();
                watched.shown.send_replace(Some(validity));
            }
            Some(Err(why)) => {
                tracing::error!(
                    "the files of the certificate have changed and cannot be used, so the one before goes on being served: {why}"
                );
            }
        }
        // A shard whose mailbox is full hears of it the next time.
        if watched
            .unheard
            .take_if(|config| shards.show_certificate(config))
            .is_none()
            && watched.unheard.is_some()
        {
            tracing::warn!("a shard has not heard of the new certificate yet");
        }
        watched.remind(UnixSeconds::now());
    }
}

impl Watched {
    /// Says how the certificate stands, if it does not stand well.
    fn remind(&mut self, now: UnixSeconds) {
        let validity = self.certificate.validity();
        let Some(standing) = self.reminder.due(validity, now) else {
            return;
        };
        let path = self.certificate.path().display();
        let (from, until) = (validity.not_before, validity.not_after);
        match standing {
            Standing::Good => {}
            Standing::Soon => tracing::warn!(
                "the certificate in {path} expires at {until}, in less than {} days: put a new one there, which is \
                 served without a restart",
                (until.0 - now.0) / 86_400 + 1
            ),
            Standing::Expired => tracing::error!(
                "the certificate in {path} expired at {until}, and clients refuse it: put a new one there, which is \
                 served without a restart"
            ),
            Standing::Early => tracing::error!(
                "the certificate in {path} holds from {from} on, and clients refuse it before: look at the clock of \
                 this machine, or put another one there"
            ),
        }
    }
}
