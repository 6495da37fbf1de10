//! Notifications: what other backends publish, and what notify-service is asked, answers and publishes.

use crate::chat::Marker;
use crate::log::{Head, Range};
use crate::{Lang, NotificationId, Page, Request, Seq, Timestamp, UserId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;
use utoipa::ToSchema;

/// The header of a dead letter that says what was wrong.
pub const REASON_HEADER: &str = "Reason";
/// The header of a dead letter that says where it was published.
pub const ORIGINAL_SUBJECT_HEADER: &str = "Original-Subject";
/// The header of a dead letter that does not hold all of its event: which parts were cut, separated by commas.
pub const TRUNCATED_HEADER: &str = "Truncated";
/// In [`TRUNCATED_HEADER`]: headers that are missing or cut.
pub const TRUNCATED_HEADERS: &str = "headers";
/// In [`TRUNCATED_HEADER`]: the body is cut.
pub const TRUNCATED_BODY: &str = "body";
/// In [`TRUNCATED_HEADER`]: [`ORIGINAL_SUBJECT_HEADER`] is cut, or had characters that no header can hold.
pub const TRUNCATED_SUBJECT: &str = "subject";
/// What stands before the name of a header that NATS would act upon (such as `Nats-Msg-Id`) or that is one of the above,
/// in a dead letter: replaying it gives the header its name back.
pub const ORIGINAL_HEADER_PREFIX: &str = "Original-";
/// The header of a dead letter with headers that could not be read, as base64.
pub const UNREADABLE_HEADERS_HEADER: &str = "Original-Headers";
/// The header of a dead letter that was published again: what its event is known by, where its body doesn't say.
///
/// `id:` and the `Nats-Msg-Id` that it first had, else `at:` and its first place. JetStream would take the first
/// `Nats-Msg-Id` for a repeat, so a replay has another; by this, the event still notifies a user once.
pub const REPLAY_OF_HEADER: &str = "Replay-Of";
/// Types that no event may have, as frames of other meanings do.
pub const RESERVED_TYPES: [&str; 5] = ["read", "read_all", "error", "auth", "typing"];

/// What a dead letter calls a header of its event: NATS would act upon some, and some are the dead letter's own.
pub fn kept_header(name: &str) -> Cow<'_, str> {
    if is_prefixed(name) {
        Cow::Owned(format!("{ORIGINAL_HEADER_PREFIX}{name}"))
    } else {
        Cow::Borrowed(name)
    }
}

/// What the event called a header of its dead letter; `None` for one that the event did not have.
pub fn original_header(kept: &str) -> Option<&str> {
    match without_prefix(kept) {
        _ if is_dead_letters_own(kept) => None,
        Some(name) if is_prefixed(name) => Some(name),
        _ => Some(kept),
    }
}

fn is_prefixed(name: &str) -> bool {
    is_dead_letters_own(name) || without_prefix(name).is_some_and(is_prefixed)
}

fn is_dead_letters_own(name: &str) -> bool {
    let own = [REASON_HEADER, ORIGINAL_SUBJECT_HEADER, UNREADABLE_HEADERS_HEADER, TRUNCATED_HEADER];
    let nats = name.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("nats-"));
    nats || own.iter().any(|own| own.eq_ignore_ascii_case(name))
}

fn without_prefix(name: &str) -> Option<&str> {
    let (prefix, rest) = name.split_at_checked(ORIGINAL_HEADER_PREFIX.len())?;
    prefix.eq_ignore_ascii_case(ORIGINAL_HEADER_PREFIX).then_some(rest)
}

/// A notification, as the contract's frames and pages show it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Notification {
    /// Its type, such as `payment_completed`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Unique over all inboxes; grows with `seq`.
    pub notification_id: NotificationId,
    /// Its place in the user's inbox.
    #[schema(value_type = i64, minimum = 1)]
    pub seq: Seq,
    /// What it says, in the user's language.
    pub title: String,
    /// What it says below the title.
    pub message: String,
    /// As published: an object.
    #[schema(value_type = Object)]
    pub data: Box<RawValue>,
    /// When it was committed.
    pub created_at: Timestamp,
    /// Whether the user has read it.
    pub is_read: bool,
    /// How many the user has not read, when this was written or read.
    pub unread_count: i64,
    /// The notification that this one supersedes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub replaces: Option<NotificationId>,
}

/// Notifications were read. With `type`, the frame of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "read")]
pub struct InboxRead {
    /// The one that was read; with `all`, the last of those.
    pub notification_id: NotificationId,
    /// When.
    pub read_at: Timestamp,
    /// How many are still unread.
    pub unread_count: i64,
    /// Whether all up to that one were read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
}

/// notify-service → gateways: what happened in a user's inbox, after its commit. The JSON is the frame of the contract.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum InboxEvent {
    /// A new notification.
    Notification(Notification),
    /// Some were read.
    Read(InboxRead),
    /// The user's own marker moved in a conversation, on any device. The JSON is no frame: gateways send the marker's.
    Marker(OwnMarker),
}

