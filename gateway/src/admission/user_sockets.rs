//! The sockets of each user, and the tokens that are revoked.

use crate::{
    admission::{
        present_users::PresentUsers,
        tokens::{Identity, Stamp},
    },
    websocket::outbox::Outbox,
};
use contract::{Close, Timestamp, UserId};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, Weak},
    time::Duration,
};

/// The users with sockets on this gateway, and the revocations of all users.
pub struct Users {
    sockets: Mutex<HashMap<UserId, Vec<UserSocket>>>,
    revoked: Mutex<Revoked>,
    /// How long a revocation is kept: at least the lifetime of a token.
    retention: Duration,
    max_sockets: usize,
    /// The users who are present; `None` if presence is switched off.
    present: Option<Arc<PresentUsers>>,
}

/// A socket, with the stamp of its token.
struct UserSocket {
    outbox: Weak<Outbox>,
    stamp: Stamp,
}

/// The reason why a user is refused a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// The user has as many sockets as allowed.
    Full,
    /// The user's sessions were ended after the token was checked.
    Revoked,
}

/// A user's socket, from the handshake until it is closed. Dropping the slot removes the socket.
pub struct SocketSlot {
    users: Arc<Users>,
    user: UserId,
    outbox: Arc<Outbox>,
}

impl SocketSlot {
    /// The socket's outbox.
    pub const fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
    }

    /// Sets whether someone may look at the socket's page. A user with such a socket is present.
    pub fn set_visible(&self, visible: bool) {
        let Some(present) = &self.users.present else { return };
        // Under the lock, so that the changes of a user's sockets are recorded in their order.
        let sockets = self.users.sockets();
        if self.outbox.is_visible() == visible {
            return;
        }
        self.outbox.set_visible(visible);
        if visible {
            present.came(self.user);
        } else if !sockets.get(&self.user).into_iter().flatten().any(UserSocket::is_visible) {
            present.left(self.user);
        }
    }

    /// Replaces the socket's token, to which later revocations apply.
    pub fn renew(&self, stamp: Stamp) {
        let mut sockets = self.users.sockets();
        let mut of_user = sockets.get_mut(&self.user).into_iter().flatten();
        if let Some(socket) = of_user.find(|socket| socket.is(&self.outbox)) {
            socket.stamp = stamp.clone();
        }
        drop(sockets);
        // A revocation since the check of the token was only compared with the old token.
        if self.users.revoked().covers(self.user, &stamp) {
            self.outbox.close(Close::Unauthorized);
        }
    }
}

impl Drop for SocketSlot {
    fn drop(&mut self) {
        let mut sockets = self.users.sockets();
        if let Some(of_user) = sockets.get_mut(&self.user) {
            of_user.retain(|socket| !socket.is(&self.outbox));
            if let Some(present) = &self.users.present
                && self.outbox.is_visible()
                && !of_user.iter().any(UserSocket::is_visible)
            {
                present.left(self.user);
            }
            if of_user.is_empty() {
                sockets.remove(&self.user);
            }
        }
    }
}

impl UserSocket {
    fn is_visible(&self) -> bool {
        self.outbox.upgrade().is_some_and(|outbox| outbox.is_visible())
    }

    fn is(&self, outbox: &Arc<Outbox>) -> bool {
        std::ptr::eq(self.outbox.as_ptr(), Arc::as_ptr(outbox))
    }
}

/// The revocations of all users.
#[derive(Debug, Default)]
struct Revoked {
    /// Tokens issued up to this time (in Unix seconds), or at an unknown time, are refused.
    until: HashMap<UserId, i64>,
    /// The `jti` of the only token that the revocation of this time does not cover.
    exceptions: HashMap<UserId, (i64, Arc<str>)>,
}

