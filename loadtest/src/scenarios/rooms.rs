//! Conversations in which people send and everyone hears: chat and fan-out are two shapes of it.

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

/// Sockets that are opened at once.
pub const OPENING: usize = 32;
/// After this long without anything new, what has not come does not come.
const SILENCE: Duration = Duration::from_secs(6);
/// How long a sender waits after an error.
const PAUSE: Duration = Duration::from_millis(20);

/// The shape of it.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Conversations.
    pub conversations: usize,
    /// Users of each.
    pub people: usize,
    /// Sockets of each.
    pub sockets: usize,
    /// Sockets of each that send.
    pub senders: usize,
    /// Characters of a message.
    pub size: usize,
    /// When they send.
    pub pace: Pace,
}

/// When senders send.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// At a rate of messages per second over all, whether or not those before have arrived; in bursts, all senders at
    /// the same instant.
    Open {
        /// Messages per second.
        rate: f64,
        /// Whether all senders send together.
        burst: bool,
    },
    /// Each as soon as it sees its message before.
    Closed,
}

struct Room {
    sent: Vec<Cell<u64>>,
    sockets: u64,
}

struct Mouth {
    room: Rc<Room>,
    place: usize,
    sender: Sender,
}

/// What one socket heard: of each sender, and of the log, which is numbered from 1.
struct Ear {
    room: Rc<Room>,
    senders: Vec<Judge>,
    log: Judge,
}

/// The conversations, with everyone in them.
pub struct Rooms {
    plan: Plan,
    meter: Rc<Meter>,
    running: Cell<bool>,
    rooms: RefCell<Vec<Rc<Room>>>,
    mouths: RefCell<Vec<Rc<Mouth>>>,
    ears: RefCell<Vec<Rc<RefCell<Ear>>>>,
}

impl Rooms {
    /// Makes the conversations, and lets everyone in.
    ///
    /// # Errors
    /// When a conversation can't be made or a socket is refused.
    pub async fn open(target: &Target, meter: &Rc<Meter>, plan: Plan) -> anyhow::Result<Rc<Self>> {
        meter.say(&format!("makes {} conversations", plan.conversations));
        let conversations = world::conversations(target, plan.conversations, plan.people).await?;
        meter.say(&format!("opens {} sockets", plan.conversations * plan.sockets));
        let rooms = Rc::new(Self {
            plan,
            meter: meter.clone(),
            running: Cell::new(false),
            rooms: RefCell::default(),
            mouths: RefCell::default(),
            ears: RefCell::default(),
        });
        let mut places = Vec::new();
        for Conversation { id, users } in &conversations {
            let room = Rc::new(Room {
                sent: vec![Cell::new(0); rooms.plan.senders],
                sockets: u64::try_from(rooms.plan.sockets)?,
            });
            rooms.rooms.borrow_mut().push(room.clone());
            places.extend(
                (0..rooms.plan.sockets).map(|place| (room.clone(), *id, users[place % users.len()], place)),
            );
        }
        let mut opened = stream::iter(places.into_iter().enumerate())
            .map(async |(number, (room, id, user, place))| {
                let client = target.open(Channel::Chat(id), user, number).await;
                client.map(|client| (room, place, client)).context("open a socket")
            })
            .buffer_unordered(OPENING);
        while let Some((room, place, client)) = opened.try_next().await? {
            rooms.clone().enter(room, place, client);
        }
        rooms.mouths.borrow_mut().sort_by_key(|mouth| mouth.place); // Conversations in turn, for an even load.
        Ok(rooms)
    }

    fn enter(self: Rc<Self>, room: Rc<Room>, place: usize, mut client: Client) {
        let senders = vec![Judge::default(); self.plan.senders];
        let ear = Rc::new(RefCell::new(Ear { room: room.clone(), senders, log: Judge::from(1) }));
        self.ears.borrow_mut().push(ear.clone());
        let sends = place < self.plan.senders;
        let mouth = sends.then(|| Rc::new(Mouth { room, place, sender: client.sender() }));
        self.mouths.borrow_mut().extend(mouth.clone());
        tokio::task::spawn_local(async move {
            client
                .hear(|frame| {
                    self.heard(frame, &mut ear.borrow_mut(), mouth.as_ref());
                    ControlFlow::Continue(())
                })
                .await;
            self.meter.closed.set(self.meter.closed.get() + 1);
        });
    }

