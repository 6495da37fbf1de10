use e2e::{Kind, Options, Socket, Stack};
use futures_util::future::join_all;
use serde_json::json;
use sqlx::{Connection, PgConnection};

fn two_of_each() -> Options {
    Options { counts: [2, 2, 1, 1], env: vec![("SEND_RATE", "0".to_owned())], ..Options::default() }
}

#[tokio::test]
async fn two_hundred_senders_on_two_gateways_receive_the_same_order() {
    let stack = Stack::with(two_of_each()).await;
    let people: Vec<i64> = (1..=100).collect();
    let id = stack.conversation(&people).await;
    let path = format!("/ws/chat/{id}/");
    let open = (0..200).map(|index: i64| {
        let (stack, path) = (&stack, &path);
        async move { stack.socket_at(usize::from(index % 2 == 1), path, index % 100 + 1).await }
    });
    let mut sockets = join_all(open).await;
    join_all(
        sockets.iter_mut().enumerate().map(async |(index, socket)| socket.say(&index.to_string()).await),
    )
    .await;
    let see = async |socket: &mut Socket| {
        let mut seen = Vec::new();
        for seq in 1..=200 {
            let frame = socket.next().await;
            assert_eq!(frame["seq"], seq, "{frame}");
            seen.push(frame["message_id"].as_i64().unwrap());
        }
        seen
    };
    let seen = join_all(sockets.iter_mut().map(see)).await;
    assert!(seen.iter().all(|order| *order == seen[0]));
}

/// Fills a conversation with messages, as its two members would over months.
async fn fill(database: &mut PgConnection, id: i64, sender: i64, messages: i64) {
    let fill = "select count(*) from chat.store_messages(
        array_fill($1::bigint, array[$2::int]), array_fill($3::bigint, array[$2::int]),
        array_fill(null::text, array[$2::int]),
        array(select 'message ' || n from generate_series(1, $2::int) n),
        array(select 'key ' || n from generate_series(1, $2::int) n))";
    sqlx::query("set search_path = chat").execute(&mut *database).await.unwrap();
    let mut transaction = database.begin().await.unwrap();
    sqlx::query(fill).bind(id).bind(messages).bind(sender).execute(&mut *transaction).await.unwrap();
    // No socket needs the events.
    sqlx::query("delete from outbox").execute(&mut *transaction).await.unwrap();
    transaction.commit().await.unwrap();
}

#[tokio::test]
async fn replays_of_ten_thousand_messages_do_not_disturb_other_conversations() {
    let stack = Stack::with(Options { env: vec![("SEND_RATE", "0".to_owned())], ..Options::default() }).await;
    let mut database = PgConnection::connect(&stack.database.url()).await.unwrap();
    let (one, other) = (stack.conversation(&[1, 2]).await, stack.conversation(&[3, 4]).await);
    let live = stack.conversation(&[5, 6]).await;
    fill(&mut database, one, 1, 10_000).await;
    fill(&mut database, other, 3, 10_000).await;
    let resume = async |id: i64, user: i64| {
        let mut socket = stack.socket(&format!("/ws/chat/{id}/?after=0"), user).await;
        for seq in 1..=10_000 {
            assert_eq!(socket.next().await["seq"], seq);
        }
        socket.say("live again").await;
        assert_eq!(socket.next_of("message").await["seq"], 10_001);
    };
    let chat = async {
        let path = format!("/ws/chat/{live}/");
        let (mut ada, mut ben) = (stack.socket(&path, 5).await, stack.socket(&path, 6).await);
        for seq in 1..=50 {
            ada.say("undisturbed").await;
            assert_eq!(ada.next().await["seq"], seq);
            assert_eq!(ben.next().await["seq"], seq);
        }
    };
    tokio::join!(resume(one, 2), resume(other, 4), resume(one, 1), chat);
}

/// Sends messages, repeats each one until its echo arrives, and resumes with `after` whenever the socket ends. Returns
/// the received `seq`s.
async fn send_messages(hosts: &[String], id: i64, user: i64, messages: i64) -> Vec<i64> {
    let (mut seen, mut last, mut sent, mut turn) = (Vec::new(), 0, 0, 0);
    while sent < messages {
        let host = &hosts[turn % hosts.len()];
        turn += 1;
        let url = format!("ws://{host}/ws/chat/{id}/?after={last}&token={}", e2e::token(user));
        let Some(mut socket) = Socket::try_connect(&url).await else {
            tokio::task::yield_now().await;
            continue;
        };
        let key = |sent: i64| format!("{user}-{sent}");
        if !socket.try_send(json!({"message": key(sent), "client_id": key(sent)})).await {
            continue;
        }
        while let Ok(frame) = socket.receive().await {
            if frame["type"] == "error" {
                assert_eq!(frame["code"], "unavailable", "{frame}");
                break;
            }
            if frame["type"] != "message" {
                continue;
            }
            if frame["message_id"].as_i64() > Some(last) {
                last = frame["message_id"].as_i64().unwrap();
                seen.push(frame["seq"].as_i64().unwrap());
            }
            if frame["client_id"] == key(sent).as_str() {
                sent += 1;
                if sent == messages
                    || !socket.try_send(json!({"message": key(sent), "client_id": key(sent)})).await
                {
                    break;
                }
            }
        }
    }
    seen
}

#[tokio::test]
async fn a_rolling_restart_under_load_loses_nothing() {
    let mut stack = Stack::with(Options {
        counts: [2, 2, 2, 2],
        env: vec![("SEND_RATE", "0".to_owned())],
        ..Options::default()
    })
    .await;
    let id = stack.conversation(&[1, 2, 3]).await;
    let hosts = [stack.host(0), stack.host(1)];
    let stopped = std::sync::atomic::AtomicBool::new(false);
    let chat = async |user: i64| {
        let mut rounds = 0;
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            let seen = send_messages(&hosts, id, user, 20).await;
            assert!(seen.windows(2).all(|pair| pair[1] == pair[0] + 1), "a gap in {seen:?}");
            rounds += 1;
        }
        rounds
    };
    let restart = async {
        for kind in [Kind::Chat, Kind::Gateway, Kind::Notify, Kind::Typing] {
            for index in 0..2 {
                assert_eq!(stack.terminate(kind, index).await, Some(0), "{kind:?} {index}");
                stack.restart(kind, index);
                stack.ready().await;
            }
        }
        stopped.store(true, std::sync::atomic::Ordering::Relaxed);
    };
    let (one, two, three, ()) = tokio::join!(chat(1), chat(2), chat(3), restart);
    assert!(one > 0 && two > 0 && three > 0);
    let last = stack.get(&format!("/api/conversations/{id}/messages?limit=1"), 1).await;
    let last_seq = last["items"][0]["seq"].as_i64().unwrap();
    // Every round of a user sends the same twenty messages, which are stored only once.
    assert_eq!(last_seq, 60);
}
