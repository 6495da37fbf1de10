//! Cleaning of display names and titles, so that no text changes the appearance of another.

use crate::limits;
use unicode_segmentation::UnicodeSegmentation;

/// Maximum number of characters in one visible character. A family emoji has 7; a letter of any script with its marks
/// has fewer.
const CHARS_PER_GRAPHEME: usize = 16;

/// A display name in stored form: on one line, without invisible characters or characters that change the direction of
/// the surrounding text, truncated to [`limits::USERNAME_CHARS`] visible characters. `None` if nothing is left.
pub fn display_name(name: &str) -> Option<String> {
    let clean = one_line(name);
    let cut: String = clean
        .graphemes(true)
        .filter(|grapheme| grapheme.chars().count() <= CHARS_PER_GRAPHEME)
        .take(limits::USERNAME_CHARS)
        .collect();
    let cut = cut.trim_end();
    is_visible(cut).then(|| cut.to_owned())
}

/// A title in stored form: cleaned like a name, but not truncated. `None` if nothing is left.
pub fn title(title: &str) -> Option<String> {
    let clean = one_line(title);
    is_visible(&clean).then_some(clean)
}

/// Whether a text has visible characters.
pub fn is_visible(text: &str) -> bool {
    text.chars()
        .any(|char| !(char.is_whitespace() || char.is_control() || is_ignorable(char) || is_blank(char)))
}

fn one_line(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for char in text.trim().chars() {
        if char.is_whitespace() || char.is_control() {
            // Whitespace includes line breaks, which separate words.
            if !clean.ends_with(' ') && !clean.is_empty() && char.is_whitespace() {
                clean.push(' ');
            }
        } else if is_joiner(char) || !is_ignorable(char) {
            clean.push(char);
        }
    }
    clean.truncate(clean.trim_end().len());
    clean
}

/// Joiners and variation selectors. They affect only the adjacent characters, and scripts and emoji need them.
const fn is_joiner(char: char) -> bool {
    matches!(char, '\u{200c}' | '\u{200d}' | '\u{fe00}'..='\u{fe0f}' | '\u{e0020}'..='\u{e007f}')
}

/// Characters without a glyph of their own: `Default_Ignorable_Code_Point` of Unicode 17 (DerivedCoreProperties.txt),
/// which includes the direction marks and overrides.
const fn is_ignorable(char: char) -> bool {
    matches!(char,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fff8}' | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// Characters with an empty glyph that Unicode doesn't count as spaces: the empty Braille pattern, and the null
/// notehead of music.
const fn is_blank(char: char) -> bool {
    matches!(char, '\u{2800}' | '\u{1d159}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_name_keeps_its_letters_and_loses_special_characters() {
        for (name, shown) in [
            ("  john_doe ", Some("john_doe")),
            ("Ann\u{202e}", Some("Ann")),
            ("a\u{2066}b\u{2069}\u{200f}c\u{feff}", Some("abc")),
            ("two\r\n lines\u{2028}more", Some("two lines more")),
            ("דנה", Some("דנה")),
            ("👨\u{200d}👩\u{200d}👧 Lea", Some("👨\u{200d}👩\u{200d}👧 Lea")),
            ("e\u{301}ric", Some("e\u{301}ric")),
            ("می\u{200c}خواهم", Some("می\u{200c}خواهم")),
            ("\u{7}bell", Some("bell")),
            ("", None),
            ("\u{200b}\u{2800}\u{3164}", None),
            ("\u{200d}", None),
        ] {
            assert_eq!(display_name(name).as_deref(), shown, "{name:?}");
        }
        assert_eq!(title("x\u{202e}\ny").as_deref(), Some("x y"));
    }

    #[test]
    fn a_name_is_cut_between_visible_characters() {
        let family = "👨\u{200d}👩\u{200d}👧";
        assert_eq!(display_name(&family.repeat(1_000)), Some(family.repeat(limits::USERNAME_CHARS)));
        let stacked = format!("a{}b", "\u{301}".repeat(10_000));
        assert_eq!(display_name(&stacked).as_deref(), Some("b"));
    }

    #[test]
    fn texts_without_visible_characters_are_not_visible() {
        for text in [
            "",
            " \n",
            "\u{200b}",
            "\u{feff}",
            "\u{2060}\u{200d}",
            "\u{2800}",
            "\u{3164}",
            "\u{ad}",
            "\u{180e}",
            "\u{85}",
            "\u{fe0f}",
            "\u{e0001}\u{e0020}",
        ] {
            assert!(!is_visible(text), "{text:?}");
        }
        for text in ["a", "\u{200b}.", "👍", "\u{301}", "。"] {
            assert!(is_visible(text), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn cleaning_a_clean_name_changes_nothing(name: String) {
            if let Some(clean) = display_name(&name) {
                prop_assert_eq!(display_name(&clean), Some(clean.clone()));
                prop_assert!(clean.graphemes(true).count() <= limits::USERNAME_CHARS);
                let is_clean = !clean.contains(['\n', '\u{202e}']);
                prop_assert!(is_clean);
            }
        }
    }
}
