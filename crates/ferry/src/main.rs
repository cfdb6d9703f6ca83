//! The command line: starts machines, receives, moves, restores and inspects them, and shows it all
//! in a demo. It decides nothing about a machine; every rule is in a crate below.

mod arbiter;
mod children;
mod cli;
mod confinement;
mod controlled;
mod demo;
mod doctor;
mod export;
mod foreign;
mod import;
mod inspect;
mod move_away;
mod options;
mod receive;
mod recovery;
mod running;
mod saved;
mod secure;
mod signals;
mod soak;
mod terminal;
mod test_ca;
mod text;
mod tsc;
mod verify;

use std::process::ExitCode;

use clap::Parser;

/// Lets a panic be read on a terminal in raw mode. Nobody would hear of a machine whose thread is
/// gone, and nobody could end it: the process ends with it.
fn install_panic_hook() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        terminal::restore();
        let words = panic.payload().downcast_ref::<String>();
        if words.is_some_and(|words| words.starts_with("failed printing to stdout")) {
            // Whoever read has heard enough.
            std::process::exit(cli::FAILED.into());
        }
        print(panic);
        let thread = std::thread::current();
        let name = thread.name().unwrap_or_default();
        if ["machine", "vcpu", "queues"].iter().any(|one| name.starts_with(one)) {
            std::process::exit(cli::FAILED.into());
        }
    }));
}

fn main() -> ExitCode {
    install_panic_hook();
    let arguments = cli::Arguments::parse();
    let result = match arguments.command {
        cli::Command::Run(options) => running::run(&options),
        cli::Command::Receive(options) => receive::receive(&options),
        cli::Command::Restore(options) => receive::restore(&options),
        cli::Command::Migrate(options) => move_away::migrate(&options),
        cli::Command::Postcopy { vm } => move_away::tell(&vm, &control::Request::PostCopy),
        cli::Command::Ps => move_away::list(),
        cli::Command::Pause { vm } => move_away::tell(&vm, &control::Request::Pause),
        cli::Command::Resume { vm } => move_away::tell(&vm, &control::Request::Resume),
        cli::Command::Quit { vm } => move_away::tell(&vm, &control::Request::Quit),
        cli::Command::Owner(options) => arbiter::owner(&options),
        cli::Command::Resolve(options) => move_away::resolve(&options),
        cli::Command::Inspect(options) => inspect::inspect(&options),
        cli::Command::Verify { file } => verify::verify(&file),
        cli::Command::Diff { left, right } => saved::diff(&left, &right),
        cli::Command::ImportConfig(options) => import::import_config(&options),
        cli::Command::ExportConfig(options) => export::export_config(&options),
        cli::Command::Doctor => doctor::doctor(),
        cli::Command::MakeTestCa(options) => test_ca::make(&options),
        cli::Command::Demo(options) => demo::demo(&options),
        cli::Command::Soak(options) => soak::soak(&options),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ferry: {error:#}");
            ExitCode::from(cli::FAILED)
        }
    }
}