/// A user's own marker, as an [`InboxEvent`].
///
/// It has the shape of a notification at place 0, which gateways of earlier releases take for a repeat, and drop.
#[derive(Debug, Clone, Serialize)]
pub struct OwnMarker {
    r#type: &'static str,
    notification_id: i64,
    seq: Seq,
    /// The marker, with the user's `unread_count`.
    pub marker: Marker,
    /// How often a marker of the user has moved by then.
    pub moves: i64,
}

impl InboxEvent {
    /// The subject of a user's events.
    pub fn subject_of(user: UserId) -> String {
        format!("notify.event.{user}")
    }

    /// A user's own marker.
    pub const fn marker(marker: Marker, moves: i64) -> Self {
        Self::Marker(OwnMarker { r#type: "marker", notification_id: 1, seq: 0, marker, moves })
    }
}

/// The header of an [`InboxEvent::Read`] that says where it stands among the inbox's changes: [`ReadPlace`]. It is no part
/// of the frame.
pub const INBOX_PLACE_HEADER: &str = "Inbox-Place";

/// Where an [`InboxEvent::Read`] stands: its `unread_count` is that of an inbox which ended with this notification after
/// this many reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReadPlace {
    /// The inbox's last `seq` then.
    pub seq: Seq,
    /// How often something in the inbox had been read by then, this time included.
    pub reads: i64,
}

impl std::fmt::Display for ReadPlace {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} {}", self.seq, self.reads)
    }
}

impl ReadPlace {
    /// Reads the value of [`INBOX_PLACE_HEADER`]; `None` if it isn't one.
    pub fn parse(text: &str) -> Option<Self> {
        let (seq, reads) = text.split_once(' ')?;
        Some(Self { seq: seq.parse().ok()?, reads: reads.parse().ok()? })
    }
}

/// What a gateway has to know of an [`InboxEvent`]: the JSON of a notification it passes on as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InboxPlace {
    /// A new notification.
    Notification {
        /// Its place in the inbox.
        seq: Seq,
        /// Its id.
        id: NotificationId,
        /// How many were unread then.
        unread_count: i64,
    },
    /// Some were read.
    Read(InboxRead),
    /// The user's own marker moved in a conversation; how often one has by then.
    Marker(Marker, i64),
}

impl InboxPlace {
    /// Reads it from an event's JSON.
    ///
    /// # Errors
    /// When that isn't one.
    pub fn parse(json: &[u8]) -> serde_json::Result<Self> {
        #[derive(Deserialize)]
        struct Event<'a> {
            #[serde(borrow)]
            r#type: Cow<'a, str>,
            notification_id: NotificationId,
            #[serde(default)]
            seq: Option<Seq>,
            #[serde(default)]
            unread_count: i64,
            #[serde(default)]
            marker: Option<Marker>,
            #[serde(default)]
            moves: i64,
        }
        let event: Event<'_> = serde_json::from_slice(json)?;
        match (&*event.r#type, event.seq, event.marker) {
            ("read", _, _) => serde_json::from_slice(json).map(Self::Read),
            (_, Some(0), Some(marker)) => Ok(Self::Marker(marker, event.moves)),
            (_, Some(seq), _) => {
                Ok(Self::Notification { seq, id: event.notification_id, unread_count: event.unread_count })
            }
            _ => Err(serde::de::Error::custom("it has no place")),
        }
    }
}

/// A page of a user's inbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageNotifications {
    /// Whose inbox.
    pub user_id: UserId,
    /// Which part.
    pub range: Range,
    /// How many at most; 0 only asks for the head.
    pub limit: u16,
    /// Only what is unread.
    #[serde(default)]
    pub unread: bool,
}

impl Request for PageNotifications {
    const SUBJECT: &'static str = "notify.notifications.page";
    type Reply = NotificationPage;
}

/// The answer to [`PageNotifications`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NotificationPage {
    /// The notifications.
    pub page: Page<Notification>,
    /// The last of the inbox.
    pub head: Head,
    /// How many are unread.
    pub unread_count: i64,
    /// What was read last, with the count of now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_read: Option<InboxRead>,
    /// How often something in it was read. Earlier releases leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reads: Option<i64>,
    /// How often a marker of the user moved, as the user's sockets were told. Earlier releases leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moves: Option<i64>,
    /// The last one of these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_moved: Option<Marker>,
}

/// gateway → notify-service: a user has read one notification, or all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkNotification {
    /// Whose.
    pub user_id: UserId,
    /// Which; `None`: all there are.
    pub notification_id: Option<NotificationId>,
}

impl Request for MarkNotification {
    const SUBJECT: &'static str = "notify.notifications.read";
    /// What was read; `None` from an empty inbox.
    type Reply = Option<InboxRead>;
}

/// gateway → notify-service: these users were seen with these languages. Their notifications are written in them from
/// now on, where the event leaves that open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RememberLanguages {
    /// At most [`crate::limits::LANGUAGES_MAX`]; of a user who is there twice, the later one counts.
    pub seen: Vec<(UserId, Lang)>,
}

impl Request for RememberLanguages {
    const SUBJECT: &'static str = "notify.languages";
    type Reply = ();
}

