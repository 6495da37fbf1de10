//! The bounded queue of frames for one socket. Publishers never wait for it.

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

/// The frames that wait for one socket.
///
/// Publishers push and never wait. The outbox of a client that reads too slowly fills up, and its socket is closed with
/// 1013. The client reconnects with `after` and misses nothing.
pub struct Outbox {
    queue: Mutex<Queue>,
    room: Notify,
    max_frames: usize,
    max_bytes: usize,
    understands_extensions: AtomicBool,
    is_visible: AtomicBool,
}

#[derive(Default)]
struct Queue {
    frames: VecDeque<Frame>,
    bytes: usize,
    closed: Option<Close>,
    /// Wakes the session, which waits for frames.
    reader: Option<Waker>,
}

impl Outbox {
    /// Creates an empty outbox with these limits.
    pub fn new(max_frames: usize, max_bytes: usize) -> Self {
        Self {
            queue: Mutex::default(),
            room: Notify::new(),
            max_frames,
            max_bytes,
            understands_extensions: AtomicBool::new(false),
            is_visible: AtomicBool::new(false),
        }
    }

    /// Queues a frame. If the outbox is full, closes the socket instead.
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

    /// Requests the session to close its socket. Only the first reason counts.
    pub fn close(&self, reason: Close) {
        let mut queue = self.lock();
        queue.closed.get_or_insert(reason);
        wake(queue);
        self.room.notify_waiters();
    }

    /// Takes all frames, with the reason if the socket must be closed after them. Only one task may poll.
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

    /// Waits until most of the outbox is free, so that a replay leaves room for live frames, or until it is closed.
    pub async fn wait_for_room(&self) {
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

    /// Whether the client understands more frames than those of the old guide.
    pub fn understands_extensions(&self) -> bool {
        self.understands_extensions.load(Ordering::Relaxed)
    }

    /// Records that the client understands more frames than those of the old guide.
    pub fn set_understands_extensions(&self) {
        self.understands_extensions.store(true, Ordering::Relaxed);
    }

    /// Whether the socket is open and someone may look at its page.
    pub fn is_visible(&self) -> bool {
        self.is_visible.load(Ordering::Relaxed)
    }

    /// Sets whether someone may look at the socket's page.
    pub fn set_visible(&self, visible: bool) {
        self.is_visible.store(visible, Ordering::Relaxed);
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

/// Releases the lock, and then wakes the session, so that the session does not wait for the lock.
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
    fn a_full_outbox_closes_its_socket() {
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
        let waits = outbox.wait_for_room();
        tokio::pin!(waits);
        assert!(futures_util::poll!(&mut waits).is_pending());
        outbox.take();
        waits.await;
    }
}
