use super::*;
use proptest::prelude::*;

type Parsed = Result<(Vec<UserId>, Notice), Unusable>;

fn parse_as(subject: &str, headers: &[(&str, &str)], payload: &[u8]) -> Parsed {
    let catalogue = Catalogue::load(None).unwrap();
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.insert(*name, *value);
    }
    let headers = (!headers.is_empty()).then_some(&map);
    parse(Delivery { subject, headers, payload, place: "EVENTS:1:2" }, &catalogue)
}

fn parse_body(body: &str) -> Parsed {
    parse_as("events.payment_completed", &[], body.as_bytes())
}

fn reason(parsed: Parsed) -> String {
    parsed.expect_err("the event is invalid").0
}

fn ids(users: &[UserId]) -> Vec<i64> {
    users.iter().map(|user| user.get()).collect()
}

#[test]
fn the_plain_event_of_the_contract_is_parsed() {
    let (users, notice) = parse_body(r#"{"user_id":456,"data":{"payment_id":789}}"#).unwrap();
    assert_eq!(ids(&users), [456]);
    assert_eq!((notice.kind.as_str(), notice.key.as_str()), ("payment_completed", "at:EVENTS:1:2"));
    assert_eq!(notice.text.title, "Paiement confirmé");
    assert_eq!(notice.data.get(), r#"{"payment_id":789}"#);
    assert!(notice.translated);
}

#[test]
fn duplicate_users_are_merged_and_data_is_optional() {
    let (users, notice) = parse_body(r#"{"user_id":3,"user_ids":[2,3,2],"data":null,"title":null}"#).unwrap();
    assert_eq!(ids(&users), [2, 3]);
    assert_eq!(notice.data.get(), "{}");
}

#[test]
fn an_event_may_bring_its_own_text_and_language() {
    let (_, notice) = parse_body(r#"{"user_id":1,"lang":"en-GB"}"#).unwrap();
    assert_eq!((notice.text.title.as_str(), notice.translated), ("Payment confirmed", false));
    let (_, notice) = parse_body(r#"{"user_id":1,"lang":"xx","title":"Yo"}"#).unwrap();
    assert_eq!(
        (notice.text.title.as_str(), notice.text.message.as_str()),
        ("Yo", "Votre paiement a été traité")
    );
    let own = br#"{"user_id":1,"title":"T","message":"M"}"#;
    let (_, notice) = parse_as("events.brand-new.type", &[], own).unwrap();
    assert_eq!((notice.kind.as_str(), notice.text.message.as_str()), ("brand-new.type", "M"));
}

#[test]
fn the_key_is_the_event_id_else_the_header_else_the_place() {
    let key = |headers: &[(&str, &str)], body: &str| {
        parse_as("events.payment_completed", headers, body.as_bytes()).unwrap().1.key
    };
    let header = [("nats-msg-id", "m1")];
    assert_eq!(key(&header, r#"{"user_id":1,"event_id":"e1"}"#), "id:e1");
    assert_eq!(key(&header, r#"{"user_id":1}"#), "id:m1");
    assert_eq!(key(&[], r#"{"user_id":1}"#), "at:EVENTS:1:2");
    let replay = |of| [("Nats-Msg-Id", "replay:3"), ("Replay-Of", of)];
    assert_eq!(key(&replay("id:m1"), r#"{"user_id":1}"#), "id:m1");
    assert_eq!(key(&replay("at:EVENTS:1:1"), r#"{"user_id":1}"#), "at:EVENTS:1:1");
    assert_eq!(key(&replay("id:m1"), r#"{"user_id":1,"event_id":"e1"}"#), "id:e1");
    assert_eq!(key(&replay("msg:5"), r#"{"user_id":1}"#), "id:replay:3");
}

#[test]
fn cloud_events_are_parsed_in_both_forms() {
    let structured = br#"{"specversion":"1.0","id":"c1","source":"/pay","type":"listing_published","data":{"user_id":7,"data":{"x":1}}}"#;
    for headers in [&[][..], &[("content-type", "application/cloudevents+json; charset=utf-8")][..]] {
        let (users, notice) = parse_as("events.listing_published", headers, structured).unwrap();
        assert_eq!((ids(&users), notice.kind.as_str()), (vec![7], "listing_published"));
        assert_eq!((notice.key.as_str(), notice.data.get()), ("ce:4:/payc1", r#"{"x":1}"#));
    }
    let headers = [
        ("CE-Id", "c2"),
        ("ce-source", "/pay"),
        ("ce-type", "listing_published"),
        ("ce-specversion", "1.0"),
        ("Nats-Msg-Id", "m1"),
    ];
    let (_, notice) = parse_as("events.listing_published", &headers, br#"{"user_id":7}"#).unwrap();
    assert_eq!((notice.kind.as_str(), notice.key.as_str()), ("listing_published", "ce:4:/payc2"));
    let (_, notice) =
        parse_as("events.listing_published", &headers, br#"{"user_id":7,"event_id":"e1"}"#).unwrap();
    assert_eq!(notice.key, "id:e1");
    // The key inside the data doesn't make an event a CloudEvent.
    let (_, notice) = parse_body(r#"{"user_id":7,"data":{"specversion":"1.0"}}"#).unwrap();
    assert_eq!(notice.kind, "payment_completed");
    let no_data = br#"{"specversion":"1.0","id":"c1","type":"a","data":"eA=="}"#;
    assert_eq!(reason(parse_as("events.a", &[], no_data)), "the CloudEvent has no object as \"data\"");
}

#[test]
fn invalid_events_have_a_reason() {
    let many = |count: i64| serde_json::json!({"user_ids": (1..=count).collect::<Vec<_>>()}).to_string();
    assert_eq!(parse_body(&many(1_000)).unwrap().0.len(), 1_000);
    let deep = format!(r#"{{"user_id":1,"data":{{"a":{}{}}}}}"#, "[".repeat(40), "]".repeat(40));
    let large = format!(r#"{{"user_id":1,"data":{{"a":"{}"}}}}"#, "x".repeat(900 * 1024));
    let text = |name: &str, value: &str| format!(r#"{{"user_id":1,"{name}":"{value}"}}"#);
    for (body, expected) in [
        ("", "the body is empty"),
        ("hello", "the body is not JSON"),
        ("[456]", "the body is not a JSON object"),
        ("456", "the body is not a JSON object"),
        ("{\"user_id\":1", "the body is not JSON: "),
        ("{}", "no user is named"),
        (r#"{"user_ids":[]}"#, "no user is named"),
        (r#"{"user_id":"456"}"#, "\"user_id\" is not a whole number"),
        (r#"{"user_id":-1}"#, "\"user_id\" is not a whole number"),
        (r#"{"user_id":0}"#, "\"user_id\" is not a whole number"),
        (r#"{"user_id":1.5}"#, "\"user_id\" is not a whole number"),
        (r#"{"user_id":9223372036854775808}"#, "\"user_id\" is not a whole number"),
        (r#"{"user_ids":[1,"2"]}"#, "\"user_ids\" is not an array of whole numbers"),
        (r#"{"user_ids":7}"#, "\"user_ids\" is not an array of whole numbers"),
        (&many(1_500), "1500 users are named, 1000 is the limit"),
        (r#"{"user_id":1,"data":[1]}"#, "\"data\" is not an object"),
        (r#"{"user_id":1,"data":"x"}"#, "\"data\" is not an object"),
        (r#"{"user_id":1,"data":{"a":["\u0000"]}}"#, "\"data\" contains a NUL character"),
        (r#"{"user_id":1,"data":{"a\u0000":1}}"#, "\"data\" contains a NUL character"),
        (r#"{"user_id":1,"data":{"a":"\ud800"}}"#, "\"data\" contains an invalid character"),
        (r#"{"user_id":1,"data":{"a":1e999}}"#, "\"data\" contains an invalid character or a number"),
        (&text("title", "\\u0000"), "\"title\" contains a NUL character"),
        (&text("title", " "), "\"title\" is empty"),
        (&text("title", &"é".repeat(201)), "\"title\" is longer than 200 characters"),
        (&text("message", &"é".repeat(2_001)), "\"message\" is longer than 2000 characters"),
        (&text("event_id", &"é".repeat(129)), "\"event_id\" is longer than 256 bytes"),
        (&text("event_id", ""), "\"event_id\" is empty"),
        (r#"{"user_id":1,"event_id":5}"#, "\"event_id\" is not a string"),
        (r#"{"user_id":1,"user_id":2}"#, "the body is not an event: duplicate field"),
        (&deep, "the body is nested deeper than 32 levels"),
        (&large, "the body has 921"),
    ] {
        let reason = reason(parse_body(body));
        assert!(reason.starts_with(expected), "{body:.60} gave {reason:?}");
    }
    assert_eq!(
        reason(parse_as("events.payment_completed", &[], b"{\"a\":\"\xff\"}")),
        "the body is not UTF-8"
    );
    assert!(
        parse_body(r#"{"user_id":1,"data":{"a":"\\u0000"}}"#).is_ok(),
        "an escaped backslash is not a NUL"
    );
}

#[test]
fn a_type_needs_a_text_and_a_valid_subject() {
    let one = br#"{"user_id":1,"title":"T"}"#;
    assert!(reason(parse_as("events.unknown", &[], one)).starts_with("the type unknown has no text"));
    assert!(
        reason(parse_as("events.message_received", &[], br#"{"user_id":1}"#)).contains("\"sender_username\"")
    );
    let both = br#"{"user_id":1,"title":"T","message":"M"}"#;
    assert_eq!(reason(parse_as("events.read_all", &[], both)), "the type read_all is reserved");
    for kind in ["a b", "a..b", ".a", "a.", "*", "a.>", "a\u{7f}"] {
        let reason = reason(parse_as(&format!("events.{kind}"), &[], both));
        assert!(reason.contains("not allowed in a subject"), "{kind:?} gave {reason:?}");
    }
    let long = "a".repeat(contract::limits::EVENT_TYPE_BYTES + 1);
    assert!(reason(parse_as(&format!("events.{long}"), &[], both)).starts_with("the type is longer"));
}

#[test]
fn the_subject_alone_determines_the_type() {
    let one = br#"{"user_id":1}"#;
    let expected = "the event states the type \"listing_published\", and was published as payment_completed";
    let stated = |headers: &[(&str, &str)], body: &[u8]| {
        parse_as("events.payment_completed", headers, body)
            .map(|(_, notice)| notice.kind)
            .map_err(|error| error.0)
    };
    assert_eq!(stated(&[("CE-type", "listing_published")], one).unwrap_err(), expected);
    let structured = |kind: &str, inner: &str| {
        format!(
            r#"{{"specversion":"1.0","id":"1","source":"/","type":"{kind}","data":{{"user_id":1{inner}}}}}"#
        )
    };
    assert_eq!(stated(&[], structured("listing_published", "").as_bytes()).unwrap_err(), expected);
    let inner = structured("payment_completed", r#","type":"listing_published""#);
    assert_eq!(stated(&[], inner.as_bytes()).unwrap_err(), expected);
    assert_eq!(stated(&[], br#"{"user_id":1,"type":"listing_published"}"#).unwrap_err(), expected);
    assert!(stated(&[], br#"{"user_id":1,"type":5}"#).is_err());
    let same = structured("payment_completed", r#","type":"payment_completed""#);
    for body in [same.as_bytes(), one, br#"{"user_id":1,"type":null}"#] {
        assert_eq!(
            stated(&[("ce-type", "payment_completed"), ("Ce-Type", " ")], body).unwrap(),
            "payment_completed"
        );
    }
}

proptest! {
    #[test]
    fn no_two_events_have_the_same_key(
        one in (0..3_usize, "[0-9/:]{0,4}", "[0-9/:]{1,4}"), other in (0..3_usize, "[0-9/:]{0,4}", "[0-9/:]{1,4}"),
    ) {
        let key = |(kind, source, id): &(usize, String, String)| {
            let (body, headers): (_, Vec<(&str, &str)>) = match kind {
                0 => (serde_json::json!({"user_id": 1, "event_id": id}), vec![]),
                1 => (serde_json::json!({"user_id": 1}), vec![("ce-id", id), ("ce-source", source)]),
                _ => {
                    let data = serde_json::json!({"user_id": 1});
                    (serde_json::json!({"specversion": "1.0", "id": id, "source": source, "data": data}), vec![])
                }
            };
            parse_as("events.payment_completed", &headers, body.to_string().as_bytes()).unwrap().1.key
        };
        // Both forms of a CloudEvent are the same event. Plain events and CloudEvents without a source have no source.
        let identity = |(kind, source, id): &(usize, String, String)| {
            let is_plain = *kind == 0 || source.is_empty();
            (is_plain, if is_plain { String::new() } else { source.clone() }, id.clone())
        };
        prop_assert_eq!(key(&one) == key(&other), identity(&one) == identity(&other));
    }

    #[test]
    fn no_body_panics(payload: Vec<u8>, subject: String) {
        let _ = parse_as(&subject, &[], &payload);
    }

    #[test]
    fn no_object_panics(
        user in "-?[0-9]{1,20}|\"1\"|null", data in "\\{[^\\\\]{0,8}\\}|\\[\\]|\"\\\\u0000\"|1", id in "\\PC{0,9}",
    ) {
        let body = format!(r#"{{"user_id":{user},"data":{data},"event_id":{}}}"#, serde_json::json!(id));
        let _ = parse_body(&body);
        let wrapped = format!(r#"{{"specversion":"1.0","id":{},"data":{body}}}"#, serde_json::json!(id));
        let _ = parse_body(&wrapped);
    }
}
