//! Connecting to PostgreSQL: settings, encryption, migrations, and what goes wrong.

#[path = "support/pooler.rs"]
mod pooler;
#[path = "support/postgres.rs"]
mod support;

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use openworkflow::Postgres;
use openworkflow::backend::{
    Backend, BackendError, Claim, EndedStep, ExecutionEnd, NewRun, NewStepAttempt, Owner,
    PostgresOptions, StepAttemptKind, TlsMode,
};
use workflow_core::Payload;

fn options() -> PostgresOptions {
    Postgres::options()
        .url(support::url())
        .schema(support::schema())
}

/// Why connecting failed, for people to read.
async fn problem(options: PostgresOptions) -> String {
    match options.connect().await {
        Err(error @ BackendError::Unavailable { .. }) => error.to_string(),
        other => panic!("expected the database to be unavailable, got {other:?}"),
    }
}

async fn works(backend: &Postgres) {
    let id = uuid::Uuid::new_v4().to_string();
    let run = NewRun::new("default", id.as_str(), "order", Payload::NULL);
    backend.create_run(run).await.unwrap();
    let run = backend.get_run("default", &id).await.unwrap();
    assert_eq!(run.unwrap().id, id);
}

// ===== what goes wrong =====

#[tokio::test]
async fn a_wrong_password_is_reported_at_once_and_never_shown() {
    let began = Instant::now();
    let wrong = options().password("not-the-password");
    let shown = format!("{wrong:?}");
    let error = wrong.connect().await.unwrap_err();
    assert!(
        error.to_string().contains("refused the password"),
        "{error}"
    );
    assert!(began.elapsed() < Duration::from_secs(8));
    for text in [shown, format!("{error:?}"), error.to_string()] {
        assert!(!text.contains("not-the-password"), "{text}");
        assert!(!text.contains("sesame"), "{text}");
    }
    let backend = options().connect().await.unwrap();
    assert!(!format!("{backend:?}").contains("sesame"));
}

#[tokio::test]
async fn a_missing_database_is_reported() {
    let error = problem(options().database("no_such_database")).await;
    assert!(error.contains("does not exist, create it first"), "{error}");
    assert!(error.contains("no_such_database"), "{error}");
}

#[tokio::test]
async fn a_role_without_rights_is_told_which() {
    let schema = support::schema();
    let role = format!("role_{schema}");
    let admin = support::client().await;
    let sql = format!("CREATE ROLE {role} LOGIN PASSWORD 'secret'");
    admin.batch_execute(&sql).await.unwrap();
    let limited = || {
        let options = Postgres::options().url(support::url()).schema(&schema);
        options.user(&role).password("secret")
    };
    // It may not create the schema.
    let error = problem(limited()).await;
    assert!(error.contains("lacks rights"), "{error}");
    // It may not look into the schema that is there.
    let owner = Postgres::options().url(support::url()).schema(&schema);
    owner.connect().await.unwrap();
    let error = problem(limited()).await;
    assert!(error.contains("lacks rights"), "{error}");
    // It may only read.
    let grant = format!(
        "GRANT USAGE ON SCHEMA {schema} TO {role}; GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {role}"
    );
    admin.batch_execute(&grant).await.unwrap();
    let error = problem(limited()).await;
    assert!(error.contains("INSERT on workflow_runs"), "{error}");
    assert!(error.contains("UPDATE on step_attempts"), "{error}");
    assert!(!error.contains("SELECT"), "{error}");
    // Enough to work with: it needs no right to create anything.
    let grant = format!("GRANT INSERT, UPDATE ON ALL TABLES IN SCHEMA {schema} TO {role}");
    admin.batch_execute(&grant).await.unwrap();
    works(&limited().connect().await.unwrap()).await;
}

