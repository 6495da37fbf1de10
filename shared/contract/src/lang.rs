//! Languages, as people, browsers and files name them.

use serde::{Deserialize, Deserializer, Serialize};

/// Characters of a tag: what the longest ordinary ones have (RFC 5646, 4.4.1).
const TAG_BYTES: usize = 35;
/// Languages of one `Accept-Language` that are looked at.
const ACCEPTED: usize = 16;

/// A language's tag, in lower case: `fr`, `en-us`. Never free text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Lang(Box<str>);

impl Lang {
    /// The language that a tag names (`en_US` is `en-us`); `None` if it looks like none.
    pub fn parse(tag: &str) -> Option<Self> {
        let tag = tag.trim();
        if tag.len() > TAG_BYTES {
            return None;
        }
        let tag = tag.replace('_', "-").to_ascii_lowercase();
        let mut parts = tag.split('-');
        let primary = parts.next().unwrap_or_default();
        let looks_right = (2..=3).contains(&primary.len())
            && primary.bytes().all(|byte| byte.is_ascii_alphabetic())
            && parts.all(|part| {
                (1..=8).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_alphanumeric())
            });
        looks_right.then(|| Self(tag.into()))
    }

    /// The language that an `Accept-Language` (RFC 9110, 12.5.4) likes best; `None` if it names none.
    pub fn accepted(header: &str) -> Option<Self> {
        let mut best: Option<(Self, f32)> = None;
        for item in header.split(',').take(ACCEPTED) {
            let (tag, parameters) = item.split_once(';').unwrap_or((item, ""));
            let quality = match parameters.trim().strip_prefix("q=") {
                Some(quality) => quality.trim().parse().unwrap_or(0.0),
                None => 1.0_f32,
            };
            let Some(lang) = Self::parse(tag).filter(|_| quality > 0.0) else { continue };
            // Of two that are liked alike, the first.
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
        Self::parse(&tag).ok_or_else(|| serde::de::Error::custom("not the tag of a language"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_tag_is_a_tag_and_nothing_else() {
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
    fn what_a_browser_likes_best_is_its_language() {
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
        fn no_text_panics_and_what_is_taken_stays_the_same(text: String) {
            if let Some(lang) = Lang::parse(&text) {
                prop_assert_eq!(Lang::parse(lang.as_str()), Some(lang));
            }
            let _ = Lang::accepted(&text);
        }
    }
}
