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

/// How long NATS gets for one answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Look at events that could not be used, publish them again, or remove them.
///
/// A dead letter has a number, SEQ, which `list` shows. See docs/operations.md for when to do what.
#[derive(Args)]
pub struct Deadletters {
    /// NATS servers, separated by commas; the local stack's unless said
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
    /// Show which there are, oldest first
    List {
        /// Only those of this type of event
        #[arg(long = "type", value_name = "TYPE")]
        kind: Option<String>,
        /// How many, at most
        #[arg(long, value_name = "N", default_value = "1000")]
        limit: usize,
        /// One JSON object a line instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Show one as it was published: reason, subject, headers, body
    Show {
        /// Its number
        seq: u64,
        /// Only the body, byte for byte
        #[arg(long)]
        body: bool,
    },
    /// Publish again where it was published first, with its headers; the dead letter goes once JetStream has the event
    ///
    /// It notifies a user once, however often it was published or is replayed: by its `event_id`, else by the
    /// `Nats-Msg-Id` that it first had, else by its first place. What still can't be used becomes a new dead letter. One
    /// whose body was cut, as it did not fit, is refused: it is not the event any more.
    Replay {
        #[command(flatten)]
        which: Which,
        /// Leave out headers that could not be read, instead of refusing to replay
        #[arg(long)]
        without_unreadable_headers: bool,
        /// Leave out headers that did not fit into the dead letter, instead of refusing to replay
        #[arg(long)]
        without_truncated_headers: bool,
    },
    /// Remove for good
    Drop {
        #[command(flatten)]
        which: Which,
    },
}

/// Which dead letters are meant.
#[derive(Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// Those with these numbers
    #[arg(value_name = "SEQ")]
    seqs: Vec<u64>,
    /// All that there are now
    #[arg(long)]
    all: bool,
    /// All of this type of event that there are now
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
            .map(|url| url.parse().context("--nats-url is not a list of NATS addresses"))
            .collect::<anyhow::Result<_>>()?;
        // The client itself does not look for them in addresses.
        let named = servers.iter().find_map(|server| Some((server.username()?, server.password()?)));
        let options = match named {
            Some((user, password)) => options.user_and_password(user.to_owned(), password.to_owned()),
            None => options,
        };
        let client = options
            .name("xtask deadletters")
            .connection_timeout(PATIENCE)
            .connect(&servers[..])
            .await
            .context("connect to NATS; --nats-url says where it is")?;
        let mut jetstream = jetstream::new(client);
        jetstream.set_timeout(PATIENCE);
        let stream = jetstream.get_stream(DEADLETTERS_STREAM).await;
        let desk = Desk { stream: stream.context("open the stream of dead letters")?, jetstream };
        match self.action {
            Action::List { kind, limit, json } => desk.list(kind.as_deref(), limit, json).await,
            Action::Show { seq, body } => desk.show(seq, body).await,
            Action::Replay {
                which,
                without_unreadable_headers: unreadable_headers,
                without_truncated_headers: truncated_headers,
            } => {
                let without = Without { unreadable_headers, truncated_headers };
                desk.each(which, "replayed", async |seq| desk.replay(seq, without).await).await
            }
            Action::Drop { which } => {
                desk.each(which, "dropped", async |seq| desk.remove(seq).await.map(|()| String::new())).await
            }
        }
    }
}

/// Where dead letters are worked on.
struct Desk {
    jetstream: jetstream::Context,
    stream: Stream,
}

impl Desk {
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

    /// Does something to each, whatever becomes of the others.
    async fn each(
        &self,
        which: Which,
        done: &str,
        act: impl AsyncFn(u64) -> anyhow::Result<String>,
    ) -> anyhow::Result<ExitCode> {
        let seqs = match which {
            Which { seqs, all: false, kind: None } => seqs,
            Which { kind, .. } => {
                self.lines(kind.as_deref(), usize::MAX).await?.0.into_iter().map(|line| line.seq).collect()
            }
        };
        let (mut well, mut ill) = (0, 0);
        for seq in seqs {
            match act(seq).await {
                Ok(note) => {
                    well += 1;
                    println!("{seq}: {done}{note}");
                }
                Err(error) => {
                    ill += 1;
                    eprintln!("{seq}: {error:#}");
                }
            }
        }
        println!("{well} {done}, {ill} left as they were");
        Ok(if ill == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Publishes it again. Only once JetStream has it, the dead letter goes: in between, it is twice, not lost.
    async fn replay(&self, seq: u64, without: Without) -> anyhow::Result<String> {
        let letter = self.read(seq).await?;
        let headers = letter.replay_headers(without)?;
        let subject = letter.subject()?.to_owned();
        let sent = self.jetstream.publish_with_headers(subject.clone(), headers, letter.body.into()).await;
        let stored = sent.context("publish it")?.await.with_context(|| {
            format!("no stream has confirmed it on {}: it stays a dead letter", printable(&subject))
        })?;
        let note = if stored.duplicate {
            ": it had been already, a moment ago".to_owned()
        } else {
            format!(" on {}, as {} of {}", printable(&subject), stored.sequence, stored.stream)
        };
        self.remove(seq)
            .await
            .with_context(|| format!("replayed{note}, but the dead letter is still there"))?;
        Ok(note)
    }

    async fn remove(&self, seq: u64) -> anyhow::Result<()> {
        match self.stream.delete_message(seq).await {
            Ok(_) => Ok(()),
            Err(error) => Err(error).context("remove the dead letter; is there one with this number?"),
        }
    }

    async fn read(&self, seq: u64) -> anyhow::Result<Letter> {
        let found = self.stream.get_raw_message(seq).await;
        found.map(Letter::from).context("read the dead letter; is there one with this number?")
    }

    /// What is to be said of each in a line, and how many more there are.
    async fn lines(&self, kind: Option<&str>, limit: usize) -> anyhow::Result<(Vec<Line>, u64)> {
        let config = consumer::pull::OrderedConfig {
            filter_subject: kind.map_or_else(String::new, |kind| format!("{DEADLETTERS_PREFIX}{kind}")),
            headers_only: true,
            ..Default::default()
        };
        let consumer = self.stream.create_consumer(config).await;
        let consumer = consumer.context("read the dead letters; is the type one that a subject may have?")?;
        let mut left = consumer.cached_info().num_pending;
        let mut lines = Vec::new();
        if left == 0 {
            return Ok((lines, left));
        }
        let mut messages = consumer.messages().await.context("read the dead letters")?;
        while left > 0 && lines.len() < limit {
            let next =
                tokio::time::timeout(PATIENCE, messages.next()).await.context("NATS does not answer")?;
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
