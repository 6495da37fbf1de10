//! What waits to be written to one client: bounded, and never waited for.

use crate::websocket::Frame;
use contract::Close;
use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
};
use tokio::sync::Notify;

/// Frames that wait for one client.
///
/// Publishers push and never wait: a client that reads too slowly fills its outbox and is closed with 1013. It comes
/// back with `after`, and misses nothing.
pub struct Outbox {
    queue: Mutex<Queue>,
    room: Notify,
    max_frames: usize,
    max_bytes: usize,
    understands_extensions: AtomicBool,
}

#[derive(Default)]
struct Queue {
    frames: VecDeque<Frame>,
    bytes: usize,
    closed: Option<Close>,
    /// Wakes the session, which waits for something to write.
    reader: Option<Waker>,
}

impl Outbox {
    /// An empty outbox that holds at most so much.
    pub fn new(max_frames: usize, max_bytes: usize) -> Self {
        Self {
            queue: Mutex::default(),
            room: Notify::new(),
            max_frames,
            max_bytes,
            understands_extensions: AtomicBool::new(false),
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
        wake(queue);
    }

    /// Asks the session to close its socket, for the first reason that anyone gives.
    pub fn close(&self, reason: Close) {
        let mut queue = self.lock();
        queue.closed.get_or_insert(reason);
        wake(queue);
        self.room.notify_waiters();
    }

    /// Takes everything that waits, and says whether the socket is to be closed after that, and why. Only one task may
    /// ask.
    pub fn poll_take(&self, cx: &mut Context<'_>) -> Poll<(VecDeque<Frame>, Option<Close>)> {
        let mut queue = self.lock();
        if queue.frames.is_empty() && queue.closed.is_none() {
            if !queue.reader.as_ref().is_some_and(|reader| reader.will_wake(cx.waker())) {
                queue.reader = Some(cx.waker().clone());
            }
            return Poll::Pending;
        }
        queue.bytes = 0;
        let taken = (std::mem::take(&mut queue.frames), queue.closed);
        drop(queue);
        self.room.notify_waiters();
        Poll::Ready(taken)
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
    pub fn understands_extensions(&self) -> bool {
        self.understands_extensions.load(Ordering::Relaxed)
    }

    /// The client has shown that it understands more than the old guide's frames.
    pub fn set_understands_extensions(&self) {
        self.understands_extensions.store(true, Ordering::Relaxed);
    }

    #[cfg(test)]
    fn closed(&self) -> Option<Close> {
        self.lock().closed
    }

    #[cfg(any(test, feature = "bench"))]
    pub fn take(&self) -> VecDeque<Frame> {
        match self.poll_take(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready((frames, _)) => frames,
            Poll::Pending => VecDeque::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("no holder of this lock panics")
    }
}

/// Wakes the session, which is not to wait for this lock.
fn wake(mut queue: MutexGuard<'_, Queue>) {
    let reader = queue.reader.take();
    drop(queue);
    if let Some(reader) = reader {
        reader.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_outbox_closes_its_client() {
        let outbox = Outbox::new(2, 100);
        for _ in 0..3 {
            outbox.push(Frame::text("frame"));
        }
        assert_eq!(outbox.closed(), Some(Close::Overloaded));
        assert_eq!(outbox.take().len(), 2);
        let outbox = Outbox::new(10, 8);
        outbox.push(Frame::text("frame"));
        assert_eq!(outbox.closed(), None);
        outbox.push(Frame::text("frame"));
        assert_eq!(outbox.closed(), Some(Close::Overloaded));
    }

    #[tokio::test]
    async fn a_replay_waits_for_room() {
        let outbox = Outbox::new(4, 1_000);
        outbox.push(Frame::text("frame"));
        let waits = outbox.room();
        tokio::pin!(waits);
        assert!(futures_util::poll!(&mut waits).is_pending());
        outbox.take();
        waits.await;
    }
}
