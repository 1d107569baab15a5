//! Who gets to see the page.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use axum::extract::ConnectInfo;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, Uri, header};

use crate::request::cookie;

/// The cookie that holds the token, in hexadecimal digits.
pub(crate) const COOKIE: &str = "openworkflow_token";
/// A shorter token could be guessed.
const SHORTEST: usize = 12;

/// Who gets to see a [`Dashboard`](crate::Dashboard).
#[derive(Debug)]
pub struct Access(pub(crate) Rule);

/// Rules that make no sense.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidAccess {
    /// The token could be guessed.
    #[error("a token of {length} bytes can be guessed; make one with `openssl rand -hex 24`")]
    ShortToken {
        /// How long it is.
        length: usize,
    },
    /// The name of the header is none.
    #[error("{name:?} is no name of a header; give one such as x-forwarded-user")]
    Header {
        /// The name.
        name: String,
    },
}

pub(crate) enum Rule {
    Local,
    Token(String),
    Proxy {
        header: HeaderName,
        addresses: Vec<IpAddr>,
    },
    Service,
}

/// Why somebody is not let in.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The token is missing or wrong.
    Token,
    /// In words, with the remedy.
    Forbidden(String),
}

impl Access {
    /// Whoever comes from the machine itself, under a name of the machine itself: `localhost`, `127.0.0.1` or
    /// `[::1]`. A page that a browser loads from elsewhere cannot get at it under a name of its own.
    #[must_use]
    pub fn local() -> Self {
        Self(Rule::Local)
    }

    /// Whoever knows the token: browsers are asked for it once, scripts send it as
    /// `Authorization: Bearer TOKEN`. It goes over the wire as it is, so use TLS.
    ///
    /// # Errors
    ///
    /// [`InvalidAccess::ShortToken`] below 12 bytes.
    pub fn token(token: impl Into<String>) -> Result<Self, InvalidAccess> {
        let token = token.into();
        let length = token.len();
        if length < SHORTEST {
            return Err(InvalidAccess::ShortToken { length });
        }
        Ok(Self(Rule::Token(token)))
    }

    /// Whoever a proxy in front of the page has let in, which says so by a header that holds their name. Only
    /// requests from the addresses of the proxy are listened to. The proxy must take the header off what it is
    /// sent.
    ///
    /// # Errors
    ///
    /// [`InvalidAccess::Header`].
    pub fn proxy(
        header: &str,
        addresses: impl IntoIterator<Item = IpAddr>,
    ) -> Result<Self, InvalidAccess> {
        let name = HeaderName::try_from(header).map_err(|_| InvalidAccess::Header {
            name: header.to_owned(),
        })?;
        Ok(Self(Rule::Proxy {
            header: name,
            addresses: addresses.into_iter().map(|of| of.to_canonical()).collect(),
        }))
    }

    /// Whoever the service around the router lets in: it has authentication of its own in front.
    #[must_use]
    pub fn service() -> Self {
        Self(Rule::Service)
    }
}

impl Rule {
    /// Whether it keeps strangers out where the server can be reached from elsewhere.
    pub(crate) fn is_for_networks(&self) -> bool {
        matches!(self, Self::Token(_) | Self::Proxy { .. })
    }

    /// Lets in, with a name where one is known.
    pub(crate) fn admit(&self, parts: &Parts) -> Result<Option<String>, Refusal> {
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        let peer = peer.map(|info| info.0.ip().to_canonical());
        match self {
            Self::Service => Ok(None),
            Self::Local => local(peer, parts).map(|()| None),
            Self::Token(token) => match given(&parts.headers) {
                Some(given) if same(&given, token) => Ok(None),
                _ => Err(Refusal::Token),
            },
            Self::Proxy { header, addresses } => {
                let peer = peer.ok_or_else(unknown_peer)?;
                if !addresses.contains(&peer) {
                    return Err(Refusal::Forbidden(format!(
                        "{peer} is not the proxy that this page is behind. Come through the proxy."
                    )));
                }
                let name = parts.headers.get(header);
                let name = name.map(|name| String::from_utf8_lossy(name.as_bytes()).into_owned());
                match name.filter(|name| !name.trim().is_empty()) {
                    Some(name) => Ok(Some(name)),
                    None => Err(Refusal::Forbidden(format!(
                        "The proxy does not say who you are: its header {header} is missing."
                    ))),
                }
            }
        }
    }

    /// Whether this is the token.
    pub(crate) fn is_token(&self, given: &str) -> bool {
        matches!(self, Self::Token(token) if same(given, token))
    }
}

fn unknown_peer() -> Refusal {
    Refusal::Forbidden(
        "Who asks cannot be told, so nobody is let in. Serve the router with \
         into_make_service_with_connect_info::<SocketAddr>(), or choose another Access for it."
            .to_owned(),
    )
}

fn local(peer: Option<IpAddr>, parts: &Parts) -> Result<(), Refusal> {
    let peer = peer.ok_or_else(unknown_peer)?;
    if !peer.is_loopback() {
        return Err(Refusal::Forbidden(
            "This page is for the machine that it runs on. Give it a token to open it to others."
                .to_owned(),
        ));
    }
    let host = host(&parts.headers, &parts.uri).unwrap_or_default();
    let name = without_port(host);
    let is_own = name.eq_ignore_ascii_case("localhost")
        || name
            .trim_matches(['[', ']'])
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback());
    if is_own {
        return Ok(());
    }
    // A name that somebody else has pointed at this machine.
    Err(Refusal::Forbidden(
        "This page is found under localhost or 127.0.0.1 only. Give it a token to use another name."
            .to_owned(),
    ))
}

/// What the request calls this server.
pub(crate) fn host<'a>(headers: &'a HeaderMap, uri: &'a Uri) -> Option<&'a str> {
    let header = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    header.or_else(|| uri.authority().map(|authority| authority.as_str()))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

fn given(headers: &HeaderMap) -> Option<String> {
    let header = headers.get(header::AUTHORIZATION);
    let bearer = header.and_then(|header| header.to_str().ok()?.strip_prefix("Bearer "));
    match bearer {
        Some(token) => Some(token.trim().to_owned()),
        None => decode(cookie(headers, COOKIE)?),
    }
}

/// Hexadecimal digits, which can stand in a cookie whatever the token is made of.
pub(crate) fn encode(token: &str) -> String {
    token.bytes().map(|byte| format!("{byte:02x}")).collect()
}

fn decode(digits: &str) -> Option<String> {
    let digits = digits.as_bytes();
    let (pairs, []) = digits.as_chunks::<2>() else {
        return None;
    };
    let bytes: Option<Vec<u8>> = pairs
        .iter()
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect();
    String::from_utf8(bytes?).ok()
}

/// Takes as long for every guess of that length.
pub(crate) fn same(given: &str, expected: &str) -> bool {
    let differing = given
        .bytes()
        .zip(expected.bytes())
        .fold(0, |differing, (a, b)| differing | (a ^ b));
    given.len() == expected.len() && std::hint::black_box(differing) == 0
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("Local"),
            // Without the token.
            Self::Token(_) => f.write_str("Token"),
            Self::Proxy { header, addresses } => f
                .debug_struct("Proxy")
                .field("header", header)
                .field("addresses", addresses)
                .finish(),
            Self::Service => f.write_str("Service"),
        }
    }
}
