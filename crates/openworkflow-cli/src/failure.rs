//! How the command fails: what went wrong, what to do about it, and the exit code.

use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use openworkflow::ClientError;
use openworkflow::backend::BackendError;

use crate::text::safe;

#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    /// Fit for a terminal. Empty where whoever reads is gone.
    problem: String,
    remedy: Option<String>,
}

impl Failure {
    /// Something did not work, or a run did not.
    pub(crate) fn failed(problem: impl Into<String>) -> Self {
        Self {
            code: 1,
            problem: problem.into(),
            remedy: None,
        }
    }

    /// What was waited for did not come in time.
    fn late(problem: impl Into<String>) -> Self {
        Self {
            code: 3,
            ..Self::failed(problem)
        }
    }

    /// What was given makes no sense.
    pub(crate) fn usage(problem: impl Into<String>) -> Self {
        Self {
            code: 2,
            ..Self::failed(problem)
        }
    }

    pub(crate) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// Says it on standard error.
    pub(crate) fn tell(self) -> ExitCode {
        let red = Style::new().bold().fg_color(Some(AnsiColor::Red.into()));
        let bold = Style::new().bold();
        anstream::eprintln!("{red}error:{red:#} {}", self.problem);
        if let Some(remedy) = self.remedy {
            anstream::eprintln!("{bold}remedy:{bold:#} {remedy}");
        }
        ExitCode::from(self.code)
    }
}

impl From<BackendError> for Failure {
    fn from(error: BackendError) -> Self {
        ClientError::from(error).into()
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        // Names and messages are somebody's data.
        let problem = safe(&error.to_string()).into_owned();
        match &error {
            ClientError::Invalid(_) => Self::usage(problem),
            ClientError::InvalidCursor { .. } => {
                Self::usage(problem).remedy("give --after what the list before said")
            }
            ClientError::RunNotFound { .. } => Self::failed(problem).remedy(
                "check the id, --database and --namespace; `openworkflow runs` lists what is there",
            ),
            ClientError::NotCancelable { .. } => {
                Self::failed(problem).remedy("a run that is over stays as it is")
            }
            ClientError::NotOver { run_id, .. } => {
                let id = safe(run_id);
                Self::failed(problem).remedy(format!("openworkflow run cancel {id}"))
            }
            ClientError::NothingToResume { run_id } => {
                let id = safe(run_id);
                Self::failed(problem).remedy(format!(
                    "openworkflow run retry {id}, or openworkflow run fork {id} --from STEP"
                ))
            }
            ClientError::StepNotFound { run_id, .. } => {
                let id = safe(run_id);
                Self::failed(problem).remedy(format!("see its steps: openworkflow steps {id}"))
            }
            ClientError::RunFailed { run_id, .. } | ClientError::RunCanceled { run_id } => {
                let id = safe(run_id);
                Self::failed(problem).remedy(format!("see what happened: openworkflow trace {id}"))
            }
            ClientError::TimedOut { run_id, .. } => {
                let id = safe(run_id);
                Self::late(problem).remedy(format!(
                    "wait again, or see what it waits for: openworkflow trace {id}"
                ))
            }
            ClientError::NotReceived { .. } => Self::late(problem).remedy(
                "check the signal's name: `openworkflow trace` of the run tells what it waits for",
            ),
            _ => Self::failed(problem),
        }
    }
}
