//! Short runs of the generator on a real stack.

use clap::Parser;
use loadtest::seed::{self, Seeded, Shape};
use loadtest::{
    run::Run,
    scenarios::Scenario,
    system::{self, StackOptions, System},
};
use sqlx::{Connection, PgConnection};
use tokio::task::LocalSet;

#[derive(Parser)]
struct Load {
    #[command(subcommand)]
    scenario: Scenario,
}

async fn run(system: &System, command: &str) -> Run {
    let words = std::iter::once("load").chain(command.split_whitespace());
    Load::parse_from(words).scenario.run(&system.target).await.expect("a run")
}

#[tokio::test]
async fn every_scenario_reports_its_cost_and_complete_delivery() {
    let all = async {
        let options = StackOptions { gateways: 1, ..StackOptions::default() };
        let system = system::start(&options).await;

        let chat = run(&system, "chat --conversations 5 --seconds 0.3 --warm-up 0.1").await;
        assert!(chat.sent >= 10, "each of ten users has sent one message");
        assert_eq!(chat.delivered, 2 * chat.sent);
        assert!(chat.cpu(None) > 0.0);
        // A message that its own sender receives has no latency.
        assert_eq!(chat.latency.as_ref().map(|latency| latency.count), Some(chat.sent));

        let open = run(&system, "chat --conversations 2 --rate 50 --seconds 0.5 --warm-up 0").await;
        assert_eq!((open.sent, open.delivered), (25, 50));
        let fan_out = run(&system, "fan-out --sockets 20 --rate 20 --seconds 0.5 --warm-up 0").await;
        assert_eq!((fan_out.sent, fan_out.delivered), (10, 200));
        let burst = "fan-out --sockets 10 --senders 5 --burst --rate 50 --seconds 0.2 --warm-up 0";
        let burst = run(&system, burst).await;
        assert_eq!((burst.sent, burst.delivered), (10, 100));
        let typing = run(&system, "typing --pairs 2 --rate 20 --seconds 0.5 --warm-up 0").await;
        assert_eq!((typing.sent, typing.delivered), (10, 10));
        let notify = run(&system, "notify --users 3 --rate 20 --seconds 0.5 --warm-up 0").await;
        assert_eq!((notify.sent, notify.delivered), (10, 10));
        let handshake = run(&system, "handshake --rate 20 --seconds 0.5 --warm-up 0").await;
        assert_eq!((handshake.sent, handshake.delivered), (10, 10));
        let resume = "resume --stored 50 --missed 7 --rate 20 --seconds 0.5 --warm-up 0";
        let resume = run(&system, resume).await;
        assert_eq!((resume.sent, resume.delivered), (10, 10));
        let idle = run(&system, "idle --sockets 20 --seconds 0.2").await;
        assert_eq!(idle.delivered, 20);

        check_seeded_data(&system).await;

        for run in [chat, open, fan_out, burst, typing, notify, handshake, resume, idle] {
            assert!(run.verdict.is_clean() && run.errors == 0 && run.closed == 0, "{run:?}");
            assert!(run.figures.iter().all(|figure| figure.value.is_finite()), "{run:?}");
        }
    };
    LocalSet::new().run_until(all).await;
}

/// Seeds ten messages in three conversations of two users each: 4, 3 and 3, in the form in which chat-service would
/// store them.
async fn check_seeded_data(system: &System) {
    let database = system.target.database.as_ref().expect("a database");
    let mut connection = PgConnection::connect(database).await.expect("connect to Postgres");
    let shape = Shape { conversations: 3, people: 2, messages: 10 };
    let seeded: Seeded = seed::fill(&mut connection, shape, |_| ()).await.expect("seed");
    let heads: Vec<(i64, i64)> = sqlx::query_as(
        "select c.last_seq, count(*) from conversations c
         join messages m on m.conversation_id = c.conversation_id
         where c.conversation_id between $1 and $1 + 2
         group by c.conversation_id
         having c.last_seq = max(m.seq) and c.last_message_id = max(m.message_id) and c.activity = max(m.message_id)
         order by c.conversation_id",
    )
    .bind(seeded.first_conversation)
    .fetch_all(&mut connection)
    .await
    .expect("heads");
    assert_eq!(heads, [(4, 4), (3, 3), (3, 3)]);
    // Each user has read up to their own last message.
    let markers: Vec<(i64, bool)> = sqlx::query_as(
        "select p.read_seq, p.read_message_id = max(m.message_id) and p.read_seq = max(m.seq)
         from participants p
         join messages m on m.conversation_id = p.conversation_id and m.sender_id = p.user_id
         where p.conversation_id between $1 and $1 + 2
         group by p.conversation_id, p.user_id order by p.conversation_id, p.user_id",
    )
    .bind(seeded.first_conversation)
    .fetch_all(&mut connection)
    .await
    .expect("markers");
    assert_eq!(markers, [(3, true), (4, true), (3, true), (2, true), (3, true), (2, true)]);
    seed::fill_inboxes(&mut connection, seeded.first_user, 6, 4, |_| ()).await.expect("seed inboxes");
    let inboxes: Vec<(i64, i64)> = sqlx::query_as(
        "select i.last_seq, i.unread_count from inboxes i
         join notifications n on n.user_id = i.user_id
         where i.user_id between $1 and $1 + 5
         group by i.user_id
         having i.last_id = max(n.notification_id) and i.last_seq = count(*)
                and i.unread_count = count(*) filter (where n.read_at is null)",
    )
    .bind(seeded.first_user)
    .fetch_all(&mut connection)
    .await
    .expect("inboxes");
    assert_eq!(inboxes, [(4, 1); 6]);
}
