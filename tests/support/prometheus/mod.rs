//! A real Prometheus that scrapes what a test shows it, and its query API.

mod programs;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

pub use programs::Programs;

use crate::probe::{PATIENCE, wait_for};

/// So often it scrapes; tests wait for what it has seen.
const SCRAPE_INTERVAL: &str = "500ms";
/// So often it evaluates rules.
const EVALUATION_INTERVAL: &str = "200ms";
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A server of a test's own. Killed when dropped.
#[derive(Debug)]
pub struct Prometheus {
    process: Child,
    url: String,
    http: reqwest::Client,
    log: PathBuf,
    _files: TempDir,
}

/// A series of a query's answer, with its newest value.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Its labels, `__name__` among them where it has one.
    pub labels: BTreeMap<String, String>,
    /// The value.
    pub value: f64,
}

impl Prometheus {
    /// Starts one that scrapes `targets`, a job's name and `host:port` each, and evaluates the rules in
    /// the file `rules`.
    ///
    /// # Panics
    ///
    /// Where it does not start.
    pub async fn start(programs: &Programs, targets: &[(&str, &str)], rules: &Path) -> Self {
        let files = tempfile::tempdir().expect("a folder can be made");
        let mut config = format!(
            "global: {{scrape_interval: {SCRAPE_INTERVAL}, scrape_timeout: {SCRAPE_INTERVAL}, \
             evaluation_interval: {EVALUATION_INTERVAL}}}\nrule_files: [{rules:?}]\nscrape_configs:\n"
        );
        for (job, target) in targets {
            let _ = writeln!(
                config,
                "- {{job_name: {job:?}, static_configs: [{{targets: [{target:?}]}}]}}"
            );
        }
        let (config_file, log) = (files.path().join("config.yml"), files.path().join("log"));
        fs::write(&config_file, config).expect("the configuration can be written");
        let stderr = fs::File::create(&log).expect("a file for the log can be made");
        let process = Command::new(&programs.prometheus)
            .arg(format!("--config.file={}", config_file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                files.path().join("data").display()
            ))
            // A port that is free. It says which.
            .arg("--web.listen-address=127.0.0.1:0")
            .arg("--enable-feature=exemplar-storage")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .expect("prometheus starts");
        let mut server = Self {
            process,
            url: String::new(),
            http: reqwest::Client::builder()
                .no_proxy()
                .build()
                .expect("a client can be made"),
            log,
            _files: files,
        };
        let address = wait_for("prometheus listens", || async {
            let log = fs::read_to_string(&server.log).ok()?;
            log.contains("Server is ready").then_some(())?;
            let line = log.lines().find(|line| line.contains("Listening on"))?;
            let (_, address) = line.split_once("address=")?;
            Some(address.trim().to_owned())
        })
        .await;
        server.url = format!("http://{address}");
        server
    }

    /// What a query answers now.
    ///
    /// # Errors
    ///
    /// What Prometheus says of a query that it cannot answer.
    pub async fn query(&self, query: &str) -> Result<Vec<Sample>, String> {
        let answer = self.ask("query", &[("query", query)]).await?;
        let series = answer["data"]["result"].as_array();
        let series = series.ok_or_else(|| format!("no vector, but {answer}"))?;
        series.iter().map(sample).collect()
    }

    /// Waits until a query answers something that is wanted.
    ///
    /// # Panics
    ///
    /// Where it never does, with what it answered last, or where it cannot be answered.
    pub async fn query_until<T>(
        &self,
        query: &str,
        mut wanted: impl FnMut(&[Sample]) -> Option<T>,
    ) -> T {
        let begin = Instant::now();
        loop {
            let samples = self.query(query).await;
            let samples = samples.unwrap_or_else(|why| panic!("{query}: {why}"));
            if let Some(found) = wanted(&samples) {
                return found;
            }
            assert!(
                begin.elapsed() < PATIENCE,
                "waited {PATIENCE:?} in vain for {query}, which is {samples:#?}\n{}",
                self.log()
            );
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until a query answers one series with this value.
    ///
    /// # Panics
    ///
    /// As [`query_until`](Self::query_until).
    pub async fn query_is(&self, query: &str, value: f64) {
        self.query_until(query, |samples| match samples {
            // Counts are exact.
            [one] if one.value.to_bits() == value.to_bits() => Some(()),
            _ => None,
        })
        .await;
    }

    /// Any other page of its API.
    ///
    /// # Errors
    ///
    /// What Prometheus says.
    pub async fn ask(&self, page: &str, parameters: &[(&str, &str)]) -> Result<Value, String> {
        let mut url = format!("{}/api/v1/{page}?", self.url);
        for (name, value) in parameters {
            let _ = write!(url, "{name}=");
            for byte in value.bytes() {
                let _ = write!(url, "%{byte:02X}");
            }
            url.push('&');
        }
        let answer = self.http.get(url).send().await;
        let answer = match answer {
            Ok(answer) => answer.text().await,
            Err(error) => Err(error),
        };
        let answer = answer.map_err(|error| format!("{error:?}\n{}", self.log()))?;
        let answer: Value =
            serde_json::from_str(&answer).map_err(|error| format!("{error}: {answer}"))?;
        if answer["status"] == "success" {
            Ok(answer)
        } else {
            Err(answer["error"].to_string())
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn sample(series: &Value) -> Result<Sample, String> {
    let read = || {
        let labels = series["metric"].as_object()?.iter();
        let labels = labels.map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())));
        Some(Sample {
            labels: labels.collect::<Option<_>>()?,
            value: series["value"][1].as_str()?.parse().ok()?,
        })
    };
    read().ok_or_else(|| format!("no series: {series}"))
}
