//! Whose sockets are here, and whose tokens are refused.

use crate::{
    admission::tokens::{Identity, Stamp},
    websocket::outbox::Outbox,
};
use contract::{Close, Timestamp, UserId};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, Weak},
    time::Duration,
};

/// The users with sockets at this gateway, and the revocations of all.
pub struct Users {
    sockets: Mutex<HashMap<UserId, Vec<Held>>>,
    revoked: Mutex<Revoked>,
    /// How long a revocation is kept: as long as a token can live.
    keep: Duration,
    max_sockets: usize,
}

/// A socket, and what revocations know its token by.
struct Held {
    outbox: Weak<Outbox>,
    stamp: Stamp,
}

/// Why a user gets no socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// The user has as many sockets as allowed.
    Full,
    /// The user's sessions were ended after the token was checked.
    Revoked,
}

/// A socket of a user, from before its handshake is answered until it is closed.
pub struct SocketSlot {
    users: Arc<Users>,
    user: UserId,
    outbox: Arc<Outbox>,
}

impl SocketSlot {
    /// What waits to be written to the socket.
    pub const fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
    }

    /// Replaces the socket's token: from now on, revocations compare with this one.
    pub fn renew(&self, stamp: Stamp) {
        let mut sockets = self.users.sockets();
        let held = sockets.get_mut(&self.user).into_iter().flatten().find(|held| held.is(&self.outbox));
        if let Some(held) = held {
            held.stamp = stamp.clone();
        }
        drop(sockets);
        // A revocation that came since the token was checked has seen the old token only.
        if self.users.revoked().covers(self.user, &stamp) {
            self.outbox.close(Close::Unauthorized);
        }
    }
}

impl Drop for SocketSlot {
    fn drop(&mut self) {
        let mut sockets = self.users.sockets();
        if let Some(held) = sockets.get_mut(&self.user) {
            held.retain(|held| !held.is(&self.outbox));
            if held.is_empty() {
                sockets.remove(&self.user);
            }
        }
    }
}

impl Held {
    fn is(&self, outbox: &Arc<Outbox>) -> bool {
        std::ptr::eq(self.outbox.as_ptr(), Arc::as_ptr(outbox))
    }
}

/// The revocations: which tokens of which users are refused.
#[derive(Debug, Default)]
struct Revoked {
    /// Tokens issued until this moment (Unix seconds), or at an unknown moment, are refused.
    until: HashMap<UserId, i64>,
    /// The one token that the revocation of this moment does not concern.
    exceptions: HashMap<UserId, (i64, Arc<str>)>,
}

/// What a gateway knows of the revocation of one user's tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// Whose tokens.
    pub user: UserId,
    /// Tokens issued until this moment are refused, in Unix seconds.
    pub until: i64,
    /// The `jti` of the one token that stays valid.
    pub except: Option<Arc<str>>,
}

impl Revoked {
    fn covers(&self, user: UserId, stamp: &Stamp) -> bool {
        let Some(until) = self.until.get(&user) else { return false };
        let is_excepted = match (self.exceptions.get(&user), &stamp.jti) {
            (Some((at, excepted)), Some(jti)) => at == until && excepted == jti,
            _ => false,
        };
        !is_excepted && stamp.issued_at.is_none_or(|issued| issued <= *until)
    }

    fn except(&mut self, user: UserId, until: i64, jti: Option<Arc<str>>) {
        match jti {
            Some(jti) => drop(self.exceptions.insert(user, (until, jti))),
            None => drop(self.exceptions.remove(&user)),
        }
    }
}

impl Users {
    /// No users yet.
    pub fn new(max_sockets: usize, keep: Duration) -> Self {
        Self { sockets: Mutex::default(), revoked: Mutex::default(), keep, max_sockets }
    }

