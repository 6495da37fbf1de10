//! Notifications: the events of other backends, and the requests and events of notify-service.

use crate::chat::{Marker, Mine};
use crate::log::{Head, Range};
use crate::{Lang, NotificationId, Page, Request, Seq, Timestamp, UserId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;
use utoipa::ToSchema;

/// Header of a dead letter with the reason why the event was rejected.
pub const REASON_HEADER: &str = "Reason";
/// Header of a dead letter with the event's original subject.
pub const ORIGINAL_SUBJECT_HEADER: &str = "Original-Subject";
/// Header of a dead letter that does not hold all of its event: the truncated parts, separated by commas.
pub const TRUNCATED_HEADER: &str = "Truncated";
/// Value in [`TRUNCATED_HEADER`]: headers are missing or truncated.
pub const TRUNCATED_HEADERS: &str = "headers";
/// Value in [`TRUNCATED_HEADER`]: the body is truncated.
pub const TRUNCATED_BODY: &str = "body";
/// Value in [`TRUNCATED_HEADER`]: [`ORIGINAL_SUBJECT_HEADER`] is truncated, or the subject had characters that no
/// header can hold.
pub const TRUNCATED_SUBJECT: &str = "subject";
/// Prefix that a dead letter adds to the name of a header on which NATS would act (such as `Nats-Msg-Id`) or that is
/// one of the above. A replay removes it.
pub const ORIGINAL_HEADER_PREFIX: &str = "Original-";
/// Header of a dead letter with the headers that could not be parsed, as base64.
pub const UNREADABLE_HEADERS_HEADER: &str = "Original-Headers";
/// Header of a replayed dead letter: the identity of its event, used if the body has no `event_id`.
///
/// The value is `id:` and the original `Nats-Msg-Id`, or else `at:` and the original position. JetStream would reject
/// the original `Nats-Msg-Id` as a duplicate, so a replay has another one; with this header the event still notifies a
/// user only once.
pub const REPLAY_OF_HEADER: &str = "Replay-Of";
/// Header of an event for one webhook, and of its dead letter: the type of the event.
pub const EVENT_TYPE_HEADER: &str = "Event-Type";
/// Types that no event may have, because they are the types of other frames.
pub const RESERVED_TYPES: [&str; 7] = ["read", "read_all", "error", "auth", "typing", "mine", "seen"];

/// Name in a dead letter of a header of the event. Headers on which NATS would act, and the dead letter's own names,
/// are prefixed.
pub fn kept_header(name: &str) -> Cow<'_, str> {
    if is_prefixed(name) {
        Cow::Owned(format!("{ORIGINAL_HEADER_PREFIX}{name}"))
    } else {
        Cow::Borrowed(name)
    }
}

/// Name in the event of a header of its dead letter. `None` if the event did not have the header.
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

/// A notification, as in the protocol's frames and pages.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Notification {
    /// Type, such as `payment_completed`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Id, unique across all inboxes; grows with `seq`.
    pub notification_id: NotificationId,
    /// Position in the user's inbox.
    #[schema(value_type = i64, minimum = 1)]
    pub seq: Seq,
    /// Title in the user's language.
    pub title: String,
    /// Text below the title, in the user's language.
    pub message: String,
    /// Object `data` of the event, unchanged.
    #[schema(value_type = Object)]
    pub data: Box<RawValue>,
    /// Time of the commit.
    pub created_at: Timestamp,
    /// True if the user has read the notification.
    pub is_read: bool,
    /// Number of unread notifications at the time of writing or reading.
    pub unread_count: i64,
    /// Number of unread notifications after the last one that the user has seen. Absent if no device of the user ever
    /// said what the user has seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub unseen_count: Option<i64>,
    /// Notification that this one supersedes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub replaces: Option<NotificationId>,
    /// Time at which the user archived the notification.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub archived_at: Option<Timestamp>,
}

/// A read of one or more notifications. With `type`, it is the protocol's frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "read")]
pub struct InboxRead {
    /// Notification that was read; with `all`, the last one.
    pub notification_id: NotificationId,
    /// Time of the read.
    pub read_at: Timestamp,
    /// Number of notifications that are still unread.
    pub unread_count: i64,
    /// Number of them after the last one that the user has seen. Absent if no device of the user ever said that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unseen_count: Option<i64>,
    /// True if all notifications up to this one were read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
}

/// The last notification that a user has seen in a list. With `type`, it is the protocol's frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "seen")]
pub struct InboxSeen {
    /// The notification.
    pub notification_id: NotificationId,
    /// Number of unread notifications after it.
    pub unseen_count: i64,
}

