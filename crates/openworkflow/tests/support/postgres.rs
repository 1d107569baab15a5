//! A PostgreSQL server for tests: the one that `OPENWORKFLOW_TEST_POSTGRES_URL` names, or a
//! throw-away one made from the binaries on this machine.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "included by several test programs, of which each uses a part"
)]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::{env, fs};

use openworkflow::Postgres;

/// Names a server whose database the tests may fill with schemas of their own.
pub const URL_VARIABLE: &str = "OPENWORKFLOW_TEST_POSTGRES_URL";

/// The password of `postgres` on throw-away servers.
pub const PASSWORD: &str = "open:sesame";

/// What keeps a throw-away server, and takes it away when this process is gone: its standard input
/// then ends, however the process ended.
const KEEPER: &str = r#"
dir=$1; bin=$2; shift 2
"$bin/initdb" -D "$dir/data" -U postgres -A trust --auth-host=scram-sha-256 \
    --pwfile="$dir/password" -E UTF8 --locale=C --no-sync >"$dir/log" 2>&1 \
    || { echo failed; cat "$dir/log" >&2; rm -rf "$dir"; exit 1; }
for line in "$@"; do echo "$line" >>"$dir/data/postgresql.conf"; done
echo ok
while read -r command; do
    case $command in
        start) "$bin/pg_ctl" -D "$dir/data" -l "$dir/log" -w -t 60 start ;;
        stop) "$bin/pg_ctl" -D "$dir/data" -m fast -w stop ;;
        kill) "$bin/pg_ctl" -D "$dir/data" -m immediate -w stop ;;
        *) "$bin/pg_ctl" -D "$dir/data" reload ;;
    esac >/dev/null 2>>"$dir/log" && echo ok || { echo failed; tail -5 "$dir/log" >&2; }
done
"$bin/pg_ctl" -D "$dir/data" -m immediate stop >/dev/null 2>&1
rm -rf "$dir"
"#;

/// A throw-away server. It goes when this value or the process goes.
#[derive(Debug)]
pub struct Server {
    keeper: Child,
    control: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
    /// Its folder, which holds its data, its log and its Unix socket.
    pub dir: PathBuf,
    /// Where it listens on 127.0.0.1.
    pub port: u16,
}

impl Server {
    /// Starts a server with more lines for its configuration.
    ///
    /// # Panics
    ///
    /// Where there is no PostgreSQL on this machine.
    pub fn start(settings: &[&str]) -> Self {
        let bin = binaries().unwrap_or_else(|| {
            panic!(
                "these tests need PostgreSQL: install it so that initdb and pg_ctl are on PATH or \
                 in /usr/lib/postgresql/*/bin (Debian: `apt-get install postgresql`)"
            )
        });
        let dir = env::temp_dir().join(format!("owpg-{}", uuid::Uuid::new_v4().simple()));
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("password"), PASSWORD).unwrap();
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .unwrap()
            .port();
        let mut command = Command::new("sh");
        command
            .args(["-c", KEEPER, "keeper"])
            .args([&dir, &bin])
            .arg(format!("port = {port}"))
            .arg("listen_addresses = '127.0.0.1'")
            .arg(format!("unix_socket_directories = '{}'", dir.display()))
            .arg("max_connections = 300")
            .args(settings)
            .current_dir(&dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        as_ordinary_user(&mut command, &dir);
        let mut keeper = command.spawn().unwrap();
        let control = (
            keeper.stdin.take().unwrap(),
            BufReader::new(keeper.stdout.take().unwrap()),
        );
        let server = Self {
            keeper,
            control: Mutex::new(control),
            dir,
            port,
        };
        server.expect_ok("initdb");
        server.command("start");
        server
    }

    /// `start`, `stop` (fast), `kill` (as in a crash) or `reload`, and waits until it is done.
    pub fn command(&self, command: &str) {
        let mut control = self.control.lock().unwrap();
        writeln!(control.0, "{command}").unwrap();
        drop(control);
        self.expect_ok(command);
    }

    fn expect_ok(&self, what: &str) {
        let mut answer = String::new();
        let mut control = self.control.lock().unwrap();
        control.1.read_line(&mut answer).unwrap();
        assert_eq!(answer.trim(), "ok", "the test server failed to {what}");
    }

    /// The connection string of the superuser.
    pub fn url(&self) -> String {
        let password = PASSWORD.replace(':', "%3A");
        format!(
            "postgresql://postgres:{password}@127.0.0.1:{}/postgres",
            self.port
        )
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let (stdin, _) = {
            let control = self.control.get_mut().unwrap();
            // Replaced by that of a process that ends at once; there is no empty one.
            let mut nothing = Command::new("true")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let empty = (
                nothing.stdin.take().unwrap(),
                BufReader::new(nothing.stdout.take().unwrap()),
            );
            nothing.wait().unwrap();
            std::mem::replace(control, empty)
        };
        drop(stdin);
        let _ = self.keeper.wait();
    }
}

/// The directory of `initdb` and `pg_ctl`.
pub fn binaries() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut installed: Vec<_> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .collect();
    installed.sort();
    env::split_paths(&path)
        .chain(installed.into_iter().rev())
        .find(|dir| dir.join("initdb").exists() && dir.join("pg_ctl").exists())
}

/// PostgreSQL refuses to run as root: `postgres`, or else `nobody`, then owns `dir` and runs it.
fn as_ordinary_user(command: &mut Command, dir: &Path) {
    use std::os::unix::fs::{MetadataExt, chown};
    use std::os::unix::process::CommandExt;
    if fs::metadata(dir).unwrap().uid() != 0 {
        return;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let ids = ["postgres", "nobody"].iter().find_map(|name| {
        let line = users
            .lines()
            .find(|line| line.starts_with(&format!("{name}:")))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    });
    let (uid, gid): (u32, u32) = ids.expect("root needs a user postgres or nobody to run a server");
    for path in [dir.to_owned(), dir.join("password")] {
        chown(path, Some(uid), Some(gid)).unwrap();
    }
    command.uid(uid).gid(gid);
}

/// The connection string of the server that all tests of this process share.
pub fn url() -> String {
    static SHARED: OnceLock<Result<String, Server>> = OnceLock::new();
    let shared = SHARED.get_or_init(|| match env::var(URL_VARIABLE) {
        Ok(url) if !url.is_empty() => Ok(url),
        // Kept in this variable until the process ends.
        // Nothing here outlives this process, so nothing has to reach the disk.
        _ => Err(Server::start(&["fsync = off"])),
    });
    match shared {
        Ok(url) => url.clone(),
        Err(server) => server.url(),
    }
}

/// A schema's name that no other test has.
pub fn schema() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let unique = uuid::Uuid::new_v4().simple().to_string();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("t{count}_{}", &unique[..12])
}

/// A backend with a schema of its own on the shared server.
pub async fn backend() -> Postgres {
    Postgres::options()
        .url(url())
        .schema(schema())
        .connect()
        .await
        .unwrap()
}

/// A plain connection to the shared server, for looking at rows and disturbing things.
pub async fn client() -> tokio_postgres::Client {
    connect(&url()).await
}

/// A plain connection.
pub async fn connect(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    client
}
