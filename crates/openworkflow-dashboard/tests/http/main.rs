//! The page over HTTP: who is let in, what is refused, and what every answer carries. What a browser makes of
//! it is in `tests/page` of the workspace.

mod access;
mod api;
mod csrf;
mod escaping;
mod overview;
mod serving;
mod site;
