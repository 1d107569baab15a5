//! The password file: `PGPASSFILE`, or `.pgpass` in the home directory.

use std::fs;
use std::path::{Path, PathBuf};

use tokio_postgres::config::{Config, Host};

/// The password that the file has for this server, database and role.
pub(super) fn look_up(config: &Config, env: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let path = match env("PGPASSFILE") {
        Some(path) => PathBuf::from(path),
        None => Path::new(&env("HOME")?).join(".pgpass"),
    };
    if !is_private(&path) {
        return None;
    }
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(host)) => host.clone(),
        _ => "localhost".to_owned(),
    };
    let port = config.get_ports().first().copied().unwrap_or(5432);
    let user = config.get_user()?;
    let database = config.get_dbname().unwrap_or(user);
    let wanted = [&host, &port.to_string(), database, user];
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| {
        let fields = fields(line)?;
        let matches = fields
            .iter()
            .zip(wanted)
            .all(|(field, wanted)| field == "*" || field == wanted);
        matches.then(|| fields[4].clone())
    })
}

/// Others must not be able to read it, as for every client of PostgreSQL.
fn is_private(path: &Path) -> bool {
    let Ok(metadata) = fs::metadata(path) else {
        return false;
    };
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        if metadata.permissions().mode() & 0o077 != 0 {
            tracing::warn!("the password file is readable by others and was not used");
            return false;
        }
    }
    metadata.is_file()
}

/// `host:port:database:user:password`, where a backslash escapes a colon or a backslash.
fn fields(line: &str) -> Option<[String; 5]> {
    if line.starts_with('#') {
        return None;
    }
    let mut fields: [String; 5] = Default::default();
    let mut at = 0;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => fields[at].extend(chars.next()),
            ':' if at < 4 => at += 1,
            c => fields[at].push(c),
        }
    }
    (at == 4).then_some(fields)
}