#[tokio::test]
async fn a_role_can_migrate_in_a_schema_made_for_it() {
    let schema = support::schema();
    let role = format!("role_{schema}");
    let admin = support::client().await;
    let sql = format!(
        "CREATE ROLE {role} LOGIN PASSWORD 'secret'; CREATE SCHEMA {schema} AUTHORIZATION {role}"
    );
    admin.batch_execute(&sql).await.unwrap();
    let options = Postgres::options().url(support::url()).schema(&schema);
    let backend = options
        .user(&role)
        .password("secret")
        .connect()
        .await
        .unwrap();
    works(&backend).await;
}

#[tokio::test]
async fn a_server_that_is_down_is_waited_for_within_bounds() {
    let server = support::Server::start(&[]);
    server.command("stop");
    let down = || Postgres::options().url(server.url());
    let began = Instant::now();
    let error = problem(down().connect_retry(Duration::ZERO)).await;
    assert!(error.contains("no server answers"), "{error}");
    let error = problem(down().connect_retry(Duration::from_millis(300))).await;
    assert!(error.contains("no server answers"), "{error}");
    assert!(began.elapsed() >= Duration::from_millis(300));
    // A name that does not resolve is waited for as well: it may be on its way.
    let nowhere = Postgres::options().url("postgresql://u@host.invalid/db");
    problem(nowhere.connect_retry(Duration::from_millis(100))).await;

    let patient = down().connect_retry(Duration::from_secs(60)).connect();
    let patient = tokio::spawn(patient);
    // On a thread of its own: the connection attempts go on meanwhile.
    let server = tokio::task::spawn_blocking(move || {
        server.command("start");
        server
    });
    let _server = server.await.unwrap();
    works(&patient.await.unwrap().unwrap()).await;
}

#[tokio::test]
async fn a_server_that_takes_no_writes_is_reported() {
    let admin = support::client().await;
    let role = format!("role_{}", support::schema());
    let sql = format!(
        "CREATE ROLE {role} LOGIN SUPERUSER PASSWORD 'secret';
         ALTER ROLE {role} SET default_transaction_read_only = on"
    );
    admin.batch_execute(&sql).await.unwrap();
    let error = problem(options().user(&role).password("secret")).await;
    assert!(error.contains("takes no writes"), "{error}");
}

#[tokio::test]
async fn malformed_settings_are_reported_without_secrets() {
    for (url, expected) in [
        ("postgresql://u:topsecret@localhost:port/db", "malformed"),
        (
            "postgresql://u:topsecret@localhost/db?nonsense=1",
            "nonsense",
        ),
        ("host=localhost password='topsecret", "malformed"),
        (
            "postgresql://u:topsecret@localhost/db?sslmode=maybe",
            "maybe",
        ),
    ] {
        let options = Postgres::options().url(url);
        let error = options.connect().await.unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(text.contains(expected), "{text}");
        assert!(!text.contains("topsecret"), "{text}");
    }
    let long = "x".repeat(64);
    for schema in ["", "1st", "a b", "a\"b", "größe", "a-b", &long] {
        let error = problem(options().schema(schema)).await;
        assert!(error.contains("not a schema name"), "{error}");
    }
    let longest = format!("_{}", &"x".repeat(64)[..62]);
    works(&options().schema(longest).connect().await.unwrap()).await;
}

// ===== where settings come from =====

/// Set in the process that a test starts to look at its environment.
const CHILD: &str = "OPENWORKFLOW_TEST_CHILD";

/// Runs a test of this program in a process of its own.
#[tokio::test]
async fn a_null_character_in_a_setting_is_reported_by_name() {
    for (name, options) in [
        ("host", options().host("a\0b")),
        ("user", options().user("a\0b")),
        ("password", options().password("a\0b")),
        ("database", options().database("a\0b")),
        ("application_name", options().application_name("a\0b")),
        ("user", options().url("postgresql://a%00b@localhost/d")),
        ("schema", options().schema("a\0b")),
    ] {
        let problem = problem(options).await;
        assert!(problem.contains(name), "{problem}");
    }
}

