//! Kinds of messages: files with a JSON Schema, and the texts that are made from the data.

mod template;

use anyhow::{Context, bail, ensure};
use contract::{
    Code, Refusal,
    chat::{self, Data, Send, is_kind_name},
    frames, limits,
};
use jsonschema::{PatternOptions, Validator, draft202012};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};
use template::Template;
use tokio::{signal::unix::Signal, sync::watch};
use tokio_util::sync::CancellationToken;

/// The language of the texts of kinds, unless the operator chooses another one.
pub const DEFAULT_LANGUAGE: &str = "fr";
/// Maximum size of a compiled regular expression, in bytes.
const PATTERN_BYTES: usize = 256 * 1024;
const SCHEMA: &str = "https://json-schema.org/draft/2020-12/schema";
const BUILT_IN: [(&str, &str); 4] = [
    ("appointment", include_str!("../kinds/appointment.json")),
    ("location", include_str!("../kinds/location.json")),
    ("offer", include_str!("../kinds/offer.json")),
    ("order", include_str!("../kinds/order.json")),
];

/// Who sends a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A user, through a gateway.
    Users,
    /// Another backend, over NATS.
    Backends,
}

/// All kinds by their names.
#[derive(Debug)]
pub struct Kinds(BTreeMap<String, Kind>);

/// The current kinds. Cheap to clone.
#[derive(Clone)]
pub struct CurrentKinds(watch::Receiver<Arc<Kinds>>);

impl CurrentKinds {
    /// The kinds, as they were loaded last.
    pub fn get(&self) -> Arc<Kinds> {
        self.0.borrow().clone()
    }
}

/// The folder and the language of the kinds.
#[derive(Debug, Clone)]
pub struct Source {
    /// Folder with kinds that are added to the built-in ones or replace them.
    pub folder: Option<PathBuf>,
    /// Language of the texts.
    pub lang: String,
}

#[derive(Debug)]
struct Kind {
    schema: Box<RawValue>,
    validator: Validator,
    send: Vec<Origin>,
    /// The second schema that the message of a user must fit.
    create: Option<Validator>,
    text: Option<Template>,
    notifies: bool,
    /// Numbers of users that are rounded, with their decimals.
    round: BTreeMap<String, i32>,
}

/// The keyword `x-vyzio` of a schema.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Extension {
    send: Vec<Origin>,
    create: Option<Value>,
    text: BTreeMap<String, String>,
    labels: BTreeMap<String, BTreeMap<String, String>>,
    notify: bool,
    round: BTreeMap<String, i32>,
}

impl Default for Extension {
    fn default() -> Self {
        let (text, labels, round) = Default::default();
        Self { send: vec![Origin::Backends], create: None, text, labels, notify: true, round }
    }
}

impl Kinds {
    /// Loads the built-in kinds and those of a folder, which replace them.
    ///
    /// # Errors
    /// If a file can't be read or is not the schema of a kind.
    pub fn load(source: &Source) -> anyhow::Result<Self> {
        let mut kinds = BTreeMap::new();
        let files = source.folder.as_deref().map(read).transpose()?.unwrap_or_default();
        let built_in = BUILT_IN.map(|(name, text)| (name.to_owned(), text.to_owned()));
        for (name, text) in built_in.into_iter().chain(files) {
            let kind = Kind::parse(text, &source.lang).with_context(|| format!("{name}.json"))?;
            kinds.insert(name, kind);
        }
        ensure!(kinds.len() <= limits::KINDS_MAX, "more than {} kinds", limits::KINDS_MAX);
        Ok(Self(kinds))
    }

    /// Parses the file of a kind.
    ///
    /// # Errors
    /// If it is not one.
    #[cfg(fuzzing)]
    pub fn check_file(text: &str) -> anyhow::Result<()> {
        Kind::parse(text.to_owned(), DEFAULT_LANGUAGE).map(drop)
    }

    /// Checks the kind and the data of a message to send, and makes its text if the kind has one.
    ///
    /// # Errors
    /// `invalid_message` if there is no such kind or the data don't fit its schema; `forbidden` if the sender may not
    /// send it; `message_too_long`.
    pub fn check(&self, send: Send, by: Origin) -> Result<Send, Refusal> {
        let Some(name) = &send.kind else {
            return if send.data.is_some() { Err(invalid("\"data\" needs a \"kind\"")) } else { Ok(send) };
        };
        let kind = self.0.get(name).ok_or_else(|| invalid("no such \"kind\""))?;
        if !kind.send.contains(&by) {
            let detail = match by {
                Origin::Users => "only backends send messages of this kind",
                Origin::Backends => "only users send messages of this kind",
            };
            return Err(Refusal::new(Code::Forbidden, detail));
        }
        let data = send.data.as_ref().ok_or_else(|| invalid("\"data\" is missing"))?;
        let mut value = parsed(data)?;
        if !send.system {
            kind.round(&mut value);
        }
        if let Some(create) = kind.create.as_ref().filter(|_| by == Origin::Users) {
            fits(create, &value, "/x-vyzio/create")?;
        }
        let (data, text) = kind.accept(&value)?;
        let message = match text {
            Some(text) => text,
            None if send.message.is_empty() => return Err(invalid("\"message\" is missing")),
            None => send.message,
        };
        Ok(Send { message, data: Some(data), ..send })
    }

