//! The page that shows the HTTP API.

use crate::browser::Browser;
use e2e::{Stack, token};
use serde_json::Value;

const UNREAD: &str = "#operations-Conversations-unread";

#[tokio::test]
async fn the_page_of_the_http_api_shows_every_call_and_makes_one() {
    let Some(browser) = Browser::recorded().await else { return };
    let stack = Stack::start().await;
    let origin = format!("http://{}", stack.host(0));
    let document = stack.http().get(format!("{origin}/api/openapi.json")).send().await.unwrap();
    let document: Value = document.json().await.unwrap();
    browser.goto(&format!("{origin}/api/docs")).await;
    let paths = document["paths"].as_object().unwrap();
    for operation in paths.values().flat_map(|item| item.as_object().unwrap().values()) {
        let (tag, id) = (operation["tags"][0].as_str().unwrap(), operation["operationId"].as_str().unwrap());
        browser.until(&format!("document.getElementById('operations-{tag}-{id}') != null")).await;
    }
    browser.screenshot("api-docs").await;

    browser.click(".auth-wrapper > .authorize").await;
    browser.keys(".auth-container input", &token(1)).await;
    browser.click(".auth-btn-wrapper > .authorize").await;
    browser.until("document.querySelector('.auth-btn-wrapper > .btn').textContent === 'Logout'").await;
    browser.click(".auth-btn-wrapper > .btn-done").await;
    browser.click(&format!("{UNREAD} .opblock-summary-control")).await;
    browser.until(&format!("document.querySelector('{UNREAD} .try-out__btn') != null")).await;
    browser.click(&format!("{UNREAD} .try-out__btn")).await;
    browser.click(&format!("{UNREAD} .execute")).await;
    let answer = format!("document.querySelector('{UNREAD} .live-responses-table .response')");
    let status = format!("{answer}?.querySelector('.response-col_status').textContent.trim()");
    browser.until(&format!("{status} === '200'")).await;
    let body = browser.eval(&format!("{answer}.querySelector('.highlight-code code').textContent")).await;
    let body: Value = serde_json::from_str(body.as_str().unwrap()).unwrap();
    assert_eq!(body, stack.get("/api/unread", 1).await);
    browser.eval(&format!("{answer}.scrollIntoView({{ block: 'center' }})")).await;
    browser.screenshot("api-docs-answer").await;

    let asked = browser.requests(&origin).await;
    assert!(asked.contains(&format!("{origin}/api/unread")), "{asked:?}");
    // The page's styles contain some pictures.
    let elsewhere = |url: &&String| !url.starts_with(&format!("{origin}/")) && !url.starts_with("data:");
    assert_eq!(asked.iter().filter(elsewhere).collect::<Vec<_>>(), [] as [&str; 0]);
    // What its policy forbids would be told here, too.
    assert_eq!(browser.complaints().await, [] as [&str; 0]);
}
