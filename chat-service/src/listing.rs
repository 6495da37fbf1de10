//! Messages of a conversation for backends, and their former texts for moderators. Every answer has a limited size, and
//! its `next` leads on from where it was cut.

use crate::{
    error::{encoding_failed, invalid},
    store::{self, FormerTexts},
};
use contract::{
    Code, Page, Refusal,
    chat::{ListMessages, ListVersions, ListedMessage, Message},
    limits,
    log::Range,
};
use serde::Serialize;
use service::postgres::{Pool, refusal};

/// Space for the items of a page. The rest of the answer is shorter than this allowance.
const ITEMS_BYTES: usize = limits::LISTED_BYTES - 64;

/// Reads a page of messages.
///
/// # Errors
/// `forbidden` for former texts, `invalid_request` for an invalid range or limit, or if Postgres fails.
pub async fn messages(pool: &Pool, request: &ListMessages) -> Result<Page<Message>, Refusal> {
    if request.versions == Some(true) {
        let detail = "former texts have a permission of their own: request chat.messages.versions";
        return Err(Refusal::new(Code::Forbidden, detail));
    }
    let mut page = read(pool, request).await?;
    cut(&mut page, |message| message, |_, _| Ok(()))?;
    Ok(page)
}

/// Reads a page of messages with their former texts.
///
/// # Errors
/// `invalid_request` for an invalid range or limit, or if Postgres fails.
pub async fn versions(pool: &Pool, request: &ListVersions) -> Result<Page<ListedMessage>, Refusal> {
    let ListVersions { list, versions_after } = request;
    if versions_after.is_some() && list.limit != Some(1) {
        return Err(invalid("\"versions_after\" continues one message: it needs \"limit\": 1"));
    }
    let page = read(pool, list).await?;
    let changed = page.items.iter().filter(|message| message.change.is_some());
    let changed: Vec<i64> = changed.map(|message| message.message_id.get()).collect();
    let mut former = FormerTexts::new();
    if list.versions != Some(false) && !changed.is_empty() {
        let after = versions_after.unwrap_or_default();
        former = store::versions(pool, list.conversation_id, &changed, after, ITEMS_BYTES)
            .await
            .map_err(|error| refusal("list former texts", &error))?;
    }
    let listed = |message: Message| {
        let versions = former.remove(&message.message_id).unwrap_or_default();
        ListedMessage { message, versions, more_versions: false }
    };
    let items = page.items.into_iter().map(listed).collect();
    let mut page = Page { items, next: page.next };
    cut(&mut page, |listed| &listed.message, shorten)?;
    Ok(page)
}

/// Reads the messages of a request.
async fn read(pool: &Pool, request: &ListMessages) -> Result<Page<Message>, Refusal> {
    let ListMessages { conversation_id, after, before, limit, .. } = *request;
    let limit = limit.unwrap_or(limits::LISTED_MESSAGES);
    if !(1..=limits::LISTED_MESSAGES).contains(&limit) {
        return Err(invalid(format!("\"limit\" must be 1 to {}", limits::LISTED_MESSAGES)));
    }
    if after.is_some_and(|after| after < 0) {
        return Err(invalid("\"after\" must be the id of a message, or 0"));
    }
    let count = i64::from(limit) + 1;
    let read = async {
        let members = store::members(pool, conversation_id, None).await?;
        let items = match (after, before) {
            (Some(after), Some(before)) => {
                store::between(pool, conversation_id, after, before, count).await?
            }
            (Some(after), None) => store::page(pool, conversation_id, Range::After(after), count).await?,
            (None, Some(before)) => {
                store::page(pool, conversation_id, Range::Before(before.get()), count).await?
            }
            (None, None) => store::page(pool, conversation_id, Range::Newest, count).await?,
        };
        sqlx::Result::Ok((members, items))
    };
    let (members, mut items) = read.await.map_err(|error| refusal("list messages", &error))?;
    for message in &mut items {
        message.is_read = members.is_read(message);
        message.client_id = None;
    }
    Ok(Page::of(items, limit.into(), |message| message.message_id.get()))
}

/// Cuts a page to [`ITEMS_BYTES`]. If not even its first item fits, `shorten` makes that fit.
fn cut<T: Serialize>(
    page: &mut Page<T>,
    message: impl Fn(&T) -> &Message,
    shorten: impl Fn(&mut T, usize) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    let (mut bytes, mut keep) = (0, 0);
    for item in &page.items {
        bytes += size(item)?;
        if bytes > ITEMS_BYTES {
            break;
        }
        keep += 1;
    }
    if keep == page.items.len() {
        return Ok(());
    }
    if let (0, Some(first)) = (keep, page.items.first_mut()) {
        shorten(first, ITEMS_BYTES)?;
        keep = 1;
    }
    if keep < page.items.len() {
        page.items.truncate(keep);
        page.next = page.items.last().map(|last| message(last).message_id.get());
    }
    Ok(())
}

/// Removes the last former texts of a message until it fits. One of them always does.
fn shorten(listed: &mut ListedMessage, most: usize) -> Result<(), Refusal> {
    listed.more_versions = true;
    let versions = std::mem::take(&mut listed.versions);
    let mut bytes = size(listed)? + "\"versions\":[],".len();
    for version in versions {
        bytes += size(&version)?;
        if bytes > most {
            break;
        }
        listed.versions.push(version);
    }
    Ok(())
}

/// Size in JSON, with a comma.
fn size(value: &impl Serialize) -> Result<usize, Refusal> {
    let json = serde_json::to_vec(value).map_err(|error| encoding_failed("measure a page", &error))?;
    Ok(json.len() + 1)
}

#[cfg(test)]
mod tests;