    fn sockets(&self) -> MutexGuard<'_, HashMap<UserId, Vec<Held>>> {
        self.sockets.lock().expect("no holder of this lock panics")
    }

    fn revoked(&self) -> MutexGuard<'_, Revoked> {
        self.revoked.lock().expect("no holder of this lock panics")
    }

    /// How long a revocation is kept.
    pub const fn keep(&self) -> Duration {
        self.keep
    }

    /// Adds a socket.
    ///
    /// # Errors
    /// If the user has as many as allowed, or the token has been revoked meanwhile.
    pub fn enter(self: &Arc<Self>, identity: &Identity, outbox: Arc<Outbox>) -> Result<SocketSlot, Denied> {
        let user = identity.user_id;
        let mut sockets = self.sockets();
        let held = sockets.entry(user).or_default();
        if held.len() >= self.max_sockets {
            metrics::counter!("gateway_sockets_limited_total").increment(1);
            return Err(Denied::Full);
        }
        held.push(Held { outbox: Arc::downgrade(&outbox), stamp: identity.stamp.clone() });
        drop(sockets);
        let presence = SocketSlot { users: self.clone(), user, outbox };
        // After the socket can be found: a revocation either finds it, or is found here.
        if self.is_revoked(identity) { Err(Denied::Revoked) } else { Ok(presence) }
    }

    /// Whether a token was issued before its user's sessions were ended. One that doesn't say when it was, was.
    pub fn is_revoked(&self, identity: &Identity) -> bool {
        self.revoked().covers(identity.user_id, &identity.stamp)
    }

    /// Refuses a user's tokens issued until this moment, and closes the sockets that were opened with one. A socket
    /// with a later token stays open, however often the same revocation is read.
    pub fn revoke(&self, user: UserId, until: i64) {
        let mut revoked = self.revoked();
        let known = revoked.until.entry(user).or_insert(until);
        *known = until.max(*known);
        drop(revoked);
        let (sockets, revoked) = (self.sockets(), self.revoked());
        let held = sockets.get(&user).into_iter().flatten();
        for outbox in
            held.filter(|held| revoked.covers(user, &held.stamp)).filter_map(|held| held.outbox.upgrade())
        {
            outbox.close(Close::Unauthorized);
        }
    }

    /// Names the one token that the revocation of this moment does not concern, or that there is none. To be called
    /// before [`Users::revoke`].
    pub fn except(&self, user: UserId, until: i64, jti: Option<Arc<str>>) {
        self.revoked().except(user, until, jti);
    }

    /// Whether a revocation of this user has named a token that stays valid.
    pub fn has_exception(&self, user: UserId) -> bool {
        self.revoked().exceptions.contains_key(&user)
    }

    /// Takes a revocation back: an operator has deleted it.
    pub fn lift(&self, user: UserId) {
        self.revoked().until.remove(&user);
    }

    /// Every revocation that is known.
    pub fn revocations(&self) -> Vec<Revocation> {
        let revoked = self.revoked();
        let except = |user: &UserId, until: i64| {
            revoked.exceptions.get(user).filter(|(at, _)| *at == until).map(|(_, jti)| jti.clone())
        };
        let all = revoked.until.iter();
        all.map(|(user, until)| Revocation { user: *user, until: *until, except: except(user, *until) })
            .collect()
    }

    /// Forgets the revocations of tokens that have ended since.
    pub fn forget_old(&self) {
        let oldest = Timestamp::now().unix() - i64::try_from(self.keep.as_secs()).unwrap_or(i64::MAX);
        let mut revoked = self.revoked();
        let Revoked { until, exceptions } = &mut *revoked;
        until.retain(|_, until| *until > oldest);
        exceptions.retain(|user, _| until.contains_key(user));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::task::{Context, Waker};

    fn user() -> UserId {
        UserId::new(1).unwrap()
    }

    fn identity(issued_at: Option<i64>, jti: Option<&str>) -> Identity {
        let stamp = Stamp { issued_at, jti: jti.map(Arc::from) };
        Identity { user_id: user(), username: None, lang: None, expires_at: Timestamp::now(), stamp }
    }

    fn users() -> Arc<Users> {
        Arc::new(Users::new(10, Duration::from_secs(60)))
    }

    fn outbox() -> Arc<Outbox> {
        Arc::new(Outbox::new(16, 1024))
    }

    fn is_closed(outbox: &Outbox) -> bool {
        outbox.poll_take(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn a_revocation_between_the_check_of_a_token_and_its_socket_is_seen() {
        let users = users();
        let checked = identity(Some(100), None);
        assert!(!users.is_revoked(&checked));
        users.revoke(user(), 100);
        assert_eq!(users.enter(&checked, outbox()).err(), Some(Denied::Revoked));
        assert!(users.enter(&identity(Some(101), None), outbox()).is_ok());
    }

    #[test]
    fn forgotten_revocations_take_their_exceptions_along() {
        let users = users();
        users.except(user(), 100, Some("a".into()));
        users.revoke(user(), 100);
        assert_eq!(users.revocations(), [Revocation { user: user(), until: 100, except: Some("a".into()) }]);
        users.forget_old();
        assert!(users.revocations().is_empty() && !users.has_exception(user()));
    }

    proptest! {
        /// Whatever is read again, and in which order: the sockets that are closed are those with a token that the
        /// latest revocations cover.
        #[test]
        fn a_socket_is_closed_if_and_only_if_a_revocation_covers_its_token(
            issued in proptest::option::of(0_i64..10),
            revocations in proptest::collection::vec(0_i64..10, 0..8),
        ) {
            let users = users();
            let outbox = outbox();
            let presence = users.enter(&identity(issued, None), outbox.clone()).unwrap();
            let covered = |until: &i64| issued.is_none_or(|issued| issued <= *until);
            for until in &revocations {
                users.revoke(user(), *until);
                users.revoke(user(), *until);
            }
            prop_assert_eq!(is_closed(&outbox), revocations.iter().any(covered));
            // A fresh token is later than all of them, and the socket is safe from then on.
            let fresh = self::outbox();
            let later = users.enter(&identity(Some(10), None), fresh.clone()).unwrap();
            presence.renew(Stamp { issued_at: Some(10), jti: None });
            for until in &revocations {
                users.revoke(user(), *until);
            }
            prop_assert!(!is_closed(&fresh));
            drop((presence, later));
            prop_assert!(users.sockets().is_empty());
        }
    }
}