/// The revocation of one user's tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// The user.
    pub user: UserId,
    /// Tokens issued up to this time are refused, in Unix seconds.
    pub until: i64,
    /// The `jti` of the only token that stays valid.
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
    /// Creates an empty collection.
    pub fn new(max_sockets: usize, retention: Duration, present: Option<Arc<PresentUsers>>) -> Self {
        Self { sockets: Mutex::default(), revoked: Mutex::default(), retention, max_sockets, present }
    }

    fn sockets(&self) -> MutexGuard<'_, HashMap<UserId, Vec<UserSocket>>> {
        self.sockets.lock().expect("no holder of this lock panics")
    }

    fn revoked(&self) -> MutexGuard<'_, Revoked> {
        self.revoked.lock().expect("no holder of this lock panics")
    }

    /// How long a revocation is kept.
    pub const fn retention(&self) -> Duration {
        self.retention
    }

    /// Adds a socket.
    ///
    /// # Errors
    /// If the user has the maximum number of sockets, or the token was revoked after its check.
    pub fn add(self: &Arc<Self>, identity: &Identity, outbox: Arc<Outbox>) -> Result<SocketSlot, Denied> {
        let user = identity.user_id;
        let mut sockets = self.sockets();
        let of_user = sockets.entry(user).or_default();
        if of_user.len() >= self.max_sockets {
            metrics::counter!("gateway_sockets_limited_total").increment(1);
            return Err(Denied::Full);
        }
        of_user.reserve_exact(1); // Most users have one socket.
        of_user.push(UserSocket { outbox: Arc::downgrade(&outbox), stamp: identity.stamp.clone() });
        drop(sockets);
        let slot = SocketSlot { users: self.clone(), user, outbox };
        // Checked after the socket was added: a concurrent revocation either finds the socket or is found here.
        if self.is_revoked(identity) { Err(Denied::Revoked) } else { Ok(slot) }
    }

    /// Whether a token was issued before its user's sessions were ended. A token without a time of issue counts as
    /// older.
    pub fn is_revoked(&self, identity: &Identity) -> bool {
        self.revoked().covers(identity.user_id, &identity.stamp)
    }

    /// Refuses a user's tokens issued up to this time, and closes the sockets with such a token. Sockets with a later
    /// token stay open, even if the same revocation is read again.
    pub fn revoke(&self, user: UserId, until: i64) {
        let mut revoked = self.revoked();
        let known = revoked.until.entry(user).or_insert(until);
        *known = until.max(*known);
        drop(revoked);
        let (sockets, revoked) = (self.sockets(), self.revoked());
        let of_user = sockets.get(&user).into_iter().flatten();
        let covered = of_user.filter(|socket| revoked.covers(user, &socket.stamp));
        for outbox in covered.filter_map(|socket| socket.outbox.upgrade()) {
            outbox.close(Close::Unauthorized);
        }
    }

    /// Sets the only token that the revocation of this time does not cover, or removes it. Must be called before
    /// [`Users::revoke`].
    pub fn except(&self, user: UserId, until: i64, jti: Option<Arc<str>>) {
        self.revoked().except(user, until, jti);
    }

    /// Whether a revocation of this user has named a token that stays valid.
    pub fn has_exception(&self, user: UserId) -> bool {
        self.revoked().exceptions.contains_key(&user)
    }

    /// Removes a revocation that an operator has deleted.
    pub fn lift(&self, user: UserId) {
        self.revoked().until.remove(&user);
    }

    /// All known revocations.
    pub fn revocations(&self) -> Vec<Revocation> {
        let revoked = self.revoked();
        let except = |user: &UserId, until: i64| {
            revoked.exceptions.get(user).filter(|(at, _)| *at == until).map(|(_, jti)| jti.clone())
        };
        let all = revoked.until.iter();
        all.map(|(user, until)| Revocation { user: *user, until: *until, except: except(user, *until) })
            .collect()
    }

    /// Removes revocations that have reached the end of their retention.
    pub fn forget_old(&self) {
        let oldest = Timestamp::now().unix() - i64::try_from(self.retention.as_secs()).unwrap_or(i64::MAX);
        let mut revoked = self.revoked();
        let Revoked { until, exceptions } = &mut *revoked;
        until.retain(|_, until| *until > oldest);
        // By its own time: an exception is read before its revocation.
        exceptions.retain(|_, (until, _)| *until > oldest);
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
        Arc::new(Users::new(10, Duration::from_secs(60), None))
    }

    fn outbox() -> Arc<Outbox> {
        Arc::new(Outbox::new(16, 1024))
    }

    fn is_closed(outbox: &Outbox) -> bool {
        outbox.poll_take(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn a_revocation_between_the_check_of_a_token_and_its_socket_is_found() {
        let users = users();
        let checked = identity(Some(100), None);
        assert!(!users.is_revoked(&checked));
        users.revoke(user(), 100);
        assert_eq!(users.add(&checked, outbox()).err(), Some(Denied::Revoked));
        assert!(users.add(&identity(Some(101), None), outbox()).is_ok());
    }

    #[test]
    fn old_revocations_are_removed_with_their_exceptions() {
        let users = users();
        users.except(user(), 100, Some("a".into()));
        users.revoke(user(), 100);
        assert_eq!(users.revocations(), [Revocation { user: user(), until: 100, except: Some("a".into()) }]);
        users.forget_old();
        assert!(users.revocations().is_empty() && !users.has_exception(user()));
    }

    #[test]
    fn an_exception_waits_for_its_revocation() {
        let users = users();
        let now = Timestamp::now().unix();
        users.except(user(), now, Some("a".into()));
        users.forget_old();
        users.revoke(user(), now);
        let is_revoked = |jti| users.is_revoked(&identity(Some(now - 60), Some(jti)));
        assert_eq!((is_revoked("a"), is_revoked("b")), (false, true));
    }

    proptest! {
        /// Revocations may be read in any order and repeatedly: exactly the sockets whose token is covered are closed.
        #[test]
        fn a_socket_is_closed_if_and_only_if_a_revocation_covers_its_token(
            issued in proptest::option::of(0_i64..10),
            revocations in proptest::collection::vec(0_i64..10, 0..8),
        ) {
            let users = users();
            let outbox = outbox();
            let slot = users.add(&identity(issued, None), outbox.clone()).unwrap();
            let covered = |until: &i64| issued.is_none_or(|issued| issued <= *until);
            for until in &revocations {
                users.revoke(user(), *until);
                users.revoke(user(), *until);
            }
            prop_assert_eq!(is_closed(&outbox), revocations.iter().any(covered));
            // A socket with a token that is later than all revocations stays open.
            let fresh = self::outbox();
            let later = users.add(&identity(Some(10), None), fresh.clone()).unwrap();
            slot.renew(Stamp { issued_at: Some(10), jti: None });
            for until in &revocations {
                users.revoke(user(), *until);
            }
            prop_assert!(!is_closed(&fresh));
            drop((slot, later));
            prop_assert!(users.sockets().is_empty());
        }
    }
}
