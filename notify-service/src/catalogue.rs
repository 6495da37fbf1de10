//! The texts of notifications: a catalogue with one Project Fluent file for each language.

mod policies;

pub use policies::{MESSAGE_RECEIVED, Policy};

use anyhow::{Context, bail};
use contract::{
    Lang,
    limits::{NOTIFICATION_MESSAGE_CHARS as MESSAGE_CHARS, NOTIFICATION_TITLE_CHARS as TITLE_CHARS},
};
use fluent_bundle::{
    FluentArgs, FluentError, FluentResource, FluentValue,
    concurrent::FluentBundle,
    resolver::{ResolverError, errors::ReferenceKind},
};
use serde_json::{Map, Value};
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::Path,
};
use unic_langid::LanguageIdentifier;

/// The fallback language.
pub const DEFAULT_LANGUAGE: &str = "fr";
/// Parameters that its text may use.
const MESSAGE_RECEIVED_PARAMETERS: [&str; 5] =
    ["sender_username", "count", "conversation_id", "message_id", "kind"];
/// The parameter `kind` of a plain message.
pub const PLAIN: &str = "message";
const BUILT_IN: [(&str, &str); 2] =
    [("fr", include_str!("../catalogue/fr.ftl")), ("en", include_str!("../catalogue/en.ftl"))];

/// The text of a notification.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Text {
    /// At most [`TITLE_CHARS`] characters.
    pub title: String,
    /// At most [`MESSAGE_CHARS`] characters.
    pub message: String,
}

/// The reason why a text can't be rendered.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoText {
    /// No language has a text for the type.
    #[error("the catalogue has no text for this type")]
    UnknownType,
    /// A parameter of the text is missing.
    #[error("the text of this type can't be made without \"{0}\" in \"data\"")]
    Missing(String),
}

/// The texts of all types in all languages.
pub struct Catalogue {
    /// Languages by name, always with the default one.
    languages: BTreeMap<String, Language>,
    /// How each type, by its id, reminds users.
    policies: BTreeMap<String, Policy>,
}

/// The texts of one language.
struct Language {
    bundle: FluentBundle<FluentResource>,
    /// Ids of its messages, which the bundle doesn't list.
    ids: BTreeSet<String>,
    /// Rendered texts of the messages without parameters.
    fixed: HashMap<String, Text>,
}

impl Catalogue {
    /// Loads the built-in texts and those of a folder, which override them.
    ///
    /// # Errors
    /// If a file can't be read, is not valid Fluent, or has a type without a title or message.
    pub fn load(folder: Option<&Path>) -> anyhow::Result<Self> {
        let mut files: Vec<(String, String)> =
            BUILT_IN.into_iter().map(|(lang, text)| (lang.to_owned(), text.to_owned())).collect();
        if let Some(folder) = folder {
            files.extend(read(folder)?);
        }
        let mut languages = BTreeMap::new();
        for (lang, text) in files {
            add(&mut languages, &lang, text).with_context(|| format!("{lang}.ftl"))?;
        }
        for language in languages.values_mut() {
            language.render_fixed();
        }
        let policies = read_policies(&languages)?;
        let catalogue = Self { languages, policies };
        catalogue.check_messages()?;
        catalogue.warn_of_gaps();
        Ok(catalogue)
    }

    /// Returns the catalogue's best match for a language: the same language, else the one without its region, else the
    /// default.
    pub fn language(&self, wanted: Option<&str>) -> &str {
        let known = |lang: &str| self.languages.get_key_value(lang).map(|(lang, _)| lang.as_str());
        let wanted = wanted.unwrap_or(DEFAULT_LANGUAGE);
        known(wanted)
            .or_else(|| known(wanted.split('-').next().unwrap_or_default()))
            .unwrap_or(DEFAULT_LANGUAGE)
    }

    /// Renders the text of a type in a language, or else in French, or else in any language.
    ///
    /// # Errors
    /// The reason why the text of the first language that has the type can't be rendered.
    pub fn text(&self, kind: &str, lang: &str, parameters: &Map<String, Value>) -> Result<Text, NoText> {
        let id = fluent_id(kind);
        let mut prepared = None;
        let first = [lang, DEFAULT_LANGUAGE];
        let others = self.languages.keys().map(String::as_str);
        let mut failure = NoText::UnknownType;
        for language in first.into_iter().chain(others).filter_map(|lang| self.languages.get(lang)) {
            if let Some(text) = language.fixed.get(&*id) {
                return Ok(text.clone());
            }
            match render(&language.bundle, &id, prepared.get_or_insert_with(|| arguments(parameters))) {
                Ok(text) => return Ok(text),
                Err(NoText::UnknownType) => {}
                Err(missing) if failure == NoText::UnknownType => failure = missing,
                Err(_) => {}
            }
        }
        Err(failure)
    }

