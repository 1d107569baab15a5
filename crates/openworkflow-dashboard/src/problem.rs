//! What is answered where something cannot be shown or done.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use openworkflow::ClientError;

/// Becomes a page, or JSON, on the way out.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    pub(crate) text: String,
    pub(crate) remedy: Option<String>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self {
            status,
            text: text.into(),
            remedy: None,
        }
    }

    pub(crate) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    pub(crate) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "There is no such page.")
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<ClientError> for Problem {
    fn from(error: ClientError) -> Self {
        let status = match &error {
            ClientError::RunNotFound { .. } | ClientError::NotReceived { .. } => {
                StatusCode::NOT_FOUND
            }
            ClientError::StepNotFound { .. } => StatusCode::NOT_FOUND,
            ClientError::NotCancelable { .. }
            | ClientError::NotOver { .. }
            | ClientError::NothingToResume { .. } => StatusCode::CONFLICT,
            ClientError::Invalid(_) | ClientError::InvalidCursor { .. } => StatusCode::BAD_REQUEST,
            ClientError::Refused { .. } => StatusCode::FORBIDDEN,
            ClientError::Backend(_) => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let problem = Self::new(status, error.to_string());
        match &error {
            ClientError::RunNotFound { .. } => {
                problem.remedy("Check the id, the database and the namespace.")
            }
            ClientError::NotCancelable { .. } => {
                problem.remedy("A run that is over stays as it is.")
            }
            ClientError::NotOver { .. } => problem.remedy("Wait for its end, or cancel it first."),
            ClientError::NothingToResume { .. } => {
                problem.remedy("Start it over, or fork it from a step.")
            }
            ClientError::StepNotFound { .. } => {
                problem.remedy("Choose one of the steps that it took.")
            }
            ClientError::Backend(_) => {
                problem.remedy("Check that the database answers, and reload.")
            }
            _ => problem,
        }
    }
}
