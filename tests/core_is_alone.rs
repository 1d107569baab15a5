//! workflow-core depends on nothing.

use std::process::Command;

#[test]
fn workflow_core_has_no_dependency() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let tree = Command::new(cargo)
        .args([
            "tree",
            "--package",
            "workflow-core",
            "--edges",
            "normal",
            "--all-features",
        ])
        .args(["--target", "all", "--offline", "--locked"])
        .output()
        .expect("cargo runs");
    let text = String::from_utf8_lossy(&tree.stdout);
    assert!(
        tree.status.success(),
        "{}",
        String::from_utf8_lossy(&tree.stderr)
    );
    assert_eq!(
        text.lines().count(),
        1,
        "workflow-core depends on something:\n{text}"
    );
}
