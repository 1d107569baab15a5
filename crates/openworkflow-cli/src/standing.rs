//! Where a run stands, in words.

use openworkflow::trace::Standing;

use crate::text::{fit, moment, safe};

/// `None` where the status says it all.
pub(crate) fn words(standing: &Standing) -> Option<String> {
    let at = |time: &Option<std::time::SystemTime>| match time {
        Some(time) => format!(" {}Z", moment(*time, 19)),
        None => " a time that is not recorded".to_owned(),
    };
    let text = match standing {
        Standing::Delayed { until } => format!("starts {}Z", moment(*until, 19)),
        Standing::Queued { since: None } => "due, and waits for a worker".to_owned(),
        Standing::Queued { since } => format!("due since{}, and waits for a worker", at(since)),
        Standing::Executing { worker_id, since } => match since {
            Some(_) => format!("worker {} has it since{}", safe(worker_id), at(since)),
            None => format!("worker {} has it", safe(worker_id)),
        },
        Standing::Lost { worker_id, .. } => format!(
            "worker {} had it and its lease has run out; another takes it over",
            safe(worker_id)
        ),
        Standing::Parked { until, waits_for } => {
            let mut names: Vec<String> = waits_for.iter().map(|name| fit(name, 60)).collect();
            if names.len() > 3 {
                let more = names.len() - 3;
                names.truncate(3);
                names.push(format!("{more} more"));
            }
            let until = match until {
                Some(_) => format!(" until{} at the latest", at(until)),
                None => String::new(),
            };
            match names.is_empty() {
                true => format!("parked{until}"),
                false => format!("waits for {}{until}", names.join(", ")),
            }
        }
        Standing::BackingOff { until, .. } => format!("tries again{}", at(until)),
        Standing::Over => return None,
        _ => "has a status that this command does not know".to_owned(),
    };
    Some(text)
}
