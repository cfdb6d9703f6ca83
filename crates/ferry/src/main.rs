//! The command line: starts machines, receives, moves, restores and inspects them, and shows it all
//! in a demo. It decides nothing about a machine; every rule is in a crate below.

mod cli;
mod demo;
mod inspect;
mod move_away;
mod options;
mod receive;
mod running;
mod terminal;
mod text;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    let result = match arguments.command {
        cli::Command::Run(options) => running::run(&options),
        cli::Command::Receive(options) => receive::receive(&options),
        cli::Command::Restore(options) => receive::restore(&options),
        cli::Command::Migrate(options) => move_away::migrate(&options),
        cli::Command::Ps => move_away::list(),
        cli::Command::Pause { vm } => move_away::tell(&vm, &control::Request::Pause),
        cli::Command::Resume { vm } => move_away::tell(&vm, &control::Request::Resume),
        cli::Command::Quit { vm } => move_away::tell(&vm, &control::Request::Quit),
        cli::Command::Inspect(options) => inspect::inspect(&options),
        cli::Command::Demo(options) => demo::demo(&options),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ferry: {error:#}");
            ExitCode::from(cli::FAILED)
        }
    }
}
