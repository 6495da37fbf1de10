//! `cargo xtask deadletters`

mod letter;

use std::{io::Write, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, bail};
use async_nats::{
    ConnectOptions, ServerAddr,
    jetstream::{self, consumer, stream::Stream},
};
use clap::{Args, Subcommand};
use contract::streams::{DEADLETTERS_PREFIX, DEADLETTERS_STREAM};
use futures_util::StreamExt;

use letter::{Letter, Line, Without, printable};

/// Timeout of one reply from NATS.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// List, show, replay or remove events that could not be used
///
/// Each dead letter has a number, SEQ, which `list` shows. docs/operations.md explains when to use each command.
#[derive(Args)]
pub struct Deadletters {
    /// NATS servers, separated by commas; by default those of the local stack
    #[arg(
        long,
        env = "NATS_URL",
        default_value = "nats://127.0.0.1:4222",
        hide_env_values = true,
        global = true
    )]
    nats_url: String,
    /// File with NATS credentials (JWT and nkey seed)
    #[arg(long, env = "NATS_CREDS", global = true)]
    nats_creds: Option<PathBuf>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List dead letters, oldest first
    List {
        /// Only events of this type
        #[arg(long = "type", value_name = "TYPE")]
        kind: Option<String>,
        /// Maximum number of lines
        #[arg(long, value_name = "N", default_value = "1000")]
        limit: usize,
        /// One JSON object per line instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Show a dead letter as published: reason, subject, headers, body
    Show {
        /// Number of the dead letter
        seq: u64,
        /// Only the body, byte for byte
        #[arg(long)]
        body: bool,
    },
    /// Publish again on the original subject, with the original headers; the dead letter is removed after JetStream's
    /// ack
    ///
    /// A user is notified only once, however often the event was published or is replayed. The event is identified by
    /// its `event_id`, else by its original `Nats-Msg-Id`, else by its original position. An event that still can't be
    /// used becomes a new dead letter. An event whose body was truncated to fit can't be replayed.
    Replay {
        #[command(flatten)]
        selection: Selection,
        /// Omit headers that could not be parsed, instead of refusing to replay
        #[arg(long)]
        without_unreadable_headers: bool,
        /// Omit headers that did not fit into the dead letter, instead of refusing to replay
        #[arg(long)]
        without_truncated_headers: bool,
    },
    /// Remove permanently
    Drop {
        #[command(flatten)]
        selection: Selection,
    },
}

/// Selected dead letters.
#[derive(Args)]
#[group(required = true, multiple = false)]
struct Selection {
    /// Numbers of the dead letters
    #[arg(value_name = "SEQ")]
    seqs: Vec<u64>,
    /// All current dead letters
    #[arg(long)]
    all: bool,
    /// All current dead letters of this event type
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
}

impl Deadletters {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let options = match &self.nats_creds {
            Some(file) => {
                ConnectOptions::with_credentials_file(file).await.context("read the file with credentials")?
            }
            None => ConnectOptions::new(),
        };
        let servers: Vec<ServerAddr> = self
            .nats_url
            .split(',')
            .map(|url| url.parse().context("--nats-url is not a list of NATS URLs"))
            .collect::<anyhow::Result<_>>()?;
        // The client itself does not use credentials in addresses.
        let credentials = servers.iter().find_map(|server| Some((server.username()?, server.password()?)));
        let options = match credentials {
            Some((user, password)) => options.user_and_password(user.to_owned(), password.to_owned()),
            None => options,
        };
        let client = options
            .name("xtask deadletters")
            .connection_timeout(REPLY_TIMEOUT)
            .connect(&servers[..])
            .await
            .context("connect to NATS at --nats-url")?;
        let mut jetstream = jetstream::new(client);
        jetstream.set_timeout(REPLY_TIMEOUT);
        let stream = jetstream.get_stream(DEADLETTERS_STREAM).await;
        let letters = DeadLetters { stream: stream.context("open the stream of dead letters")?, jetstream };
        match self.action {
            Action::List { kind, limit, json } => letters.list(kind.as_deref(), limit, json).await,
            Action::Show { seq, body } => letters.show(seq, body).await,
            Action::Replay {
                selection,
                without_unreadable_headers: unreadable_headers,
                without_truncated_headers: truncated_headers,
            } => {
                let without = Without { unreadable_headers, truncated_headers };
                letters.each(selection, "replayed", async |seq| letters.replay(seq, without).await).await
            }
            Action::Drop { selection } => {
                letters
                    .each(selection, "dropped", async |seq| letters.remove(seq).await.map(|()| String::new()))
                    .await
            }
        }
    }
}

/// The streams that hold dead letters and events.
struct DeadLetters {
    jetstream: jetstream::Context,
    stream: Stream,
}

