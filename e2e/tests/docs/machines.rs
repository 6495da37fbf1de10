//! Checks the OpenAPI and AsyncAPI documents with standard tools, and the HTTP API with calls generated from OpenAPI.

use crate::tools::{self, Tool};
use e2e::{BACKEND_KEY, Stack, token};
use std::{fs, path::Path};

#[tokio::test]
async fn openapi_and_asyncapi_are_valid() {
    let (python, node) = match (tools::python().await, tools::node().await) {
        (Ok(python), Ok((_, packages))) => (python, packages),
        (Err(reason), _) | (_, Err(reason)) => {
            return tools::skip("the validators of OpenAPI and AsyncAPI", &reason);
        }
    };
    let stack = Stack::start().await;
    let folder = tempfile::tempdir().unwrap();
    for api in ["api", "backend"] {
        let document = format!("http://{}/{api}/openapi.json", stack.host(0));
        let document = stack.http().get(document).send().await.unwrap().text().await.unwrap();
        fs::write(folder.path().join("openapi.json"), document).unwrap();
        let validate = Tool::new(python.with_file_name("openapi-spec-validator"), folder.path());
        validate.args(["--schema", "3.1", "openapi.json"]).output(&[]).await.unwrap();
    }

    let schema = node.join("node_modules/@asyncapi/specs/schemas/3.0.0.json");
    let asyncapi = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/asyncapi.yaml");
    let validate = Tool::new(python.with_file_name("check-jsonschema"), folder.path());
    validate.arg("--schemafile").arg(schema).arg(asyncapi).output(&[]).await.unwrap();
}

#[tokio::test]
async fn responses_to_calls_generated_from_openapi_match_it() {
    let python = match tools::python().await {
        Ok(python) => python,
        Err(reason) => return tools::skip("schemathesis on the HTTP API", &reason),
    };
    let stack = Stack::start().await;
    stack.conversation(&[1, 2]).await;
    let folder = tempfile::tempdir().unwrap();
    // Not checked: rules that no schema expresses (users cannot block themselves, `before` excludes `after`), and
    // messages that are not in a newly created conversation. Each event of a batch fails by itself, in an answer 200.
    let excluded = "positive_data_acceptance,ensure_resource_availability";
    let of_backends = format!("{excluded},negative_data_rejection");
    for (api, bearer, excluded) in
        [("api", token(1), excluded), ("backend", BACKEND_KEY.to_owned(), &of_backends)]
    {
        let tool = Tool::new(python.with_file_name("schemathesis"), folder.path());
        let tool = tool.arg("run").arg(format!("http://{}/{api}/openapi.json", stack.host(0)));
        let tool = tool.arg("--header").arg(format!("Authorization: Bearer {bearer}"));
        // The same calls in every run, and few enough for a test. One worker, because CPython may fail to parse code in
        // two threads at once: "AST constructor recursion depth mismatch" (python/cpython#106905).
        let tool = tool.args(["--seed", "1", "--max-examples", "5", "--workers", "1", "--no-color"]);
        let tool = tool.args(["--checks", "all", "--exclude-checks", excluded]);
        if let Err(error) = tool.output(&[]).await {
            panic!("{api}: {error}");
        }
    }
}
