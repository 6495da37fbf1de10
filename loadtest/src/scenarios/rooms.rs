//! Conversations in which some sockets send and all receive. The scenarios chat and fan-out are two shapes of this.

use crate::{
    judge::{Judge, Verdict},
    meter::Meter,
    pace::Schedule,
    target::{Channel, Client, Frame, Sender, Stamp, Target},
    world::{self, Conversation},
};
use anyhow::Context;
use futures_util::{StreamExt, TryStreamExt, stream};
use std::{
    cell::{Cell, RefCell},
    ops::ControlFlow,
    rc::Rc,
    time::{Duration, Instant},
};

/// Number of sockets that are opened concurrently.
pub const CONCURRENT_OPENS: usize = 32;
/// Time without any delivery after which the missing messages count as lost.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(6);
/// Time for which a sender waits after an error.
const PAUSE: Duration = Duration::from_millis(20);

/// Shape of the load.
#[derive(Debug, Clone)]
pub struct Plan {
    pub conversations: usize,
    /// Number of users of each conversation.
    pub people: usize,
    /// Number of sockets of each conversation.
    pub sockets: usize,
    /// Number of sending sockets of each conversation.
    pub senders: usize,
    /// Length of a message in characters.
    pub size: usize,
    /// Pace of the senders.
    pub pace: Pace,
}

/// Pace of the senders.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// At a fixed total rate, whether or not earlier messages have arrived.
    Open {
        /// Messages per second.
        rate: f64,
        /// True if all senders send at the same instant.
        burst: bool,
    },
    /// Each sender sends its next message when it has received its last one.
    Closed,
}

struct Room {
    sent: Vec<Cell<u64>>,
    sockets: u64,
}

struct RoomSender {
    room: Rc<Room>,
    index: usize,
    sender: Sender,
}

/// Checks of one socket: of the messages of each sender, and of the log, which is numbered from 1.
struct RoomReceiver {
    room: Rc<Room>,
    senders: Vec<Judge>,
    log: Judge,
}

/// The conversations, with all their sockets.
pub struct Rooms {
    plan: Plan,
    meter: Rc<Meter>,
    running: Cell<bool>,
    rooms: RefCell<Vec<Rc<Room>>>,
    senders: RefCell<Vec<Rc<RoomSender>>>,
    receivers: RefCell<Vec<Rc<RefCell<RoomReceiver>>>>,
}

impl Rooms {
    /// Creates the conversations, and opens all sockets.
    ///
    /// # Errors
    /// If a conversation can't be created or a socket is refused.
    pub async fn open(target: &Target, meter: &Rc<Meter>, plan: Plan) -> anyhow::Result<Rc<Self>> {
        meter.show(&format!("creating {} conversations", plan.conversations));
        let conversations = world::conversations(target, plan.conversations, plan.people).await?;
        meter.show(&format!("opening {} sockets", plan.conversations * plan.sockets));
        let rooms = Rc::new(Self {
            plan,
            meter: meter.clone(),
            running: Cell::new(false),
            rooms: RefCell::default(),
            senders: RefCell::default(),
            receivers: RefCell::default(),
        });
        let mut seats = Vec::new();
        for Conversation { id, users } in &conversations {
            let room = Rc::new(Room {
                sent: vec![Cell::new(0); rooms.plan.senders],
                sockets: u64::try_from(rooms.plan.sockets)?,
            });
            rooms.rooms.borrow_mut().push(room.clone());
            seats.extend(
                (0..rooms.plan.sockets).map(|index| (room.clone(), *id, users[index % users.len()], index)),
            );
        }
        let mut opened = stream::iter(seats.into_iter().enumerate())
            .map(async |(number, (room, id, user, index))| {
                let client = target.open(Channel::Chat(id), user, number).await;
                client.map(|client| (room, index, client)).context("open a socket")
            })
            .buffer_unordered(CONCURRENT_OPENS);
        while let Some((room, index, client)) = opened.try_next().await? {
            rooms.clone().add_client(room, index, client);
        }
        rooms.senders.borrow_mut().sort_by_key(|sender| sender.index); // Alternates between conversations, for an even load.
        Ok(rooms)
    }

