//! What a request is told by, beside its path.

use axum::http::{HeaderMap, header};

/// Who visits, and where the page is for them.
#[derive(Debug, Clone)]
pub(crate) struct Visit {
    /// The path in front of all paths of the page.
    pub(crate) base: String,
    /// What forms must bring along.
    pub(crate) csrf: String,
    /// Who it is, where a proxy says so.
    pub(crate) who: Option<String>,
}

impl Visit {
    /// A path of the page, as browsers see it.
    pub(crate) fn path(&self, path: &str) -> String {
        match (&*self.base, path) {
            ("", path) => path.to_owned(),
            (base, "/") => base.to_owned(),
            (base, path) => format!("{base}{path}"),
        }
    }

    /// The path of a run, with what follows it.
    pub(crate) fn run(&self, id: &str, rest: &str) -> String {
        self.path(&format!("/runs/{}{rest}", crate::text::encode(id)))
    }
}

/// The parts of a query, those that are `replaced` in place of its own, as what follows the path. Empty ones are
/// left out.
pub(crate) fn query(own: &[(&str, &str)], replaced: &[(&str, &str)]) -> String {
    let is_kept = |key: &str| !replaced.iter().any(|(other, _)| *other == key);
    let own = own.iter().filter(|(key, _)| is_kept(key));
    let parts = own.chain(replaced).filter(|(_, value)| !value.is_empty());
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(parts);
    match query.finish() {
        query if query.is_empty() => query,
        query => format!("?{query}"),
    }
}

pub(crate) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let cookies = headers.get_all(header::COOKIE).into_iter();
    let cookies = cookies.filter_map(|cookies| cookies.to_str().ok());
    cookies
        .flat_map(|cookies| cookies.split(';'))
        .filter_map(|cookie| cookie.trim().split_once('='))
        .find_map(|(key, value)| (key == name).then_some(value))
}
