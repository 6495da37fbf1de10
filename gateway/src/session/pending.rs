//! The commands of a client that services carry out, one after the other, so that the client's messages keep their
//! order. The socket goes on reading meanwhile.

use super::outcome::Outcome;
use futures_util::future::BoxFuture;
use std::{
    collections::VecDeque,
    future::poll_fn,
    task::{Context, Poll},
};

/// Maximum number of pending commands. With that many, the session stops reading, so a flood waits in its own TCP
/// connection.
const PENDING: usize = 64;

/// The pending commands. Boxed, because most sockets have none.
#[derive(Default)]
pub struct Pending(Option<Box<Commands>>);

#[derive(Default)]
struct Commands {
    /// Sends and read markers.
    queue: Lane,
    /// Checks of fresh tokens, which wait for no send.
    tokens: Lane,
}

/// Commands that are carried out one after the other. The first one is in progress.
#[derive(Default)]
struct Lane(VecDeque<BoxFuture<'static, Outcome>>);

impl Pending {
    /// Whether every command is done.
    pub const fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Whether the bound is reached.
    pub fn is_full(&self) -> bool {
        self.0.as_ref().is_some_and(|commands| commands.queue.0.len() + commands.tokens.0.len() >= PENDING)
    }

    /// Adds a command, to be carried out after those before it.
    pub fn push(&mut self, command: BoxFuture<'static, Outcome>) {
        self.0.get_or_insert_default().queue.0.push_back(command);
    }

    /// Adds the check of a fresh token, which waits only for the checks before it.
    pub fn check_token(&mut self, check: BoxFuture<'static, Outcome>) {
        self.0.get_or_insert_default().tokens.0.push_back(check);
    }

    /// Waits for the next outcome.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        let Some(commands) = &mut self.0 else { return Poll::Pending };
        let done = match commands.tokens.poll(cx) {
            Poll::Pending => commands.queue.poll(cx),
            done => done,
        };
        if commands.queue.0.is_empty() && commands.tokens.0.is_empty() {
            self.0 = None;
        }
        done
    }

    /// Carries out the sends and read markers that a client sent before it left.
    pub async fn finish(self) {
        let Some(mut commands) = self.0 else { return };
        while !commands.queue.0.is_empty() {
            poll_fn(|cx| commands.queue.poll(cx)).await;
        }
    }
}

impl Lane {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        let Some(first) = self.0.front_mut() else { return Poll::Pending };
        let done = first.as_mut().poll(cx);
        if done.is_ready() {
            self.0.pop_front();
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{admission::tokens::Rejected, session::outcome::Reply};
    use futures_util::{FutureExt, future};

    fn command(name: &'static str) -> Outcome {
        Outcome::Token(Reply { reference: None, client_id: Some(name.to_owned()) }, Err(Rejected::Missing))
    }

    async fn next(pending: &mut Pending) -> String {
        let Outcome::Token(reply, _) = poll_fn(|cx| pending.poll(cx)).await else {
            panic!("another command")
        };
        reply.client_id.unwrap()
    }

    #[tokio::test]
    async fn each_check_of_a_token_is_answered_and_none_waits_for_a_send() {
        let mut pending = Pending::default();
        pending.push(future::pending().boxed());
        for name in ["first", "second"] {
            pending.check_token(async move { command(name) }.boxed());
        }
        assert_eq!(next(&mut pending).await, "first");
        assert_eq!(next(&mut pending).await, "second");
        assert!(!pending.is_empty());
    }
}
