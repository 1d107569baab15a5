//! How to reach a database: connection strings, `PG*` variables, and what the builder says.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use deadpool_postgres::Pool;
use tokio_postgres::config::{Config, Host, SslMode};

use super::passfile;
use super::tls::{TlsMode, TlsOptions};
use super::{DEFAULT_SCHEMA, Postgres};
use crate::Clock;
use crate::backend::{BackendError, BackendResult};

const MAX_IDENTIFIER_BYTES: usize = 63;

/// How to connect to PostgreSQL.
///
/// What is not said here is taken from the connection string, then from the variables `PGHOST`,
/// `PGPORT`, `PGUSER`, `PGPASSWORD`, `PGDATABASE`, `PGSSLMODE`, `PGSSLROOTCERT`, `PGAPPNAME`,
/// `PGCONNECT_TIMEOUT` and `PGPASSFILE`, and then from the usual defaults: `localhost`, port 5432,
/// the name of the operating system's user for both the role and the database.
///
/// ```no_run
/// # async fn doc() -> Result<(), openworkflow::backend::BackendError> {
/// use std::time::Duration;
/// use openworkflow::Postgres;
///
/// let backend = Postgres::options()
///     .url("postgresql://app@db.example.com/orders?sslmode=verify-full")
///     .schema("workflows")
///     .pool_size(20)
///     .connect_retry(Duration::from_secs(30))
///     .connect()
///     .await?;
/// # drop(backend); Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "options do nothing until `connect` is called"]
pub struct PostgresOptions {
    url: Option<String>,
    host: Option<String>,
    port: Option<u16>,
    user: Option<String>,
    password: Option<String>,
    database: Option<String>,
    application_name: Option<String>,
    tls: Option<TlsMode>,
    root_certificates: Option<PathBuf>,
    pub(super) schema: String,
    pub(super) pool_size: usize,
    pub(super) migrate: bool,
    pub(super) connect_retry: Duration,
    pub(super) clock: Clock,
}

/// Everything that is needed to open a connection.
pub(super) struct Target {
    pub(super) config: Config,
    pub(super) tls: TlsOptions,
    /// Server and database, without credentials.
    pub(super) label: String,
}

impl PostgresOptions {
    pub(super) fn new() -> Self {
        Self {
            url: None,
            host: None,
            port: None,
            user: None,
            password: None,
            database: None,
            application_name: None,
            tls: None,
            root_certificates: None,
            schema: DEFAULT_SCHEMA.to_owned(),
            pool_size: 10,
            migrate: true,
            connect_retry: Duration::from_secs(10),
            clock: Clock::system(),
        }
    }

    /// A connection string: `postgresql://user:password@host:port/database?sslmode=require`, or
    /// `host=... dbname=...`.
    pub fn url(mut self, url: impl Into<String>) -> Self {
        self.url = Some(url.into());
        self
    }

    /// The server's host name or address, or the directory of its Unix socket.
    pub fn host(mut self, host: impl Into<String>) -> Self {
        self.host = Some(host.into());
        self
    }