    /// Checks the new data of a message, and returns it with the new text if the kind makes it.
    ///
    /// # Errors
    /// `invalid_message` if there is no such kind any more or the data don't fit its schema; `message_too_long`.
    pub fn check_update(&self, kind: &str, data: &Data) -> Result<(Data, Option<String>), Refusal> {
        let kind = self.0.get(kind).ok_or_else(|| invalid("this kind does not exist any more"))?;
        kind.accept(&parsed(data)?)
    }

    /// Whether the text of this kind is made from its data.
    pub fn makes_text(&self, kind: &str) -> bool {
        self.0.get(kind).is_some_and(|kind| kind.text.is_some())
    }

    /// Whether messages of this kind cause notifications.
    pub fn notifies(&self, kind: Option<&str>) -> bool {
        kind.and_then(|kind| self.0.get(kind)).is_none_or(|kind| kind.notifies)
    }

    /// The kinds that only backends send. Users can't delete their messages.
    pub fn reserved(&self) -> Vec<String> {
        let is_reserved = |kind: &Kind| kind.send == [Origin::Backends];
        let reserved = self.0.iter().filter(|(_, kind)| is_reserved(kind));
        reserved.map(|(name, _)| name.clone()).collect()
    }

    /// The names and schemas.
    pub fn list(&self) -> chat::Kinds {
        let kind =
            |(name, kind): (&String, &Kind)| chat::Kind { kind: name.clone(), schema: kind.schema.clone() };
        chat::Kinds { kinds: self.0.iter().map(kind).collect() }
    }
}

impl Kind {
    fn parse(text: String, lang: &str) -> anyhow::Result<Self> {
        ensure!(text.len() <= limits::KIND_FILE_BYTES, "larger than {} bytes", limits::KIND_FILE_BYTES);
        let schema: Value = serde_json::from_str(&text).context("not JSON")?;
        ensure!(schema["$schema"] == SCHEMA, "\"$schema\" must be {SCHEMA}");
        ensure!(schema["type"] == "object", "\"type\" must be \"object\"");
        check_formats(&schema)?;
        let extension = schema.get("x-vyzio").map(Extension::deserialize).transpose().context("x-vyzio")?;
        let Extension { send, create, text: texts, labels, notify, round } = extension.unwrap_or_default();
        ensure!(
            round.values().all(|decimals| (0..=15).contains(decimals)),
            "x-vyzio/round: 0 to 15 decimals"
        );
        let create = match create {
            Some(create) => {
                check_formats(&create)?;
                Some(compiled(&create).context("x-vyzio/create")?)
            }
            None => None,
        };
        let listed = listed(&schema);
        for value in labels.values().flat_map(BTreeMap::keys) {
            ensure!(
                listed.contains(value.as_str()),
                "x-vyzio/labels: \"{value}\" is in no \"enum\" or \"const\" of \"properties\""
            );
        }
        // All languages are checked, so that clients can use them.
        let mut templates = BTreeMap::new();
        for (of, text) in &texts {
            let labels = labels.get(of).cloned().unwrap_or_default();
            let template = Template::parse(text, of, labels, &schema);
            templates.insert(of.as_str(), template.with_context(|| format!("x-vyzio/text/{of}"))?);
        }
        let text = [lang, DEFAULT_LANGUAGE].into_iter().find_map(|lang| templates.remove(lang));
        let text = text.or_else(|| templates.into_values().next());
        let validator = compiled(&schema)?;
        let schema = RawValue::from_string(text_of(&schema)?)?;
        Ok(Self { schema, validator, send, create, text, notifies: notify, round })
    }

    /// Returns the data in one form, without spaces and repeated names, and the text.
    fn accept(&self, value: &Value) -> Result<(Data, Option<String>), Refusal> {
        fits(&self.validator, value, "")?;
        let data = serde_json::value::to_raw_value(value).map_err(|error| {
            tracing::error!(%error, "encode the data of a message");
            Refusal::internal()
        })?;
        // Rounded numbers, and large ones in another form, may be longer than they were.
        Ok((frames::checked_data(Data::new(data))?, self.text.as_ref().map(|text| text.render(value))))
    }