    fn add_client(self: Rc<Self>, room: Rc<Room>, index: usize, mut client: Client) {
        let senders = vec![Judge::default(); self.plan.senders];
        let receiver =
            Rc::new(RefCell::new(RoomReceiver { room: room.clone(), senders, log: Judge::from(1) }));
        self.receivers.borrow_mut().push(receiver.clone());
        let sends = index < self.plan.senders;
        let sender = sends.then(|| Rc::new(RoomSender { room, index, sender: client.sender() }));
        self.senders.borrow_mut().extend(sender.clone());
        tokio::task::spawn_local(async move {
            client
                .receive(|frame| {
                    self.on_frame(frame, &mut receiver.borrow_mut(), sender.as_ref());
                    ControlFlow::Continue(())
                })
                .await;
            self.meter.closed.set(self.meter.closed.get() + 1);
        });
    }

    fn on_frame(self: &Rc<Self>, frame: &[u8], receiver: &mut RoomReceiver, sender: Option<&Rc<RoomSender>>) {
        let Ok(frame) = serde_json::from_slice::<Frame<'_>>(frame) else { return };
        match frame.kind {
            "message" => {
                let Some(stamp) = frame.content.and_then(Stamp::of) else { return };
                let Some(judge) = receiver.senders.get_mut(stamp.sender) else { return };
                if judge.receive(stamp.number) {
                    self.meter.count_delivered();
                }
                if let Some(seq) = frame.seq {
                    receiver.log.receive(seq);
                }
                match sender.filter(|sender| sender.index == stamp.sender) {
                    Some(sender) => self.send_next(sender),
                    None => self.meter.record_latency(stamp.due),
                }
            }
            "error" => {
                self.meter.errors.set(self.meter.errors.get() + 1);
                if let Some(sender) = sender {
                    let (rooms, sender) = (self.clone(), sender.clone());
                    tokio::task::spawn_local(async move {
                        tokio::time::sleep(PAUSE).await;
                        rooms.send_next(&sender);
                    });
                }
            }
            _ => {}
        }
    }

    /// In a closed loop, sends the next message after the last one has arrived.
    fn send_next(&self, sender: &RoomSender) {
        if self.plan.pace == Pace::Closed && self.running.get() {
            self.send(sender, self.meter.now());
        }
    }

    fn send(&self, sender: &RoomSender, due: u64) {
        let sent = &sender.room.sent[sender.index];
        let stamp = Stamp { sender: sender.index, number: sent.get(), due };
        if sender.sender.message(&stamp.text(self.plan.size)) {
            sent.set(stamp.number + 1);
            self.meter.count_sent();
        } else {
            self.meter.errors.set(self.meter.errors.get() + 1); // The server has not read for a long time.
        }
    }

    /// Sends for this time, and then waits until all messages have arrived or no more arrive.
    pub async fn run(&self, length: Duration) {
        let senders = self.senders.borrow().clone();
        match self.plan.pace {
            Pace::Closed => {
                self.running.set(true);
                for sender in &senders {
                    self.send(sender, self.meter.now());
                }
                tokio::time::sleep(length).await;
                self.running.set(false);
            }
            Pace::Open { rate, burst } => {
                let together = if burst { senders.len() } else { 1 };
                let mut schedule = Schedule::new(rate / together as f64, length);
                let mut turn = senders.chunks(together).cycle();
                while let (Some(due), Some(turn)) = (schedule.next().await, turn.next()) {
                    for sender in turn {
                        self.send(sender, self.meter.nanos(due));
                    }
                }
            }
        }
        self.wait_delivered().await;
    }

    async fn wait_delivered(&self) {
        let of = |room: &Rc<Room>| room.sent.iter().map(Cell::get).sum::<u64>() * room.sockets;
        let expected: u64 = self.rooms.borrow().iter().map(of).sum();
        let (mut seen, mut at) = (self.meter.delivered.get(), Instant::now());
        while self.meter.delivered.get() < expected && at.elapsed() < DELIVERY_TIMEOUT {
            tokio::time::sleep(Duration::from_millis(2)).await;
            if seen != self.meter.delivered.get() {
                (seen, at) = (self.meter.delivered.get(), Instant::now());
            }
        }
    }

    /// Errors in the messages of all sockets.
    pub fn verdict(&self) -> Verdict {
        let mut all = Verdict::default();
        for receiver in self.receivers.borrow().iter() {
            let receiver = receiver.borrow();
            let mut verdict = Verdict::default();
            for (judge, sent) in receiver.senders.iter().zip(&receiver.room.sent) {
                verdict += judge.verdict(sent.get());
            }
            // Messages of two senders are ordered only if the log has numbers.
            let log = receiver.log.verdict(0);
            verdict.lost = verdict.lost.max(log.lost);
            verdict.repeated = verdict.repeated.max(log.repeated);
            verdict.out_of_order = verdict.out_of_order.max(log.out_of_order);
            all += verdict;
        }
        all
    }
}
