//! Pages of a list, and the cursors between them.

use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::codec;
use super::request::{PageEdge, Window};

/// A place in a list, as the protocol writes it: base64 of a JSON object with `createdAt` and `id`.
///
/// ```
/// use std::time::SystemTime;
/// use openworkflow::backend::Cursor;
///
/// let cursor = Cursor::new(SystemTime::UNIX_EPOCH, "6f9c");
/// assert_eq!(Cursor::decode(&cursor.encode()), Some(cursor));
/// assert_eq!(Cursor::decode("6f9c"), None);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    created_at: SystemTime,
    id: String,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    #[serde(rename = "createdAt")]
    created_at: String,
    id: String,
}

impl Cursor {
    /// The place of the item with this id and time of creation.
    pub fn new(created_at: SystemTime, id: impl Into<String>) -> Self {
        Self {
            created_at,
            id: id.into(),
        }
    }

    /// When the item at this place was created.
    #[must_use]
    pub fn created_at(&self) -> SystemTime {
        self.created_at
    }

    /// The id of the item at this place.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The text of this cursor. What is finer than a millisecond is not in it.
    #[must_use]
    pub fn encode(&self) -> String {
        let wire = Wire {
            created_at: codec::format_time(self.created_at),
            id: self.id.clone(),
        };
        STANDARD.encode(serde_json::to_string(&wire).unwrap_or_default())
    }

    /// Reads the text of a cursor; `None` if it is not one.
    #[must_use]
    pub fn decode(text: &str) -> Option<Self> {
        let wire: Wire = serde_json::from_slice(&STANDARD.decode(text).ok()?).ok()?;
        Some(Self {
            created_at: codec::parse_time(&wire.created_at)?,
            id: wire.id,
        })
    }
}

/// A part of a list.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Page<T> {
    /// The items, in the order of the list.
    pub items: Vec<T>,
    /// Pass it as `after` to get the next page; `None` on the last one.
    pub next: Option<String>,
    /// Pass it as `before` to get the previous page; `None` on the first one.
    pub prev: Option<String>,
}

impl<T> Page<T> {
    /// Makes a page of the rows that a backend read: up to one more than `window.limit`, going
    /// away from the edge (so for [`PageEdge::Before`] in the reverse of the list's order).
    #[must_use]
    pub fn assemble(mut rows: Vec<T>, window: &Window, cursor: impl Fn(&T) -> Cursor) -> Self {
        let limit = window.limit as usize;
        let overflow = rows.len() > limit;
        rows.truncate(limit);
        let (has_next, has_prev) = match window.from {
            None => (overflow, false),
            Some(PageEdge::After(_)) => (overflow, true),
            Some(PageEdge::Before(_)) => {
                rows.reverse();
                (true, overflow)
            }
        };
        let next = rows
            .last()
            .filter(|_| has_next)
            .map(|row| cursor(row).encode());
        let prev = rows
            .first()
            .filter(|_| has_prev)
            .map(|row| cursor(row).encode());
        Self {
            items: rows,
            next,
            prev,
        }
    }
}
