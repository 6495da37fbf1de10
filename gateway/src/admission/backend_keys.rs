//! The keys with which backends use the HTTP API.

use crate::config::Backends;
use anyhow::{Context, bail, ensure};
use aws_lc_rs::{
    constant_time::verify_slices_are_equal,
    digest::{self, SHA256},
};
use serde::Serialize;
use service::config::check_name;
use std::{fmt, fs, sync::Arc};
use utoipa::ToSchema;

/// Minimum length of a secret, in characters.
const SECRET_MIN: usize = 32;
/// Maximum length of a secret, in characters.
const SECRET_MAX: usize = 256;
/// Maximum number of keys. Each request compares all of them.
const KEYS_MAX: usize = 64;

/// What a key permits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// To publish events.
    Events,
    /// To read and write conversations, in the name of any user.
    Chat,
    /// To handle the data of users.
    Users,
    /// To revoke sessions.
    Sessions,
    /// To read former texts of messages.
    Moderation,
}

impl Scope {
    const ALL: [(&'static str, Self); 5] = [
        ("events", Self::Events),
        ("chat", Self::Chat),
        ("users", Self::Users),
        ("sessions", Self::Sessions),
        ("moderation", Self::Moderation),
    ];
}

/// A backend that a request has identified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// Name of its key.
    pub name: Arc<str>,
    /// What its key permits, in the order of [`Scope`].
    pub scopes: Arc<[Scope]>,
}

/// All keys. Only hashes of the secrets are kept.
pub struct BackendKeys(Vec<(digest::Digest, Backend)>);

impl BackendKeys {
    /// Reads the keys of a configuration; `None` if it has none.
    ///
    /// # Errors
    /// If an entry is invalid. The error contains no part of a secret.
    pub fn load(config: &Backends) -> anyhow::Result<Option<Self>> {
        // An empty variable, as compose passes it on, is an unset one.
        let keys = config.backend_keys.as_ref().filter(|keys| !keys.trim().is_empty());
        let file = config.backend_keys_file.as_ref().filter(|file| !file.as_os_str().is_empty());
        let (variable, text) = match (keys, file) {
            (None, None) => return Ok(None),
            (Some(_), Some(_)) => bail!("configuration: set BACKEND_KEYS or BACKEND_KEYS_FILE, not both"),
            (Some(keys), None) => ("BACKEND_KEYS", keys.clone()),
            (None, Some(file)) => {
                let text = fs::read_to_string(file).context("configuration: read BACKEND_KEYS_FILE")?;
                ("BACKEND_KEYS_FILE", text)
            }
        };
        let keys = Self::parse(&text).with_context(|| format!("configuration: {variable}"))?;
        ensure!(!keys.0.is_empty(), "configuration: {variable} has no key");
        Ok(Some(keys))
    }

    /// Parses entries `name:secret[:scope+scope]`, separated by commas or line breaks. Lines with `#` are comments.
    fn parse(text: &str) -> anyhow::Result<Self> {
        let mut keys: Vec<(digest::Digest, Backend)> = Vec::new();
        let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
        let entries = lines.flat_map(|line| line.split(',')).map(str::trim).filter(|entry| !entry.is_empty());
        for (number, entry) in entries.enumerate() {
            let number = number + 1;
            ensure!(number <= KEYS_MAX, "more than {KEYS_MAX} keys");
            let (hash, backend) = entry_of(entry).with_context(|| format!("key {number}"))?;
            let is_known = keys.iter().any(|(known, _)| known.as_ref() == hash.as_ref());
            ensure!(!is_known, "key {number} has the secret of another key");
            keys.push((hash, backend));
        }
        Ok(Self(keys))
    }

    /// Finds the backend with this secret. The time that this takes does not depend on the secrets.
    pub fn find(&self, secret: &str) -> Option<&Backend> {
        let hash = digest::digest(&SHA256, secret.as_bytes());
        let mut found = None;
        for (known, backend) in &self.0 {
            if verify_slices_are_equal(known.as_ref(), hash.as_ref()).is_ok() {
                found = Some(backend);
            }
        }
        found
    }
}