    /// How a type reminds users. An unknown type does not.
    pub fn policy(&self, kind: &str) -> &Policy {
        static UNKNOWN: Policy = Policy::unknown();
        self.policies.get(&*fluent_id(kind)).unwrap_or(&UNKNOWN)
    }

    /// All types, by the ids that they have in the catalogue, with the way in which they remind users.
    pub fn policies(&self) -> impl Iterator<Item = (&str, &Policy)> {
        self.policies.iter().map(|(id, policy)| (id.as_str(), policy))
    }

    /// Checks that the text of chat messages can always be rendered, even if a folder overrides it.
    fn check_messages(&self) -> anyhow::Result<()> {
        let parameters = MESSAGE_RECEIVED_PARAMETERS.map(|name| (name.to_owned(), Value::from(1)));
        let parameters = Map::from_iter(parameters);
        let arguments = arguments(&parameters);
        for (lang, language) in &self.languages {
            match render(&language.bundle, MESSAGE_RECEIVED, &arguments) {
                Ok(_) | Err(NoText::UnknownType) => {}
                Err(NoText::Missing(name)) => bail!(
                    "{lang}.ftl: {MESSAGE_RECEIVED} uses {name}, but its only parameters are {}",
                    MESSAGE_RECEIVED_PARAMETERS.join(", ")
                ),
            }
        }
        Ok(())
    }

    fn warn_of_gaps(&self) {
        for (lang, id) in self.gaps() {
            tracing::warn!(
                lang,
                r#type = id,
                "a text is missing in this language; the text of another language is used"
            );
        }
    }

    /// Texts that are missing in a language although another language has them.
    fn gaps(&self) -> Vec<(&str, &str)> {
        let all: BTreeSet<&String> = self.languages.values().flat_map(|language| &language.ids).collect();
        let mut gaps = Vec::new();
        for (lang, language) in &self.languages {
            let missing = all.iter().filter(|id| !language.ids.contains(**id));
            gaps.extend(missing.map(|id| (lang.as_str(), id.as_str())));
        }
        gaps
    }
}

impl Language {
    /// Renders the texts that have no parameters.
    fn render_fixed(&mut self) {
        let nothing = FluentArgs::new();
        let texts = self.ids.iter().filter_map(|id| {
            let text = render(&self.bundle, id, &nothing).ok()?;
            Some((id.clone(), text))
        });
        self.fixed = texts.collect();
    }
}

/// The `.ftl` files of a folder, by language.
fn read(folder: &Path) -> anyhow::Result<Vec<(String, String)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).context("the folder can't be read")? {
        let path = entry.context("the folder can't be read")?.path();
        if path.extension().is_none_or(|extension| extension != "ftl") {
            continue;
        }
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let Some(lang) = Lang::parse(&name) else {
            bail!("{name}.ftl is not named after a language");
        };
        files.push((
            lang.as_str().to_owned(),
            fs::read_to_string(&path).with_context(|| format!("read {name}.ftl"))?,
        ));
    }
    Ok(files)
}

fn add(languages: &mut BTreeMap<String, Language>, lang: &str, text: String) -> anyhow::Result<()> {
    let resource = FluentResource::try_new(text).map_err(|(resource, errors)| {
        let line = |at: usize| resource.source().get(..at).unwrap_or_default().matches('\n').count() + 1;
        let errors = errors.iter().map(|error| format!("line {}: {}", line(error.pos.start), error.kind));
        anyhow::anyhow!("{}", errors.collect::<Vec<_>>().join("; "))
    })?;
    let ids: Vec<String> = resource.source().lines().filter_map(message_id).map(str::to_owned).collect();
    let identifier: LanguageIdentifier = lang.parse().context("not a language")?;
    let language = languages.entry(lang.to_owned()).or_insert_with(|| {
        let mut bundle = FluentBundle::new_concurrent(vec![identifier]);
        // Isolation marks around parameters would be visible in the texts.
        bundle.set_use_isolating(false);
        Language { bundle, ids: BTreeSet::new(), fixed: HashMap::new() }
    });
    language.bundle.add_resource_overriding(resource);
    for id in ids {
        let complete = (language.bundle.get_message(&id))
            .is_some_and(|found| found.value().is_some() && found.get_attribute("message").is_some());
        if !complete {
            bail!("{id} has no title or no .message");
        }
        language.ids.insert(id);
    }
    Ok(())
}

/// The id of the message that starts on a line. In a valid file, only messages start with a letter.
fn message_id(line: &str) -> Option<&str> {
    let (id, _) = line.split_once('=')?;
    id.starts_with(|first: char| first.is_ascii_alphabetic()).then(|| id.trim_end())
}

