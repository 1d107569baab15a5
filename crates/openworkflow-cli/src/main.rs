//! `openworkflow`: looks at the runs in a database, starts, cancels and signals them, and shows what
//! happened to one. `docs/command.md` tells how it is used.

mod args;
mod commands;
mod connection;
mod failure;
mod json;
mod log;
mod screen;
mod standing;
mod table;
mod text;
mod trace;

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};

use args::{Cli, Command};
use failure::Failure;
use screen::Screen;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let matches = Cli::command().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    cli.output.color.write_global();
    log::install();
    let mut screen = Screen::new(&cli.output);
    let done = run(cli, &mut screen).await;
    // What there is to show is shown, also where it ended in a failure.
    let done = match (screen.flush(), done) {
        (Err(failure), Ok(())) => Err(failure),
        (_, done) => done,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.tell(),
    }
}

async fn run(cli: Cli, screen: &mut Screen) -> Result<(), Failure> {
    match cli.command {
        Command::Completions { shell } => return commands::shell::completions(shell, screen),
        Command::Man { folder } => return commands::shell::man(&folder),
        _ => {}
    }
    let connection = connection::open(&cli.connection).await?;
    let done = match cli.command {
        Command::Runs(args) => commands::runs::list(&connection, &args, screen).await,
        Command::Run { command } => commands::run::run(&connection, command, screen).await,
        Command::Steps(args) => commands::steps::list(&connection, &args, screen).await,
        Command::Signal(args) => commands::signal::send(&connection, args, screen).await,
        Command::Trace(args) => trace::show(&connection, &args, screen).await,
        Command::Stats => commands::stats::show(&connection, screen).await,
        Command::Dashboard(args) => commands::dashboard::serve(&connection, args, screen).await,
        Command::Completions { .. } | Command::Man { .. } => Ok(()),
    };
    connection.close().await;
    done
}
