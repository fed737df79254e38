//! `troupe completion SHELL`: what a shell needs to complete our commands and flags.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, Failure, print};

/// Print a shell's completions for this command.
///
/// For bash: source <(troupe completion bash)
#[derive(Args, Debug)]
pub(crate) struct Completion {
    /// Which shell.
    shell: Shell,
}

impl Completion {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "troupe", &mut script);
        print(&String::from_utf8_lossy(&script));
        Ok(())
    }
}
