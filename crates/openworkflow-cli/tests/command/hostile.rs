//! Data that would take a terminal over, or flood it.

use crate::program::Ran;
use crate::site::Site;

/// Clears the screen, sets the title, hides what follows, turns it around, and does so in one byte, too.
const HOSTILE: &str =
    "\u{1b}[2J\u{1b}]0;owned\u{7}\u{9b}8m\r\n<script>alert(1)</script>\u{202e}\u{200b}";

fn assert_tame(what: &str, ran: &Ran, colored: bool) {
    for (stream, text) in [("stdout", &ran.stdout), ("stderr", &ran.stderr)] {
        let mut text = text.clone();
        if colored {
            // The colors are the command's own.
            let colors = ["0", "1", "2", "31", "32", "33", "36"];
            for color in colors {
                text = text.replace(&format!("\u{1b}[{color}m"), "");
            }
        }
        let bad = |c: char| c != '\n' && (c.is_control() || matches!(c, '\u{202e}' | '\u{200b}'));
        let found = text.chars().find(|c| bad(*c));
        let start: String = text.chars().take(2000).collect();
        assert_eq!(found, None, "{what}, {stream}: {start:?}");
    }
}

async fn hostile() -> (Site, String, String) {
    let site = Site::new().await;
    let order = site.order().await;
    let broken = site.broken().await;
    let id = "hostile\u{1b}[31m\u{9b}m".to_owned();
    let megabyte = format!("{HOSTILE}{}", "<b>ä\u{301}".repeat(1 << 18));
    let error = serde_json::json!({
        "name": HOSTILE, "message": megabyte, "stack": format!("{HOSTILE}\n{HOSTILE}"),
    });
    for sql in [
        "UPDATE workflow_runs SET workflow_name = ?1, version = ?1, worker_id = ?1, idempotency_key = ?1",
        "UPDATE step_attempts SET step_name = ?1 || step_name",
    ] {
        site.execute(sql, [HOSTILE]);
    }
    for sql in [
        "UPDATE workflow_runs SET workflow_name = ?1 WHERE status = 'failed'",
        "UPDATE step_attempts SET step_name = ?1 WHERE kind = 'sleep'",
    ] {
        site.execute(sql, [&megabyte]);
    }
    for sql in [
        "UPDATE workflow_runs SET error = ?1 WHERE error IS NOT NULL",
        "UPDATE step_attempts SET error = ?1 WHERE error IS NOT NULL",
        "UPDATE workflow_runs SET input = ?1, output = ?1 WHERE status = 'failed'",
    ] {
        site.execute(sql, [error.to_string()]);
    }
    // Another row in place of an id that others point to.
    site.execute(
        "INSERT INTO workflow_runs (namespace_id, id, workflow_name, status, config, attempts, created_at, updated_at)
         VALUES ('default', ?1, 'x', 'odd' || ?2, '{}', 0, '2026-01-01T00:00:00.000Z', '2026-01-01T00:00:00.000Z')",
        [&id, HOSTILE],
    );
    (site, order, broken)
}

#[tokio::test]
async fn nothing_of_it_reaches_the_terminal() {
    let (site, order, broken) = hostile().await;
    let hostile_id = "hostile\u{1b}[31m\u{9b}m";
    let mut commands: Vec<Vec<&str>> = vec![
        vec!["runs"],
        vec!["stats"],
        vec!["run", "await", &broken],
        vec!["run", "cancel", &broken],
        vec!["run", "show", "no\u{1b}[31m"],
        vec!["signal", "no\u{1b}[31m"],
        vec!["run", "show", hostile_id],
        vec!["run", "await", hostile_id, "--timeout", "50ms"],
        vec!["trace", hostile_id],
    ];
    for id in [&order, &broken] {
        commands.push(vec!["run", "show", id]);
        commands.push(vec!["steps", id]);
        for format in ["waterfall", "summary", "events", "json"] {
            commands.push(vec!["trace", id, "--children", "--format", format]);
        }
        commands.push(vec!["trace", id, "--format", "events", "--internal"]);
    }
    let variants: [&[&str]; 5] = [
        &[],
        &["--json"],
        &["--json", "--payloads"],
        &["--payloads", "--width", "200"],
        &["--color", "always"],
    ];
    for command in &commands {
        for variant in variants {
            let args = [command, variant].concat();
            let ran = site.run(&args);
            assert!([0, 1, 3].contains(&ran.code), "{args:?}: {}", ran.stderr);
            let colored = variant.contains(&"always");
            assert_tame(&format!("{args:?}"), &ran, colored);
            if ran.code == 0 && args.contains(&"--json") {
                ran.objects();
            }
        }
    }
    site.close().await;
}

#[tokio::test]
async fn nothing_of_it_floods_the_terminal() {
    let (site, order, broken) = hostile().await;
    for width in ["80", "200"] {
        for id in [&order, &broken] {
            let commands: [&[&str]; 6] = [
                &["runs"],
                &["steps", id],
                &["trace", id],
                &["trace", id, "--format", "summary"],
                &["trace", id, "--format", "events"],
                &["run", "show", id],
            ];
            for command in commands {
                let told = site.run(&[command, &["--width", width]].concat()).ok();
                assert!(told.len() < 60_000, "{command:?}: {} bytes", told.len());
                let columns: usize = width.parse().expect("a number");
                let limit = if command[0] == "run" { 5000 } else { columns };
                for line in told.lines() {
                    // Accents have no width of their own.
                    let wide = line.chars().filter(|c| *c != '\u{301}').count();
                    assert!(wide <= limit, "{command:?}: {wide} columns: {line}");
                }
            }
        }
    }
    site.close().await;
}
