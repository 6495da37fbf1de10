//! The page that shows the HTTP API.

use crate::browser::Browser;
use e2e::Stack;
use serde_json::Value;

#[tokio::test]
async fn the_page_of_the_http_api_shows_every_call() {
    let Some(browser) = Browser::start(&[]).await else { return };
    let stack = Stack::start().await;
    let document = format!("http://{}/api/openapi.json", stack.host(0));
    let document: Value = stack.http().get(document).send().await.unwrap().json().await.unwrap();
    browser.goto(&format!("http://{}/api/docs", stack.host(0))).await;
    let paths = document["paths"].as_object().unwrap();
    let operations = paths.values().flat_map(|item| item.as_object().unwrap().values());
    for operation in operations {
        let id = operation["operationId"].as_str().unwrap();
        browser.until(&format!("document.getElementById('{id}')?.querySelector('table') != null")).await;
    }
    let broken = "[...document.querySelectorAll('a[href^=\"#\"]')]
        .filter((link) => !document.getElementById(link.hash.slice(1))).length";
    assert_eq!(browser.eval(broken).await, 0, "links that lead nowhere");
}
