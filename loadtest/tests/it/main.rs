//! The generator on a real stack, for a moment.

use clap::Parser;
use loadtest::{
    run::Run,
    scenarios::Scenario,
    system::{self, Make, System},
};
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
async fn every_scenario_says_what_it_cost_and_that_all_came() {
    let all = async {
        let make = Make { gateways: 1, ..Make::default() };
        let system = system::start(&make).await;

        let chat = run(&system, "chat --conversations 5 --seconds 0.3 --warm-up 0.1").await;
        assert!(chat.sent >= 10, "each of ten people has sent one");
        assert_eq!(chat.delivered, 2 * chat.sent);
        assert!(chat.cpu(None) > 0.0);
        // What is seen by its sender is no latency.
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

        for run in [chat, open, fan_out, burst, typing, notify, handshake, resume, idle] {
            assert!(run.verdict.is_clean() && run.errors == 0 && run.closed == 0, "{run:?}");
            assert!(run.figures.iter().all(|figure| figure.value.is_finite()), "{run:?}");
        }
    };
    LocalSet::new().run_until(all).await;
}
