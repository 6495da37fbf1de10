//! Control of the stack by the client's tests: one JSON object for each request and each reply, one per line.

use e2e::{Kind, Stack, token_with};
use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

/// A request.
#[derive(Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
enum Request {
    /// Creates a token with these claims.
    Token { claims: Value },
    /// Creates a conversation of these users.
    Conversation { users: Vec<i64> },
    /// Publishes as a backend.
    Publish { subject: String, payload: Value },
    /// Sends requests to a service, one after the other, as a backend does. The reply is the list of the answers.
    Call { subject: String, payloads: Vec<Value> },
    /// Runs SQL on the database.
    Query { sql: String },
    /// Kills a service, or nats-server (`nats`), with SIGKILL.
    Kill { part: String, index: usize },
    /// Stops a service with SIGTERM.
    Terminate { part: String, index: usize },
    /// Restarts it and waits until all services are ready.
    Restart { part: String, index: usize },
}

/// Serves requests on a free port until the test ends.
pub async fn serve(mut stack: Stack) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("its number").port();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            serve_connection(&mut stack, socket).await;
        }
    });
    port
}

/// Serves the requests of one test program. The programs run one after the other.
async fn serve_connection(stack: &mut Stack, socket: TcpStream) {
    let (reading, mut writing) = socket.into_split();
    let mut lines = BufReader::new(reading).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let reply = match serde_json::from_str(&line) {
            Ok(request) => execute(stack, request).await,
            Err(error) => json!({ "error": error.to_string() }),
        };
        if writing.write_all(format!("{reply}\n").as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn execute(stack: &mut Stack, request: Request) -> Value {
    match request {
        Request::Token { claims } => json!(token_with(claims)),
        Request::Conversation { users } => json!(stack.conversation(&users).await),
        Request::Publish { subject, payload } => {
            let nats = stack.backend().await;
            nats.publish(subject, payload.to_string().into()).await.expect("publish");
            nats.flush().await.expect("flush");
            Value::Null
        }
        Request::Call { subject, payloads } => {
            let nats = stack.backend().await;
            let mut answers = Vec::new();
            for payload in payloads {
                let answer =
                    nats.request(subject.clone(), payload.to_string().into()).await.expect("an answer");
                answers.push(serde_json::from_slice(&answer.payload).unwrap_or_default());
            }
            Value::Array(answers)
        }
        Request::Query { sql } => {
            let mut database = PgConnection::connect(&stack.database.url()).await.expect("a connection");
            database.execute(AssertSqlSafe(sql)).await.expect("run SQL");
            Value::Null
        }
        Request::Kill { part, index } => {
            match kind(&part) {
                Some(kind) => stack.kill(kind, index).await,
                None => stack.nats.kill().await,
            }
            Value::Null
        }
        Request::Terminate { part, index } => {
            json!(stack.terminate(kind(&part).expect("a service"), index).await)
        }
        Request::Restart { part, index } => {
            match kind(&part) {
                Some(kind) => stack.restart(kind, index),
                None => stack.nats.restart().await.expect("restart nats-server"),
            }
            stack.ready().await;
            Value::Null
        }
    }
}

/// Kind of a service; `None` for `nats`.
fn kind(part: &str) -> Option<Kind> {
    let found = Kind::ALL.into_iter().find(|kind| kind.program() == part);
    assert!(found.is_some() || part == "nats", "{part} is not part of a stack");
    found
}
