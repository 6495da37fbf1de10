//! The client as the gateway serves it.

use e2e::{Options, Stack};
use reqwest::{Response, StatusCode};

const VERSION: &str = env!("CARGO_PKG_VERSION");

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().expect("text"))
}

#[tokio::test]
async fn the_gateway_serves_the_client_to_pages_of_every_origin() {
    // Without the demo, and without any allowed origin.
    let stack =
        Stack::with(Options { env: vec![("DEMO", "false".to_owned())], ..Options::one_of_each() }).await;
    let get = async |path: &str, etag: &str| {
        let request = stack.http().get(format!("http://{}{path}", stack.host(0)));
        let request = request.header("Origin", "https://shop.example").header("If-None-Match", etag);
        request.send().await.expect("a response")
    };
    assert_eq!(get("/demo/", "").await.status(), StatusCode::FORBIDDEN, "other paths check the origin");
    for (name, built) in [
        ("realtime.js", include_str!("../../../clients/js/dist/realtime.min.js")),
        ("realtime.global.js", include_str!("../../../clients/js/dist/realtime.global.js")),
        ("edits.js", include_str!("../../../clients/js/dist/edits.js")),
        ("kinds.js", include_str!("../../../clients/js/dist/kinds.js")),
        ("presence.js", include_str!("../../../clients/js/dist/presence.js")),
        ("settings.js", include_str!("../../../clients/js/dist/settings.js")),
        ("lists.js", include_str!("../../../clients/js/dist/lists.js")),
        ("persist.js", include_str!("../../../clients/js/dist/persist.js")),
        ("poll.js", include_str!("../../../clients/js/dist/poll.js")),
    ] {
        let latest = get(&format!("/client/{name}"), "").await;
        assert_eq!(latest.status(), StatusCode::OK);
        assert_eq!(header(&latest, "content-type"), "text/javascript; charset=utf-8");
        assert_eq!(header(&latest, "access-control-allow-origin"), "*");
        assert_eq!(header(&latest, "cross-origin-resource-policy"), "cross-origin");
        assert_eq!(header(&latest, "cache-control"), "public, max-age=300, stale-while-revalidate=86400");
        let etag = header(&latest, "etag").to_owned();
        assert_eq!(latest.text().await.expect("a text"), built);
        assert_eq!(get(&format!("/client/{name}"), &etag).await.status(), StatusCode::NOT_MODIFIED);

        let versioned = get(&format!("/client/{VERSION}/{name}"), "").await;
        assert_eq!(header(&versioned, "cache-control"), "public, max-age=31536000, immutable");
        assert_eq!((versioned.status(), header(&versioned, "etag")), (StatusCode::OK, etag.as_str()));
    }
    for missing in ["/client/other.js", "/client/0.0.1/realtime.js", "/client/"] {
        let response = get(missing, "").await;
        assert!([StatusCode::NOT_FOUND, StatusCode::FORBIDDEN].contains(&response.status()), "{missing}");
    }
}
