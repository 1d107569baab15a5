//! Line by line, what differs between two texts.

/// The lines of both texts in a row: two spaces before those that agree, `-` before those that are
/// only expected, `+` before those that are only there.
pub(super) fn diff(expected: &str, actual: &str) -> String {
    let expected: Vec<_> = expected.lines().collect();
    let actual: Vec<_> = actual.lines().collect();
    let common = common_lines(&expected, &actual);
    let (mut i, mut j) = (0, 0);
    let mut out = String::new();
    while i < expected.len() || j < actual.len() {
        let (mark, line) = if i < expected.len() && j < actual.len() && expected[i] == actual[j] {
            (i, j) = (i + 1, j + 1);
            (' ', expected[i - 1])
        } else if j == actual.len() || (i < expected.len() && common[i + 1][j] >= common[i][j + 1])
        {
            i += 1;
            ('-', expected[i - 1])
        } else {
            j += 1;
            ('+', actual[j - 1])
        };
        out.push_str(&format!("{mark} {line}\n"));
    }
    out
}

/// `[i][j]`: the length of the longest common subsequence of `a[i..]` and `b[j..]`.
fn common_lines(a: &[&str], b: &[&str]) -> Vec<Vec<usize>> {
    let mut common = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            common[i][j] = if a[i] == b[j] {
                common[i + 1][j + 1] + 1
            } else {
                common[i + 1][j].max(common[i][j + 1])
            };
        }
    }
    common
}

#[cfg(test)]
mod tests {
    use super::diff;

    #[test]
    fn marks_what_differs() {
        assert_eq!(
            diff("a\nb\nc\nd", "a\nc\nx\nd\ne"),
            "  a\n- b\n  c\n+ x\n  d\n+ e\n"
        );
        assert_eq!(diff("", "a"), "+ a\n");
        assert_eq!(diff("a", ""), "- a\n");
    }
}
