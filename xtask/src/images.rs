//! `cargo xtask images`

mod builder;

use std::{path::PathBuf, process::ExitCode, time::Instant};

use anyhow::{Context, ensure};
use clap::Args;

use crate::source::Source;
use builder::{Builder, Tool};

const SERVICES: [&str; 4] = ["gateway", "chat-service", "notify-service", "typing-service"];

/// Build the container images of the services.
///
/// Uses the first of docker, podman and buildah that works. Each image gets two tags: its commit (with `-dirty` if
/// files have changed since), and `dev`, which `docker compose` uses.
#[derive(Args)]
pub struct Images {
    /// Build only these services
    #[arg(value_name = "SERVICE", value_parser = SERVICES)]
    services: Vec<String>,
    /// Program that builds; by default the first that works
    #[arg(long, value_enum)]
    builder: Option<Tool>,
    /// Part of the image names before the service
    #[arg(long, value_name = "NAME", default_value = "vyzio")]
    prefix: String,
    /// Tags that replace the commit and `dev`
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Platforms, such as linux/amd64,linux/arm64; a foreign one needs emulation (binfmt_misc)
    #[arg(long, value_name = "PLATFORM", value_delimiter = ',')]
    platform: Vec<String>,
    /// Push the images to the registry in the prefix
    #[arg(long)]
    push: bool,
    /// Build nothing: push each tag as one image for several platforms, from pushed images whose tags also end in these
    /// (amd64,arm64: the tag 0.9.0 from 0.9.0-amd64 and 0.9.0-arm64)
    #[arg(long, value_name = "SUFFIX", value_delimiter = ',', requires = "tags", conflicts_with_all = ["push", "platform"])]
    join: Vec<String>,
    /// Certificates that cargo trusts during the build, for a proxy that inspects TLS; by default those that this machine
    /// trusts. They are not part of the images
    #[arg(long, value_name = "FILE", env = "CARGO_HTTP_CAINFO")]
    ca: Option<PathBuf>,
    /// Also build the image `debug`, which holds the programs' line tables
    #[arg(long)]
    debug: bool,
    /// Build with the tag `check`, and start each program. Skipped with a warning if no builder works or no registry
    /// can be reached
    #[arg(long, conflicts_with_all = ["tags", "push", "platform"])]
    check: bool,
    /// Additional arguments for the build command, after `--`
    #[arg(last = true, value_name = "ARGUMENT")]
    arguments: Vec<String>,
}

impl Images {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        if let Some(ca) = &self.ca {
            ensure!(ca.is_file(), "--ca {}: no such file", ca.display());
        }
        let builder = match Builder::find(self.builder) {
            Ok(builder) => builder,
            Err(error) if self.check => return Ok(skipped(&error)),
            Err(error) => return Err(error),
        };
        if self.check
            && let Err(error) = builder.has_base_images()
        {
            return Ok(skipped(&error));
        }
        let source = Source::read()?;
        let tags = self.tags(&source)?;
        if !self.join.is_empty() {
            for target in self.targets() {
                builder.join(&self.names(&target, &tags), &self.join).await?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        let began = Instant::now();
        for target in self.targets() {
            self.build(&builder, &source, &tags, &target).await?;
        }
        println!("\nbuilt by {} in {:.0} s:", builder.name(), began.elapsed().as_secs_f32());
        for target in self.targets() {
            let image = format!("{}/{target}:{}", self.prefix, tags[0]);
            if self.check && target != "debug" {
                builder.start(&image)?;
            }
            println!("  {image}  {}", builder.size(&image).unwrap_or_else(|| "not kept here".to_owned()));
        }
        Ok(ExitCode::SUCCESS)
    }

    fn tags(&self, source: &Source) -> anyhow::Result<Vec<String>> {
        if self.check {
            return Ok(vec!["check".to_owned()]);
        }
        if !self.tags.is_empty() {
            return Ok(self.tags.clone());
        }
        let commit = source.tag().context("this is not a git checkout: set --tag")?;
        Ok(vec![commit, "dev".to_owned()])
    }

    fn names(&self, target: &str, tags: &[String]) -> Vec<String> {
        tags.iter().map(|tag| format!("{}/{target}:{tag}", self.prefix)).collect()
    }

    fn targets(&self) -> Vec<String> {
        let all = SERVICES.map(str::to_owned).to_vec();
        let mut targets = if self.services.is_empty() { all } else { self.services.clone() };
        if self.debug {
            targets.push("debug".to_owned());
        }
        targets
    }

    async fn build(
        &self,
        builder: &Builder,
        source: &Source,
        tags: &[String],
        target: &str,
    ) -> anyhow::Result<()> {
        let mut arguments = vec![format!("--target={target}")];
        arguments.extend(source.arguments());
        let trusted = openssl_probe::probe().cert_file;
        if let Some(ca) = self.ca.as_ref().or(trusted.as_ref()) {
            arguments.push(format!("--secret=id=ca,src={}", ca.display()));
            arguments.push("--build-arg=CARGO_HTTP_CAINFO=/run/secrets/ca".to_owned());
        }
        if !self.platform.is_empty() {
            arguments.push(format!("--platform={}", self.platform.join(",")));
        }
        arguments.extend(self.arguments.iter().cloned());
        builder.build(&self.names(target, tags), self.platform.len() > 1, self.push, &arguments).await.with_context(|| {
            format!(
                "build {target}. If a base image can't be pulled, deploy/images/make.sh makes stand-ins; if cargo \
                 doesn't trust the registry's certificate, pass its issuer with --ca"
            )
        })
    }
}

fn skipped(error: &anyhow::Error) -> ExitCode {
    eprintln!("\n*** SKIPPED: the build of the images: {error:#} ***\n");
    ExitCode::SUCCESS
}
