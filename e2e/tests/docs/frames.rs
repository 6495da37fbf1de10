//! The frames that the pages show, against AsyncAPI; and AsyncAPI against what the pages show.

use crate::snippets::{FRENCH, Kind, PROTOCOL};
use e2e::documented::{self, ASYNCAPI, Sender};
use serde_json::Value;
use std::collections::BTreeSet;

#[test]
fn every_frame_on_a_page_is_one() {
    let mut shown = BTreeSet::new();
    for page in [PROTOCOL, FRENCH] {
        for block in page.blocks() {
            let Kind::Frame(on) = &block.kind else { continue };
            let (channel, action) = on.split_once(' ').unwrap();
            let by = if action == "send" { Sender::Server } else { Sender::Client };
            let frame: Value = serde_json::from_str(&block.body).unwrap();
            documented::check(channel, by, &frame).unwrap();
            shown.insert(channel.to_owned());
        }
    }
    for channel in ["chat", "notifications", "typing", "everything", "events", "reported"] {
        assert!(shown.contains(channel), "{channel} has a frame on a page");
    }
}

#[test]
fn every_socket_and_subject_of_asyncapi_is_in_the_protocol() {
    for channel in ASYNCAPI["channels"].as_object().unwrap().values() {
        let Some(address) = channel["address"].as_str() else { continue };
        let address = address.replace("{type}", "<type>");
        assert!(PROTOCOL.text().contains(&format!("`{address}`")), "{address}");
    }
}
