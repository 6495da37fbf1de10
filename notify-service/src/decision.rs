//! When a reminder may be sent, without I/O and without a clock.

use crate::steps::Step;
use time::OffsetDateTime;

/// A conversation or a notification that a user has not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unread {
    /// The time of the first unread message or of the notification: the start of the episode.
    pub since: OffsetDateTime,
    /// Whether the user wants reminders of it, by preference.
    pub wanted: bool,
    /// Whether the type ignores preferences.
    pub mandatory: bool,
    /// Whether the user has muted the conversation.
    pub muted: bool,
    /// The end of the mute, if it ends by itself.
    pub muted_until: Option<OffsetDateTime>,
}

/// What is known about a user at the time of the decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Circumstances {
    /// The time.
    pub now: OffsetDateTime,
    /// Whether the user is present.
    pub present: bool,
    /// The end of the user's quiet hours, during them.
    pub quiet_until: Option<OffsetDateTime>,
    /// The time of the last reminder of this step.
    pub last: Option<OffsetDateTime>,
}

/// A decision about one unread thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It belongs in the reminder that is issued now; it was due at this time.
    Issue(OffsetDateTime),
    /// It is looked at again at this time, and as soon as a present user leaves.
    Postpone {
        /// The time.
        due: OffsetDateTime,
        /// Whether it is due earlier if the user leaves.
        while_present: bool,
    },
    /// It causes no reminder as long as what is known about it and the user's settings stay.
    Drop,
}

/// Decides about one unread thing.
pub fn decide(step: &Step, unread: Unread, user: Circumstances) -> Decision {
    let Unread { since, wanted, mandatory, muted, muted_until } = unread;
    if !(wanted || mandatory) {
        return Decision::Drop;
    }
    if muted {
        let again = muted_until.filter(|end| *end > user.now);
        return again.map_or(Decision::Drop, |due| Decision::Postpone { due, while_present: false });
    }
    let delay_over = since + if user.present { step.present } else { step.away };
    let quiet_until = user.quiet_until.filter(|_| !(mandatory && step.ignores_quiet_hours()));
    let again = user.last.map(|last| last + step.every);
    let due = [quiet_until, again].into_iter().flatten().fold(delay_over, OffsetDateTime::max);
    if due <= user.now {
        return Decision::Issue(due);
    }
    Decision::Postpone { due, while_present: user.present && delay_over > user.now }
}

/// The latest start of an episode of which a reminder is issued now, if the user wants them; `None`: of none.
pub fn issued_since(step: &Step, mandatory: bool, user: Circumstances) -> Option<OffsetDateTime> {
    let since = user.now - if user.present { step.present } else { step.away };
    let unread = Unread { since, wanted: true, mandatory, muted: false, muted_until: None };
    matches!(decide(step, unread, user), Decision::Issue(_)).then_some(since)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steps::Steps;
    use time::Duration;

    const START: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn at(seconds: i64) -> OffsetDateTime {
        START + Duration::seconds(seconds)
    }

    fn steps() -> Steps {
        "push:20s/3m mail:15m/2h:every=1h".parse().unwrap()
    }

    fn unread() -> Unread {
        Unread { since: START, wanted: true, mandatory: false, muted: false, muted_until: None }
    }

    fn away(seconds: i64) -> Circumstances {
        Circumstances { now: at(seconds), present: false, quiet_until: None, last: None }
    }

    #[test]
    fn a_user_who_is_present_is_reminded_later_and_at_once_after_leaving() {
        let (push, present) = (&steps()[0], |seconds| Circumstances { present: true, ..away(seconds) });
        let later = Decision::Postpone { due: at(180), while_present: true };
        assert_eq!(decide(push, unread(), present(20)), later);
        assert_eq!(decide(push, unread(), away(60)), Decision::Issue(at(20)));
        assert_eq!(decide(push, unread(), present(180)), Decision::Issue(at(180)));
        assert_eq!(
            decide(push, unread(), away(19)),
            Decision::Postpone { due: at(20), while_present: false }
        );
    }

    #[test]
    fn the_table_of_mandatory_types_preferences_and_quiet_hours() {
        let steps = steps();
        let quiet = Circumstances { quiet_until: Some(at(9_000)), ..away(8_000) };
        let waits = Decision::Postpone { due: at(9_000), while_present: false };
        for (step, wanted, mandatory, in_quiet_hours, otherwise) in [
            (&steps[0], true, false, waits, Decision::Issue(at(20))),
            (&steps[0], false, false, Decision::Drop, Decision::Drop),
            (&steps[0], false, true, waits, Decision::Issue(at(20))),
            (&steps[1], true, false, waits, Decision::Issue(at(900))),
            (&steps[1], false, false, Decision::Drop, Decision::Drop),
            (&steps[1], true, true, Decision::Issue(at(900)), Decision::Issue(at(900))),
            (&steps[1], false, true, Decision::Issue(at(900)), Decision::Issue(at(900))),
        ] {
            let unread = Unread { wanted, mandatory, ..unread() };
            assert_eq!(decide(step, unread, quiet), in_quiet_hours, "{} {unread:?}", step.name);
            assert_eq!(decide(step, unread, away(8_000)), otherwise, "{} {unread:?}", step.name);
            assert_eq!(decide(step, Unread { muted: true, ..unread }, away(8_000)), Decision::Drop);
        }
    }

    #[test]
    fn what_is_issued_now_is_older_than_a_limit() {
        for step in steps().iter() {
            for (number, mandatory) in [(0, false), (1, true), (2, false), (3, true), (4, true), (5, false)] {
                let user = Circumstances {
                    now: at(8_000),
                    present: number % 2 == 0,
                    quiet_until: (number > 2).then(|| at(9_000)),
                    last: (number % 3 == 0).then(|| at(5_000)),
                };
                let limit = issued_since(step, mandatory, user);
                for since in [0, 799, 800, 801, 7_099, 7_100, 7_101, 7_820, 7_821, 7_980, 7_981] {
                    let unread = Unread { since: at(since), mandatory, ..unread() };
                    let is_issued = matches!(decide(step, unread, user), Decision::Issue(_));
                    assert_eq!(is_issued, limit.is_some_and(|limit| at(since) <= limit), "{since} {user:?}");
                }
            }
        }
    }

    #[test]
    fn another_reminder_of_the_step_waits() {
        let mail = &steps()[1];
        let user = Circumstances { last: Some(at(600)), ..away(1_000) };
        let waits = Decision::Postpone { due: at(4_200), while_present: false };
        assert_eq!(decide(mail, unread(), user), waits);
        assert_eq!(
            decide(mail, unread(), Circumstances { now: at(4_200), ..user }),
            Decision::Issue(at(4_200))
        );
    }
}
