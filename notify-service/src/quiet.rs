//! Quiet hours: wall-clock time in a user's time zone. The zones are those that are built in, of the IANA list.

use jiff::{
    Timestamp, ToSpan,
    civil::Time,
    tz::{AmbiguousOffset, TimeZone},
};
use time::OffsetDateTime;

/// The longest name of a time zone that is accepted, in bytes.
const ZONE_MAX: usize = 64;
/// Number of minutes of a day.
pub const DAY: i16 = 24 * 60;

/// Quiet hours of every day: from one minute of the day to another, which may be on the next day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quiet {
    /// The first minute, 0 to 1439.
    pub from: i16,
    /// The minute at which they end, 0 to 1439.
    pub to: i16,
    zone: TimeZone,
}

/// The zone with this name of the IANA list.
pub fn zone(name: &str) -> Option<TimeZone> {
    let has_name = (1..=ZONE_MAX).contains(&name.len());
    jiff::tz::db().get(name).ok().filter(|zone| has_name && zone.iana_name().is_some())
}

/// A time of day such as `22:00`, as a minute.
pub fn minute(text: &str) -> Option<i16> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |digits: &str| {
        let is_number = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse::<i16>().ok().filter(|_| is_number)
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    (hours < 24 && minutes < 60).then_some(hours * 60 + minutes)
}

/// A minute as a time of day.
pub fn time_of_day(minute: i16) -> String {
    format!("{:02}:{:02}", minute / 60, minute % 60)
}

impl Quiet {
    /// Quiet hours in a zone. `None` if the zone is unknown, or the minutes are equal or out of range.
    pub fn new(from: i16, to: i16, zone_name: &str) -> Option<Self> {
        let is_valid = from != to && (0..DAY).contains(&from) && (0..DAY).contains(&to);
        Some(Self { from, to, zone: zone(zone_name).filter(|_| is_valid)? })
    }

    /// The end of the quiet hours in which `now` lies; `None` outside of them.
    pub fn until(&self, now: OffsetDateTime) -> Option<OffsetDateTime> {
        let now = Timestamp::from_nanosecond(now.unix_timestamp_nanos()).ok()?;
        if !self.covers(now) {
            return None;
        }
        let end = self.ends_after(now).into_iter().filter(|end| *end > now && !self.covers(*end)).min()?;
        OffsetDateTime::from_unix_timestamp_nanos(end.as_nanosecond()).ok()
    }

    fn covers(&self, at: Timestamp) -> bool {
        let time = self.zone.to_datetime(at).time();
        let minute = i16::from(time.hour()) * 60 + i16::from(time.minute());
        if self.from < self.to {
            (self.from..self.to).contains(&minute)
        } else {
            minute >= self.from || minute < self.to
        }
    }

