//! Exports of users' data (GDPR, article 15), page by page.

use crate::{
    error::{encoding_failed, invalid},
    store::{export as store, members},
};
use contract::{
    ConversationId, Refusal, UserId,
    chat::Message,
    erasure::{Export, ExportUser, Record},
    limits,
    log::Range,
    notify::PageNotifications,
    preferences::{GetPreferences, Preferences},
    presence::{GetShown, StoredPresence},
};
use service::{
    Bus,
    bus::{PAYLOAD_BYTES, RequestError},
    postgres::{Pool, refusal},
};
use std::{fmt, str::FromStr, time::Duration};

/// Time limit of a request to notify-service.
const ANSWER: Duration = Duration::from_secs(5);

/// The position of an export: what the next page begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The user's name.
    Start,
    /// Messages of a conversation after this one, then later conversations.
    Messages(i64, i64),
    /// Blocks of users after this one.
    Blocks(i64),
    /// Reports after this one.
    Reports(i64),
    /// Notifications after this one.
    Notifications(i64),
    /// The preferences, which are last.
    Preferences,
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start => Ok(()), // No page ends there.
            Self::Messages(conversation, message) => write!(out, "messages-{conversation}-{message}"),
            Self::Blocks(user) => write!(out, "blocks-{user}"),
            Self::Reports(report) => write!(out, "reports-{report}"),
            Self::Notifications(notification) => write!(out, "notifications-{notification}"),
            Self::Preferences => out.write_str("preferences-0"),
        }
    }
}

impl FromStr for Place {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        let parse = || {
            let (section, place) = text.split_once('-')?;
            Some(match section {
                "messages" => {
                    let (conversation, message) = place.split_once('-')?;
                    Self::Messages(conversation.parse().ok()?, message.parse().ok()?)
                }
                "blocks" => Self::Blocks(place.parse().ok()?),
                "reports" => Self::Reports(place.parse().ok()?),
                "notifications" => Self::Notifications(place.parse().ok()?),
                "preferences" if place == "0" => Self::Preferences,
                _ => return None,
            })
        };
        parse().ok_or_else(|| invalid("\"after\" must be the \"next\" of an earlier page"))
    }
}

/// Reads one page of an export.
///
/// # Errors
/// If the cursor is invalid, or Postgres or notify-service fails.
pub async fn page(bus: &Bus, pool: &Pool, request: ExportUser) -> Result<Export, Refusal> {
    let user = request.user_id;
    let mut place = request.after.as_deref().map_or(Ok(Place::Start), str::parse)?;
    let mut items = Vec::new();
    let mut bytes = 0;
    loop {
        let (found, next) = match place {
            Place::Notifications(after) => notifications(bus, user, after).await?,
            Place::Preferences => (preferences(bus, user).await?, None),
            place => stored(pool, user, place).await.map_err(|error| refusal("export a user", &error))?,
        };
        for (record, at) in found {
            let size = serde_json::to_vec(&record).map_err(|error| encoding_failed("export", &error))?.len();
            bytes += size + 1;
            if bytes > PAYLOAD_BYTES && !items.is_empty() {
                return Ok(Export { items, next: Some(place.to_string()) });
            }
            items.push(record);
            place = at;
        }
        match next {
            None => return Ok(Export { items, next: None }),
            Some(next) if items.len() >= usize::from(limits::PAGE_MAX) => {
                return Ok(Export { items, next: Some(next.to_string()) });
            }
            Some(next) => place = next,
        }
    }
}

/// Records, each with the place after it.
type Placed = Vec<(Record, Place)>;

