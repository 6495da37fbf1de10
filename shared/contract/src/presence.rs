//! Presence: which users have an open page. Each gateway reports its own users; a user is present while any live
//! gateway reports them.

use crate::{ConversationId, Event, Request, Timestamp, UserId, streams};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use utoipa::ToSchema;

/// Interval at which a gateway publishes [`Alive`].
pub const ALIVE_EVERY: Duration = Duration::from_secs(5);
/// Time without an [`Alive`] after which a gateway's users lapse.
pub const LEASE: Duration = Duration::from_secs(15);
/// Maximum number of ids in a [`Delta`] or a [`SnapshotPage`]. With the longest ids, the payload stays below NATS' 1
/// MiB.
pub const IDS_MAX: usize = 10_000;
/// Maximum number of users in a [`Who`].
pub const WHO_MAX: usize = 1_000;
/// Maximum number of users in a client's request.
pub const READ_MAX: usize = 100;
/// Last-seen times are rounded down to a multiple of this.
pub const SEEN_STEP: Duration = Duration::from_secs(300);

/// gateway → every replica that follows presence: the changes of a short time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delta {
    /// Id of the gateway: letters and digits.
    pub gateway: String,
    /// The gateway's run: a later one has a greater number.
    pub epoch: i64,
    /// Number of this batch in the epoch: 1, 2, 3, …
    pub n: u64,
    /// Users who became present at this gateway.
    pub on: Vec<UserId>,
    /// Users who are no longer present at this gateway.
    pub off: Vec<UserId>,
}

impl Event for Delta {
    const PATTERN: &'static str = "presence.delta";

    fn subject(&self) -> String {
        Self::PATTERN.to_owned()
    }
}

/// gateway → every replica that follows presence, every [`ALIVE_EVERY`]: renews the lease of the gateway's users.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alive {
    /// Id of the gateway.
    pub gateway: String,
    /// The gateway's run.
    pub epoch: i64,
    /// Number of the last batch; 0 if there was none.
    pub n: u64,
    /// Number of users who are present at this gateway after that batch.
    pub users: usize,
}

impl Event for Alive {
    const PATTERN: &'static str = "presence.alive";

    fn subject(&self) -> String {
        Self::PATTERN.to_owned()
    }
}

/// Replica → every gateway, when it starts and when it may have missed something: each answers with an [`Alive`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {}

impl Event for Hello {
    const PATTERN: &'static str = "presence.hello";

    fn subject(&self) -> String {
        Self::PATTERN.to_owned()
    }
}

/// Replica → one gateway: a page of the users who are present there. The reply is a [`SnapshotPage`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Only users with a greater id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<UserId>,
}

impl Snapshot {
    /// Prefix of its subjects.
    pub const PREFIX: &'static str = "presence.snapshot.";

    /// Subject of a gateway. `None` if the id can't be part of a subject.
    pub fn subject(gateway: &str) -> Option<String> {
        let is_token = !gateway.is_empty() && gateway.bytes().all(|byte| byte.is_ascii_alphanumeric());
        is_token.then(|| format!("{}{gateway}", Self::PREFIX))
    }
}

/// A page of a gateway's users.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotPage {
    /// The gateway's run.
    pub epoch: i64,
    /// Number of the last batch that the page contains.
    pub n: u64,
    /// Users in ascending order, at most [`IDS_MAX`].
    pub users: Vec<UserId>,
    /// Whether there are users with greater ids.
    pub more: bool,
}

/// A user's presence, as other users see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UserPresence {
    /// The user.
    pub user_id: UserId,
    /// Whether the user is present.
    pub online: bool,
    /// When the user was last present, rounded down to 5 minutes. Absent if it is unknown or the user is present.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Timestamp>,
}

impl UserPresence {
    /// The presence of a user about whom nothing is shown.
    pub const fn unknown(user_id: UserId) -> Self {
        Self { user_id, online: false, last_seen: None }
    }
}

/// Presences of users.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Presences {
    /// One for each user.
    pub items: Vec<UserPresence>,
}

/// Backend → one replica of notify-service: the presence of users.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    /// At most [`WHO_MAX`] users.
    pub user_ids: Vec<UserId>,
}

impl Request for Who {
    const SUBJECT: &'static str = "presence.who";
    const PUBLIC: bool = true;
    type Reply = WhoReply;
}

/// The reply to [`Who`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhoReply {
    /// One for each user, in the order of the request.
    pub items: Vec<BackendPresence>,
}

/// A user's presence, as backends see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum BackendPresence {
    /// The user hides.
    Hidden {
        /// The user.
        user_id: UserId,
        /// Always true.
        hidden: bool,
    },
    /// The user's presence.
    Shown(UserPresence),
}

/// gateway → one replica of notify-service: what is stored about a user's presence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetShown {
    /// The user.
    pub user_id: UserId,
}

impl Request for GetShown {
    const SUBJECT: &'static str = "presence.shown.get";
    type Reply = StoredPresence;
}

/// Reply to [`GetShown`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredPresence {
    /// Whether others see the user's presence.
    pub shown: bool,
    /// The user's own choice; absent if the operator's default applies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choice: Option<bool>,
    /// The stored time at which the user was last present.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Timestamp>,
}

/// gateway → one replica of notify-service: a user shows or hides their presence. Idempotent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetShown {
    /// The user.
    pub user_id: UserId,
    /// Whether others see the user's presence.
    pub shown: bool,
}

impl Request for SetShown {
    const SUBJECT: &'static str = "presence.shown.set";
    type Reply = ();
}

