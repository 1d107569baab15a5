//! What promtool says of the rules.

use std::process::Command;

use crate::{docs, programs};

/// The rules are well-formed, and their unit tests pass: `rules_test.yml` says when each alert fires.
#[test]
fn promtool_passes_the_rules_and_their_tests() {
    for (test, file) in [("check", "rules.yml"), ("test", "rules_test.yml")] {
        let told = Command::new(&programs().promtool)
            .args([test, "rules"])
            .arg(docs(file))
            .output()
            .expect("promtool runs");
        let (out, err) = (
            String::from_utf8_lossy(&told.stdout),
            String::from_utf8_lossy(&told.stderr),
        );
        assert!(told.status.success(), "{test} {file}:\n{out}{err}");
        assert!(out.contains("SUCCESS"), "{test} {file}:\n{out}{err}");
    }
}
