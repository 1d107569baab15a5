//! Style and script: in the binary, and named after what is in them, so that browsers may keep them.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use crate::problem::Problem;

pub(crate) struct Asset {
    name: &'static str,
    kind: &'static str,
    text: &'static str,
}

pub(crate) static STYLE: Asset = Asset {
    name: "page.css",
    kind: "text/css; charset=utf-8",
    text: include_str!("assets/page.css"),
};

pub(crate) static SCRIPT: Asset = Asset {
    name: "page.js",
    kind: "text/javascript; charset=utf-8",
    text: include_str!("assets/page.js"),
};

pub(crate) static ICON: Asset = Asset {
    name: "icon.svg",
    kind: "image/svg+xml",
    text: include_str!("assets/icon.svg"),
};

static VERSION: LazyLock<String> = LazyLock::new(|| {
    let mut hasher = DefaultHasher::new();
    for asset in [&STYLE, &SCRIPT, &ICON] {
        asset.text.hash(&mut hasher);
    }
    format!("{:016x}", hasher.finish())
});

impl Asset {
    pub(crate) fn path(&self) -> String {
        format!("/assets/{}/{}", *VERSION, self.name)
    }
}

pub(crate) async fn asset(Path((_, name)): Path<(String, String)>) -> Response {
    let assets = [&STYLE, &SCRIPT, &ICON];
    let Some(asset) = assets.into_iter().find(|asset| asset.name == name) else {
        return Problem::not_found().into_response();
    };
    let headers = [
        (header::CONTENT_TYPE, asset.kind),
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
    ];
    (headers, asset.text).into_response()
}
