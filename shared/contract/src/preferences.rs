//! Users' preferences: which reminders they want, and when.

use crate::{Request, UserId};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// For each type of notification, or `*` for all, and each channel: whether the user wants reminders.
pub type Settings = BTreeMap<String, BTreeMap<String, bool>>;
/// Changes of [`Settings`]: null removes a setting, or all settings of a type.
pub type SettingChanges = BTreeMap<String, Option<BTreeMap<String, Option<bool>>>>;

/// A user's preferences.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Preferences {
    /// The user's settings: for each type of notification, or `*`, and each channel (a step of the reminders, such as
    /// `mail`), whether the user wants reminders.
    #[schema(example = json!({"listing_published": {"mail": false}}))]
    pub types: Settings,
    /// The user's quiet hours; null if there are none.
    #[schema(required)]
    pub quiet: Option<QuietHours>,
    /// What applies to types without a setting of the user, in the same form. All others are on.
    pub defaults: Settings,
    /// Types that ignore the user's settings.
    pub mandatory: Vec<String>,
}

/// Hours in which a user is not reminded, every day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct QuietHours {
    /// Their start, such as `22:00`.
    #[schema(pattern = "^([01][0-9]|2[0-3]):[0-5][0-9]$")]
    pub from: String,
    /// Their end, such as `08:00`, perhaps on the next day.
    #[schema(pattern = "^([01][0-9]|2[0-3]):[0-5][0-9]$")]
    pub to: String,
    /// The user's time zone, from the IANA list, such as `Europe/Paris`.
    #[schema(max_length = 64)]
    pub tz: String,
}

/// Public, any backend → notify-service: requests a user's preferences.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetPreferences {
    /// The user.
    pub user_id: UserId,
}

impl Request for GetPreferences {
    const SUBJECT: &'static str = "notify.preferences.get";
    const PUBLIC: bool = true;
    type Reply = Preferences;
}

/// Public, any backend → notify-service: changes a user's preferences, for example by a link in a mail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetPreferences {
    /// The user.
    pub user_id: UserId,
    /// The changes.
    #[serde(flatten)]
    pub changes: PreferenceChanges,
    /// Whether all settings that are not named are removed, and the quiet hours, too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replace: bool,
}

impl Request for SetPreferences {
    const SUBJECT: &'static str = "notify.preferences.set";
    const PUBLIC: bool = true;
    /// The preferences after the change.
    type Reply = Preferences;
}

/// Changes of a user's preferences.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PreferenceChanges {
    /// Settings of types: on, off, or null to remove a setting or all settings of a type.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(example = json!({"listing_published": {"mail": false}}))]
    pub types: SettingChanges,
    /// New quiet hours; null removes them. Without this field they stay, unless all preferences are replaced.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schema(value_type = Option<QuietHours>)]
    pub quiet: Option<Option<QuietHours>>,
}

/// A field that is given, even if it is null.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<QuietHours>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_null_is_not_an_absent_field() {
        let read = |json| serde_json::from_str::<SetPreferences>(json).unwrap();
        let set = read(r#"{"user_id": 1, "types": {"a": {"mail": null, "push": true}, "b": null}}"#);
        assert_eq!(set.changes.quiet, None);
        assert_eq!(set.changes.types["b"], None);
        assert_eq!(set.changes.types["a"].as_ref().unwrap()["mail"], None);
        for json in [
            r#"{"user_id":1,"quiet":null}"#,
            r#"{"user_id":1,"types":{"a":null},"quiet":{"from":"22:00","to":"08:00","tz":"UTC"},"replace":true}"#,
        ] {
            assert_eq!(serde_json::to_string(&read(json)).unwrap(), json);
        }
        assert_eq!(read(r#"{"user_id":1,"quiet":null}"#).changes.quiet, Some(None));
    }
}