impl DeadLetters {
    async fn list(&self, kind: Option<&str>, limit: usize, json: bool) -> anyhow::Result<ExitCode> {
        let (lines, more) = self.lines(kind, limit).await?;
        let mut out = std::io::stdout().lock();
        if json {
            for line in &lines {
                writeln!(out, "{}", serde_json::to_string(line)?)?;
            }
        } else if lines.is_empty() {
            writeln!(out, "There are no dead letters.")?;
        } else {
            write!(out, "{}", letter::table(&lines))?;
        }
        if more > 0 {
            eprintln!("… and {more} more (--limit)");
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn show(&self, seq: u64, body: bool) -> anyhow::Result<ExitCode> {
        let letter = self.read(seq).await?;
        let mut out = std::io::stdout().lock();
        if body {
            out.write_all(&letter.body)?;
        } else {
            write!(out, "{letter}")?;
        }
        out.flush()?;
        Ok(ExitCode::SUCCESS)
    }

    /// Applies an action to each selected dead letter, even if it fails for others.
    async fn each(
        &self,
        selection: Selection,
        done: &str,
        act: impl AsyncFn(u64) -> anyhow::Result<String>,
    ) -> anyhow::Result<ExitCode> {
        let seqs = match selection {
            Selection { seqs, all: false, kind: None } => seqs,
            Selection { kind, .. } => {
                self.lines(kind.as_deref(), usize::MAX).await?.0.into_iter().map(|line| line.seq).collect()
            }
        };
        let (mut succeeded, mut failed) = (0, 0);
        for seq in seqs {
            match act(seq).await {
                Ok(note) => {
                    succeeded += 1;
                    println!("{seq}: {done}{note}");
                }
                Err(error) => {
                    failed += 1;
                    eprintln!("{seq}: {error:#}");
                }
            }
        }
        println!("{succeeded} {done}, {failed} left as they were");
        Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Publishes the event again, and removes the dead letter only after the ack. A failure in between leaves a
    /// duplicate, never a loss.
    async fn replay(&self, seq: u64, without: Without) -> anyhow::Result<String> {
        let letter = self.read(seq).await?;
        let headers = letter.replay_headers(without)?;
        let subject = letter.subject()?.to_owned();
        let sent = self.jetstream.publish_with_headers(subject.clone(), headers, letter.body.into()).await;
        let stored = sent.context("publish it")?.await.with_context(|| {
            format!("no stream has acknowledged it on {}, so it stays a dead letter", printable(&subject))
        })?;
        let note = if stored.duplicate {
            ", but a moment ago it had been already".to_owned()
        } else {
            format!(" on {}, as {} of {}", printable(&subject), stored.sequence, stored.stream)
        };
        self.remove(seq)
            .await
            .with_context(|| format!("replayed{note}, but the dead letter could not be removed"))?;
        Ok(note)
    }

    async fn remove(&self, seq: u64) -> anyhow::Result<()> {
        match self.stream.delete_message(seq).await {
            Ok(_) => Ok(()),
            Err(error) => Err(error).context("remove the dead letter; does this number exist?"),
        }
    }

    async fn read(&self, seq: u64) -> anyhow::Result<Letter> {
        let found = self.stream.get_raw_message(seq).await;
        found.map(Letter::from).context("read the dead letter; does this number exist?")
    }

    /// A line for each dead letter, and the number of further ones.
    async fn lines(&self, kind: Option<&str>, limit: usize) -> anyhow::Result<(Vec<Line>, u64)> {
        let config = consumer::pull::OrderedConfig {
            filter_subject: kind.map_or_else(String::new, |kind| format!("{DEADLETTERS_PREFIX}{kind}")),
            headers_only: true,
            ..Default::default()
        };
        let consumer = self.stream.create_consumer(config).await;
        let consumer = consumer.context("read the dead letters; is the type valid in a subject?")?;
        let mut left = consumer.cached_info().num_pending;
        let mut lines = Vec::new();
        if left == 0 {
            return Ok((lines, left));
        }
        let mut messages = consumer.messages().await.context("read the dead letters")?;
        while left > 0 && lines.len() < limit {
            let next =
                tokio::time::timeout(REPLY_TIMEOUT, messages.next()).await.context("no reply from NATS")?;
            let Some(message) = next else { bail!("NATS ended the list") };
            let message = message.context("read a dead letter")?;
            let info = match message.info() {
                Ok(info) => info,
                Err(error) => bail!("a dead letter has no number: {error}"),
            };
            left = info.pending;
            lines.push(Line::new(info.stream_sequence, info.published, &message));
        }
        Ok((lines, left))
    }
}