/// Reads the policies of all types. Where languages differ, the default language wins.
fn read_policies(languages: &BTreeMap<String, Language>) -> anyhow::Result<BTreeMap<String, Policy>> {
    let mut policies: BTreeMap<String, Policy> = BTreeMap::new();
    let others = languages.iter().filter(|(lang, _)| *lang != DEFAULT_LANGUAGE);
    for (lang, language) in languages.get_key_value(DEFAULT_LANGUAGE).into_iter().chain(others) {
        for id in &language.ids {
            let found =
                policies::policy(&language.bundle, id).with_context(|| format!("{lang}.ftl: {id}"))?;
            let policy = policies.entry(id.clone()).or_default();
            *policy = std::mem::take(policy).or(found);
        }
    }
    Ok(policies)
}

/// Identifiers in Fluent have no dots.
pub fn fluent_id(kind: &str) -> Cow<'_, str> {
    if kind.contains('.') { Cow::Owned(kind.replace('.', "-")) } else { Cow::Borrowed(kind) }
}

/// The numbers and strings among the parameters. Other values can't be rendered.
fn arguments(parameters: &Map<String, Value>) -> FluentArgs<'_> {
    /// Beyond this, numbers in Fluent lose digits.
    const EXACT: u64 = 1 << 53;
    let mut arguments = FluentArgs::with_capacity(parameters.len());
    for (name, value) in parameters {
        match value {
            Value::String(text) => arguments.set(name.as_str(), text.as_str()),
            Value::Number(number) if number.as_i64().is_some_and(|number| number.unsigned_abs() > EXACT) => {
                arguments.set(name.as_str(), number.to_string());
            }
            Value::Number(number) => {
                arguments.set(name.as_str(), FluentValue::try_number(&number.to_string()).into_owned());
            }
            _ => {}
        }
    }
    arguments
}

fn render(
    bundle: &FluentBundle<FluentResource>,
    id: &str,
    arguments: &FluentArgs<'_>,
) -> Result<Text, NoText> {
    let found = bundle.get_message(id).ok_or(NoText::UnknownType)?;
    let title = found.value().ok_or(NoText::UnknownType)?;
    let message = found.get_attribute("message").ok_or(NoText::UnknownType)?.value();
    let mut errors = Vec::new();
    let title = bundle.format_pattern(title, Some(arguments), &mut errors).into_owned();
    let message = bundle.format_pattern(message, Some(arguments), &mut errors).into_owned();
    match errors.first() {
        None => Ok(Text { title: cut(title, TITLE_CHARS), message: cut(message, MESSAGE_CHARS) }),
        Some(FluentError::ResolverError(ResolverError::Reference(ReferenceKind::Variable { id }))) => {
            Err(NoText::Missing(id.clone()))
        }
        Some(error) => Err(NoText::Missing(error.to_string())),
    }
}

