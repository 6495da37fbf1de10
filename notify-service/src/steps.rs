//! The steps of reminders, as the operator configures them in `REMINDERS`.

use anyhow::{Context, bail, ensure};
use std::{fmt, str::FromStr, time::Duration};

/// Maximum number of steps.
const STEPS: usize = 4;
/// Maximum length of a step's name, in bytes.
const NAME_MAX: usize = 16;
/// Bounds of the delays.
const DELAYS: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(5)..=Duration::from_secs(7 * 24 * 3_600);
/// The step whose reminders of mandatory types are sent during quiet hours, too.
const MAIL: &str = "mail";

/// A step of reminders, such as `mail:15m/2h:every=1h`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Name, which is also the name of the channel in preferences.
    pub name: String,
    /// Delay after the first unread notification for a user who is away.
    pub away: Duration,
    /// The same for a user who is present; not shorter.
    pub present: Duration,
    /// Minimum time between two reminders of one user; zero: none.
    pub every: Duration,
    /// Whether `notify.settled` is published once everything in a reminder has been read.
    pub settle: bool,
}

impl Step {
    /// Whether this step's reminders of mandatory types ignore quiet hours.
    pub fn ignores_quiet_hours(&self) -> bool {
        self.name == MAIL
    }
}

/// All steps; none: reminders are off.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Steps(Vec<Step>);

impl std::ops::Deref for Steps {
    type Target = [Step];

    fn deref(&self) -> &[Step] {
        &self.0
    }
}

impl FromStr for Steps {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let mut steps: Vec<Step> = Vec::new();
        for word in text.split_whitespace() {
            let step = step(word).with_context(|| format!("the step {word:?}"))?;
            ensure!(steps.iter().all(|other| other.name != step.name), "two steps {:?}", step.name);
            steps.push(step);
        }
        ensure!(steps.len() <= STEPS, "at most {STEPS} steps");
        Ok(Self(steps))
    }
}

fn step(word: &str) -> anyhow::Result<Step> {
    let mut parts = word.split(':');
    let name = parts.next().unwrap_or_default();
    ensure!(is_name(name), "a name is a letter and up to {} of a-z, 0-9 and _", NAME_MAX - 1);
    let delays = parts.next().context("delays are missing, such as push:20s/3m")?;
    let (away, present) =
        delays.split_once('/').context("there must be two delays, away/present, such as 20s/3m")?;
    let (away, present) = (delay(away)?, delay(present)?);
    ensure!(away <= present, "the delay of a present user must not be shorter than that of an away one");
    let mut step = Step { name: name.to_owned(), away, present, every: Duration::ZERO, settle: false };
    for option in parts {
        match option.split_once('=') {
            None if option == "settle" => step.settle = true,
            Some(("every", every)) => step.every = delay(every)?,
            _ => bail!("the option {option:?} is neither every=<time> nor settle"),
        }
    }
    Ok(step)
}

/// Whether this can be the name of a step.
pub fn is_name(name: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    name.len() <= NAME_MAX
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(is_inner)
}

fn delay(text: &str) -> anyhow::Result<Duration> {
    let expected = || format!("{text:?} is not a time such as 20s, 15m, 2h or 7d");
    let unit = match text.bytes().last() {
        Some(b's') => 1,
        Some(b'm') => 60,
        Some(b'h') => 3_600,
        Some(b'd') => 24 * 3_600,
        _ => bail!(expected()),
    };
    let number: u64 = text[..text.len() - 1].parse().with_context(expected)?;
    let delay = Duration::from_secs(number.saturating_mul(unit));
    ensure!(DELAYS.contains(&delay), "{text:?} is not between 5s and 7d");
    Ok(delay)
}

impl fmt::Display for Steps {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.0.iter().map(|step| step.name.as_str()).collect();
        out.write_str(&names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        format!("{:#}", text.parse::<Steps>().unwrap_err())
    }

    #[test]
    fn the_steps_of_the_documentation_are_parsed() {
        let steps: Steps = "push:20s/3m:settle  mail:15m/2h:every=1h".parse().unwrap();
        let seconds = Duration::from_secs;
        let push = Step {
            name: "push".into(),
            away: seconds(20),
            present: seconds(180),
            every: Duration::ZERO,
            settle: true,
        };
        let mail = Step {
            name: "mail".into(),
            away: seconds(900),
            present: seconds(7_200),
            every: seconds(3_600),
            settle: false,
        };
        assert_eq!(steps.to_vec(), [push, mail]);
        assert_eq!((steps[0].ignores_quiet_hours(), steps[1].ignores_quiet_hours()), (false, true));
        assert_eq!("".parse::<Steps>().unwrap(), Steps::default());
        assert_eq!("a:5s/7d".parse::<Steps>().unwrap().len(), 1);
    }

    #[test]
    fn an_error_names_the_step_and_what_is_expected() {
        for (text, expected) in [
            ("Push:20s/3m", "the step \"Push:20s/3m\": a name is"),
            ("push", "delays are missing"),
            ("push:20s", "away/present"),
            ("push:20/3m", "\"20\" is not a time such as"),
            ("push:xs/3m", "\"xs\" is not a time such as"),
            ("push:é/3m", "is not a time such as"),
            ("push:4s/3m", "\"4s\" is not between 5s and 7d"),
            ("push:20s/8d", "\"8d\" is not between"),
            ("push:20s/99999999999999999999d", "is not a time"),
            ("push:3m/20s", "must not be shorter"),
            ("push:20s/3m:each=1h", "\"each=1h\" is neither"),
            ("push:20s/3m push:1m/3m", "two steps \"push\""),
            ("a:5s/5s b:5s/5s c:5s/5s d:5s/5s e:5s/5s", "at most 4 steps"),
            ("seventeen_letters:5s/5s", "a name is"),
        ] {
            assert!(error(text).contains(expected), "{text}: {}", error(text));
        }
    }
}