/// notify-service → gateways: an event in a user's inbox, published after its commit. The JSON is the protocol's frame.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum InboxEvent {
    /// A new notification.
    Notification(Notification),
    /// Notifications were read.
    Read(InboxRead),
    /// The user's own marker moved in a conversation, on any device. This JSON is not a frame: gateways send the
    /// marker's frame.
    Marker(OwnMarker),
    /// chat-service → gateways: the user's own settings of a conversation changed, on any device. It may get lost, and
    /// has no number. This JSON is not a frame: gateways send the frame in it.
    Mine(OwnSettings),
    /// The user has seen notifications, on any device. This JSON is not a frame: gateways send the frame in it.
    Seen(OwnSeen),
}

/// A user's own marker, as an [`InboxEvent`].
///
/// It has the shape of a notification with `seq` 0, which gateways of earlier releases drop as a repeat.
#[derive(Debug, Clone, Serialize)]
pub struct OwnMarker {
    r#type: &'static str,
    notification_id: i64,
    seq: Seq,
    /// Marker with the user's `unread_count`.
    pub marker: Marker,
    /// Number of moves of the user's markers so far.
    pub moves: i64,
}

/// A user's own settings of a conversation, as an [`InboxEvent`]. It has the shape of an [`OwnMarker`].
#[derive(Debug, Clone, Serialize)]
pub struct OwnSettings {
    r#type: &'static str,
    notification_id: i64,
    seq: Seq,
    /// The settings.
    pub mine: Mine,
}

/// What a user has seen, as an [`InboxEvent`]. It has the shape of an [`OwnMarker`].
#[derive(Debug, Clone, Serialize)]
pub struct OwnSeen {
    r#type: &'static str,
    notification_id: i64,
    seq: Seq,
    /// The frame.
    pub seen: InboxSeen,
}

impl InboxEvent {
    /// Creates the event of a move of the marker of what the user has seen.
    pub const fn seen(seen: InboxSeen) -> Self {
        Self::Seen(OwnSeen { r#type: "seen", notification_id: 1, seq: 0, seen })
    }

    /// Subject of a user's events.
    pub fn subject_of(user: UserId) -> String {
        format!("notify.event.{user}")
    }

    /// Creates the event of a move of the user's own marker.
    pub const fn marker(marker: Marker, moves: i64) -> Self {
        Self::Marker(OwnMarker { r#type: "marker", notification_id: 1, seq: 0, marker, moves })
    }

    /// Creates the event of a change of the user's own settings of a conversation.
    pub const fn mine(mine: Mine) -> Self {
        Self::Mine(OwnSettings { r#type: "mine", notification_id: 1, seq: 0, mine })
    }
}

/// Header of an [`InboxEvent::Read`] or [`InboxEvent::Seen`] with its position among the changes of the inbox: a
/// [`ReadPlace`]. It is not part of the frame.
pub const INBOX_PLACE_HEADER: &str = "Inbox-Place";

/// Position of an [`InboxEvent::Read`] or [`InboxEvent::Seen`]: its counts are correct for the inbox with this last
/// `seq` after this number of reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReadPlace {
    /// Last `seq` of the inbox at that time.
    pub seq: Seq,
    /// Number of reads in the inbox so far, including this one.
    pub reads: i64,
}

impl std::fmt::Display for ReadPlace {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} {}", self.seq, self.reads)
    }
}

impl ReadPlace {
    /// Parses the value of [`INBOX_PLACE_HEADER`]; `None` if it is invalid.
    pub fn parse(text: &str) -> Option<Self> {
        let (seq, reads) = text.split_once(' ')?;
        Some(Self { seq: seq.parse().ok()?, reads: reads.parse().ok()? })
    }
}

/// The part of an [`InboxEvent`] that a gateway needs. It forwards the JSON of a notification unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InboxPlace {
    /// A new notification.
    Notification {
        /// Position in the inbox.
        seq: Seq,
        /// Id of the notification.
        id: NotificationId,
        /// Number of unread notifications at that time.
        unread_count: i64,
        /// [`Notification::unseen_count`].
        unseen_count: Option<i64>,
    },
    /// Notifications were read.
    Read(InboxRead),
    /// The user's own marker moved in a conversation; with the number of moves so far.
    Marker(Marker, i64),
    /// The user's own settings of a conversation changed.
    Mine(Mine),
    /// The user has seen notifications.
    Seen(InboxSeen),
}

impl InboxPlace {
    /// Parses the JSON of an event.
    ///
    /// # Errors
    /// If it is not the JSON of an event.
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
            #[serde(default)]
            mine: Option<Mine>,
            #[serde(default)]
            unseen_count: Option<i64>,
            #[serde(default)]
            seen: Option<InboxSeen>,
        }
        let event: Event<'_> = serde_json::from_slice(json)?;
        match (&*event.r#type, event.seq, event.marker) {
            ("seen", Some(0), _) if let Some(seen) = event.seen => Ok(Self::Seen(seen)),
            ("read", _, _) => serde_json::from_slice(json).map(Self::Read),
            (_, Some(0), Some(marker)) => Ok(Self::Marker(marker, event.moves)),
            ("mine", Some(0), _) => {
                let mine = event.mine.ok_or_else(|| serde::de::Error::missing_field("mine"))?;
                Ok(Self::Mine(mine))
            }
            (_, Some(seq), _) => {
                let Event { notification_id: id, unread_count, unseen_count, .. } = event;
                Ok(Self::Notification { seq, id, unread_count, unseen_count })
            }
            _ => Err(serde::de::Error::custom("the event has no position")),
        }
    }
}

