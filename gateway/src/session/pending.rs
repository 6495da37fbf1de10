//! The commands of one client that others carry out: one after the other, so that its messages keep their order, while
//! the socket goes on reading.

use super::Asked;
use futures_util::future::BoxFuture;
use std::{
    collections::VecDeque,
    task::{Context, Poll},
};

/// Commands that are pending at once. With that many, nothing more is read: a flood waits in its own TCP connection.
const PENDING: usize = 64;

/// The commands that are not done yet. Boxed, as most sockets have none.
#[derive(Default)]
pub struct Pending(Option<Box<Commands>>);

#[derive(Default)]
struct Commands {
    /// The first one is being carried out.
    queue: VecDeque<BoxFuture<'static, Asked>>,
    /// A fresh token, which waits for no message.
    token: Option<BoxFuture<'static, Asked>>,
}

impl Pending {
    /// Whether every command is done.
    pub const fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Whether no further command may be added.
    pub fn is_full(&self) -> bool {
        self.0.as_ref().is_some_and(|commands| commands.queue.len() >= PENDING)
    }

    /// Adds a command, which is carried out after those before it.
    pub fn push(&mut self, command: BoxFuture<'static, Asked>) {
        self.0.get_or_insert_default().queue.push_back(command);
    }

    /// Adds the check of a fresh token, which waits for no other command. A newer token replaces an older one.
    pub fn check_token(&mut self, check: BoxFuture<'static, Asked>) {
        self.0.get_or_insert_default().token = Some(check);
    }

    /// Waits for the next command that is done.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Asked> {
        let Some(commands) = &mut self.0 else { return Poll::Pending };
        let done = if let Some(done) = commands.poll_token(cx) {
            done
        } else if let Some(first) = commands.queue.front_mut()
            && let Poll::Ready(done) = first.as_mut().poll(cx)
        {
            commands.queue.pop_front();
            done
        } else {
            return Poll::Pending;
        };
        if commands.queue.is_empty() && commands.token.is_none() {
            self.0 = None;
        }
        Poll::Ready(done)
    }
}

impl Commands {
    fn poll_token(&mut self, cx: &mut Context<'_>) -> Option<Asked> {
        match self.token.as_mut()?.as_mut().poll(cx) {
            Poll::Ready(done) => {
                self.token = None;
                Some(done)
            }
            Poll::Pending => None,
        }
    }
}
