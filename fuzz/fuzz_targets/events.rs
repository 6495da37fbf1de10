//! Payloads from NATS: events of other backends and of our own services.
#![no_main]

use async_nats::HeaderMap;
use libfuzzer_sys::fuzz_target;
use notify_service::{
    catalogue::Catalogue,
    event::{Delivery, parse},
};
use std::sync::LazyLock;

static CATALOGUE: LazyLock<Catalogue> = LazyLock::new(|| Catalogue::load(None).expect("the built-in texts"));

fuzz_target!(|payload: &[u8]| {
    gateway::fuzzing::events(payload);
    let mut cloud = HeaderMap::new();
    cloud.insert("Content-Type", "application/cloudevents+json");
    for headers in [None, Some(&cloud)] {
        let delivery =
            Delivery { subject: "events.payment_completed", headers, payload, place: "EVENTS-1" };
        if let Ok((users, notice)) = parse(delivery, &CATALOGUE) {
            assert!(!users.is_empty() && users.len() <= contract::limits::EVENT_USERS_MAX);
            assert!(!notice.key.is_empty());
        }
    }
});
