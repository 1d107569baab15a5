//! What makes the command at home in a shell: completions and manual pages.

use std::path::Path;

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::args::Cli;
use crate::failure::Failure;
use crate::screen::Screen;
use crate::text::safe;

pub(crate) fn completions(shell: Shell, screen: &mut Screen) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "openworkflow", &mut script);
    for line in String::from_utf8_lossy(&script).lines() {
        screen.line(line);
    }
    Ok(())
}

pub(crate) fn man(folder: &Path) -> Result<(), Failure> {
    clap_mangen::generate_to(Cli::command(), folder).map_err(|error| {
        let folder = folder.display().to_string();
        Failure::failed(format!(
            "cannot write manual pages to {}: {error}",
            safe(&folder)
        ))
        .remedy("give a folder that is there and takes writes")
    })
}
