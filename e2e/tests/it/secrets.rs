//! Secrets: their rotation, and their absence from everything that others can read.

use e2e::{Kind, Options, Socket, Stack, token_with};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use std::{
    fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};
use testkit::{Signal, provision::has_programs};

/// The second password of a NATS user.
fn second_password(user: &str) -> String {
    format!("{user}2secret")
}

/// Adds a second user beside each service's user of `accounts.conf`, with the same permissions: `chat_2` beside `chat`.
/// Without `keep_first`, it replaces the first one.
fn with_second_users(accounts: &str, keep_first: bool) -> String {
    const END: &str = "\n            }\n";
    Kind::ALL.map(Kind::user).iter().fold(accounts.to_owned(), |accounts, user| {
        let start = accounts.find(&format!("            {{\n                user: {user}\n")).unwrap();
        let end = start + accounts[start..].find(END).unwrap() + END.len();
        let first = &accounts[start..end];
        let second = first
            .replace(&format!("user: {user}\n"), &format!("user: {user}_2\n"))
            .replace(&format!("$NATS_{}_PASSWORD", user.to_uppercase()), &second_password(user));
        let first = if keep_first { first } else { "" };
        format!("{}{first}{second}{}", &accounts[..start], &accounts[end..])
    })
}

/// Gives a service its second user and role, and restarts it.
async fn rotate(stack: &mut Stack, kind: Kind, index: usize) {
    let user = kind.user();
    let first = stack.nats.url();
    let (_, address) = first.rsplit_once("//").unwrap();
    let address = address.rsplit_once('@').map_or(address, |(_, address)| address);
    stack.set_env(kind, index, "NATS_URL", format!("nats://{user}_2:{}@{address}", second_password(user)));
    stack.set_env(kind, index, "DATABASE_URL", stack.database.url_as(&format!("{user}_2")));
    assert_eq!(stack.terminate(kind, index).await, Some(0));
    stack.restart(kind, index);
    stack.ready().await;
}

#[tokio::test]
async fn passwords_are_rotated_without_a_refusal() {
    if !has_programs(&["psql"]) {
        return;
    }
    let mut stack = Stack::with(Options {
        counts: [1, 2, 2, 2],
        servers: 1,
        own_postgres: true,
        roles: true,
        ..Options::default()
    })
    .await;
    let id = stack.conversation(&[1, 2]).await;
    let mut socket = stack.socket(&format!("/ws/chat/{id}/"), 1).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let stop = is_over.clone();
    let sending = tokio::spawn(async move {
        let mut sent = 0;
        while !stop.load(Ordering::Relaxed) {
            sent += 1;
            socket.say(&format!("message {sent}")).await;
            let frame = socket.next().await;
            assert_eq!((&frame["type"], &frame["seq"]), (&json!("message"), &json!(sent)), "{frame}");
        }
        sent
    });

    let accounts = stack.nats.folder().join("accounts.conf");
    let first = fs::read_to_string(&accounts).unwrap();
    fs::write(&accounts, with_second_users(&first, true)).unwrap();
    stack.nats.child().signal(Signal::Hup);
    let mut postgres = PgConnection::connect(&stack.database.url()).await.unwrap();
    for role in ["chat", "notify"] {
        let second =
            format!("create role {role}_2 login in role {role}; alter role {role}_2 set role = {role}");
        postgres.execute(AssertSqlSafe(second)).await.unwrap();
    }
    for kind in [Kind::Chat, Kind::Notify, Kind::Typing] {
        for index in 0..2 {
            rotate(&mut stack, kind, index).await;
        }
    }
    for role in ["chat", "notify"] {
        postgres.execute(AssertSqlSafe(format!("alter role {role} nologin"))).await.unwrap();
    }
    is_over.store(true, Ordering::Relaxed);
    let sent = sending.await.unwrap();
    assert!(sent > 0);
    rotate(&mut stack, Kind::Gateway, 0).await;
    fs::write(&accounts, with_second_users(&first, false)).unwrap();
    stack.nats.child().signal(Signal::Hup);

    let first_roles = "select count(*) from pg_stat_activity where usename in ('chat', 'notify')";
    let sessions: i64 = sqlx::query_scalar(first_roles).fetch_one(&mut postgres).await.unwrap();
    assert_eq!(sessions, 0);
    let mut socket = stack.socket(&format!("/ws/chat/{id}/"), 1).await;
    socket.say("after").await;
    assert_eq!(socket.next_of("message").await["seq"], sent + 1);
    let owner: String =
        sqlx::query_scalar("select tableowner::text from pg_tables where tablename = 'messages'")
            .fetch_one(&mut postgres)
            .await
            .unwrap();
    assert_eq!(owner, "chat");
}

#[tokio::test]
async fn secrets_appear_in_no_log_argument_or_answer() {
    if !has_programs(&["psql"]) {
        return;
    }
    let lines: Arc<Mutex<String>> = Arc::default();
    let log = lines.clone();
    let secret = "a distinctive $ecret of this test";
    let mut stack = Stack::with(Options {
        own_postgres: true,
        roles: true,
        env: vec![
            ("RUST_LOG", "trace".to_owned()),
            ("JWT_SECRET", secret.to_owned()),
            ("JWT_SECRET_PREVIOUS", format!("{secret}, the former one")),
        ],
        on_line: Arc::new(move |_, line| {
            let mut log = log.lock().unwrap();
            log.push_str(line);
            log.push('\n');
        }),
        ..Options::one_of_each()
    })
    .await;
    let token =
        testkit::token::sign(secret, json!({"user_id": 1}), std::time::Duration::from_secs(60)).unwrap();
    let of_another_key = token_with(json!({"user_id": 1}));
    for (token, status) in [(&token, 200), (&of_another_key, 401)] {
        let url = format!("http://{}/api/unread", stack.host(0));
        let response = stack.http().get(url).bearer_auth(token).send().await.unwrap();
        assert_eq!(response.status(), status);
    }
    let url = format!("ws://{}/ws/notifications/?token={token}", stack.host(0));
    Socket::open(&url).await.close().await;

    let mut visible = String::new();
    for (kind, index) in stack.services() {
        let arguments = fs::read(format!("/proc/{}/cmdline", stack.pid(kind, index))).unwrap();
        visible.push_str(&String::from_utf8_lossy(&arguments));
        for path in ["metrics", "readyz", "healthz"] {
            let url = format!("http://{}/{path}", stack.admin(kind, index));
            visible.push_str(&stack.http().get(url).send().await.unwrap().text().await.unwrap());
        }
        stack.terminate(kind, index).await;
    }
    let lines = lines.lock().unwrap();
    assert!(lines.contains("TRACE"), "the logs are complete");
    for (place, text) in [("a log", lines.as_str()), ("an argument or an answer", &visible)] {
        let mut secrets =
            vec![secret.to_owned(), token.clone(), of_another_key.clone(), "unused@".to_owned()];
        secrets.extend(Kind::ALL.map(|kind| testkit::accounts::password(kind.user())));
        for secret in secrets {
            let line = text.lines().find(|line| line.contains(&secret));
            assert!(line.is_none(), "{secret} is in {place}: {}", line.unwrap_or_default());
        }
    }
}
