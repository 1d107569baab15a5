//! What can be said on the command line. The comments are the help.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use openworkflow::RunStatus;

const EXIT_CODES: &str = "\
Exit codes:
  0  done, or the run is completed
  1  it failed: the run failed or was canceled, the database cannot be used, there is no such run
  2  the command line, or what came in with it, makes no sense

The database is never created or migrated by this command; that is a worker's to do.
Times are in UTC.";

const STATUSES: [&str; 7] = [
    "pending",
    "running",
    "completed",
    "failed",
    "canceled",
    "sleeping",
    "succeeded",
];

/// See, start, cancel and signal the runs of durable workflows, and what happened to them
#[derive(Debug, Parser)]
#[command(name = "openworkflow", version, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Where the runs are.
#[derive(Debug, Args)]
#[command(next_help_heading = "Database")]
pub(crate) struct ConnectionArgs {
    /// A SQLite file (`app.db`, `sqlite:app.db`), or `postgresql://user@host/database`
    ///
    /// Without it and its variable, OPENWORKFLOW_POSTGRES_URL is read too. A password is better kept in the
    /// variable, in PGPASSWORD or in a password file: other users can see command lines.
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "OPENWORKFLOW_DATABASE_URL",
        hide_env_values = true
    )]
    pub(crate) database: Option<String>,
    /// The namespace [default: default]
    #[arg(
        long,
        global = true,
        value_name = "ID",
        env = "OPENWORKFLOW_NAMESPACE_ID"
    )]
    pub(crate) namespace: Option<String>,
    /// PostgreSQL's schema [default: openworkflow]
    #[arg(long, global = true, value_name = "NAME", env = "OPENWORKFLOW_SCHEMA")]
    pub(crate) schema: Option<String>,
}

/// How it is shown.
#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct OutputArgs {
    /// JSON, an object per line
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Shows inputs, outputs and results of steps, which are left out otherwise
    #[arg(long, global = true)]
    pub(crate) payloads: bool,
    /// Columns to fill [default: the terminal's; 80 where there is none]
    #[arg(long, global = true, value_parser = clap::value_parser!(u16).range(40..=1000))]
    pub(crate) width: Option<u16>,
    /// Colors; `auto` heeds NO_COLOR, and has none through a pipe
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t)]
    pub(crate) color: Color,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    #[default]
    Auto,
    Always,
    Never,
}