/// gateway → notify-service: requests a page of a user's inbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageNotifications {
    /// Owner of the inbox.
    pub user_id: UserId,
    /// Range of notifications.
    pub range: Range,
    /// Maximum number of notifications; 0 requests only the head.
    pub limit: u16,
    /// True for unread notifications only.
    #[serde(default)]
    pub unread: bool,
    /// Whether archived notifications are left out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hides_archived: bool,
}

impl Request for PageNotifications {
    const SUBJECT: &'static str = "notify.notifications.page";
    type Reply = NotificationPage;
}

/// Reply to [`PageNotifications`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NotificationPage {
    /// Notifications of the page.
    pub page: Page<Notification>,
    /// Last notification of the inbox.
    pub head: Head,
    /// Number of unread notifications.
    pub unread_count: i64,
    /// Last read, with the current count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_read: Option<InboxRead>,
    /// Number of reads in the inbox. Earlier releases omit it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reads: Option<i64>,
    /// Number of moves of the user's markers that were published to the user's sockets. Earlier releases omit it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moves: Option<i64>,
    /// Last of these moves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_moved: Option<Marker>,
    /// What the user has seen, if a device ever said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<InboxSeen>,
}

/// gateway → notify-service: marks one notification, or all, as read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkNotification {
    /// Owner of the inbox.
    pub user_id: UserId,
    /// Notification to mark; `None` for all.
    pub notification_id: Option<NotificationId>,
}

impl Request for MarkNotification {
    const SUBJECT: &'static str = "notify.notifications.read";
    /// The resulting read; `None` if the inbox is empty.
    type Reply = Option<InboxRead>;
}

/// gateway → notify-service: marks what a user has seen, forward only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkSeen {
    /// Owner of the inbox.
    pub user_id: UserId,
    /// Last notification that the user has seen.
    pub notification_id: NotificationId,
}

impl Request for MarkSeen {
    const SUBJECT: &'static str = "notify.notifications.seen";
    /// The marker, which may be a later one.
    type Reply = InboxSeen;
}

/// gateway → notify-service: archives a notification, and marks it as read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveNotification {
    /// Owner of the inbox.
    pub user_id: UserId,
    /// Notification to archive.
    pub notification_id: NotificationId,
}

impl Request for ArchiveNotification {
    const SUBJECT: &'static str = "notify.notifications.archive";
    type Reply = ();
}

/// gateway → notify-service: reports the languages of users. Notifications are written in them from now on, unless the
/// event sets a language.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RememberLanguages {
    /// At most [`crate::limits::LANGUAGES_MAX`] users. The last entry of a user wins.
    pub seen: Vec<(UserId, Lang)>,
}

impl Request for RememberLanguages {
    const SUBJECT: &'static str = "notify.languages";
    type Reply = ();
}

/// gateway → notify-service: requests the heads of inboxes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboxHeads {
    /// At most [`crate::limits::HEADS_MAX`] users.
    pub users: Vec<UserId>,
}

impl Request for InboxHeads {
    const SUBJECT: &'static str = "notify.heads";
    type Reply = Vec<InboxHead>;
}

/// Element of the reply to [`InboxHeads`]. Inboxes that were never written to are omitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboxHead {
    /// Owner of the inbox.
    pub user_id: UserId,
    /// Last `seq`.
    pub seq: Seq,
    /// Number of unread notifications.
    pub unread_count: i64,
    /// Last read, with the current count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_read: Option<InboxRead>,
    /// Number of reads in the inbox. Earlier releases omit it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reads: Option<i64>,
    /// Number of moves of the user's markers that were published to the user's sockets. Earlier releases omit it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moves: Option<i64>,
    /// Last of these moves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_moved: Option<Marker>,
    /// What the user has seen, if a device ever said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<InboxSeen>,
}