/// Services → gateways with a socket that watches a user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserNews {
    /// The user.
    pub user_id: UserId,
    /// What is new.
    #[serde(flatten)]
    pub kind: UserNewsKind,
}

/// What is new about a user's presence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum UserNewsKind {
    /// By each replica of typing-service: the user came or left.
    State {
        /// Whether the user is present.
        online: bool,
        /// If not: when the user was last present, rounded down.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        last_seen: Option<Timestamp>,
    },
    /// By notify-service: the user hides or shows their presence.
    Hidden {
        /// Whether the user hides.
        hidden: bool,
        /// Whether the user is present.
        online: bool,
    },
    /// By chat-service: a block between the user and another one was set or lifted.
    Block {
        /// The other user.
        other_id: UserId,
        /// Whether either now blocks the other.
        blocked: bool,
    },
}

impl UserNews {
    /// The subject of news about a user.
    pub fn subject_of(user: UserId) -> String {
        format!("presence.user.{user}")
    }
}

impl Event for UserNews {
    const PATTERN: &'static str = "presence.user.*";

    fn subject(&self) -> String {
        Self::subject_of(self.user_id)
    }
}

/// Rounds a time down to a multiple of [`SEEN_STEP`], so that it does not reveal when exactly a user left.
pub fn rounded(at: Timestamp) -> Timestamp {
    let step = i64::try_from(SEEN_STEP.as_secs()).unwrap_or(i64::MAX);
    Timestamp::from_unix(at.unix().div_euclid(step) * step).unwrap_or(at)
}

/// notify-service → backends, on the stream `EVENTS_OUT`: a user's presence has changed and settled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// The same each time that the event is published.
    pub event_id: String,
    /// When the presence changed.
    pub occurred_at: Timestamp,
    /// The new presence.
    #[serde(flatten)]
    pub presence: UserPresence,
    /// Number of the change: greater in later events of the same user.
    pub change: i64,
}

impl Event for Changed {
    const PATTERN: &'static str = streams::PRESENCE_SUBJECT;

    fn subject(&self) -> String {
        Self::PATTERN.to_owned()
    }
}

/// A frame for a socket with a presence channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "presence")]
pub struct PresenceEvent {
    /// Conversation of the channel.
    pub conversation_id: ConversationId,
    /// The user's presence.
    #[serde(flatten)]
    pub presence: UserPresence,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(id: i64) -> UserId {
        UserId::new(id).unwrap()
    }

    #[test]
    fn a_hello_is_an_empty_object() {
        assert_eq!(serde_json::to_string(&Hello {}).unwrap(), "{}");
        assert!(serde_json::from_str::<Hello>("{}").is_ok());
    }

    #[test]
    fn payloads_are_those_of_the_specification() {
        let delta =
            Delta { gateway: "a1b2".to_owned(), epoch: 7, n: 412, on: vec![user(456)], off: vec![user(457)] };
        let json = r#"{"gateway":"a1b2","epoch":7,"n":412,"on":[456],"off":[457]}"#;
        assert_eq!(serde_json::to_string(&delta).unwrap(), json);
        assert_eq!(serde_json::from_str::<Delta>(json).unwrap(), delta);
        let frame = PresenceEvent {
            conversation_id: ConversationId::new(123).unwrap(),
            presence: UserPresence { online: true, ..UserPresence::unknown(user(457)) },
        };
        let json = r#"{"type":"presence","conversation_id":123,"user_id":457,"online":true}"#;
        assert_eq!(serde_json::to_string(&frame).unwrap(), json);
        assert_eq!(serde_json::from_str::<PresenceEvent>(json).unwrap(), frame);
        let reply = WhoReply {
            items: vec![
                BackendPresence::Hidden { user_id: user(1), hidden: true },
                BackendPresence::Shown(UserPresence::unknown(user(2))),
            ],
        };
        let json = r#"{"items":[{"user_id":1,"hidden":true},{"user_id":2,"online":false}]}"#;
        assert_eq!(serde_json::to_string(&reply).unwrap(), json);
        assert_eq!(serde_json::from_str::<WhoReply>(json).unwrap(), reply);
    }

    #[test]
    fn a_last_seen_time_is_rounded_down() {
        for (at, expected) in [(0, 0), (299, 0), (300, 300), (1_765_276_123, 1_765_275_900)] {
            let at = Timestamp::from_unix(at).unwrap();
            assert_eq!(rounded(at), Timestamp::from_unix(expected).unwrap());
        }
    }

    #[test]
    fn news_of_a_user_survive_their_json() {
        let news =
            UserNews { user_id: user(7), kind: UserNewsKind::Block { other_id: user(8), blocked: true } };
        let json = r#"{"user_id":7,"what":"block","other_id":8,"blocked":true}"#;
        assert_eq!(serde_json::to_string(&news).unwrap(), json);
        assert_eq!(serde_json::from_str::<UserNews>(json).unwrap(), news);
        assert_eq!(news.subject(), "presence.user.7");
    }

    #[test]
    fn the_largest_payload_fits_into_a_message() {
        let ids = vec![user(i64::MAX); IDS_MAX];
        let page = SnapshotPage { epoch: i64::MAX, n: u64::MAX, users: ids, more: true };
        assert!(serde_json::to_vec(&page).unwrap().len() < 900 * 1024);
    }

    #[test]
    fn only_a_token_becomes_part_of_a_subject() {
        assert_eq!(Snapshot::subject("a1b2").as_deref(), Some("presence.snapshot.a1b2"));
        for wrong in ["", "*", "a.b", ">", "a b", "é"] {
            assert_eq!(Snapshot::subject(wrong), None, "{wrong:?}");
        }
    }
}
