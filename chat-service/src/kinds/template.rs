//! The text of a kind in one language: `Offer: {amount/100} {currency} ({state})`.

use anyhow::{Context, bail, ensure};
use contract::{limits, text::is_visible};
use serde_json::Value;
use std::collections::BTreeMap;

/// A text with placeholders for properties of the data.
#[derive(Debug)]
pub struct Template {
    parts: Vec<Part>,
    lang: String,
    /// Words that replace values, such as those of states.
    labels: BTreeMap<String, String>,
}

#[derive(Debug)]
enum Part {
    Text(String),
    Value {
        property: String,
        /// Whether the number counts hundredths.
        in_cents: bool,
        /// Whether the property is a time.
        is_time: bool,
        /// Whether the schema lists the values, so that they may have labels. Others are words of users.
        is_listed: bool,
    },
}

impl Template {
    /// Parses a text. Each placeholder names a required property of the schema, so that no value is missing.
    ///
    /// # Errors
    /// If a placeholder is invalid, or nothing else is visible.
    pub fn parse(
        text: &str,
        lang: &str,
        labels: BTreeMap<String, String>,
        schema: &Value,
    ) -> anyhow::Result<Self> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (placeholder, after) = after.split_once('}').context("a placeholder has no end")?;
            let (property, in_cents) = match placeholder.strip_suffix("/100") {
                Some(property) => (property, true),
                None => (placeholder, false),
            };
            let required =
                schema["required"].as_array().is_some_and(|names| names.iter().any(|name| name == property));
            ensure!(required, "{{{placeholder}}}: no required property has this name");
            let of = &schema["properties"][property];
            ensure!(!in_cents || of["type"] == "integer", "{{{placeholder}}}: it is no integer");
            let is_time = of["format"] == "date-time";
            let is_listed = of.get("enum").or(of.get("const")).is_some();
            parts.push(Part::Text(before.to_owned()));
            parts.push(Part::Value { property: property.to_owned(), in_cents, is_time, is_listed });
            rest = after;
        }
        parts.push(Part::Text(rest.to_owned()));
        if !parts.iter().any(|part| matches!(part, Part::Text(text) if is_visible(text))) {
            bail!("the text has only placeholders");
        }
        Ok(Self { parts, lang: lang.to_owned(), labels })
    }

    /// The text of data that fit the schema: on one line, at most [`limits::MESSAGE_CHARS`] characters.
    pub fn render(&self, data: &Value) -> String {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(fixed) => text.push_str(fixed),
                Part::Value { property, in_cents, is_time, is_listed } => {
                    text.push_str(&self.shown(&data[property], *in_cents, *is_time, *is_listed));
                }
            }
        }
        let line = text.chars().map(|char| if char.is_control() { ' ' } else { char });
        let line: String = line.take(limits::MESSAGE_CHARS).collect();
        line.trim().to_owned()
    }

    fn shown(&self, value: &Value, in_cents: bool, is_time: bool, is_listed: bool) -> String {
        match value {
            Value::String(text) if is_time => self.time(text),
            Value::String(text) if is_listed => self.labels.get(text).unwrap_or(text).clone(),
            Value::String(text) => text.clone(),
            Value::Number(number) if in_cents => {
                number.as_i64().map_or_else(|| number.to_string(), |n| self.cents(n))
            }
            Value::Number(_) | Value::Bool(_) => value.to_string(),
            Value::Null | Value::Array(_) | Value::Object(_) => String::new(),
        }
    }

    fn cents(&self, number: i64) -> String {
        let (sign, number) = (if number < 0 { "-" } else { "" }, number.unsigned_abs());
        let point = if self.lang == "en" { '.' } else { ',' };
        match (number / 100, number % 100) {
            (whole, 0) => format!("{sign}{whole}"),
            (whole, cents) => format!("{sign}{whole}{point}{cents:02}"),
        }
    }

    /// A time without its seconds, in the time zone in which it is written.
    fn time(&self, text: &str) -> String {
        let part = |from, to| text.get(from..to);
        let parts = (part(0, 4), part(5, 7), part(8, 10), part(11, 16));
        let (Some(year), Some(month), Some(day), Some(time)) = parts else { return text.to_owned() };
        match self.lang.as_str() {
            "fr" => format!("{day}/{month}/{year} à {time}"),
            _ => format!("{year}-{month}-{day} {time}"),
        }
    }
}