fn in_process(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture"]);
    command
        .env(CHILD, "yes")
        .env(support::URL_VARIABLE, support::url());
    command
}

fn succeeds(mut command: Command) {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 passed"), "{text}");
}

#[tokio::test]
async fn pg_variables_fill_what_is_left_out() {
    if std::env::var(CHILD).is_ok() {
        let options = Postgres::options().schema(support::schema());
        works(&options.connect().await.unwrap()).await;
        return;
    }
    let config: tokio_postgres::Config = support::url().parse().unwrap();
    let tokio_postgres::config::Host::Tcp(host) = &config.get_hosts()[0] else {
        panic!("these tests want a server on TCP");
    };
    let password = String::from_utf8(config.get_password().unwrap().to_vec()).unwrap();
    let port = config
        .get_ports()
        .first()
        .copied()
        .unwrap_or(5432)
        .to_string();
    let with_variables = || {
        let mut command = in_process("pg_variables_fill_what_is_left_out");
        command
            .env("PGHOST", host)
            .env("PGPORT", &port)
            .env("PGUSER", config.get_user().unwrap())
            .env("PGDATABASE", config.get_dbname().unwrap())
            .env("PGSSLMODE", "disable");
        command
    };
    let mut command = with_variables();
    command.env("PGPASSWORD", &password);
    succeeds(command);

    // The password file, which must be private.
    let file = std::env::temp_dir().join(format!("owpass-{}", support::schema()));
    let escaped = password.replace('\\', "\\\\").replace(':', "\\:");
    let wrong = "other:*:*:*:wrong\n# a comment\n";
    let user = config.get_user().unwrap();
    fs::write(&file, format!("{wrong}{host}:{port}:*:{user}:{escaped}\n")).unwrap();
    let set_mode = |mode| {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    };
    set_mode(0o600);
    let mut command = with_variables();
    command.env("PGPASSFILE", &file);
    succeeds(command);
    set_mode(0o644);
    let mut command = with_variables();
    command.env("PGPASSFILE", &file);
    let output = command.output().unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("none was given"), "{text}");
    fs::remove_file(file).unwrap();
}