    /// The server's port.
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// The role.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// The role's password.
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(password.into());
        self
    }

    /// The database.
    pub fn database(mut self, database: impl Into<String>) -> Self {
        self.database = Some(database.into());
        self
    }

    /// The name that the server shows for our connections in `pg_stat_activity`; `openworkflow`
    /// where neither this, the connection string nor `PGAPPNAME` gives one.
    pub fn application_name(mut self, name: impl Into<String>) -> Self {
        self.application_name = Some(name.into());
        self
    }

    /// Whether connections are encrypted and what is checked; overrides `sslmode`.
    pub fn tls(mut self, mode: TlsMode) -> Self {
        self.tls = Some(mode);
        self
    }

    /// A file of certificate authorities in PEM form, used instead of the system's by
    /// [`TlsMode::VerifyCa`] and [`TlsMode::VerifyFull`]; overrides `sslrootcert`.
    pub fn root_certificates(mut self, file: impl Into<PathBuf>) -> Self {
        self.root_certificates = Some(file.into());
        self
    }

    /// The schema that holds the tables, `openworkflow` by default. A plain identifier: ASCII
    /// letters, digits and underscores, not beginning with a digit, at most 63 bytes.
    pub fn schema(mut self, schema: impl Into<String>) -> Self {
        self.schema = schema.into();
        self
    }

    /// How many connections are kept at most, 10 by default, for each runtime that the backend is used
    /// on. One more listens for notifications.
    pub fn pool_size(mut self, connections: usize) -> Self {
        self.pool_size = connections.max(1);
        self
    }

    /// Whether to create or upgrade the tables, which is the default. Without it, connecting fails
    /// where they are missing or old.
    pub fn migrate(mut self, migrate: bool) -> Self {
        self.migrate = migrate;
        self
    }

    /// How long connecting keeps trying while the server is down or starting, 10 seconds by default.
    /// A refused password or a missing database is reported at once.
    pub fn connect_retry(mut self, limit: Duration) -> Self {
        self.connect_retry = limit;
        self
    }

    /// The clock of this machine, in place of the system's. The server's decides, and puts it right: give
    /// one to see what becomes of a clock that is [off](Clock::off_by).
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Connects, and creates or upgrades the tables.
    ///
    /// # Errors
    ///
    /// [`BackendError::Unavailable`] says what keeps the database from being used: a malformed
    /// connection string, a server that is down, a refused password, a missing database, a role
    /// without rights, a server that is too old or read-only, missing tables.
    /// [`BackendError::NewerSchema`] where a newer version made the tables.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime with time and I/O enabled.
    pub async fn connect(self) -> BackendResult<Postgres> {
        Postgres::open(self, None).await
    }

    /// Uses connections of the application's own pool, and creates or upgrades the tables.
    ///
    /// - What was said about connections is the pool's matter, its size and encryption too. Only where a
    ///   [connection string](Self::url) or a [host](Self::host) is given, one more connection is made
    ///   there, to listen for what other processes announce. Without, that is found by polling: within a
    ///   second, or when a run that this process knows of is due.
    /// - The pool's sessions are left as they were: no setting is changed, and no statement stays prepared.
    ///   So the server plans every statement anew; [`connect`](Self::connect) spares it that.
    /// - An operation takes one connection of the pool, and waits for it as long as the pool says. One is
    ///   enough; a busy worker has use for ten.
    /// - A pool lives on the runtime that its connections were made on: use the backend there.
    /// - [`close`](Postgres::close) and the end of the last clone leave the pool open.
    ///
    /// The type of the pool is that of [`deadpool_postgres`](crate::backend::deadpool_postgres) in the
    /// version that is exported here.
    ///
    /// ```no_run
    /// # async fn doc() -> Result<(), Box<dyn std::error::Error>> {
    /// use openworkflow::Postgres;
    /// use openworkflow::backend::deadpool_postgres::{Manager, Pool, tokio_postgres::NoTls};
    ///
    /// let config = "host=localhost user=app dbname=orders".parse()?;
    /// let pool = Pool::builder(Manager::new(config, NoTls)).max_size(20).build()?;
    /// let backend = Postgres::options().schema("workflows").connect_with(pool.clone()).await?;
    /// # drop(backend); Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect), and [`BackendError::Closed`] where the pool is closed.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime with time and I/O enabled.
    pub async fn connect_with(self, pool: Pool) -> BackendResult<Postgres> {
        Postgres::open(self, Some(pool)).await
    }

    /// Whether the builder says where the server is.
    pub(super) fn names_a_server(&self) -> bool {
        self.url.is_some() || self.host.is_some()
    }

    pub(super) fn check_schema(&self) -> BackendResult<()> {
        let name = &self.schema;
        let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if starts_well && plain && name.len() <= MAX_IDENTIFIER_BYTES {
            return Ok(());
        }
        Err(BackendError::Unavailable {
            database: "postgresql".to_owned(),
            problem: format!(
                "{name:?} is not a schema name: use ASCII letters, digits and underscores, no digit first, and at most {MAX_IDENTIFIER_BYTES} bytes"
            ),
            source: None,
        })
    }

    /// Where to connect, with all the sources of settings taken together.
    pub(super) fn target(&self, env: &dyn Fn(&str) -> Option<String>) -> BackendResult<Target> {
        let url = match &self.url {
            Some(url) => ConnectionString::read(url)?,
            None => ConnectionString::default(),
        };
        let mut config = url.config;
        if let Some(host) = &self.host {
            // Hosts only add up in a `Config`; a builder's host replaces the string's.
            config = without_hosts(&config);
            config.host(host);
        }
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            let hosts = env("PGHOST").unwrap_or_else(|| "localhost".to_owned());
            for host in hosts.split(',') {
                config.host(host);
            }
        }
        if let Some(port) = self.port {
            config = without_ports(&config);
            config.port(port);
        } else if config.get_ports().is_empty() {
            for port in env("PGPORT").iter().flat_map(|ports| ports.split(',')) {
                let port = port
                    .parse()
                    .map_err(|_| malformed("PGPORT is not a port number"))?;
                config.port(port);
            }
        }
        if let Some(user) = self.user.clone().or_else(|| match config.get_user() {
            Some(_) => None,
            None => env("PGUSER"),
        }) {
            config.user(user);
        }
        if let Some(database) = self.database.clone().or_else(|| match config.get_dbname() {
            Some(_) => None,
            None => env("PGDATABASE"),
        }) {
            config.dbname(database);
        }
        if let Some(password) = &self.password {
            config.password(password);
        } else if config.get_password().is_none()
            && let Some(password) = env("PGPASSWORD").or_else(|| passfile::look_up(&config, env))
        {
            config.password(password);
        }
        if let Some(name) = &self.application_name {
            config.application_name(name);
        } else if config.get_application_name().is_none() {
            config.application_name(env("PGAPPNAME").unwrap_or_else(|| "openworkflow".to_owned()));
        }
        if config.get_connect_timeout().is_none() {
            let seconds = env("PGCONNECT_TIMEOUT").and_then(|text| text.parse().ok());
            config.connect_timeout(Duration::from_secs(
                seconds.filter(|s| *s > 0).unwrap_or(10),
            ));
        }
        notice_dead_peers(&mut config);
        check_texts(&config)?;

        let mode = match self.tls {
            Some(mode) => mode,
            None => match url.ssl_mode.or_else(|| env("PGSSLMODE")) {
                Some(text) => TlsMode::parse(&text)
                    .ok_or_else(|| malformed(&format!("sslmode {text:?} does not exist")))?,
                None => TlsMode::Prefer,
            },
        };
        let local = config.get_hosts().iter().all(|host| match host {
            Host::Tcp(_) => false,
            #[cfg(unix)]
            Host::Unix(_) => true,
        }) && config.get_hostaddrs().is_empty();
        // A Unix socket never leaves the machine and the server offers no encryption on it.
        let mode = if local { TlsMode::Disable } else { mode };
        config.ssl_mode(match mode {
            TlsMode::Disable => SslMode::Disable,
            TlsMode::Prefer => SslMode::Prefer,
            TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => SslMode::Require,
        });
        let roots = self
            .root_certificates
            .clone()
            .or_else(|| url.ssl_root_cert.map(PathBuf::from))
            .or_else(|| env("PGSSLROOTCERT").map(PathBuf::from))
            .filter(|path| path.as_os_str() != "system");
        let label = label(&config);
        Ok(Target {
            config,
            tls: TlsOptions { mode, roots },
            label,
        })
    }
}

