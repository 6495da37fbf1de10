//! `cargo xtask completions`

use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

/// Print shell completions for `xtask`
///
/// cargo completes only its own commands, so use this for a function of your own: see CONTRIBUTING.md.
#[derive(Args)]
pub struct Completions {
    /// Shell to complete in
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    /// Prints the completions of the commands of `C`.
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