    fn round(&self, value: &mut Value) {
        for (name, decimals) in &self.round {
            let Some(number) = value.get_mut(name) else { continue };
            if let Some(float) = number.as_f64().filter(|_| !number.is_i64() && !number.is_u64()) {
                let scale = 10_f64.powi(*decimals);
                let rounded = (float * scale).round() / scale;
                if rounded.is_finite() {
                    *number = rounded.into();
                }
            }
        }
    }
}

/// The texts that a schema lists as values of its properties.
fn listed(schema: &Value) -> BTreeSet<&str> {
    let properties = schema["properties"].as_object().into_iter().flat_map(serde_json::Map::values);
    let values = properties
        .flat_map(|property| property["enum"].as_array().into_iter().flatten().chain(property.get("const")));
    values.filter_map(Value::as_str).collect()
}

/// The JSON files of a folder, by name.
fn read(folder: &Path) -> anyhow::Result<Vec<(String, String)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).context("the folder can't be read")? {
        let path = entry.context("the folder can't be read")?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        ensure!(is_kind_name(&name), "{name}.json is not named after a kind: [a-z][a-z0-9_.]*");
        ensure!(name != "message", "message.json: this is the name of messages without a kind");
        let text = fs::read_to_string(&path).with_context(|| format!("read {name}.json"))?;
        files.push((name, text));
    }
    Ok(files)
}

/// Compiles a schema. It may not refer to other documents, and its patterns run in linear time.
fn compiled(schema: &Value) -> anyhow::Result<Validator> {
    let patterns = PatternOptions::regex().size_limit(PATTERN_BYTES).dfa_size_limit(PATTERN_BYTES);
    draft202012::options()
        .offline()
        .should_validate_formats(true)
        .with_pattern_options(patterns)
        .build(schema)
        .map_err(|error| anyhow::anyhow!("not a schema: {error}"))
}

/// Refuses formats that are not checked everywhere alike.
fn check_formats(schema: &Value) -> anyhow::Result<()> {
    match schema {
        Value::Object(object) => {
            if let Some(Value::String(format)) = object.get("format")
                && format != "date-time"
            {
                bail!("the format {format:?} is not checked; use date-time or a pattern");
            }
            object.values().try_for_each(check_formats)
        }
        Value::Array(items) => items.iter().try_for_each(check_formats),
        _ => Ok(()),
    }
}

fn text_of(schema: &Value) -> anyhow::Result<String> {
    serde_json::to_string(schema).context("encode the schema")
}

fn parsed(data: &Data) -> Result<Value, Refusal> {
    let mut value = serde_json::from_str(data.get())
        .map_err(|_| invalid("\"data\" has a number or a text that can't be stored"))?;
    as_integers(&mut value);
    Ok(value)
}

/// Writes numbers such as `1.0`, which are integers for JSON Schema, as integers.
fn as_integers(value: &mut Value) {
    /// Up to here, every integer is a float.
    const MAX: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Number(number) if !number.is_i64() && !number.is_u64() => {
            if let Some(float) = number.as_f64().filter(|float| float.fract() == 0.0 && float.abs() <= MAX) {
                *number = (float as i64).into();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(as_integers),
        Value::Object(object) => object.values_mut().for_each(as_integers),
        _ => {}
    }
}

/// The error names the path in the schema, but no value.
fn fits(validator: &Validator, value: &Value, prefix: &str) -> Result<(), Refusal> {
    validator.validate(value).map_err(|error| {
        invalid(format!("\"data\" does not fit the schema of its kind, at {prefix}{}", error.schema_path()))
    })
}

fn invalid(detail: impl Into<String>) -> Refusal {
    Refusal::new(Code::InvalidMessage, detail)
}

/// Holds the current kinds, and loads them again with [`Loader::reload`].
pub struct Loader {
    source: Source,
    kinds: watch::Sender<Arc<Kinds>>,
}

impl Loader {
    /// Loads the kinds.
    ///
    /// # Errors
    /// See [`Kinds::load`].
    pub fn new(source: Source) -> anyhow::Result<Self> {
        let kinds = watch::Sender::new(Arc::new(Kinds::load(&source)?));
        Ok(Self { source, kinds })
    }

    /// The current kinds.
    pub fn current(&self) -> CurrentKinds {
        CurrentKinds(self.kinds.subscribe())
    }

    /// Reloads the kinds on SIGHUP. If a file is invalid, the old ones stay.
    pub async fn reload(self, mut hangup: Signal, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                Some(()) = hangup.recv() => {}
                () = shutdown.cancelled() => return,
            }
            match Kinds::load(&self.source) {
                Ok(fresh) => {
                    self.kinds.send_replace(Arc::new(fresh));
                    tracing::info!("reloaded the kinds");
                }
                Err(error) => {
                    metrics::counter!("chat_kinds_reloads_failed_total").increment(1);
                    tracing::error!(error = format!("{error:#}"), "reload the kinds; the old ones stay");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