/// Refuses texts that the server would not understand as they are meant: U+0000 ends a text on the wire.
fn check_texts(config: &Config) -> BackendResult<()> {
    let hosts = config.get_hosts().iter().map(|host| match host {
        Host::Tcp(name) => name.as_bytes(),
        #[cfg(unix)]
        Host::Unix(path) => std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()),
    });
    let settings = [
        ("user", config.get_user().map(str::as_bytes)),
        ("password", config.get_password()),
        ("database", config.get_dbname().map(str::as_bytes)),
        (
            "application_name",
            config.get_application_name().map(str::as_bytes),
        ),
        ("options", config.get_options().map(str::as_bytes)),
    ];
    let hosts = hosts.map(|host| ("host", Some(host)));
    match settings
        .into_iter()
        .chain(hosts)
        .find(|(_, text)| text.is_some_and(|text| text.contains(&0)))
    {
        None => Ok(()),
        Some((name, _)) => Err(malformed(&format!(
            "the setting {name} holds the character U+0000; leave it out"
        ))),
    }
}

/// A worker must learn that its connection is dead well before the lease of 30 seconds ends.
fn notice_dead_peers(config: &mut Config) {
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(Duration::from_secs(15));
    }
    if config.get_keepalives_interval().is_none() && config.get_keepalives_retries().is_none() {
        config.keepalives_idle(Duration::from_secs(10));
        config.keepalives_interval(Duration::from_secs(2));
        config.keepalives_retries(3);
    }
}

fn without_hosts(config: &Config) -> Config {
    let mut copy = without_hosts_and_ports(config);
    for port in config.get_ports() {
        copy.port(*port);
    }
    copy
}

fn without_ports(config: &Config) -> Config {
    let mut copy = without_hosts_and_ports(config);
    for host in config.get_hosts() {
        match host {
            Host::Tcp(name) => copy.host(name),
            #[cfg(unix)]
            Host::Unix(path) => copy.host_path(path),
        };
    }
    for address in config.get_hostaddrs() {
        copy.hostaddr(*address);
    }
    copy
}

