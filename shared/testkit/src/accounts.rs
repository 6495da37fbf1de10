//! The users of `deploy/nats/accounts.conf`, with passwords for tests.

use anyhow::Context;

use crate::place;

/// The password that a user of `accounts.conf` has in tests.
pub fn password(user: &str) -> String {
    format!("{user}secret")
}

/// `accounts.conf` as it is deployed.
pub(crate) fn configuration() -> anyhow::Result<String> {
    let path = place::workspace().join("deploy/nats/accounts.conf");
    std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

/// The variables that the file takes passwords from, each with its user's: `NATS_BILLING_PASSWORD` is billing's.
pub(crate) fn passwords(configuration: &str) -> Vec<(String, String)> {
    let named = |word: &str| {
        let user = word.strip_prefix("$NATS_")?.strip_suffix("_PASSWORD")?.to_lowercase();
        Some((word[1..].to_owned(), password(&user)))
    };
    let apart = |other: char| !other.is_ascii_alphanumeric() && other != '_' && other != '$';
    configuration.split(apart).filter_map(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_variable_is_given_its_users_password() {
        let found = passwords("{ user: billing, password: $NATS_BILLING_PASSWORD } # $KV.x");
        assert_eq!(found, [("NATS_BILLING_PASSWORD".to_owned(), "billingsecret".to_owned())]);
        assert!(passwords(&configuration().unwrap()).len() >= 8);
    }
}
