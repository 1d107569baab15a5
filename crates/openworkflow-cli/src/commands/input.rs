//! JSON that is given on the command line, in a file or on standard input.

use std::io::Read as _;

use serde_json::value::RawValue;

use crate::failure::Failure;
use crate::text::safe;

/// Reads what is given as `what`. It is kept as it is, numbers of any length among it.
pub(crate) fn read(what: &str, given: Option<&str>) -> Result<Option<Box<RawValue>>, Failure> {
    let Some(given) = given else {
        return Ok(None);
    };
    let (place, json) = match (given, given.strip_prefix('@')) {
        ("-", _) => {
            let mut json = String::new();
            let read = std::io::stdin().read_to_string(&mut json);
            read.map_err(|error| Failure::failed(format!("cannot read {what}: {error}")))?;
            ("standard input", json)
        }
        (_, Some(path)) => {
            let json = std::fs::read_to_string(path).map_err(|error| {
                Failure::usage(format!("cannot read {what} from {}: {error}", safe(path)))
                    .remedy("check the path after the `@`")
            })?;
            (path, json)
        }
        _ => ("the command line", given.to_owned()),
    };
    let value = serde_json::from_str(&json).map_err(|error| {
        let place = safe(place);
        Failure::usage(format!("{what}, from {place}, is no JSON: {error}")).remedy(
            "text is written in double quotes, and a shell takes those for its own: '\"text\"'",
        )
    })?;
    Ok(Some(value))
}