    /// The instants at which quiet hours may end: at their end on this day or the next, which a change of the clock may
    /// repeat or skip, and at the next change of the clock.
    fn ends_after(&self, now: Timestamp) -> Vec<Timestamp> {
        let mut ends: Vec<Timestamp> =
            self.zone.following(now).next().map(|change| change.timestamp()).into_iter().collect();
        let today = self.zone.to_datetime(now).date();
        let Ok(end) = Time::new((self.to / 60) as i8, (self.to % 60) as i8, 0, 0) else { return ends };
        for date in [Some(today), today.checked_add(1.day()).ok()].into_iter().flatten() {
            let end = date.to_datetime(end);
            let offsets = match self.zone.to_ambiguous_zoned(end).offset() {
                AmbiguousOffset::Unambiguous { offset } => vec![offset],
                AmbiguousOffset::Fold { before, after } => vec![before, after],
                // Skipped: the change of the clock ends them.
                AmbiguousOffset::Gap { .. } => vec![],
            };
            ends.extend(offsets.into_iter().filter_map(|offset| offset.to_timestamp(end).ok()));
        }
        ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use time::{Duration, format_description::well_known::Rfc3339};

    fn at(text: &str) -> OffsetDateTime {
        OffsetDateTime::parse(text, &Rfc3339).unwrap()
    }

    fn quiet(from: &str, to: &str, zone: &str) -> Quiet {
        Quiet::new(minute(from).unwrap(), minute(to).unwrap(), zone).unwrap()
    }

    #[test]
    fn they_cross_midnight_in_the_zone_of_the_user() {
        let paris = quiet("22:00", "08:00", "Europe/Paris");
        for (now, end) in [
            ("2026-01-15T20:59:59Z", None),
            ("2026-01-15T21:00:00Z", Some("2026-01-16T07:00:00Z")),
            ("2026-01-16T06:59:59Z", Some("2026-01-16T07:00:00Z")),
            ("2026-01-16T07:00:00Z", None),
            ("2026-07-15T20:00:00Z", Some("2026-07-16T06:00:00Z")),
        ] {
            assert_eq!(paris.until(at(now)), end.map(at), "{now}");
        }
        let noon = quiet("12:00", "13:30", "Asia/Kolkata");
        assert_eq!(noon.until(at("2026-01-15T07:00:00Z")), Some(at("2026-01-15T08:00:00Z")));
    }

    #[test]
    fn both_nights_on_which_the_clock_changes() {
        // On 29 March 2026, 02:00 becomes 03:00 in Paris; on 25 October, 03:00 becomes 02:00.
        for (from, to, now, end) in [
            ("22:00", "08:00", "2026-03-28T22:00:00Z", "2026-03-29T06:00:00Z"),
            ("22:00", "08:00", "2026-10-24T21:00:00Z", "2026-10-25T07:00:00Z"),
            // The end is skipped: the clock passes it at 03:00.
            ("01:00", "02:30", "2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z"),
            // The end comes twice: they end at the first, and are repeated with the hour.
            ("01:00", "02:30", "2026-10-24T23:30:00Z", "2026-10-25T00:30:00Z"),
            ("01:00", "02:30", "2026-10-25T01:10:00Z", "2026-10-25T01:30:00Z"),
            // The clock goes back to before their start.
            ("02:30", "04:00", "2026-10-25T00:40:00Z", "2026-10-25T01:00:00Z"),
        ] {
            assert_eq!(quiet(from, to, "Europe/Paris").until(at(now)), Some(at(end)), "{from} {to} {now}");
        }
    }

    #[test]
    fn zones_and_times_are_checked() {
        for name in ["Europe/Paris", "UTC", "America/Argentina/Buenos_Aires", "Asia/Kathmandu"] {
            assert!(zone(name).is_some(), "{name}");
        }
        for name in ["", "Mars/Olympus", "../etc/passwd", "UTC+1", "Europe/Paris\0"] {
            assert!(zone(name).is_none(), "{name:?}");
        }
        assert_eq!((minute("00:00"), minute("23:59")), (Some(0), Some(1439)));
        for text in ["24:00", "8:00", "08:60", "+8:00", "08:00:00", "", ":", "०८:००"] {
            assert_eq!(minute(text), None, "{text:?}");
        }
        assert_eq!(time_of_day(485), "08:05");
        assert_eq!(Quiet::new(60, 60, "UTC"), None);
        assert_eq!(Quiet::new(0, DAY, "UTC"), None);
    }

    proptest! {
        /// Minute by minute, the clock of the zone leaves the quiet hours at the end that was computed, not before.
        #[test]
        fn the_end_is_the_first_minute_outside(
            from in 0..DAY, to in 0..DAY, minutes in 0..2 * 365 * 24 * 60_i64,
            name in prop::sample::select(vec!["Europe/Paris", "America/New_York", "Australia/Lord_Howe",
                "Asia/Kolkata", "Pacific/Apia", "Africa/Casablanca"]),
            near_change in any::<bool>(),
        ) {
            prop_assume!(from != to);
            let quiet = Quiet::new(from, to, name).unwrap();
            let mut now = at("2026-01-01T00:00:00Z") + Duration::minutes(minutes);
            if near_change {
                let start = Timestamp::from_second(now.unix_timestamp()).unwrap();
                let change = quiet.zone.following(start).next().map(|change| change.timestamp().as_second());
                if let Some(change) = change {
                    now = OffsetDateTime::from_unix_timestamp(change).unwrap()
                        - Duration::minutes(minutes % 180 - 60);
                }
            }
            let is_quiet = |at: OffsetDateTime| {
                quiet.covers(Timestamp::from_second(at.unix_timestamp()).unwrap())
            };
            let first = (0..).map(|ahead| now + Duration::minutes(ahead)).find(|at| !is_quiet(*at));
            match quiet.until(now) {
                None => prop_assert!(!is_quiet(now)),
                Some(end) => prop_assert_eq!(Some(end), first),
            }
        }
    }
}
