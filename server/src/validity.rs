//! From when until when a certificate holds, read from its bytes, and what there is to say about it.

use rustls::pki_types::CertificateDer;
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

/// A certificate that ends within so many seconds is worth a word: 14 days.
pub const EXPIRES_SOON_S: i64 = 14 * DAY_S;
/// Seconds after which the word is repeated.
const SAID_AGAIN_S: u64 = DAY_S as u64;
const DAY_S: i64 = 86_400;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// A point in time, in seconds since 1970.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct UnixSeconds(pub i64);

/// The dates of a certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Validity {
    /// The first second at which it holds.
    pub not_before: UnixSeconds,
    /// The last.
    pub not_after: UnixSeconds,
}

/// What its dates make of a certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It holds.
    Good,
    /// It holds, and not for long.
    Soon,
    /// It held.
    Expired,
    /// It does not hold yet.
    Early,
}

impl UnixSeconds {
    /// What the system's clock shows.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Self(since.map_or(0, |since| since.as_secs().try_into().unwrap_or(i64::MAX)))
    }
}

impl fmt::Display for UnixSeconds {
    /// As RFC 3339 has it, in UTC.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, second) = (self.0.div_euclid(DAY_S), self.0.rem_euclid(DAY_S));
        let (year, month, day) = date(days);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"
        )
    }
}

impl Validity {
    /// Of this certificate; `None` if its dates stand nowhere or are none.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let mut outer = Der(certificate);
        let mut certificate = Der(outer.take(SEQUENCE)?);
        let mut signed = Der(certificate.take(SEQUENCE)?);
        if signed.0.first() == Some(&VERSION) {
            signed.take(VERSION)?;
        }
        signed.take(INTEGER)?; // the serial number
        signed.take(SEQUENCE)?; // the signature's algorithm
        signed.take(SEQUENCE)?; // the issuer
        let mut dates = Der(signed.take(SEQUENCE)?);
        Some(Self {
            not_before: dates.time()?,
            not_after: dates.time()?,
        })
    }

    /// How it stands at this time.
    pub fn standing(&self, now: UnixSeconds) -> Standing {
        if now > self.not_after {
            Standing::Expired
        } else if now < self.not_before {
            Standing::Early
        } else if self.not_after.0 - now.0 < EXPIRES_SOON_S {
            Standing::Soon
        } else {
            Standing::Good
        }
    }
}

/// Says once a day, and whenever it changes, how a certificate stands.
#[derive(Debug, Default)]
pub struct Reminder {
    last: Option<(Validity, Standing, UnixSeconds)>,
}

impl Reminder {
    /// What is to be said now, if anything.
    pub fn due(&mut self, validity: Validity, now: UnixSeconds) -> Option<Standing> {
        let standing = validity.standing(now);
        let said = self.last.is_some_and(|(of, what, at)| {
            of == validity && what == standing && now.0.abs_diff(at.0) < SAID_AGAIN_S
        });
        if said || standing == Standing::Good {
            return None;
        }
        self.last = Some((validity, standing, now));
        Some(standing)
    }
}

/// What is left of some DER.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The contents of the next value, which has this tag.
    fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (&[found, first], mut rest) = self.0.split_first_chunk()?;
        if found != tag {
            return None;
        }
        let mut length = usize::from(first);
        if first >= 0x80 {
            let count = usize::from(first & 0x7f);
            if count == 0 || count > 4 {
                return None;
            }
            let (bytes, after) = rest.split_at_checked(count)?;
            length = bytes.iter().fold(0, |n, &byte| n << 8 | usize::from(byte));
            rest = after;
        }
        let (value, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some(value)
    }

    /// The next value, a time in one of the two forms that certificates have.
    fn time(&mut self) -> Option<UnixSeconds> {
        let (text, century) = match *self.0.first()? {
            UTC_TIME => (self.take(UTC_TIME)?, None),
            _ => {
                let text = self.take(GENERALIZED_TIME)?;
                let (century, text) = text.split_at_checked(2)?;
                (text, Some(two_digits(century)?))
            }
        };
        let ([fields @ .., b'Z'], 13) = (text, text.len()) else {
            return None;
        };
        let mut numbers = fields.chunks(2).map(two_digits);
        let mut next = || numbers.next()?;
        let year = next()?;
        let year = match century {
            Some(century) => century * 100 + year,
            None if year < 50 => 2000 + year,
            None => 1900 + year,
        };
        let (month, day) = (next()?, next()?);
        let (hour, minute, second) = (next()?, next()?, next()?);
        let there_is =
            (1..=12).contains(&month) && day >= 1 && hour < 24 && minute < 60 && second < 60;
        let days = days(year, month, day);
        (there_is && date(days) == (year, month, day)).then_some(UnixSeconds(
            days * DAY_S + hour * 3600 + minute * 60 + second,
        ))
    }
}

fn two_digits(text: &[u8]) -> Option<i64> {
    match text {
        [a @ b'0'..=b'9', b @ b'0'..=b'9'] => Some(i64::from(a - b'0') * 10 + i64::from(b - b'0')),
        _ => None,
    }
}

/// Days from 1970 to this date. Years begin in March here, so that a leap day is the last of one.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year
        - 719_468
}

