//! Checks the frames in the documents against AsyncAPI, and that the documents cover AsyncAPI.

use crate::snippets::{FRENCH, KINDS, Kind, PREFERENCES, PROTOCOL, REMINDERS};
use e2e::documented::{self, ASYNCAPI, Sender};
use serde_json::Value;
use std::collections::BTreeSet;

#[test]
fn every_frame_in_the_documents_matches_asyncapi() {
    let mut shown = BTreeSet::new();
    for page in [PROTOCOL, KINDS, PREFERENCES, REMINDERS, FRENCH] {
        for block in page.blocks() {
            let Kind::Frame(operation) = &block.kind else { continue };
            let (channel, action) = operation.split_once(' ').unwrap();
            let sender = if action == "send" { Sender::Server } else { Sender::Client };
            let frame: Value = serde_json::from_str(&block.body).unwrap();
            documented::check(channel, sender, &frame).unwrap();
            shown.insert(channel.to_owned());
        }
    }
    for channel in ["chat", "notifications", "typing", "everything", "events", "reported"] {
        assert!(shown.contains(channel), "no document shows a frame of {channel}");
    }
}

#[test]
fn every_address_in_asyncapi_is_in_the_protocol_document() {
    for channel in ASYNCAPI["channels"].as_object().unwrap().values() {
        let Some(address) = channel["address"].as_str() else { continue };
        let address = address.replace("{type}", "<type>");
        assert!(PROTOCOL.text().contains(&format!("`{address}`")), "{address}");
    }
}