impl fmt::Debug for BackendKeys {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_list().entries(self.0.iter().map(|(_, backend)| backend)).finish()
    }
}

fn entry_of(entry: &str) -> anyhow::Result<(digest::Digest, Backend)> {
    let mut parts = entry.split(':');
    let (name, secret) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    check_name(name)?;
    ensure!(
        (SECRET_MIN..=SECRET_MAX).contains(&secret.len())
            && secret.bytes().all(|byte| byte.is_ascii_graphic()),
        "the secret must be {SECRET_MIN} to {SECRET_MAX} printable ASCII characters without : and ,"
    );
    let scopes = match parts.next() {
        None => Scope::ALL.iter().map(|(_, scope)| *scope).collect(),
        Some(named) => {
            let named: Vec<&str> = named.split('+').collect();
            for name in &named {
                let is_known = Scope::ALL.iter().any(|(known, _)| known == name);
                ensure!(
                    is_known,
                    "a scope is events, chat, users, sessions or moderation, and + separates them"
                );
            }
            Scope::ALL.iter().filter(|(name, _)| named.contains(name)).map(|(_, scope)| *scope).collect()
        }
    };
    ensure!(parts.next().is_none(), "an entry is name:secret or name:secret:scope+scope");
    Ok((digest::digest(&SHA256, secret.as_bytes()), Backend { name: name.into(), scopes }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ONE: &str = "one-secret-of-thirty-two-letters";
    const TWO: &str = "two-secret-of-thirty-two-letters";

    fn keys(text: &str) -> BackendKeys {
        BackendKeys::parse(text).unwrap()
    }

    #[test]
    fn a_key_has_the_named_scopes_or_all() {
        let keys = keys(&format!("# ours\nshop:{ONE}\n pay:{TWO}:sessions+events ,\n"));
        let shop = keys.find(ONE).unwrap();
        assert_eq!((&*shop.name, shop.scopes.len()), ("shop", 5));
        let pay = keys.find(TWO).unwrap();
        assert_eq!((&*pay.name, &*pay.scopes), ("pay", &[Scope::Events, Scope::Sessions][..]));
        for wrong in ["", "shop", &ONE[1..], &format!("{ONE} "), &ONE.to_uppercase()] {
            assert!(keys.find(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn two_keys_may_have_one_name_but_not_one_secret() {
        let rotation = keys(&format!("shop:{ONE},shop:{TWO}"));
        assert!(rotation.find(ONE).is_some() && rotation.find(TWO).is_some());
        assert!(BackendKeys::parse(&format!("shop:{ONE},pay:{ONE}")).is_err());
        let many: Vec<String> = (0..65).map(|number| format!("shop:{number:032}")).collect();
        assert!(BackendKeys::parse(&many[..64].join(",")).is_ok());
        assert!(BackendKeys::parse(&many.join(",")).is_err());
    }

    #[test]
    fn an_error_names_the_entry_and_no_secret() {
        for entry in [
            format!("shop:{}", &ONE[1..]),
            format!(":{ONE}"),
            format!("Shop:{ONE}"),
            format!("shop:{ONE}:"),
            format!("shop:{ONE}:chat+admin"),
            format!("shop:{ONE}:chat:events"),
            format!("shop:{}é{ONE}", &ONE[1..]),
            ONE.to_owned(),
        ] {
            let error = format!("{:#}", BackendKeys::parse(&format!("pay:{TWO},{entry}")).unwrap_err());
            assert!(error.starts_with("key 2: ") && !error.contains("secret-of"), "{error}");
        }
        assert!(!format!("{:?}", keys(&format!("shop:{ONE}"))).contains("secret-of"));
    }

    proptest! {
        #[test]
        fn no_text_panics_and_each_valid_secret_is_found(text: String, secret in "[!-+\\--9;-~]{32,64}") {
            let _ = BackendKeys::parse(&text);
            let keys = keys(&format!("shop:{secret}"));
            prop_assert!(keys.find(&secret).is_some());
            prop_assert!(keys.find(&text).is_none() || text == secret);
        }
    }
}