/// The date so many days after the first of 1970.
fn date(since: i64) -> (i64, i64, i64) {
    // Too late, by a few years at most.
    let mut year = (since + 719_468).div_euclid(365) + 1;
    while days(year, 1, 1) > since {
        year -= 1;
    }
    let month = (1..=12).rev().find(|&month| days(year, month, 1) <= since);
    let month = month.expect("the first of January is not after it");
    (year, month, since - days(year, month, 1) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    fn made(from: (i32, u8, u8), until: (i32, u8, u8)) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["localhost".into()]).unwrap();
        params.not_before = date_time_ymd(from.0, from.1, from.2);
        params.not_after = date_time_ymd(until.0, until.1, until.2);
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().clone()
    }

    #[test]
    fn dates_are_read_in_both_forms() {
        for (from, until, text) in [
            ((1999, 12, 31), (2024, 2, 29), "2024-02-29T00:00:00Z"),
            ((1950, 1, 1), (2049, 12, 31), "2049-12-31T00:00:00Z"),
            ((2050, 1, 1), (2100, 3, 1), "2100-03-01T00:00:00Z"),
            ((2026, 7, 1), (9999, 12, 31), "9999-12-31T00:00:00Z"),
        ] {
            let validity = Validity::of(&made(from, until)).unwrap();
            assert_eq!(validity.not_after.to_string(), text);
            let (year, month, day) = from;
            let from = format!("{year:04}-{month:02}-{day:02}T00:00:00Z");
            assert_eq!(validity.not_before.to_string(), from);
            let until = date_time_ymd(until.0, until.1, until.2).unix_timestamp();
            assert_eq!(validity.not_after.0, until);
        }
    }

    #[test]
    fn every_day_has_its_date_and_back() {
        assert_eq!(days(1970, 1, 1), 0);
        let (mut year, mut month, mut day) = (1899, 12, 31);
        for since in days(1899, 12, 31)..days(2401, 1, 1) {
            assert_eq!(date(since), (year, month, day));
            assert_eq!(days(year, month, day), since);
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let last = match month {
                2 if leap => 29,
                2 => 28,
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            day += 1;
            if day > last {
                (month, day) = (month + 1, 1);
            }
            if month > 12 {
                (year, month) = (year + 1, 1);
            }
        }
        assert_eq!(UnixSeconds(86_399).to_string(), "1970-01-01T23:59:59Z");
        assert_eq!(UnixSeconds(-1).to_string(), "1969-12-31T23:59:59Z");
    }

    #[test]
    fn what_is_no_certificate_has_no_dates() {
        let whole = made((2020, 1, 1), (2030, 1, 1));
        for end in 0..whole.len() {
            assert_eq!(Validity::of(&whole[..end].into()), None, "{end}");
        }
        let dates = |from: &[u8], until: &[u8]| {
            let mut bytes = vec![UTC_TIME, from.len() as u8];
            bytes.extend_from_slice(from);
            bytes.extend([GENERALIZED_TIME, until.len() as u8]);
            bytes.extend_from_slice(until);
            let mut der = Der(&bytes);
            Some((der.time()?, der.time()?))
        };
        assert!(dates(b"200229235959Z", b"20500131000000Z").is_some());
        for bad in [
            &b"200230000000Z"[..],
            b"210229000000Z",
            b"200001000000Z",
            b"201301000000Z",
            b"200100000000Z",
            b"200101240000Z",
            b"200101006000Z",
            b"200101000060Z",
            b"2001010000Z",
            b"200101000000+",
            b"2001010000000",
            b"20010100000aZ",
            b"",
        ] {
            assert_eq!(dates(bad, b"20500131000000Z"), None, "{bad:?}");
        }
        assert_eq!(dates(b"200229235959Z", b"20500131000000.5Z"), None);
        // A length of more than there can be.
        assert_eq!(Der(&[SEQUENCE, 0x85, 0, 0, 0, 0, 0]).take(SEQUENCE), None);
        assert_eq!(
            Der(&[SEQUENCE, 0x84, 255, 255, 255, 255]).take(SEQUENCE),
            None
        );
    }

    #[test]
    fn the_last_two_weeks_are_told_daily_and_each_change_at_once() {
        let (from, until) = (1_000_000, 100 * DAY_S);
        let validity = Validity {
            not_before: UnixSeconds(from),
            not_after: UnixSeconds(until),
        };
        let mut reminder = Reminder::default();
        let mut due = |now| reminder.due(validity, UnixSeconds(now));
        assert_eq!(due(from - 1), Some(Standing::Early));
        assert_eq!(due(from), None);
        assert_eq!(due(until - EXPIRES_SOON_S), None);
        assert_eq!(due(until - EXPIRES_SOON_S + 1), Some(Standing::Soon));
        assert_eq!(due(until - EXPIRES_SOON_S + DAY_S), None);
        assert_eq!(
            due(until - EXPIRES_SOON_S + DAY_S + 1),
            Some(Standing::Soon)
        );
        assert_eq!(due(until), Some(Standing::Soon));
        assert_eq!(due(until + 1), Some(Standing::Expired));
        assert_eq!(due(until + DAY_S), None);
        assert_eq!(due(until + DAY_S + 1), Some(Standing::Expired));
        // Another one that is just as bad.
        let next = Validity {
            not_after: UnixSeconds(until + 1),
            ..validity
        };
        let now = UnixSeconds(until + DAY_S + 2);
        assert_eq!(reminder.due(next, now), Some(Standing::Expired));
        assert_eq!(reminder.due(next, now), None);
    }
}
