//! Programs that build images.

use std::{fs, process::Command};

use anyhow::{Context, bail, ensure};
use clap::ValueEnum;
use testkit::{Output, Program, Signal, place};

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Tool {
    Docker,
    Podman,
    Buildah,
}

impl Tool {
    fn program(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::Buildah => "buildah",
        }
    }
}

/// A build tool that works on this machine.
pub struct Builder(Tool);

impl Builder {
    /// Returns `wanted`, or the first tool that works.
    ///
    /// # Errors
    /// If no tool works: the reason for each of them.
    pub fn find(wanted: Option<Tool>) -> anyhow::Result<Self> {
        let candidates = wanted.map_or_else(|| Tool::value_variants().to_vec(), |tool| vec![tool]);
        let mut reasons = Vec::new();
        for tool in candidates {
            match output(tool.program(), &["info"]) {
                Ok(_) => return Ok(Self(tool)),
                Err(error) => reasons.push(format!("{error:#}")),
            }
        }
        bail!(
            "no image builder works: install docker, podman or buildah (Debian: apt-get install buildah), or start \
             docker's daemon ({})",
            reasons.join("; ")
        )
    }

    pub fn name(&self) -> &'static str {
        self.0.program()
    }

    /// Checks that each base image of the Dockerfile is present or can be pulled.
    pub fn has_base_images(&self) -> anyhow::Result<()> {
        let dockerfile =
            fs::read_to_string(place::workspace().join("Dockerfile")).context("read Dockerfile")?;
        let froms = dockerfile.lines().filter_map(|line| line.strip_prefix("FROM ")?.split(' ').next());
        // References to other stages have no tag.
        for image in froms.filter(|image| image.contains(':') && !image.contains('$')) {
            let full = format!("docker.io/library/{image}");
            if output(self.name(), &["inspect", "--type=image", &full]).is_err() {
                output(self.name(), &["pull", &full]).with_context(|| format!("pull {full}"))?;
            }
        }
        Ok(())
    }

    /// Builds one image from the workspace's Dockerfile, under all `names`.
    pub async fn build(
        &self,
        names: &[String],
        several_platforms: bool,
        push: bool,
        arguments: &[String],
    ) -> anyhow::Result<()> {
        // Only buildx builds for several platforms. It also pushes what docker's own store may not keep: attestations.
        let is_docker = self.0 == Tool::Docker;
        let is_buildx = is_docker && (several_platforms || push);
        let mut command: Vec<String> = match self.0 {
            Tool::Docker if is_buildx => vec!["buildx".to_owned(), "build".to_owned()],
            // Podman's and Buildah's default format has no health checks. Without layers, each image would compile all
            // programs again.
            Tool::Podman | Tool::Buildah => {
                ["build", "--format=docker", "--layers"].map(str::to_owned).to_vec()
            }
            Tool::Docker => vec!["build".to_owned()],
        };
        match names {
            [name, ..] if several_platforms && !is_docker => command.push(format!("--manifest={name}")),
            names => command.extend(names.iter().map(|name| format!("--tag={name}"))),
        }
        if is_buildx && push {
            command.push("--push".to_owned());
        }
        command.extend(arguments.iter().cloned());
        command.push(".".to_owned());
        self.run(command).await?;
        if several_platforms && !is_docker {
            for name in names.iter().skip(1) {
                output(self.name(), &["tag", &names[0], name])?;
            }
        }
        if push && !is_buildx {
            for name in names {
                let all = if several_platforms { vec!["manifest", "push", "--all"] } else { vec!["push"] };
                let command = all.into_iter().chain([name.as_str()]).map(str::to_owned).collect();
                self.run(command).await?;
            }
        }
        Ok(())
    }

    /// Pushes images for several platforms under `names`, each from pushed images with the same name and a suffix.
    ///
    /// # Errors
    /// If the tool is not docker, or fails.
    pub async fn join(&self, names: &[String], suffixes: &[String]) -> anyhow::Result<()> {
        ensure!(self.0 == Tool::Docker, "--join needs docker");
        for name in names {
            let parts = suffixes.iter().map(|suffix| format!("{name}-{suffix}"));
            let command = ["buildx", "imagetools", "create", "--tag", name].map(str::to_owned);
            self.run(command.into_iter().chain(parts).collect()).await?;
        }
        Ok(())
    }

    /// Runs the image's program once, with `--help`.
    pub fn start(&self, image: &str) -> anyhow::Result<()> {
        if self.0 != Tool::Buildah {
            output(self.name(), &["run", "--rm", image, "--help"])?;
            return Ok(());
        }
        let container = output(self.name(), &["from", image])?;
        let service = image.rsplit('/').next().and_then(|name| name.split(':').next()).unwrap_or(image);
        let done = output(self.name(), &["run", &container, "--", service, "--help"]);
        output(self.name(), &["rm", &container])?;
        done.map(drop)
    }

    /// Size of an image, if it has a single platform.
    pub fn size(&self, image: &str) -> Option<String> {
        let sizes = output(self.name(), &["images", "--format={{.Size}}", image]).ok()?;
        sizes.lines().next().map(str::to_owned)
    }

    async fn run(&self, command: Vec<String>) -> anyhow::Result<()> {
        let line = format!("{} {}", self.name(), command.join(" "));
        eprintln!("== {line}");
        let program = Program::new(self.name()).args(command).folder(place::workspace());
        let child = program.output(Output::Inherit).stop_signal(Signal::Term).spawn()?;
        let status = child.wait().await;
        ensure!(status.is_some_and(|status| status.success()), "failed: {line}");
        Ok(())
    }
}

/// Output of a short-lived tool.
fn output(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = match Command::new(program).args(arguments).current_dir(place::workspace()).output() {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => bail!("{program} is not installed"),
        Err(error) => return Err(error).with_context(|| format!("run {program}")),
    };
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{program} {}: {}",
        arguments.join(" "),
        errors.trim().lines().last().unwrap_or("failed without an error message")
    );
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