fn without_hosts_and_ports(config: &Config) -> Config {
    let mut copy = Config::new();
    if let Some(user) = config.get_user() {
        copy.user(user);
    }
    if let Some(password) = config.get_password() {
        copy.password(password);
    }
    if let Some(database) = config.get_dbname() {
        copy.dbname(database);
    }
    if let Some(options) = config.get_options() {
        copy.options(options);
    }
    if let Some(name) = config.get_application_name() {
        copy.application_name(name);
    }
    if let Some(timeout) = config.get_connect_timeout() {
        copy.connect_timeout(*timeout);
    }
    if let Some(timeout) = config.get_tcp_user_timeout() {
        copy.tcp_user_timeout(*timeout);
    }
    copy.keepalives(config.get_keepalives());
    copy.keepalives_idle(config.get_keepalives_idle());
    if let Some(interval) = config.get_keepalives_interval() {
        copy.keepalives_interval(interval);
    }
    if let Some(retries) = config.get_keepalives_retries() {
        copy.keepalives_retries(retries);
    }
    copy.ssl_negotiation(config.get_ssl_negotiation());
    copy.target_session_attrs(config.get_target_session_attrs());
    copy.channel_binding(config.get_channel_binding());
    copy.load_balance_hosts(config.get_load_balance_hosts());
    copy
}

fn label(config: &Config) -> String {
    let port = config.get_ports().first().copied().unwrap_or(5432);
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(host)) => host.clone(),
        #[cfg(unix)]
        Some(Host::Unix(path)) => path.display().to_string(),
        None => config
            .get_hostaddrs()
            .first()
            .map_or_else(String::new, ToString::to_string),
    };
    // Without a name the server takes the role's, which is nobody's business here.
    let database = config.get_dbname().unwrap_or("(the role's own)");
    format!("postgresql://{host}:{port}/{database}")
}

pub(super) fn malformed(problem: &str) -> BackendError {
    BackendError::Unavailable {
        database: "postgresql".to_owned(),
        problem: problem.to_owned(),
        source: None,
    }
}

/// A connection string, with the settings taken out that the driver does not know.
#[derive(Default)]
struct ConnectionString {
    config: Config,
    ssl_mode: Option<String>,
    ssl_root_cert: Option<String>,
}

impl ConnectionString {
    fn read(text: &str) -> BackendResult<Self> {
        let mut settings = Self::default();
        let is_url = text.starts_with("postgres://") || text.starts_with("postgresql://");
        let rest = if is_url {
            settings.take_from_url(text)
        } else {
            settings.take_from_pairs(text)
        };
        // The driver's messages name the offending setting, never its value.
        settings.config = rest.parse().map_err(|error: tokio_postgres::Error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            malformed(&format!(
                "the connection string is malformed: {}",
                cause.unwrap_or_else(|| error.to_string())
            ))
        })?;
        Ok(settings)
    }

    fn take(&mut self, key: &str, value: String) -> bool {
        match key {
            "sslmode" => self.ssl_mode = Some(value),
            "sslrootcert" => self.ssl_root_cert = Some(value),
            _ => return false,
        }
        true
    }

    fn take_from_url(&mut self, text: &str) -> String {
        let Some((head, query)) = text.split_once('?') else {
            return text.to_owned();
        };
        let decode = |text: &str| {
            percent_encoding::percent_decode_str(text)
                .decode_utf8_lossy()
                .into_owned()
        };
        let rest: Vec<&str> = query
            .split('&')
            .filter(|pair| {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                !pair.is_empty() && !self.take(&decode(key), decode(value))
            })
            .collect();
        if rest.is_empty() {
            head.to_owned()
        } else {
            format!("{head}?{}", rest.join("&"))
        }
    }

    fn take_from_pairs(&mut self, text: &str) -> String {
        let mut kept = String::new();
        let mut rest = text.trim_start();
        while let Some((key, after)) = rest.split_once('=') {
            let (value, length) = pair_value(after.trim_start());
            let after = after.trim_start();
            if !self.take(key.trim(), value) {
                kept.push_str(key);
                kept.push('=');
                kept.push_str(&after[..length]);
                kept.push(' ');
            }
            rest = after[length..].trim_start();
        }
        kept.push_str(rest);
        kept
    }
}

/// The value at the beginning of `text` in a list of `key=value` pairs, and how long it is there.
fn pair_value(text: &str) -> (String, usize) {
    let quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(usize::from(quoted)) {
        if escaped {
            value.push(c);
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if quoted && c == '\'' {
            return (value, at + 1);
        } else if !quoted && c.is_whitespace() {
            return (value, at);
        } else {
            value.push(c);
        }
    }
    (value, text.len())
}

impl fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither the connection string nor the password: both may hold a secret.
        f.debug_struct("PostgresOptions")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("database", &self.database)
            .field("schema", &self.schema)
            .field("pool_size", &self.pool_size)
            .field("migrate", &self.migrate)
            .finish_non_exhaustive()
    }
}