/// gateway → notify-service: where do these inboxes end?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboxHeads {
    /// At most [`crate::limits::HEADS_MAX`].
    pub users: Vec<UserId>,
}

impl Request for InboxHeads {
    const SUBJECT: &'static str = "notify.heads";
    type Reply = Vec<InboxHead>;
}

/// One answer of [`InboxHeads`]; inboxes that were never written to are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboxHead {
    /// Whose.
    pub user_id: UserId,
    /// The last `seq`.
    pub seq: Seq,
    /// How many are unread.
    pub unread_count: i64,
    /// What was read last, with the count of now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_read: Option<InboxRead>,
    /// How often something in it was read. Earlier releases leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reads: Option<i64>,
    /// How often a marker of the user moved, as the user's sockets were told. Earlier releases leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moves: Option<i64>,
    /// The last one of these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_moved: Option<Marker>,
}

/// A plain event's body, as backends publish it.
#[derive(Debug, Clone, Deserialize)]
pub struct EventBody {
    /// The type, where the body states one: it must be the subject's.
    #[serde(default, rename = "type")]
    pub kind: Option<serde_json::Value>,
    /// One user.
    #[serde(default)]
    pub user_id: Option<UserId>,
    /// Or several: at most [`crate::limits::EVENT_USERS_MAX`].
    #[serde(default)]
    pub user_ids: Option<Vec<UserId>>,
    /// An object, passed on as it is.
    #[serde(default)]
    pub data: Option<Box<RawValue>>,
    /// Notifies a user once, however often it arrives.
    #[serde(default)]
    pub event_id: Option<String>,
    /// Instead of the catalogue's.
    #[serde(default)]
    pub title: Option<String>,
    /// Instead of the catalogue's.
    #[serde(default)]
    pub message: Option<String>,
    /// The language of the text.
    #[serde(default)]
    pub lang: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_header_gets_its_name_back_from_a_dead_letter() {
        for (name, kept) in [
            ("X-Trace", "X-Trace"),
            ("Nats-Msg-Id", "Original-Nats-Msg-Id"),
            ("nats-ttl", "Original-nats-ttl"),
            ("Reason", "Original-Reason"),
            ("Original-Subject", "Original-Original-Subject"),
            ("Original-Nats-Msg-Id", "Original-Original-Nats-Msg-Id"),
            ("Original-Idea", "Original-Idea"),
            ("Original-", "Original-"),
        ] {
            assert_eq!(kept_header(name), kept);
            assert_eq!(original_header(kept), Some(name));
        }
        for own in ["Reason", "Original-Subject", "Original-Headers", "Truncated", "Nats-Msg-Id"] {
            assert_eq!(original_header(own), None);
        }
    }

    #[test]
    fn an_event_is_the_frame_of_the_contract() {
        let shown = r#"{"type":"payment_completed","notification_id":31,"seq":4,"title":"Paiement confirmé","message":"Votre paiement a été traité","data":{"payment_id":789},"created_at":"2025-12-09T10:30:00.123456Z","is_read":false,"unread_count":3}"#;
        let read = r#"{"type":"read","notification_id":31,"read_at":"2025-12-09T10:30:00.123456Z","unread_count":0}"#;
        let (shown_again, read_again) =
            (serde_json::from_str::<Notification>(shown), serde_json::from_str(read));
        let (shown_again, read_again): (_, InboxRead) = (shown_again.unwrap(), read_again.unwrap());
        assert_eq!(serde_json::to_string(&InboxEvent::Read(read_again)).unwrap(), read);
        assert_eq!(serde_json::to_string(&InboxEvent::Notification(shown_again)).unwrap(), shown);
        let id = NotificationId::new(31).unwrap();
        let place = |json: &str| InboxPlace::parse(json.as_bytes());
        assert_eq!(place(shown).unwrap(), InboxPlace::Notification { seq: 4, id, unread_count: 3 });
        assert_eq!(place(read).unwrap(), InboxPlace::Read(read_again));
        let marker = r#"{"conversation_id":1,"user_id":2,"message_id":3,"seq":4,"read_at":"2025-12-09T10:30:00.123456Z","unread_count":0}"#;
        let marker: Marker = serde_json::from_str(marker).unwrap();
        let json = serde_json::to_string(&InboxEvent::marker(marker, 7)).unwrap();
        assert_eq!(place(&json).unwrap(), InboxPlace::Marker(marker, 7));
        assert!(json.starts_with(r#"{"type":"marker","notification_id":1,"seq":0,"#), "{json}");
        let at = ReadPlace { seq: 4, reads: 9 };
        assert_eq!(ReadPlace::parse(&at.to_string()), Some(at));
        assert_eq!(ReadPlace::parse("4"), None);
        let quoted = shown.replace("payment_completed", r#"say\"hi\""#);
        assert_eq!(place(&quoted).unwrap(), InboxPlace::Notification { seq: 4, id, unread_count: 3 });
        for none in ["{}", r#"{"type":"read","notification_id":31}"#, r#"{"type":"a","notification_id":31}"#]
        {
            assert!(place(none).is_err(), "{none}");
        }
    }
}