impl Color {
    pub(crate) fn write_global(self) {
        let choice = match self {
            Self::Auto => anstream::ColorChoice::Auto,
            Self::Always => anstream::ColorChoice::Always,
            Self::Never => anstream::ColorChoice::Never,
        };
        choice.write_global();
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Lists runs, newest first
    Runs(RunsArgs),
    /// Starts, shows, cancels or awaits one run
    Run {
        #[command(subcommand)]
        command: RunCommand,
    },
    /// Lists the attempts at a run's steps, oldest first
    Steps(StepsArgs),
    /// Sends a signal to every run that waits for it
    Signal(SignalArgs),
    /// Shows what happened to a run, and where its time went
    Trace(TraceArgs),
    /// Counts runs: by status, and what is due
    Stats,
    /// Serves a web page that shows the runs, and what happened to each
    Dashboard(DashboardArgs),
    /// Prints the completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Writes the manual pages into a folder
    Man {
        /// The folder, which must be there
        folder: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct RunsArgs {
    /// Only runs of this workflow
    #[arg(long, value_name = "NAME")]
    pub(crate) workflow: Option<String>,
    /// Only runs with this status
    #[arg(long, value_parser = PossibleValuesParser::new(STATUSES).map(|text| RunStatus::from_stored(&text)))]
    pub(crate) status: Option<RunStatus>,
    /// How many at most
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) limit: u32,
    /// Goes on where a list ended, which said so
    #[arg(long, value_name = "CURSOR")]
    pub(crate) after: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RunCommand {
    /// Shows a run
    Show {
        /// The run
        id: String,
    },
    /// Starts a run, and prints its id
    Start(StartArgs),
    /// Cancels a run
    Cancel {
        /// The run
        id: String,
    },
    /// Starts a run that is over anew, from the same input, and prints the new run's id
    Retry {
        /// The run
        id: String,
    },
    /// Goes on where a run failed: a new run with the results of all completed steps; prints its id
    Resume {
        /// The run
        id: String,
    },
    /// Goes on from a step: a new run with the results from before that step; prints its id
    Fork {
        /// The run
        id: String,
        /// The step that is done anew, with what came after it
        #[arg(long, value_name = "STEP")]
        from: String,
    },
    /// Waits for a run to end, or for the one as which it continues
    Await(AwaitArgs),
}

#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// The workflow's name
    pub(crate) workflow: String,
    /// The input: JSON, `@file`, or `-` for standard input
    #[arg(long, value_name = "JSON", allow_hyphen_values = true)]
    pub(crate) input: Option<String>,
    /// The workflow's version
    #[arg(long = "version", value_name = "VERSION")]
    pub(crate) workflow_version: Option<String>,
    /// For 24 hours, a start of the workflow with the same key finds the same run
    #[arg(long)]
    pub(crate) key: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct AwaitArgs {
    /// The run
    pub(crate) id: String,
    /// For how long, such as `30s` or `2h 30m` [default: until it ends]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct StepsArgs {
    /// The run
    pub(crate) id: String,
}

#[derive(Debug, Args)]
pub(crate) struct SignalArgs {
    /// The signal's name
    pub(crate) name: String,
    /// What to send with it: JSON, `@file`, or `-` for standard input
    #[arg(value_name = "JSON", allow_hyphen_values = true)]
    pub(crate) data: Option<String>,
    /// A second sending with this key delivers nothing, and answers the same
    #[arg(long)]
    pub(crate) key: Option<String>,
    /// Sends it until somebody receives it, for so long at most
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) within: Option<Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct TraceArgs {
    /// The run
    pub(crate) id: String,
    /// In which form
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: TraceFormat,
    /// Tells of the run's children, too, and of theirs
    #[arg(long)]
    pub(crate) children: bool,
    /// Among the events, how the engine carried the run out: claims, parks, resumptions
    #[arg(long)]
    pub(crate) internal: bool,
    /// Shows every step and every error, however many there are
    #[arg(long)]
    pub(crate) all: bool,
    /// One scale for all of the time: stretches without work are not folded
    #[arg(long)]
    pub(crate) true_scale: bool,
}

/// With `--payloads`, inputs, outputs and results of steps are shown to everybody who gets in.
#[derive(Debug, Args)]
pub(crate) struct DashboardArgs {
    /// Where to listen; the port 0 stands for any that is free
    ///
    /// An address that other machines can reach takes a token or a proxy.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:4780")]
    pub(crate) listen: SocketAddr,
    /// Runs can be looked at, and not be started, canceled or signaled
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Who wants in has to know this token, of 12 characters at least
    #[arg(
        long,
        value_name = "TOKEN",
        env = "OPENWORKFLOW_DASHBOARD_TOKEN",
        hide_env_values = true
    )]
    pub(crate) token: Option<String>,
    /// The header by which a proxy in front of the page says whom it has let in
    #[arg(
        long,
        value_name = "NAME",
        requires = "proxy",
        conflicts_with = "token"
    )]
    pub(crate) proxy_header: Option<String>,
    /// The addresses of that proxy
    #[arg(
        long,
        value_name = "IP",
        requires = "proxy_header",
        value_delimiter = ','
    )]
    pub(crate) proxy: Vec<IpAddr>,
    /// The path under which the proxy has the page
    #[arg(long, value_name = "PATH")]
    pub(crate) base_path: Option<String>,
    /// A link from runs to their traces elsewhere, such as
    /// `Jaeger=http://localhost:16686/trace/{trace_id}`; can be given several times
    #[arg(long, value_name = "NAME=URL")]
    pub(crate) trace_link: Vec<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum TraceFormat {
    /// A row per step, over time; with --json as `json`
    #[default]
    Waterfall,
    /// Where the time went, what failed, what was slow; with --json as `json`
    Summary,
    /// What happened, in order
    Events,
    /// The summary as a JSON object
    Json,
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed: jiff::SignedDuration = text
        .parse()
        .map_err(|error| format!("{error}; write it as `30s` or `2h 30m`"))?;
    Duration::try_from(parsed).map_err(|_| "it is negative".to_owned())
}
