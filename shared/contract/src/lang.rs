//! Language tags of users, browsers and catalogue files.

use serde::{Deserialize, Deserializer, Serialize};

/// Maximum length of a tag: the length of the longest ordinary ones (RFC 5646, 4.4.1).
const TAG_BYTES: usize = 35;
/// Maximum number of languages read from one `Accept-Language`.
const ACCEPTED_MAX: usize = 16;

/// A language tag in lower case: `fr`, `en-us`. Never free text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Lang(Box<str>);

impl Lang {
    /// Parses a tag (`en_US` becomes `en-us`). `None` if it is not a tag.
    pub fn parse(tag: &str) -> Option<Self> {
        let tag = tag.trim();
        if tag.len() > TAG_BYTES {
            return None;
        }
        let tag = tag.replace('_', "-").to_ascii_lowercase();
        let mut parts = tag.split('-');
        let primary = parts.next().unwrap_or_default();
        let is_valid = (2..=3).contains(&primary.len())
            && primary.bytes().all(|byte| byte.is_ascii_alphabetic())
            && parts.all(|part| {
                (1..=8).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_alphanumeric())
            });
        is_valid.then(|| Self(tag.into()))
    }

    /// The preferred language of an `Accept-Language` header (RFC 9110, 12.5.4); `None` if it names none.
    pub fn accepted(header: &str) -> Option<Self> {
        let mut best: Option<(Self, f32)> = None;
        for item in header.split(',').take(ACCEPTED_MAX) {
            let (tag, parameters) = item.split_once(';').unwrap_or((item, ""));
            let quality = match parameters.trim().strip_prefix("q=") {
                Some(quality) => quality.trim().parse().unwrap_or(0.0),
                None => 1.0_f32,
            };
            let Some(lang) = Self::parse(tag).filter(|_| quality > 0.0) else { continue };
            // The first of two equally preferred languages wins.
            if best.as_ref().is_none_or(|(_, best)| quality > *best) {
                best = Some((lang, quality));
            }
        }
        best.map(|(lang, _)| lang)
    }

    /// The tag.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Lang {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let tag = String::deserialize(from)?;
        Self::parse(&tag).ok_or_else(|| serde::de::Error::custom("not a language tag"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_language_tags_are_parsed() {
        for (text, tag) in [
            ("fr", Some("fr")),
            (" en-US ", Some("en-us")),
            ("pt_BR", Some("pt-br")),
            ("zh-Hant-TW", Some("zh-hant-tw")),
            ("*", None),
            ("", None),
            ("f", None),
            ("english", None),
            ("en-", None),
            ("en--us", None),
            ("e\0", None),
            ("fr/../../x", None),
            ("en-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", None),
        ] {
            assert_eq!(Lang::parse(text).as_ref().map(Lang::as_str), tag, "{text:?}");
        }
    }

    #[test]
    fn the_most_preferred_language_is_chosen() {
        for (header, tag) in [
            ("en-US,en;q=0.9", Some("en-us")),
            ("de;q=0.5, fr-CA;q=0.8, fr; q=0.7", Some("fr-ca")),
            ("*, en;q=0.5", Some("en")),
            ("fr;q=0, en;q=0.1", Some("en")),
            ("fr, en", Some("fr")),
            ("fr;q=high, en;q=0.1", Some("en")),
            ("*", None),
            ("", None),
            (",;,q=1", None),
        ] {
            assert_eq!(Lang::accepted(header).as_ref().map(Lang::as_str), tag, "{header:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_parsing_is_idempotent(text: String) {
            if let Some(lang) = Lang::parse(&text) {
                prop_assert_eq!(Lang::parse(lang.as_str()), Some(lang));
            }
            let _ = Lang::accepted(&text);
        }
    }
}
