//! Developer commands: `cargo xtask up`, `token`, `test`, `chaos`, `load`, `bench-check`, `deadletters`,
//! `images`, `smoke`, `release`.

mod bench;
mod build;
mod chaos;
mod completions;
mod console;
mod deadletters;
mod images;
mod load;
mod local;
mod parts;
mod ready;
mod release;
mod seed;
mod servers;
mod smoke;
mod source;
mod test;
mod token;
mod up;

use std::process::ExitCode;

use clap::Parser;

/// Developer commands of Vyzio Realtime.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Command {
    Up(up::Up),
    Token(token::Token),
    Test(test::Test),
    Chaos(chaos::Chaos),
    Load(load::Load),
    BenchCheck(bench::BenchCheck),
    Deadletters(deadletters::Deadletters),
    Images(images::Images),
    Smoke(smoke::Smoke),
    Release(release::Release),
    Completions(completions::Completions),
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Command::parse() {
        Command::Up(up) => up.run().await,
        Command::Token(token) => token.run(),
        Command::Test(test) => test.run().await,
        Command::Chaos(chaos) => chaos.run().await,
        Command::Load(load) => load.run().await,
        Command::BenchCheck(check) => check.run().await,
        Command::Deadletters(deadletters) => deadletters.run().await,
        Command::Images(images) => images.run().await,
        Command::Smoke(smoke) => smoke.run().await,
        Command::Release(release) => release.run(),
        Command::Completions(completions) => completions.run::<Command>(),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
