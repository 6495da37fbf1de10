//! The names and the version of the programs, wherever operators see them.

use e2e::{Kind, Options, Stack, binary, within};
use serde_json::Value;
use std::process::Command;

const VERSION: &str = env!("CARGO_PKG_VERSION");

#[tokio::test]
async fn each_program_shows_its_name_and_version() {
    let stack = Stack::with(Options::one_of_each()).await;
    let operator = stack.backend().await;
    for kind in Kind::ALL {
        let program = kind.program();
        let output = Command::new(binary(program).unwrap()).arg("--version").output().unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        let commit = printed
            .strip_prefix(&format!("{program} {VERSION} (commit "))
            .and_then(|rest| rest.strip_suffix(")\n"))
            .unwrap_or_else(|| panic!("{printed:?}"));

        let metrics = stack.metrics(kind, 0).await;
        let info = metrics.lines().find(|line| line.starts_with("target_info{")).unwrap();
        for label in [
            format!(r#"service_name="{program}""#),
            format!(r#"service_version="{VERSION}""#),
            format!(r#"vcs_ref_head_revision="{commit}""#),
        ] {
            assert!(info.contains(&label), "{label} in {info}");
        }

        // In `nats micro ls`, a service has the name of its NATS user.
        let name = kind.user();
        let reply = within(name, operator.request(format!("$SRV.PING.{name}"), "".into())).await.unwrap();
        let reply: Value = serde_json::from_slice(&reply.payload).unwrap();
        assert_eq!((&reply["name"], &reply["version"]), (&name.into(), &VERSION.into()), "{reply}");
    }
}
