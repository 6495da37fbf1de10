//! What the client's tests ask of their stack: one JSON object a line, answered by one.

use e2e::{Kind, Stack, token_with};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

/// A question.
#[derive(Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
enum Ask {
    /// A token with these claims.
    Token { claims: Value },
    /// A conversation of these people.
    Conversation { users: Vec<i64> },
    /// What another backend publishes.
    Publish { subject: String, payload: Value },
    /// Kills a part with -9: a service by name, or `nats`.
    Kill { part: String, index: usize },
    /// Stops a service as an operator does.
    Terminate { part: String, index: usize },
    /// Starts it again, and waits until all is ready.
    Restart { part: String, index: usize },
}

/// Answers on a port of its own until the test ends.
pub async fn serve(mut stack: Stack) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("its number").port();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            talk(&mut stack, socket).await;
        }
    });
    port
}

/// One test program's questions: they come one program after the other.
async fn talk(stack: &mut Stack, socket: TcpStream) {
    let (reading, mut writing) = socket.into_split();
    let mut lines = BufReader::new(reading).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let answer = match serde_json::from_str(&line) {
            Ok(ask) => answer(stack, ask).await,
            Err(error) => json!({ "error": error.to_string() }),
        };
        if writing.write_all(format!("{answer}\n").as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn answer(stack: &mut Stack, ask: Ask) -> Value {
    match ask {
        Ask::Token { claims } => json!(token_with(claims)),
        Ask::Conversation { users } => json!(stack.conversation(&users).await),
        Ask::Publish { subject, payload } => {
            let nats = stack.backend().await;
            nats.publish(subject, payload.to_string().into()).await.expect("publish");
            nats.flush().await.expect("flush");
            Value::Null
        }
        Ask::Kill { part, index } => {
            match kind(&part) {
                Some(kind) => stack.kill(kind, index).await,
                None => stack.nats.kill().await,
            }
            Value::Null
        }
        Ask::Terminate { part, index } => {
            json!(stack.terminate(kind(&part).expect("a service"), index).await)
        }
        Ask::Restart { part, index } => {
            match kind(&part) {
                Some(kind) => stack.restart(kind, index),
                None => stack.nats.restart().await.expect("restart nats-server"),
            }
            stack.ready().await;
            Value::Null
        }
    }
}

/// The kind of a service; `None` for `nats`.
fn kind(part: &str) -> Option<Kind> {
    let found = Kind::ALL.into_iter().find(|kind| kind.program() == part);
    assert!(found.is_some() || part == "nats", "{part} is no part of a stack");
    found
}