/// Body of a plain event, as published by backends.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[schema(description = "An event. It needs `user_id` or `user_ids`.")]
pub struct EventBody {
    /// Type. If set, it must equal the type in the subject or path.
    #[serde(default, rename = "type")]
    #[schema(value_type = Option<String>)]
    pub kind: Option<serde_json::Value>,
    /// Single recipient.
    #[serde(default)]
    pub user_id: Option<UserId>,
    /// Several recipients: at most 1000.
    #[serde(default)]
    pub user_ids: Option<Vec<UserId>>,
    /// Object that is passed on unchanged.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub data: Option<Box<RawValue>>,
    /// Idempotency key: a user is notified only once for each `event_id`.
    #[serde(default)]
    pub event_id: Option<String>,
    /// Title that replaces the catalogue's.
    #[serde(default)]
    pub title: Option<String>,
    /// Text that replaces the catalogue's.
    #[serde(default)]
    pub message: Option<String>,
    /// Language of the text.
    #[serde(default)]
    pub lang: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn original_header_restores_every_header_name() {
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
    fn events_serialize_to_the_frames_of_the_protocol() {
        let shown = r#"{"type":"payment_completed","notification_id":31,"seq":4,"title":"Paiement confirmé","message":"Votre paiement a été traité","data":{"payment_id":789},"created_at":"2025-12-09T10:30:00.123456Z","is_read":false,"unread_count":3}"#;
        let read = r#"{"type":"read","notification_id":31,"read_at":"2025-12-09T10:30:00.123456Z","unread_count":0}"#;
        let (shown_again, read_again) =
            (serde_json::from_str::<Notification>(shown), serde_json::from_str(read));
        let (shown_again, read_again): (_, InboxRead) = (shown_again.unwrap(), read_again.unwrap());
        assert_eq!(serde_json::to_string(&InboxEvent::Read(read_again)).unwrap(), read);
        assert_eq!(serde_json::to_string(&InboxEvent::Notification(shown_again)).unwrap(), shown);
        let id = NotificationId::new(31).unwrap();
        let place = |json: &str| InboxPlace::parse(json.as_bytes());
        let (seq, unread_count) = (4, 3);
        let at = InboxPlace::Notification { seq, id, unread_count, unseen_count: None };
        assert_eq!(place(shown).unwrap(), at);
        assert_eq!(place(read).unwrap(), InboxPlace::Read(read_again));
        let marker = r#"{"conversation_id":1,"user_id":2,"message_id":3,"seq":4,"read_at":"2025-12-09T10:30:00.123456Z","unread_count":0}"#;
        let marker: Marker = serde_json::from_str(marker).unwrap();
        let json = serde_json::to_string(&InboxEvent::marker(marker, 7)).unwrap();
        assert_eq!(place(&json).unwrap(), InboxPlace::Marker(marker, 7));
        assert!(json.starts_with(r#"{"type":"marker","notification_id":1,"seq":0,"#), "{json}");
        let mine = r#"{"type":"mine","conversation_id":1,"muted_until":"forever","pinned":true}"#;
        let mine: Mine = serde_json::from_str(mine).unwrap();
        let json = serde_json::to_string(&InboxEvent::mine(mine)).unwrap();
        assert_eq!(place(&json).unwrap(), InboxPlace::Mine(mine));
        assert!(json.starts_with(r#"{"type":"mine","notification_id":1,"seq":0,"#), "{json}");
        let at = ReadPlace { seq: 4, reads: 9 };
        assert_eq!(ReadPlace::parse(&at.to_string()), Some(at));
        assert_eq!(ReadPlace::parse("4"), None);
        let quoted = shown.replace("payment_completed", r#"say\"hi\""#);
        assert_eq!(
            place(&quoted).unwrap(),
            InboxPlace::Notification { seq, id, unread_count, unseen_count: None }
        );
        let seen = InboxSeen { notification_id: id, unseen_count: 2 };
        let json = serde_json::to_string(&InboxEvent::seen(seen)).unwrap();
        assert_eq!(place(&json).unwrap(), InboxPlace::Seen(seen));
        assert_eq!(
            serde_json::to_string(&seen).unwrap(),
            r#"{"type":"seen","notification_id":31,"unseen_count":2}"#
        );
        for none in ["{}", r#"{"type":"read","notification_id":31}"#, r#"{"type":"a","notification_id":31}"#]
        {
            assert!(place(none).is_err(), "{none}");
        }
    }
}
