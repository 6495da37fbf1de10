//! `cargo xtask completions`

use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

/// Print what completes `xtask` in a shell.
///
/// cargo completes its own commands only, so this is for a function of your own: see CONTRIBUTING.md.
#[derive(Args)]
pub struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    /// Prints what completes the commands of `C`.
    pub fn run<C: CommandFactory>(self) -> anyhow::Result<ExitCode> {
        clap_complete::generate(
            self.shell,
            &mut C::command().bin_name("xtask"),
            "xtask",
            &mut std::io::stdout(),
        );
        Ok(ExitCode::SUCCESS)
    }
}
