//! Laws of kinds, without a database.

use super::*;
use contract::{ConversationId, UserId};
use serde_json::json;

fn kinds(files: &[(&str, Value)]) -> anyhow::Result<Kinds> {
    let folder = tempfile::tempdir().unwrap();
    for (name, schema) in files {
        fs::write(folder.path().join(name), schema.to_string()).unwrap();
    }
    let source = Source { folder: Some(folder.path().to_owned()), lang: DEFAULT_LANGUAGE.to_owned() };
    Kinds::load(&source)
}

fn built_in(lang: &str) -> Kinds {
    Kinds::load(&Source { folder: None, lang: lang.to_owned() }).unwrap()
}

fn data(value: &Value) -> Data {
    Data::new(RawValue::from_string(value.to_string()).unwrap())
}

fn send(kind: &str, message: &str, value: &Value) -> Send {
    Send {
        conversation_id: ConversationId::new(1).unwrap(),
        sender_id: UserId::new(1).unwrap(),
        sender_username: None,
        sender_named_at: None,
        message: message.to_owned(),
        client_id: None,
        kind: Some(kind.to_owned()),
        data: Some(data(value)),
        reply_to: None,
        system: false,
    }
}

fn check(kinds: &Kinds, kind: &str, value: Value, by: Origin) -> Result<(String, String), Refusal> {
    let sent = kinds.check(send(kind, "", &value), by)?;
    Ok((sent.message, sent.data.unwrap().get().to_owned()))
}

fn schema(more: Value) -> Value {
    let mut schema = json!({"$schema": SCHEMA, "type": "object"});
    schema.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    schema
}