/// Truncates a text that parameters make too long, with an ellipsis at the end.
fn cut(mut text: String, chars: usize) -> String {
    if let Some((end, _)) = text.char_indices().nth(chars) {
        let last = text[..end].char_indices().next_back().map_or(0, |(at, _)| at);
        text.truncate(last);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(map) => map,
            _ => panic!("not an object"),
        }
    }

    fn rendered(catalogue: &Catalogue, kind: &str, lang: &str, data: Value) -> (String, String) {
        let text = catalogue.text(kind, lang, &object(data)).unwrap();
        (text.title, text.message)
    }

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    fn error(files: &[(&str, &str)]) -> String {
        let folder = folder(files);
        format!("{:#}", Catalogue::load(Some(folder.path())).err().expect("the folder is invalid"))
    }

    #[test]
    fn built_in_texts_match_the_contract() {
        let catalogue = Catalogue::load(None).unwrap();
        let pair = |title: &str, message: &str| (title.to_owned(), message.to_owned());
        let john = json!({"sender_username": "john_doe", "count": 1});
        assert_eq!(
            rendered(&catalogue, "message_received", "fr", john.clone()),
            pair("Nouveau message", "john_doe a envoyé un message")
        );
        assert_eq!(
            rendered(&catalogue, "message_received", "en", john),
            pair("New message", "john_doe sent a message")
        );
        assert_eq!(
            rendered(&catalogue, "payment_completed", "fr", json!({})),
            pair("Paiement confirmé", "Votre paiement a été traité")
        );
        assert_eq!(
            rendered(&catalogue, "listing_published", "fr", json!({})),
            pair("Annonce publiée", "Votre annonce est maintenant visible")
        );
        assert!(catalogue.gaps().is_empty());
    }

    #[test]
    fn unknown_languages_fall_back_to_french() {
        let catalogue = Catalogue::load(None).unwrap();
        for (wanted, served) in
            [(None, "fr"), (Some("en"), "en"), (Some("en-us"), "en"), (Some("de"), "fr"), (Some(""), "fr")]
        {
            assert_eq!(catalogue.language(wanted), served, "{wanted:?}");
        }
    }

    #[test]
    fn a_folder_can_add_a_type() {
        let folder = folder(&[(
            "fr.ftl",
            "offers = { $count ->\n    [one] Une offre\n   *[other] { $count } offres\n }\n    .message = Pour { $listing }\n",
        )]);
        let catalogue = Catalogue::load(Some(folder.path())).unwrap();
        let offers =
            |count: i64| rendered(&catalogue, "offers", "en", json!({"count": count, "listing": "Vélo"}));
        assert_eq!(offers(1).0, "Une offre");
        assert_eq!(offers(3), ("3 offres".to_owned(), "Pour Vélo".to_owned()));
        assert_eq!(catalogue.gaps(), [("en", "offers")]);
        let missing = catalogue.text("offers", "en", &object(json!({"count": 1})));
        assert_eq!(missing, Err(NoText::Missing("listing".into())));
        assert_eq!(catalogue.text("nothing", "fr", &Map::new()), Err(NoText::UnknownType));
    }

    #[test]
    fn a_folder_overrides_built_in_texts_and_an_invalid_one_is_refused() {
        let text = "payment_completed = Payé\n    .message = Merci\n";
        let changed = folder(&[("fr.ftl", text), ("README.md", "not a catalogue")]);
        let catalogue = Catalogue::load(Some(changed.path())).unwrap();
        assert_eq!(rendered(&catalogue, "payment_completed", "fr", json!({})).0, "Payé");
        assert_eq!(rendered(&catalogue, "listing_published", "fr", json!({})).0, "Annonce publiée");

        assert!(error(&[("fr.ftl", "a = b\n    .message = c\n???\n")]).contains("fr.ftl: line 3"));
        assert!(error(&[("fr.ftl", "a = b\n")]).contains("a has no title or no .message"));
        assert!(error(&[("french.ftl", "")]).contains("not named after a language"));
        let chat = "message_received = { $nobody }\n    .message = x\n";
        assert!(error(&[("en.ftl", chat)]).contains("message_received uses nobody"));
    }

    #[test]
    fn attributes_say_how_a_type_reminds() {
        let built_in = Catalogue::load(None).unwrap();
        let reminds =
            |catalogue: &Catalogue, kind: &str, step| catalogue.policy(kind).reminds(&fluent_id(kind), step);
        assert!(reminds(&built_in, "message_received", "anything"));
        for kind in ["payment_completed", "listing_published", "nothing"] {
            assert!(!reminds(&built_in, kind, "mail"), "{kind}");
        }
        assert!(built_in.policy("payment_completed").mandatory && !built_in.policy("nothing").mandatory);

        let fr = "order-paid = Payé\n    .message = x\n    .remind = push, mail\n    .default = mail\n\
            message_received = x\n    .message = x\n    .remind = none\n";
        let en = "order-paid = Paid\n    .message = x\n    .remind = sms\n    .mandatory = yes\n";
        let folder = folder(&[("fr.ftl", fr), ("en.ftl", en)]);
        let catalogue = Catalogue::load(Some(folder.path())).unwrap();
        let paid = catalogue.policy("order.paid");
        assert!(["push", "mail"].iter().all(|step| reminds(&catalogue, "order.paid", step)));
        assert!(!reminds(&catalogue, "order.paid", "sms"), "the default language wins");
        assert_eq!((paid.is_on("push"), paid.is_on("mail"), paid.mandatory), (false, true, true));
        assert!(!reminds(&catalogue, "message_received", "push"));

        let text = |attribute| format!("a = b\n    .message = c\n    {attribute}\n");
        assert!(error(&[("fr.ftl", &text(".remind = Push"))]).contains("fr.ftl: a: .remind: must be steps"));
        assert!(error(&[("fr.ftl", &text(".mandatory = maybe"))]).contains(".mandatory must be yes or no"));
    }

    #[test]
    fn numbers_are_rendered_as_published() {
        let folder = folder(&[("fr.ftl", "n = { $n }\n    .message = { $n }\n")]);
        let catalogue = Catalogue::load(Some(folder.path())).unwrap();
        for number in ["0", "-7", "12.5", "9007199254740993", "9223372036854775807"] {
            let data = serde_json::from_str(&format!(r#"{{"n":{number}}}"#)).unwrap();
            assert_eq!(rendered(&catalogue, "n", "fr", data).0, number);
        }
        let long = rendered(&catalogue, "n", "fr", json!({"n": "é".repeat(5_000)}));
        assert_eq!((long.0.chars().count(), long.1.chars().count()), (TITLE_CHARS, MESSAGE_CHARS));
        assert!(long.0.ends_with("é…"));
    }
}
