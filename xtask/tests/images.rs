//! The commands of `cargo xtask images`, with a docker that only prints them.
#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

/// The builds and joins of docker.
fn docker(arguments: &[&str]) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("docker");
    fs::write(&program, "#!/bin/sh\necho \"docker $*\"\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    let xtask = env!("CARGO_BIN_EXE_xtask");
    let arguments = [&["images", "--builder", "docker"], arguments].concat();
    let output = Command::new(xtask).args(arguments).env("PATH", path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    lines.lines().filter(|line| line.starts_with("docker ")).map(str::to_owned).collect()
}

#[test]
fn a_pushed_image_keeps_its_attestations() {
    let attest = ["--sbom=true", "--provenance=mode=max"];
    let push = ["gateway", "--prefix", "host/vyzio", "--tag", "1.2.3-arm64", "--push", "--"];
    let commands = docker(&[&push[..], &attest].concat());
    let [build] = &commands[..] else { panic!("{commands:?}") };
    let begin = "docker buildx build --tag=host/vyzio/gateway:1.2.3-arm64 --push --target=gateway ";
    assert!(build.starts_with(begin), "{build}");
    let version = concat!("--label=org.opencontainers.image.version=", env!("CARGO_PKG_VERSION"));
    assert!([version, attest[0], attest[1]].iter().all(|argument| build.contains(argument)), "{build}");
}

#[test]
fn images_of_several_architectures_become_one() {
    let commands = docker(&["gateway", "--prefix", "host/vyzio", "--tag", "1.2.3", "--join", "amd64,arm64"]);
    let image = "host/vyzio/gateway:1.2.3";
    let join = format!("docker buildx imagetools create --tag {image} {image}-amd64 {image}-arm64");
    assert_eq!(commands, [join]);
}
