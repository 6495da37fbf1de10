//! Runs the tests of the browser client, `clients/js`, in Node against a real stack. They may kill its services.

mod control;
mod node;

use e2e::{Options, Stack};
use serde_json::json;

/// Test files. They run one after the other, because some kill services that others need.
const TESTS: [&str; 3] = ["test/features.test.js", "test/faults.test.js", "test/readme.test.js"];

#[tokio::test]
async fn the_clients_tests_pass() {
    let tools = match node::tools().await {
        Ok(tools) => tools,
        Err(reason) => return node::skip("the tests of clients/js", &reason),
    };
    let stack = Stack::with(Options { counts: [2, 1, 1, 1], ..Options::default() }).await;
    let gateways = [stack.host(0), stack.host(1)];
    let control = control::serve(stack).await;
    let env = json!({ "gateways": gateways, "control": control }).to_string();
    let arguments = ["--test", "--test-concurrency=1", "--test-reporter=spec"];
    let output = tools.node(&[&arguments[..], &TESTS].concat(), &[("STACK", &env)]).await;
    println!("{output}");
}

#[tokio::test]
async fn the_clients_types_are_current_and_its_package_is_complete() {
    let tools = match node::tools().await {
        Ok(tools) => tools,
        Err(reason) => return node::skip("the package of clients/js", &reason),
    };
    let shipped = tools.read("realtime.d.ts");
    tools.node(&["node_modules/typescript/bin/tsc"], &[]).await;
    tools.node(&["node_modules/typescript/bin/tsc", "-p", "tsconfig.types.json"], &[]).await;
    assert_eq!(
        tools.read("realtime.d.ts"),
        shipped,
        "realtime.d.ts is outdated; `npm run types` in clients/js rewrites it"
    );
    assert_eq!(tools.read("LICENSE"), include_str!("../../../LICENSE"));

    let packed = tools.npm(&["pack", "--dry-run", "--json", "--ignore-scripts"]).await.unwrap();
    let packed: serde_json::Value = serde_json::from_str(&packed).unwrap();
    let package = packed.get(0).or_else(|| packed.get("@vyzio/realtime")).unwrap();
    let mut files: Vec<&str> =
        package["files"].as_array().unwrap().iter().map(|file| file["path"].as_str().unwrap()).collect();
    files.sort_unstable();
    assert_eq!(files, ["LICENSE", "README.md", "package.json", "realtime.d.ts", "realtime.js"]);
}
