//! Links to where traces are shown.

const PLACE: &str = "{trace_id}";

/// A template for links that no link can be made of.
#[derive(Debug, thiserror::Error)]
#[error("{template:?} {problem}; give a URL such as http://localhost:16686/trace/{{trace_id}}")]
pub struct InvalidLink {
    template: String,
    problem: &'static str,
}

#[derive(Debug, Clone)]
pub(crate) struct TraceLink {
    pub(crate) name: String,
    template: String,
}

impl TraceLink {
    pub(crate) fn new(name: String, template: String) -> Result<Self, InvalidLink> {
        let is_web = ["http://", "https://"]
            .iter()
            .any(|scheme| template.starts_with(scheme));
        let problem = match (is_web, template.contains(PLACE)) {
            (true, true) => return Ok(Self { name, template }),
            (false, _) => "is no URL of the web",
            (true, false) => "has no {trace_id} in it",
        };
        Err(InvalidLink { template, problem })
    }

    /// Where that trace is.
    pub(crate) fn to(&self, trace_id: &str) -> String {
        self.template.replace(PLACE, trace_id)
    }
}

/// The trace id of a W3C `traceparent`.
pub(crate) fn trace_id(traceparent: &str) -> Option<&str> {
    let id = traceparent.split('-').nth(1)?;
    let is_id = id.len() == 32
        && id.bytes().all(|byte| byte.is_ascii_hexdigit())
        && id.bytes().any(|byte| byte != b'0');
    is_id.then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_web_is_linked_to() {
        let link = |template: &str| TraceLink::new("x".to_owned(), template.to_owned());
        assert!(link("javascript:alert({trace_id})").is_err());
        assert!(link("https://example.com/").is_err());
        let made = link("https://example.com/{trace_id}?a=1").map(|link| link.to("4bf9"));
        assert_eq!(made.ok().as_deref(), Some("https://example.com/4bf9?a=1"));
    }

    #[test]
    fn an_id_is_an_id() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(trace_id(&format!("00-{id}-00f067aa0ba902b7-01")), Some(id));
        assert_eq!(trace_id("00-../../etc-00f067aa0ba902b7-01"), None);
        assert_eq!(trace_id(""), None);
    }
}
