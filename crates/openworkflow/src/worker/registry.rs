//! The workflows that a worker can execute.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use workflow_core::{Error, ErrorKind, Result};

use crate::backend::WorkflowKey;
use crate::name;
use crate::workflow::Workflow;

pub(super) struct Registry {
    workflows: HashMap<WorkflowKey, Workflow>,
    claimable: Option<Arc<[WorkflowKey]>>,
}

impl Registry {
    pub(super) fn new(workflows: Vec<Workflow>, claims_unregistered: bool) -> Result<Self> {
        let mut registered = HashMap::with_capacity(workflows.len());
        for workflow in workflows {
            let key = workflow.key().clone();
            name::validate("a workflow", &key.name)?;
            if let Some(version) = &key.version {
                name::validate_version(&key.name, version)?;
            }
            workflow.retry_policy().validate().map_err(|error| {
                let message = format!("{}: {error}", describe(&key));
                Error::of_kind(ErrorKind::InvalidArgument, message)
            })?;
            if registered.insert(key.clone(), workflow).is_some() {
                return Err(Error::of_kind(
                    ErrorKind::InvalidArgument,
                    format!(
                        "{} is registered twice; register it once, or give one of them another version",
                        describe(&key)
                    ),
                ));
            }
        }
        let mut keys: Vec<_> = registered.keys().cloned().collect();
        keys.sort();
        let claimable = (!claims_unregistered).then(|| keys.into());
        Ok(Self {
            workflows: registered,
            claimable,
        })
    }

    /// What to claim; anything where `None`.
    pub(super) fn claimable(&self) -> Option<Arc<[WorkflowKey]>> {
        self.claimable.clone()
    }

    pub(super) fn get(&self, key: &WorkflowKey) -> Option<&Workflow> {
        self.workflows.get(key)
    }
}

/// As people list them: `greet, order (version: 2)`.
impl fmt::Display for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut keys: Vec<_> = self.workflows.keys().collect();
        keys.sort();
        for (nth, key) in keys.into_iter().enumerate() {
            let separator = if nth == 0 { "" } else { ", " };
            write!(f, "{separator}{}", key.name)?;
            if let Some(version) = &key.version {
                write!(f, " (version: {version})")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.workflows.keys()).finish()
    }
}

/// `Workflow "name"`, with ` (version: v)` where it has one: the words of the protocol.
pub(super) fn describe(key: &WorkflowKey) -> String {
    match &key.version {
        Some(version) => format!("Workflow \"{}\" (version: {version})", key.name),
        None => format!("Workflow \"{}\"", key.name),
    }
}
