//! The browser client, `clients/js`: its own tests, run by Node against a real stack that they may break.

mod control;
mod node;

use e2e::{Options, Stack};
use serde_json::json;

/// Its tests, one after the other: some break what others stand on.
const TESTS: [&str; 3] = ["test/features.test.js", "test/faults.test.js", "test/readme.test.js"];

#[tokio::test]
async fn the_clients_tests_pass_on_a_stack_that_they_break() {
    let tools = match node::tools().await {
        Ok(tools) => tools,
        Err(why) => return node::skip("the tests of clients/js", &why),
    };
    let stack = Stack::with(Options { counts: [2, 1, 1, 1], ..Options::default() }).await;
    let gateways = [stack.host(0), stack.host(1)];
    let control = control::serve(stack).await;
    let env = json!({ "gateways": gateways, "control": control }).to_string();
    let arguments = ["--test", "--test-concurrency=1", "--test-reporter=spec"];
    let said = tools.node(&[&arguments[..], &TESTS].concat(), &[("STACK", &env)]).await;
    println!("{said}");
}

#[tokio::test]
async fn its_types_hold_and_its_package_is_whole() {
    let tools = match node::tools().await {
        Ok(tools) => tools,
        Err(why) => return node::skip("the package of clients/js", &why),
    };
    let shipped = tools.read("realtime.d.ts");
    tools.node(&["node_modules/typescript/bin/tsc"], &[]).await;
    tools.node(&["node_modules/typescript/bin/tsc", "-p", "tsconfig.types.json"], &[]).await;
    assert_eq!(tools.read("realtime.d.ts"), shipped, "`npm run types` in clients/js brings it up to date");
    assert_eq!(tools.read("LICENSE"), include_str!("../../../LICENSE"));

    let packed = tools.npm(&["pack", "--dry-run", "--json", "--ignore-scripts"]).await.unwrap();
    let packed: serde_json::Value = serde_json::from_str(&packed).unwrap();
    let package = packed.get(0).or_else(|| packed.get("@vyzio/realtime")).unwrap();
    let mut files: Vec<&str> =
        package["files"].as_array().unwrap().iter().map(|file| file["path"].as_str().unwrap()).collect();
    files.sort_unstable();
    assert_eq!(files, ["LICENSE", "README.md", "package.json", "realtime.d.ts", "realtime.js"]);
}
