//! What waits to be written to one client: bounded, and never waited for.

use contract::Close;
use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::Utf8Bytes;

/// A text frame's payload: encoded once, shared by every socket that it goes to.
pub type Frame = Utf8Bytes;

/// Frames that wait for one client.
///
/// Publishers push and never wait: a client that reads too slowly fills its outbox and is closed with 1013. It comes
/// back with `after`, and misses nothing.
pub struct Outbox {
    queue: Mutex<Queue>,
    readable: Notify,
    room: Notify,
    max_frames: usize,
    max_bytes: usize,
    talkative: AtomicBool,
}

#[derive(Default)]
struct Queue {
    frames: VecDeque<Frame>,
    bytes: usize,
    closed: Option<Close>,
}

impl Outbox {
    /// An empty outbox that holds at most so much.
    pub fn new(max_frames: usize, max_bytes: usize) -> Self {
        Self {
            queue: Mutex::default(),
            readable: Notify::new(),
            room: Notify::new(),
            max_frames,
            max_bytes,
            talkative: AtomicBool::new(false),
        }
    }

    /// Queues a frame. Full: the client is closed instead.
    pub fn push(&self, frame: Frame) {
        let mut queue = self.lock();
        if queue.closed.is_some() {
            return;
        }
        if queue.frames.len() >= self.max_frames || queue.bytes + frame.len() > self.max_bytes {
            metrics::counter!("gateway_slow_clients_total").increment(1);
            queue.closed = Some(Close::Overloaded);
        } else {
            queue.bytes += frame.len();
            queue.frames.push_back(frame);
        }
        drop(queue);
        self.readable.notify_one();
    }

    /// Asks the session to close its socket, for the first reason that anyone gives.
    pub fn close(&self, reason: Close) {
        self.lock().closed.get_or_insert(reason);
        self.readable.notify_one();
        self.room.notify_waiters();
    }

    /// Whether the socket is being closed, and why.
    pub fn closed(&self) -> Option<Close> {
        self.lock().closed
    }

    /// Waits until there is something to write or a reason to close.
    pub async fn readable(&self) {
        self.readable.notified().await;
    }

    /// Takes everything that waits.
    pub fn take(&self) -> VecDeque<Frame> {
        let mut queue = self.lock();
        queue.bytes = 0;
        let frames = std::mem::take(&mut queue.frames);
        drop(queue);
        self.room.notify_waiters();
        frames
    }

    /// Waits until most of the outbox is free, so that a replay leaves room for what is live; or until it is closed.
    pub async fn room(&self) {
        loop {
            let room = self.room.notified();
            {
                let queue = self.lock();
                if queue.closed.is_some()
                    || (queue.frames.len() < self.max_frames / 4 && queue.bytes < self.max_bytes / 4)
                {
                    return;
                }
            }
            room.await;
        }
    }

    /// Whether the client understands more than the old guide's frames.
    pub fn is_talkative(&self) -> bool {
        self.talkative.load(Ordering::Relaxed)
    }

    /// The client has shown that it understands more than the old guide's frames.
    pub fn set_talkative(&self) {
        self.talkative.store(true, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("no holder of this lock panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_outbox_closes_its_client() {
        let outbox = Outbox::new(2, 100);
        for _ in 0..3 {
            outbox.push("frame".into());
        }
        assert_eq!(outbox.closed(), Some(Close::Overloaded));
        assert_eq!(outbox.take().len(), 2);
        let outbox = Outbox::new(10, 8);
        outbox.push("frame".into());
        assert_eq!(outbox.closed(), None);
        outbox.push("frame".into());
        assert_eq!(outbox.closed(), Some(Close::Overloaded));
    }

    #[tokio::test]
    async fn a_replay_waits_for_room() {
        let outbox = Outbox::new(4, 1_000);
        outbox.push("frame".into());
        let waits = outbox.room();
        tokio::pin!(waits);
        assert!(futures_util::poll!(&mut waits).is_pending());
        outbox.take();
        waits.await;
    }
}
