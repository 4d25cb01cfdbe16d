//! A window, parsed: open now, or closed until when?

use jiff::{
    Timestamp, ToSpan,
    civil::{DateTime, Time, Weekday},
    tz::{TimeZone, TimeZoneDatabase},
};

use super::gates::{Day, Window};

/// Looks so many days ahead for the next opening.
const AHEAD: i64 = 400;

/// A window that was checked.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidWindow {
    zone: TimeZone,
    name: String,
    open: Vec<Open>,
    freeze: Vec<Frozen>,
}

#[derive(Clone, Debug, PartialEq)]
struct Open {
    /// Empty: every day.
    days: Vec<Weekday>,
    from: Time,
    /// `None`: the end of the day.
    to: Option<Time>,
}

#[derive(Clone, Debug, PartialEq)]
struct Frozen {
    from: DateTime,
    to: DateTime,
    why: String,
}

impl ValidWindow {
    /// Checks a window.
    ///
    /// # Errors
    /// The field that is wrong, what it should be, and what it is.
    pub fn new(window: &Window) -> Result<Self, (String, &'static str, String)> {
        // The time zones that are compiled in: the same on every machine, and no file is read.
        let zone = TimeZoneDatabase::bundled().get(&window.time_zone).map_err(|_| {
            ("timeZone".to_owned(), "an IANA time zone such as Europe/Berlin", window.time_zone.clone())
        })?;
        let mut open = Vec::new();
        for (index, hours) in window.open.iter().enumerate() {
            let time = |name: &str, text: &str| {
                let parsed = text.parse::<Time>();
                parsed
                    .map_err(|_| (format!("open[{index}].{name}"), "a time of the day such as 09:00", text.to_owned()))
            };
            let from = time("from", &hours.from)?;
            let to = if hours.to == "24:00" { None } else { Some(time("to", &hours.to)?) };
            if to.is_some_and(|to| to <= from) {
                return Err((
                    format!("open[{index}].to"),
                    "later than from (a night is two entries, the first to 24:00)",
                    hours.to.clone(),
                ));
            }
            open.push(Open { days: hours.days.iter().map(|day| weekday(*day)).collect(), from, to });
        }
        let mut freeze = Vec::new();
        for (index, frozen) in window.freeze.iter().enumerate() {
            let time = |name: &str, text: &str| {
                let parsed = text.parse::<DateTime>();
                let expected = "a day and a time such as 2026-12-20T00:00";
                parsed.map_err(|_| (format!("freeze[{index}].{name}"), expected, text.to_owned()))
            };
            let (from, to) = (time("from", &frozen.from)?, time("to", &frozen.to)?);
            if to <= from {
                return Err((format!("freeze[{index}].to"), "later than from", frozen.to.clone()));
            }
            freeze.push(Frozen { from, to, why: frozen.why.clone() });
        }
        Ok(Self { zone, name: window.time_zone.clone(), open, freeze })
    }

    /// `None` while it is open; else in words why not, and until when.
    pub fn closed(&self, now: Timestamp) -> Option<String> {
        let local = now.to_zoned(self.zone.clone()).datetime();
        if self.is_open(local) {
            return None;
        }
        let until = match self.next_opening(local) {
            Some(next) => format!("until {} ({})", next.strftime("%a %Y-%m-%d %H:%M"), self.name),
            None => format!("for more than {AHEAD} days"),
        };
        let frozen = self.freeze.iter().find(|frozen| frozen.holds(local)).filter(|frozen| !frozen.why.is_empty());
        Some(match frozen {
            Some(frozen) => format!("closed {until}: {}", frozen.why),
            None => format!("closed {until}"),
        })
    }

    fn is_open(&self, local: DateTime) -> bool {
        let hours = self.open.is_empty() || self.open.iter().any(|open| open.holds(local));
        hours && !self.freeze.iter().any(|frozen| frozen.holds(local))
    }

    /// It opens only when hours begin, a freeze ends, or a day begins.
    fn next_opening(&self, local: DateTime) -> Option<DateTime> {
        let mut days = (0..AHEAD).filter_map(|days| local.date().checked_add(days.days()).ok());
        days.find_map(|day| {
            let hours = self.open.iter().map(|open| day.to_datetime(open.from));
            let freezes = self.freeze.iter().map(|frozen| frozen.to).filter(|time| time.date() == day);
            let times = hours.chain(freezes).chain(std::iter::once(day.to_datetime(Time::midnight())));
            times.filter(|time| *time > local && self.is_open(*time)).min()
        })
    }
}

impl Open {
    fn holds(&self, local: DateTime) -> bool {
        (self.days.is_empty() || self.days.contains(&local.date().weekday()))
            && local.time() >= self.from
            && self.to.is_none_or(|to| local.time() < to)
    }
}

impl Frozen {
    fn holds(&self, local: DateTime) -> bool {
        local >= self.from && local < self.to
    }
}

fn weekday(day: Day) -> Weekday {
    match day {
        Day::Mon => Weekday::Monday,
        Day::Tue => Weekday::Tuesday,
        Day::Wed => Weekday::Wednesday,
        Day::Thu => Weekday::Thursday,
        Day::Fri => Weekday::Friday,
        Day::Sat => Weekday::Saturday,
        Day::Sun => Weekday::Sunday,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn window(value: Value) -> ValidWindow {
        ValidWindow::new(&serde_json::from_value(value).expect("a window")).expect("valid")
    }

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    #[test]
    fn office_hours_are_those_of_the_time_zone_also_when_clocks_change() {
        let office = window(json!({
            "timeZone": "Europe/Berlin", "open": [{"days": ["Mon", "Tue", "Wed", "Thu", "Fri"], "from": "09:00", "to": "17:00"}]}));
        for (time, open) in [
            ("2026-11-25T07:59:59Z", false),
            ("2026-11-25T08:00:00Z", true),
            ("2026-07-01T07:00:00Z", true), // summer time: 09:00 is an hour earlier
            ("2026-11-25T16:00:00Z", false),
            ("2026-11-28T12:00:00Z", false), // a Saturday
        ] {
            assert_eq!(office.closed(at(time)).is_none(), open, "{time}");
        }
        let said = office.closed(at("2026-11-27T20:00:00Z")).expect("closed");
        assert_eq!(said, "closed until Mon 2026-11-30 09:00 (Europe/Berlin)");
    }

    #[test]
    fn a_freeze_closes_it_and_says_what_for() {
        let frozen =
            window(json!({"freeze": [{"from": "2026-12-20T00:00", "to": "2027-01-02T00:00", "why": "holidays"}]}));
        assert_eq!(frozen.closed(at("2026-12-19T23:59:00Z")), None);
        let said = frozen.closed(at("2026-12-24T18:00:00Z")).expect("closed");
        assert_eq!(said, "closed until Sat 2027-01-02 00:00 (UTC): holidays");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (value, field) in [
            (json!({"timeZone": "Europe/Nowhere"}), "timeZone"),
            (json!({"open": [{"from": "17:00", "to": "09:00"}]}), "open[0].to"),
            (json!({"freeze": [{"from": "2026-13-01T00:00", "to": "2026-12-02T00:00"}]}), "freeze[0].from"),
        ] {
            let window: Window = serde_json::from_value(value).expect("a window");
            assert_eq!(ValidWindow::new(&window).expect_err(field).0, field);
        }
    }
}
