use e2e::{Flow, Kind, Options, Stack, eventually};
use std::time::{Duration, Instant};
use testkit::NatsServer;

async fn turns(stack: &Stack, kind: Kind, status: u16) {
    let what = format!("{status} of {kind:?}");
    eventually(&what, async || (stack.readyz(kind, 0).await == Some(status)).then_some(())).await;
}

#[tokio::test]
async fn a_stalled_nats_shows_and_passes() {
    let stack = Stack::start().await;
    // Of a cluster, all: where one stalls, its clients go to another.
    stack.servers().for_each(NatsServer::stop);
    let stalled = Instant::now();
    for kind in Kind::ALL {
        turns(&stack, kind, 503).await;
    }
    assert!(stalled.elapsed() < Duration::from_secs(10), "{:?}", stalled.elapsed());
    stack.servers().for_each(NatsServer::cont);
    stack.ready().await;
}

#[tokio::test]
async fn a_silent_postgres_shows_and_passes() {
    let options = Options { counts: [1, 1, 1, 0], proxied: true, ..Options::default() };
    let stack = Stack::with(options).await;
    let both = [Kind::Chat, Kind::Notify];
    both.iter().for_each(|kind| stack.links_of(*kind, 0).postgres.set(Flow::Stall));
    let stalled = Instant::now();
    for kind in both {
        turns(&stack, kind, 503).await;
    }
    assert!(stalled.elapsed() < Duration::from_secs(10), "{:?}", stalled.elapsed());
    assert_eq!(stack.readyz(Kind::Gateway, 0).await, Some(200), "it has no Postgres");
    both.iter().for_each(|kind| stack.links_of(*kind, 0).postgres.set(Flow::Pass));
    stack.ready().await;
}

#[tokio::test]
async fn many_who_ask_at_once_cost_no_more_than_one() {
    let stack = Stack::with(Options { counts: [1, 0, 0, 0], ..Options::default() }).await;
    stack.nats.stop();
    turns(&stack, Kind::Gateway, 503).await;
    let asked = Instant::now();
    let answers = futures_util::future::join_all((0..100).map(|_| stack.readyz(Kind::Gateway, 0))).await;
    assert!(answers.iter().all(|answer| *answer == Some(503)), "{answers:?}");
    // One check takes at most 4 s.
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    stack.nats.cont();
}