#[test]
fn a_whole_number_with_a_point_is_an_integer() {
    let kinds = built_in("fr");
    let text = r#"{"amount": 4500.0, "currency": "EUR", "state": "open", "offer_id": 12.0}"#;
    let offer = Send {
        data: Some(Data::new(RawValue::from_string(text.to_owned()).unwrap())),
        ..send("offer", "", &json!({}))
    };
    let sent = kinds.check(offer, Origin::Backends).unwrap();
    assert_eq!(sent.message, "Offre : 45 € (en attente)");
    assert_eq!(sent.data.unwrap().get(), r#"{"amount":4500,"currency":"EUR","offer_id":12,"state":"open"}"#);

    let mut value = json!([1.5, -0.0, 1e300, 9_007_199_254_740_992.0, {"deep": 2.0}]);
    as_integers(&mut value);
    assert_eq!(value.to_string(), r#"[1.5,0,1e+300,9007199254740992,{"deep":2}]"#);
}

#[test]
fn a_kind_that_is_switched_off_is_not_reserved() {
    let off = schema(json!({"x-vyzio": {"send": []}}));
    let kinds = kinds(&[("offer.json", off.clone())]).unwrap();
    assert_eq!(kinds.reserved(), ["order"]);
    assert!(self::kinds(&[("message.json", off)]).is_err(), "the name of messages without a kind");
}

#[test]
fn built_in_kinds_have_readable_texts_in_both_languages() {
    let samples = [
        (
            "offer",
            json!({"amount": 4500, "currency": "EUR", "state": "open"}),
            "Offre : 45 € (en attente)",
            "Offer: 45 € (open)",
        ),
        (
            "offer",
            json!({"amount": 4550, "currency": "CHF", "state": "accepted"}),
            "Offre : 45,50 CHF (acceptée)",
            "Offer: 45.50 CHF (accepted)",
        ),
        (
            "order",
            json!({"order_id": 12, "state": "shipped", "carrier": "La Poste"}),
            "Commande n° 12 : expédiée",
            "Order no. 12: shipped",
        ),
        (
            "appointment",
            json!({"starts_at": "2026-12-01T14:30:00+01:00", "place": "Gare\nde Lyon", "state": "proposed"}),
            "Rendez-vous : 01/12/2026 à 14:30, Gare de Lyon (proposé)",
            "Appointment: 2026-12-01 14:30, Gare de Lyon (proposed)",
        ),
        ("location", json!({"latitude": 48.85, "longitude": 2}), "Position : 48.85, 2", "Location: 48.85, 2"),
    ];
    for (kind, value, french, english) in samples {
        for (lang, text) in [("fr", french), ("en", english), ("de", french)] {
            assert_eq!(check(&built_in(lang), kind, value.clone(), Origin::Backends).unwrap().0, text);
        }
    }
    // A label is for values that the schema lists, not for the words of a user.
    let at = json!({"starts_at": "2026-12-01T14:30:00Z", "place": "accepted", "state": "accepted"});
    let text = check(&built_in("fr"), "appointment", at, Origin::Backends).unwrap().0;
    assert_eq!(text, "Rendez-vous : 01/12/2026 à 14:30, accepted (accepté)");
}

#[test]
fn users_send_only_what_they_may() {
    let kinds = built_in("fr");
    let code = |kind, value, by| check(&kinds, kind, value, by).unwrap_err();
    let offer = |state: &str| json!({"amount": 4500, "currency": "EUR", "state": state});
    assert!(check(&kinds, "offer", offer("open"), Origin::Users).is_ok());
    assert!(check(&kinds, "offer", offer("accepted"), Origin::Backends).is_ok());
    let refusal = code("offer", offer("accepted"), Origin::Users);
    assert_eq!(refusal.code, Code::InvalidMessage);
    assert!(refusal.detail.ends_with("/x-vyzio/create/properties/state/const"), "{refusal}");
    assert_eq!(code("order", json!({"order_id": 1, "state": "paid"}), Origin::Users).code, Code::Forbidden);
    assert_eq!(code("nothing", json!({}), Origin::Backends).code, Code::InvalidMessage);
    // An error names the path in the schema, but no value.
    let refusal =
        code("offer", json!({"amount": "secret", "currency": "EUR", "state": "open"}), Origin::Backends);
    assert!(refusal.detail.ends_with("/properties/amount/type"), "{refusal}");
    assert!(!refusal.detail.contains("secret"));
    assert_eq!(kinds.reserved(), ["order"]);
}

#[test]
fn the_position_of_a_user_is_rounded_and_data_have_one_form() {
    let kinds = built_in("fr");
    let position = json!({"latitude": 48.858_370_1, "longitude": 2.294_481_3});
    // Also if a backend sends it in the user's name.
    for by in [Origin::Users, Origin::Backends] {
        let (text, stored) = check(&kinds, "location", position.clone(), by).unwrap();
        assert_eq!(
            (text.as_str(), stored.as_str()),
            ("Position : 48.8584, 2.2945", r#"{"latitude":48.8584,"longitude":2.2945}"#)
        );
    }
    let of_the_system = Send { system: true, ..send("location", "", &position) };
    let sent = kinds.check(of_the_system, Origin::Backends).unwrap();
    assert_eq!(sent.data.unwrap().get(), position.to_string());
    // A repeated name is stored once, with the value that was checked.
    let twice =
        RawValue::from_string(r#"{ "latitude": 1, "longitude": 2, "latitude": 3 }"#.to_owned()).unwrap();
    let sent = Send { data: Some(Data::new(twice)), ..send("location", "", &position) };
    let stored = kinds.check(sent, Origin::Users).unwrap().data.unwrap();
    assert_eq!(stored.get(), r#"{"latitude":3,"longitude":2}"#);
}

#[test]
fn a_folder_adds_and_replaces_kinds() {
    let poll = schema(json!({"x-vyzio": {"send": ["users"], "notify": false}}));
    let offer = schema(json!({"x-vyzio": {"send": []}}));
    let kinds = kinds(&[("poll.json", poll), ("offer.json", offer), ("README.md", json!(""))]).unwrap();
    let names: Vec<_> = kinds.list().kinds.into_iter().map(|kind| kind.kind).collect();
    assert_eq!(names, ["appointment", "location", "offer", "order", "poll"]);
    assert_eq!(
        (kinds.notifies(Some("poll")), kinds.notifies(Some("order")), kinds.notifies(None)),
        (false, true, true)
    );
    // Without a text of its own, the message needs one.
    assert_eq!(check(&kinds, "poll", json!({}), Origin::Users).unwrap_err().code, Code::InvalidMessage);
    assert_eq!(kinds.check(send("poll", "What?", &json!({})), Origin::Users).unwrap().message, "What?");
    assert_eq!(check(&kinds, "poll", json!({}), Origin::Backends).unwrap_err().code, Code::Forbidden);
    assert_eq!(check(&kinds, "offer", json!({}), Origin::Backends).unwrap_err().code, Code::Forbidden);
}

#[test]
fn a_broken_file_is_refused_with_its_reason() {
    let text = |text: &str| schema(json!({"required": ["a"], "x-vyzio": {"text": {"fr": text}}}));
    let large = schema(json!({"description": "x".repeat(limits::KIND_FILE_BYTES)}));
    for (name, schema, reason) in [
        ("Poll.json", schema(json!({})), "not named after a kind"),
        ("poll.json", json!([]), "\"$schema\" must be"),
        ("poll.json", json!({"$schema": SCHEMA, "type": "string"}), "\"type\" must be \"object\""),
        ("poll.json", schema(json!({"minProperties": "2"})), "not a schema"),
        ("poll.json", schema(json!({"$ref": "https://example.com/schema.json"})), "not a schema"),
        ("poll.json", schema(json!({"properties": {"a": {"pattern": "(?=a)b"}}})), "not a schema"),
        ("poll.json", schema(json!({"properties": {"a": {"pattern": "(a{1000}){1000}"}}})), "not a schema"),
        ("poll.json", schema(json!({"properties": {"a": {"format": "email"}}})), "the format \"email\""),
        ("poll.json", schema(json!({"x-vyzio": {"sender": []}})), "unknown field"),
        ("poll.json", schema(json!({"x-vyzio": {"send": ["everyone"]}})), "unknown variant"),
        ("poll.json", schema(json!({"x-vyzio": {"create": {"type": 5}}})), "x-vyzio/create"),
        ("poll.json", text("{b}: x"), "{b}: no required property"),
        ("poll.json", text("x {a/100}"), "{a/100}: it is no integer"),
        ("poll.json", schema(json!({"x-vyzio": {"labels": {"fr": {"open": "x"}}}})), "\"open\" is in no"),
        ("poll.json", text("x {a"), "no end"),
        ("poll.json", text("{a} {a}"), "only placeholders"),
        ("poll.json", large, "larger than"),
    ] {
        let error = format!("{:#}", kinds(&[(name, schema)]).unwrap_err());
        assert!(error.contains(reason), "{error}");
    }
    let many: Vec<_> = (0..100).map(|n| (format!("k{n}.json"), schema(json!({})))).collect();
    let many: Vec<_> = many.iter().map(|(name, schema)| (name.as_str(), schema.clone())).collect();
    assert!(kinds(&many).unwrap_err().to_string().contains("more than 100"));
}

#[test]
fn data_that_cannot_be_stored_are_refused() {
    let kinds = kinds(&[("any.json", schema(json!({"x-vyzio": {"send": ["users"]}})))]).unwrap();
    for json in [r#"{"a":"\ud800"}"#, r#"{"a":1e999}"#] {
        let data = Some(Data::new(RawValue::from_string(json.to_owned()).unwrap()));
        let refusal = kinds.check(Send { data, ..send("any", "x", &json!({})) }, Origin::Users).unwrap_err();
        assert_eq!(refusal.code, Code::InvalidMessage);
    }
    let plain = Send { kind: None, ..send("any", "x", &json!({})) };
    assert_eq!(kinds.check(plain, Origin::Users).unwrap_err().code, Code::InvalidMessage);
}