#[tokio::test]
async fn the_builder_overrides_the_string_and_pairs_are_a_string_too() {
    let config: tokio_postgres::Config = support::url().parse().unwrap();
    let tokio_postgres::config::Host::Tcp(host) = &config.get_hosts()[0] else {
        panic!("these tests want a server on TCP");
    };
    let password = String::from_utf8(config.get_password().unwrap().to_vec()).unwrap();
    let port = config.get_ports().first().copied().unwrap_or(5432);
    let user = config.get_user().unwrap();
    let database = config.get_dbname().unwrap();
    let wrong = "postgresql://nobody:wrong@host.invalid:1/nowhere?connect_timeout=3";
    let overridden = Postgres::options()
        .url(wrong)
        .host(host)
        .port(port)
        .user(user)
        .password(&password)
        .database(database)
        .schema(support::schema());
    works(&overridden.connect().await.unwrap()).await;

    let pairs = format!(
        "host={host} port={port} user={user} password='{password}' sslmode=prefer dbname={database}"
    );
    let options = Postgres::options().url(pairs).schema(support::schema());
    let backend = options.application_name("my-app").connect().await.unwrap();
    works(&backend).await;
    let shown = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'my-app'";
    let client = support::client().await;
    assert!(!client.query(shown, &[]).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_unix_socket_is_a_host() {
    let server = support::Server::start(&[]);
    let options = Postgres::options()
        .host(server.dir.display().to_string())
        .port(server.port)
        .user("postgres")
        .database("postgres")
        .tls(TlsMode::Require);
    works(&options.connect().await.unwrap()).await;
}

// ===== encryption =====

#[tokio::test]
async fn encryption_is_as_strict_as_asked_for() {
    let server = support::Server::start(&[]);
    let key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root = authority.self_signed(&key).unwrap();
    let server_key = rcgen::KeyPair::generate().unwrap();
    let names = vec!["localhost".to_owned()];
    let certificate = rcgen::CertificateParams::new(names)
        .unwrap()
        .signed_by(&server_key, &rcgen::Issuer::new(authority, &key))
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let roots = dir.path().join("roots.pem");
    fs::write(&roots, root.pem()).unwrap();
    let connect = |host: &str, mode| {
        let options = Postgres::options().url(server.url()).host(host);
        options.schema(support::schema()).tls(mode)
    };
    // Not offered by the server yet.
    let error = problem(connect("localhost", TlsMode::Require)).await;
    assert!(error.contains("no encrypted connection"), "{error}");
    works(
        &connect("localhost", TlsMode::Prefer)
            .connect()
            .await
            .unwrap(),
    )
    .await;

    // Written by the server itself, which owns its directory.
    let admin = support::connect(&server.url()).await;
    for (file, text) in [
        ("server.crt", certificate.pem()),
        ("server.key", server_key.serialize_pem()),
    ] {
        let path = server.dir.join("data").join(file);
        let text = text.replace('\n', "\\n");
        let sql = format!(
            "COPY (SELECT 1) TO PROGRAM $$cat > /dev/null; umask 077; printf '%b' '{text}' > {}$$",
            path.display()
        );
        admin.batch_execute(&sql).await.unwrap();
    }
    admin
        .batch_execute("ALTER SYSTEM SET ssl = on")
        .await
        .unwrap();
    server.command("stop");
    server.command("start");

    let encrypted = async |options: PostgresOptions, name: &str| {
        let backend = options.application_name(name).connect().await.unwrap();
        works(&backend).await;
        let admin = support::connect(&server.url()).await;
        let sql = format!(
            "SELECT bool_and(s.ssl) FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid)
             WHERE a.application_name = '{name}'"
        );
        let row = admin.query_one(&sql, &[]).await.unwrap();
        row.get::<_, Option<bool>>(0)
    };
    let connect_with = |host: &str, mode| connect(host, mode).root_certificates(&roots);
    for (n, (options, expected)) in [
        (connect("127.0.0.1", TlsMode::Disable), false),
        (connect("127.0.0.1", TlsMode::Prefer), true),
        (connect("127.0.0.1", TlsMode::Require), true),
        (connect_with("127.0.0.1", TlsMode::VerifyCa), true),
        (connect_with("localhost", TlsMode::VerifyFull), true),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(
            encrypted(options, &format!("tls{n}")).await,
            Some(expected),
            "{n}"
        );
    }
    // The same by the connection string.
    let url = format!(
        "{}?sslmode=verify-ca&sslrootcert={}",
        server.url(),
        roots.display().to_string().replace('/', "%2F")
    );
    let options = Postgres::options().url(url).schema(support::schema());
    assert_eq!(encrypted(options, "tls-url").await, Some(true));

    // Not for this name, not from an authority that the system knows, not readable.
    for options in [
        connect_with("127.0.0.1", TlsMode::VerifyFull),
        connect("localhost", TlsMode::VerifyFull),
        connect("localhost", TlsMode::VerifyCa),
        connect_with("localhost", TlsMode::VerifyFull).root_certificates("/does/not/exist"),
    ] {
        let error = problem(options).await;
        assert!(error.contains("certificate"), "{error}");
    }
}

// ===== migrations =====

/// Tables, columns, indexes and constraints of a schema, without its name; without the indexes and the tables
/// that only this library makes.
async fn catalog(client: &tokio_postgres::Client, schema: &str) -> Vec<String> {
    let rows = client
        .query(
            "SELECT format('%s.%s %s %s %s', table_name, column_name, data_type, is_nullable,
                    column_default)
             FROM information_schema.columns WHERE table_schema = $1
                AND table_name NOT IN ('openworkflow_executions', 'openworkflow_rust_migrations')
             UNION ALL
             SELECT indexdef FROM pg_indexes
             WHERE schemaname = $1 AND NOT starts_with(indexname::text, 'openworkflow_rs_')
                AND tablename NOT IN ('openworkflow_executions', 'openworkflow_rust_migrations')
             UNION ALL
             SELECT format('%s %s %s', conname, convalidated, pg_get_constraintdef(c.oid))
             FROM pg_constraint c JOIN pg_namespace n ON n.oid = c.connamespace
             WHERE n.nspname = $1 AND contype IN ('p', 'f')
                AND conrelid::regclass::text !~ 'openworkflow_(executions|rust_migrations)'",
            &[&schema],
        )
        .await
        .unwrap();
    let lines = rows.iter().map(|row| row.get::<_, String>(0));
    let mut lines: Vec<_> = lines
        .map(|line| line.replace(&format!("{schema}."), ""))
        .collect();
    lines.sort();
    lines
}

#[tokio::test]
async fn the_tables_are_those_of_every_sdk() {
    let schema = support::schema();
    let options = Postgres::options().url(support::url()).schema(&schema);
    options.connect().await.unwrap();
    let client = support::client().await;
    let found = catalog(&client, &schema).await;
    // Made of the tables that OpenWorkflow for TypeScript 0.10.1 creates.
    let mut expected: Vec<_> = include_str!("support/postgres_catalog.txt")
        .lines()
        .collect();
    expected.sort_unstable();
    assert_eq!(found, expected);
    let sql = format!("SELECT version FROM {schema}.openworkflow_migrations ORDER BY 1");
    let versions = client.query(&sql, &[]).await.unwrap();
    let versions: Vec<i64> = versions.iter().map(|row| row.get(0)).collect();
    assert_eq!(versions, [0, 1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn without_migrations_the_tables_must_be_there() {
    let schema = support::schema();
    let options = || Postgres::options().url(support::url()).schema(&schema);
    let error = problem(options().migrate(false)).await;
    assert!(error.contains("connect once with migrations"), "{error}");
    let client = support::client().await;
    let exists = "SELECT 1 FROM pg_namespace WHERE nspname = $1";
    assert!(client.query(exists, &[&schema]).await.unwrap().is_empty());

    options().connect().await.unwrap();
    works(&options().migrate(false).connect().await.unwrap()).await;
    let versions = format!("{schema}.openworkflow_migrations");
    let sql = format!("DELETE FROM {versions} WHERE version > 3");
    client.batch_execute(&sql).await.unwrap();
    let error = problem(options().migrate(false)).await;
    assert!(error.contains("version 3, not 5"), "{error}");
    works(&options().connect().await.unwrap()).await;
}

/// Claims a run and parks it. Says how many executions are recorded then.
async fn recorded(backend: &Postgres) -> usize {
    let run = NewRun::new("default", "parked", "w", Payload::NULL);
    backend.create_run(run).await.unwrap();
    let lease = Duration::from_secs(30);
    let claim = Claim::new("default".into(), vec!["worker".into()], None, lease);
    let claimed = backend.claim_runs(claim).await.unwrap();
    let [claimed] = &claimed[..] else {
        panic!("one run is due: {claimed:?}");
    };
    let owner = Owner::new("default", "parked", "worker", claimed.attempts);
    let owner = owner.claimed(claimed.times.expect("its times are known"));
    let until = std::time::SystemTime::now() + lease;
    let waits = Vec::new();
    backend
        .end_execution(&owner, ExecutionEnd::Park { until, waits })
        .await
        .unwrap();
    let record = backend.load_record("default", "parked").await.unwrap();
    record.expect("the run is there").executions.len()
}

#[tokio::test]
async fn our_own_table_is_made_where_it_is_missing_and_done_without_where_it_may_not_be() {
    for (migrate, expected) in [(false, 0), (true, 1)] {
        let schema = support::schema();
        let options = || Postgres::options().url(support::url()).schema(&schema);
        options().connect().await.unwrap();
        let client = support::client().await;
        let sql = format!(
            "DROP TABLE {schema}.openworkflow_executions, {schema}.openworkflow_rust_migrations"
        );
        client.batch_execute(&sql).await.unwrap();
        let backend = options().migrate(migrate).connect().await.unwrap();
        assert_eq!(recorded(&backend).await, expected, "migrate: {migrate}");
        let sql = format!("SELECT count(*) FROM {schema}.openworkflow_executions");
        let counted = client.query(&sql, &[]).await;
        assert_eq!(counted.is_ok(), migrate);
        // What there is of our tables goes with the schema.
        backend.drop_schema(&schema).await.unwrap();
    }
}

#[tokio::test]
async fn newer_tables_are_left_alone() {
    let schema = support::schema();
    let options = || Postgres::options().url(support::url()).schema(&schema);
    options().connect().await.unwrap();
    let client = support::client().await;
    let sql = format!("INSERT INTO {schema}.openworkflow_migrations VALUES (6)");
    client.batch_execute(&sql).await.unwrap();
    match options().connect().await {
        Err(BackendError::NewerSchema {
            found, supported, ..
        }) => {
            assert_eq!((found, supported), (6, 5));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_migration_continues_where_another_stopped() {
    let schema = support::schema();
    let client = support::client().await;
    let whole = Postgres::options().url(support::url()).schema(&schema);
    whole.connect().await.unwrap();
    let expected = catalog(&client, &schema).await;
    // As after a migrator without our lock that died between versions.
    let sql = format!(
        "DELETE FROM {schema}.openworkflow_migrations WHERE version > 1;
         DROP TABLE {schema}.workflow_signals;
         ALTER TABLE {schema}.step_attempts DROP CONSTRAINT step_attempts_workflow_run_fk;
         ALTER TABLE {schema}.step_attempts DROP CONSTRAINT step_attempts_child_workflow_run_fk;
         ALTER TABLE {schema}.workflow_runs DROP CONSTRAINT workflow_runs_parent_step_attempt_fk;"
    );
    client.batch_execute(&sql).await.unwrap();
    let again = Postgres::options().url(support::url()).schema(&schema);
    again.connect().await.unwrap();
    assert_eq!(catalog(&client, &schema).await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_connects_race_and_all_succeed() {
    const SCHEMA: &str = "OPENWORKFLOW_TEST_SCHEMA";
    let racers = async |schema: &str| {
        let racers = (0..4).map(|_| {
            let options = Postgres::options().url(support::url()).schema(schema);
            tokio::spawn(options.pool_size(2).connect())
        });
        for racer in racers.collect::<Vec<_>>() {
            works(&racer.await.unwrap().unwrap()).await;
        }
    };
    if std::env::var(CHILD).is_ok() {
        racers(&std::env::var(SCHEMA).unwrap()).await;
        return;
    }
    let schema = support::schema();
    let children = (0..3).map(|_| {
        let mut command = in_process("first_connects_race_and_all_succeed");
        command.env(SCHEMA, &schema);
        std::thread::spawn(move || succeeds(command))
    });
    let children: Vec<_> = children.collect();
    racers(&schema).await;
    for child in children {
        child.join().unwrap();
    }
    let client = support::client().await;
    let sql = format!("SELECT count(*) FROM {schema}.openworkflow_migrations");
    assert_eq!(
        client.query_one(&sql, &[]).await.unwrap().get::<_, i64>(0),
        6
    );
}

#[tokio::test]
async fn a_migrator_without_our_lock_may_win() {
    let schema = support::schema();
    let options = || Postgres::options().url(support::url()).schema(&schema);
    options().connect().await.unwrap();
    let (foreign, client) = (support::client().await, support::client().await);
    let expected = catalog(&client, &schema).await;
    let add = |table: &str, name: &str, columns: &str, to: &str, action: &str| {
        format!(
            "ALTER TABLE {schema}.{table} ADD CONSTRAINT {name} FOREIGN KEY ({columns})
             REFERENCES {schema}.{to} (namespace_id, id) ON DELETE {action} NOT VALID;"
        )
    };
    let drop =
        |table: &str, name: &str| format!("ALTER TABLE {schema}.{table} DROP CONSTRAINT {name};");
    let (steps, runs) = ("step_attempts", "workflow_runs");
    let (run, parent, child) = (
        "step_attempts_workflow_run_fk",
        "workflow_runs_parent_step_attempt_fk",
        "step_attempts_child_workflow_run_fk",
    );
    let parent_columns = "parent_step_attempt_namespace_id, parent_step_attempt_id";
    let child_columns = "child_workflow_run_namespace_id, child_workflow_run_id";
    let back = [
        drop(steps, run),
        drop(runs, parent),
        drop(steps, child),
        format!("DELETE FROM {schema}.openworkflow_migrations WHERE version > 1"),
    ];
    client.batch_execute(&back.concat()).await.unwrap();

    // Somebody is about to commit version 2, and we see version 1.
    let begun = [
        "BEGIN;".to_owned(),
        add(steps, run, "namespace_id, workflow_run_id", runs, "CASCADE"),
        add(runs, parent, parent_columns, steps, "SET NULL"),
        add(steps, child, child_columns, runs, "SET NULL"),
        format!("INSERT INTO {schema}.openworkflow_migrations VALUES (2)"),
    ];
    foreign.batch_execute(&begun.concat()).await.unwrap();
    let connecting = tokio::spawn(options().connect());
    let waiting = format!(
        "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = '{schema}.step_attempts'::regclass"
    );
    while client.query(&waiting, &[]).await.unwrap().is_empty() {
        assert!(!connecting.is_finished());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    foreign.batch_execute("COMMIT").await.unwrap();
    works(&connecting.await.unwrap().unwrap()).await;
    assert_eq!(catalog(&client, &schema).await, expected);
}

// ===== poolers =====

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_in_transaction_mode_is_no_obstacle() {
    let schema = support::schema();
    let config: tokio_postgres::Config = support::url().parse().unwrap();
    let pooler = pooler::Pooler::start(config, 3).await;
    let options = Postgres::options()
        .url(support::url())
        .host("127.0.0.1")
        .port(pooler.port)
        .tls(TlsMode::Disable)
        .schema(&schema);
    let backend = options.connect().await.unwrap();
    let tasks: Vec<_> = (0..40)
        .map(|n| {
            let backend = backend.clone();
            tokio::spawn(async move {
                let id = format!("r{n}");
                let mut run = NewRun::new("default", id.as_str(), "order", Payload::NULL);
                if n % 2 == 0 {
                    run.idempotency_key = Some(id.clone());
                }
                backend.create_run(run).await.unwrap();
                let worker = format!("w{n}");
                let claim = Claim::new(
                    "default".into(),
                    vec![worker.as_str().into()],
                    None,
                    Duration::from_secs(30),
                );
                let claimed = backend.claim_runs(claim).await.unwrap().pop().unwrap();
                let owner = Owner::new("default", claimed.id.as_str(), worker.as_str(), 1);
                let attempt = NewStepAttempt::new(
                    format!("s{n}").into(),
                    "x".into(),
                    StepAttemptKind::Function,
                    None,
                );
                let ended = EndedStep::new(attempt, Ok(Payload::from_json("1")));
                backend.end_step(&owner, ended).await.unwrap();
                let output = Payload::from_json("2");
                let end = ExecutionEnd::Complete { output };
                backend.end_execution(&owner, end).await.unwrap();
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(backend.count_runs("default").await.unwrap().completed, 40);
    // Nothing was left behind in the sessions that others use too.
    assert_eq!(pooler.prepared_statements(), 0);
}