/// Reads records of the tables of this service at a place. Returns the place after them.
async fn stored(pool: &Pool, user: UserId, place: Place) -> sqlx::Result<(Placed, Option<Place>)> {
    let limit = i64::from(limits::PAGE_MAX);
    let is_full = |found: &Placed| found.len() >= usize::from(limits::PAGE_MAX);
    Ok(match place {
        Place::Start => {
            let name = store::user(pool, user).await?;
            let first = Place::Messages(0, 0);
            (name.into_iter().map(|record| (record, first)).collect(), Some(first))
        }
        Place::Messages(conversation, after) => {
            let mut found = Placed::new();
            if let Ok(conversation_id) = ConversationId::new(conversation) {
                let members = members(pool, conversation_id, None).await?;
                let (messages, upto) = store::messages(pool, conversation_id, user, after, limit).await?;
                for message in messages {
                    let at = Place::Messages(conversation, message.message_id.get());
                    let message = Message { is_read: members.is_read(&message), ..message };
                    found.push((Record::Message(Box::new(message)), at));
                }
                if let Some(upto) = upto {
                    return Ok((found, Some(Place::Messages(conversation, upto))));
                }
            }
            match store::conversation_after(pool, user, conversation).await? {
                Some((conversation_id, record)) => {
                    let next = Place::Messages(conversation_id.get(), 0);
                    found.push((record, next));
                    (found, Some(next))
                }
                None => (found, Some(Place::Blocks(0))),
            }
        }
        Place::Blocks(after) => {
            let found = store::blocks(pool, user, after, limit).await?;
            let found: Placed = found.into_iter().map(|(id, record)| (record, Place::Blocks(id))).collect();
            let next = found.last().filter(|_| is_full(&found)).map_or(Place::Reports(0), |(_, at)| *at);
            (found, Some(next))
        }
        Place::Reports(after) => {
            let found = store::reports(pool, user, after, limit).await?;
            let found: Placed = found.into_iter().map(|(id, record)| (record, Place::Reports(id))).collect();
            let next =
                found.last().filter(|_| is_full(&found)).map_or(Place::Notifications(0), |(_, at)| *at);
            (found, Some(next))
        }
        Place::Notifications(_) | Place::Preferences => (Placed::new(), Some(place)),
    })
}

/// Reads notifications after an id. Returns the place after them.
async fn notifications(bus: &Bus, user: UserId, after: i64) -> Result<(Placed, Option<Place>), Refusal> {
    let range = Range::After(after);
    let (limit, unread, hides_archived) = (limits::PAGE_MAX, false, false);
    let page = PageNotifications { user_id: user, range, limit, unread, hides_archived };
    let page = bus.request_until(&page, ANSWER).await.map_err(RequestError::into_refusal)?.page;
    let placed = |item: contract::notify::Notification| {
        let at = Place::Notifications(item.notification_id.get());
        (Record::Notification(Box::new(item)), at)
    };
    let mut found: Placed = page.items.into_iter().map(placed).collect();
    if after == 0 {
        found.splice(0..0, presence(bus, user).await?.map(|record| (record, Place::Notifications(0))));
    }
    Ok((found, Some(page.next.map_or(Place::Preferences, Place::Notifications))))
}

/// Reads what notify-service stores about a user's presence, if anything.
async fn presence(bus: &Bus, user_id: UserId) -> Result<Option<Record>, Refusal> {
    let stored =
        bus.request_until(&GetShown { user_id }, ANSWER).await.map_err(RequestError::into_refusal)?;
    let StoredPresence { choice: shown, last_seen, .. } = stored;
    Ok((shown.is_some() || last_seen.is_some()).then_some(Record::Presence { shown, last_seen }))
}

/// Reads what the user has set, if anything.
async fn preferences(bus: &Bus, user: UserId) -> Result<Placed, Refusal> {
    let request = GetPreferences { user_id: user };
    let preferences = bus.request_until(&request, ANSWER).await.map_err(RequestError::into_refusal)?;
    let Preferences { types, quiet, .. } = preferences;
    let is_set = !types.is_empty() || quiet.is_some();
    Ok(is_set.then_some((Record::Preferences { types, quiet }, Place::Preferences)).into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_cursor_reads_as_it_was_written(first in any::<i64>(), second in any::<i64>()) {
            for place in [
                Place::Messages(first.max(0), second.max(0)),
                Place::Blocks(first),
                Place::Reports(second),
                Place::Notifications(first),
                Place::Preferences,
            ] {
                prop_assert_eq!(place.to_string().parse::<Place>().ok(), Some(place));
            }
        }

        #[test]
        fn other_cursors_are_refused(text in "(messages|blocks|x)?-?[0-9a-z-]{0,3}") {
            if let Ok(place) = text.parse::<Place>() {
                prop_assert!(text.starts_with(&place.to_string()[..3]));
            }
        }
    }
}
