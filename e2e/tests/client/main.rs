//! Runs the tests of the clients, `clients/js`, `clients/python` and `clients/django`, against real stacks. They may
//! kill its services.

mod control;
mod django;
mod package;
mod python;
mod served;

use e2e::{
    Options, Stack,
    node::{self, Tools},
};
use serde_json::json;

/// Test files. They run one after the other, because some kill services that others need.
const TESTS: [&str; 10] = [
    "test/pager.test.js",
    "test/features.test.js",
    "test/identity.test.js",
    "test/lists.test.js",
    "test/conversation.test.js",
    "test/changes.test.js",
    "test/kinds.test.js",
    "test/presence.test.js",
    "test/settings.test.js",
    "test/react.test.js",
];

/// The test files about connections, which mostly wait. They run beside the others, on a stack of their own.
const TESTS_OF_CONNECTIONS: [&str; 7] = [
    "test/native.test.js",
    "test/persist.test.js",
    "test/connection.test.js",
    "test/memory.test.js",
    "test/model.test.js",
    "test/faults.test.js",
    "test/readme.test.js",
];

/// Runs test files on a stack with these variables. `seconds` is the duration of the model test.
async fn run_tests(tools: &Tools, files: &[&str], env: Vec<(&'static str, String)>, seconds: &str) {
    let stack = Stack::with(Options { counts: [2, 1, 1, 1], env, ..Options::default() }).await;
    let gateways = [stack.host(0), stack.host(1)];
    let control = control::serve(stack).await;
    let env = json!({ "gateways": gateways, "control": control }).to_string();
    let arguments = ["--expose-gc", "--test", "--test-concurrency=1", "--test-reporter=spec"];
    let output =
        tools.node(&[&arguments[..], files].concat(), &[("STACK", &env), ("MODEL_SECONDS", seconds)]).await;
    println!("{output}");
}

#[tokio::test]
async fn the_clients_tests_pass() {
    let tools = match node::tools().await {
        Ok(tools) => tools,
        Err(reason) => return node::skip("the tests of clients/js", &reason),
    };
    run_tests(&tools, &TESTS, Vec::new(), "10").await;
}

#[tokio::test]
async fn the_clients_tests_of_connections_pass() {
    let tools = match node::tools().await {
        Ok(tools) => tools,
        Err(reason) => return node::skip("the tests of clients/js about connections", &reason),
    };
    run_tests(&tools, &TESTS_OF_CONNECTIONS, Vec::new(), "10").await;
}

/// `cargo test -p e2e --test client -- --ignored`
#[tokio::test]
#[ignore = "takes ten minutes"]
async fn the_model_test_passes_for_ten_minutes() {
    let tools = node::tools().await.expect("Node and npm");
    run_tests(&tools, &["test/model.test.js"], Vec::new(), "600").await;
}

#[tokio::test]
async fn the_client_needs_no_user_id_in_the_token() {
    let tools = match node::tools().await {
        Ok(tools) => tools,
        Err(reason) => return node::skip("the client without a claim user_id", &reason),
    };
    run_tests(&tools, &["test/claims.test.js"], vec![("USER_ID_CLAIM", "sub".to_owned())], "10").await;
}