    fn heard(self: &Rc<Self>, frame: &[u8], ear: &mut Ear, mouth: Option<&Rc<Mouth>>) {
        let Ok(frame) = serde_json::from_slice::<Frame<'_>>(frame) else { return };
        match frame.kind {
            "message" => {
                let Some(stamp) = frame.content.and_then(Stamp::of) else { return };
                let Some(judge) = ear.senders.get_mut(stamp.sender) else { return };
                if judge.hear(stamp.number) {
                    self.meter.count_delivered();
                }
                if let Some(seq) = frame.seq {
                    ear.log.hear(seq);
                }
                match mouth.filter(|mouth| mouth.place == stamp.sender) {
                    Some(mouth) => self.goes_on(mouth),
                    None => self.meter.took(stamp.due),
                }
            }
            "error" => {
                self.meter.errors.set(self.meter.errors.get() + 1);
                if let Some(mouth) = mouth {
                    let (rooms, mouth) = (self.clone(), mouth.clone());
                    tokio::task::spawn_local(async move {
                        tokio::time::sleep(PAUSE).await;
                        rooms.goes_on(&mouth);
                    });
                }
            }
            _ => {}
        }
    }

    /// In a closed loop, a sender that is done with one message sends the next.
    fn goes_on(&self, mouth: &Mouth) {
        if self.plan.pace == Pace::Closed && self.running.get() {
            self.send(mouth, self.meter.now());
        }
    }

    fn send(&self, mouth: &Mouth, due: u64) {
        let sent = &mouth.room.sent[mouth.place];
        let stamp = Stamp { sender: mouth.place, number: sent.get(), due };
        if mouth.sender.message(&stamp.text(self.plan.size)) {
            sent.set(stamp.number + 1);
            self.meter.count_sent();
        } else {
            self.meter.errors.set(self.meter.errors.get() + 1); // The server has not read for long.
        }
    }

    /// Sends for this long, then waits until everything has come, or nothing comes any more.
    pub async fn go(&self, length: Duration) {
        let mouths = self.mouths.borrow().clone();
        match self.plan.pace {
            Pace::Closed => {
                self.running.set(true);
                for mouth in &mouths {
                    self.send(mouth, self.meter.now());
                }
                tokio::time::sleep(length).await;
                self.running.set(false);
            }
            Pace::Open { rate, burst } => {
                let together = if burst { mouths.len() } else { 1 };
                let mut schedule = Schedule::new(rate / together as f64, length);
                let mut turn = mouths.chunks(together).cycle();
                while let (Some(due), Some(turn)) = (schedule.next().await, turn.next()) {
                    for mouth in turn {
                        self.send(mouth, self.meter.nanos(due));
                    }
                }
            }
        }
        self.arrived().await;
    }

    async fn arrived(&self) {
        let of = |room: &Rc<Room>| room.sent.iter().map(Cell::get).sum::<u64>() * room.sockets;
        let expected: u64 = self.rooms.borrow().iter().map(of).sum();
        let (mut seen, mut at) = (self.meter.delivered.get(), Instant::now());
        while self.meter.delivered.get() < expected && at.elapsed() < SILENCE {
            tokio::time::sleep(Duration::from_millis(2)).await;
            if seen != self.meter.delivered.get() {
                (seen, at) = (self.meter.delivered.get(), Instant::now());
            }
        }
    }

    /// What was wrong with what all sockets heard.
    pub fn verdict(&self) -> Verdict {
        let mut all = Verdict::default();
        for ear in self.ears.borrow().iter() {
            let ear = ear.borrow();
            let mut verdict = Verdict::default();
            for (judge, sent) in ear.senders.iter().zip(&ear.room.sent) {
                verdict += judge.verdict(sent.get());
            }
            // Two senders' messages have an order only where the log has numbers.
            let log = ear.log.verdict(0);
            verdict.lost = verdict.lost.max(log.lost);
            verdict.repeated = verdict.repeated.max(log.repeated);
            verdict.out_of_order = verdict.out_of_order.max(log.out_of_order);
            all += verdict;
        }
        all
    }
}
