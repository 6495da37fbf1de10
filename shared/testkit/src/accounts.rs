//! The users of `deploy/nats/accounts.conf`, with passwords for tests.

use anyhow::Context;

use crate::place;

/// Password of a user of `accounts.conf` in tests.
pub fn password(user: &str) -> String {
    format!("{user}secret")
}

/// The deployed `accounts.conf`.
pub(crate) fn configuration() -> anyhow::Result<String> {
    let path = place::workspace().join("deploy/nats/accounts.conf");
    std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

/// Password variables in the file, each with the password of its user: `NATS_BILLING_PASSWORD` belongs to billing.
pub(crate) fn passwords(configuration: &str) -> Vec<(String, String)> {
    let variable = |word: &str| {
        let user = word.strip_prefix("$NATS_")?.strip_suffix("_PASSWORD")?.to_lowercase();
        Some((word[1..].to_owned(), password(&user)))
    };
    let is_separator = |other: char| !other.is_ascii_alphanumeric() && other != '_' && other != '$';
    configuration.split(is_separator).filter_map(variable).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_variable_gets_the_password_of_its_user() {
        let found = passwords("{ user: billing, password: $NATS_BILLING_PASSWORD } # $KV.x");
        assert_eq!(found, [("NATS_BILLING_PASSWORD".to_owned(), "billingsecret".to_owned())]);
        assert!(passwords(&configuration().unwrap()).len() >= 8);
    }
}
