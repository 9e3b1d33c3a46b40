//! What was found, for people and for programs.

use crate::checks::{Finding, Status};
use std::fmt::Write;

/// One line a check, and below those that are not as wanted what to do.
pub fn text(findings: &[Finding]) -> String {
    let width = findings
        .iter()
        .map(|finding| finding.title.len())
        .max()
        .unwrap_or(0);
    let mut out = String::new();
    for finding in findings {
        let word = word(finding.status);
        put(
            &mut out,
            format_args!("{word:8}{:width$}  {}\n", finding.title, finding.current),
        );
        if matches!(finding.status, Status::Warn | Status::Fail) {
            for (label, what) in [
                ("wanted", finding.wanted),
                ("why", finding.why),
                ("how", finding.how.as_str()),
            ] {
                put(&mut out, format_args!("        {label:7} {what}\n"));
            }
        }
    }
    let count = |status| {
        findings
            .iter()
            .filter(|finding| finding.status == status)
            .count()
    };
    put(
        &mut out,
        format_args!(
            "\n{} ok, {} to improve, {} failed, {} unknown\n",
            count(Status::Ok),
            count(Status::Warn),
            count(Status::Fail),
            count(Status::Unknown)
        ),
    );
    out
}

fn put(out: &mut String, arguments: std::fmt::Arguments<'_>) {
    out.write_fmt(arguments).expect("a String takes all");
}

fn word(status: Status) -> &'static str {
    match status {
        Status::Ok => "ok",
        Status::Warn => "warn",
        Status::Fail => "FAIL",
        Status::Unknown => "unknown",
    }
}

/// A JSON object with `ok` and the list `checks`, ended by a line break.
pub fn json(findings: &[Finding]) -> String {
    let report = serde_json::json!({ "ok": exit_code(findings) == 0, "checks": findings });
    format!("{report:#}\n")
}

/// 1 if a check failed, else 0.
pub fn exit_code(findings: &[Finding]) -> u8 {
    u8::from(
        findings
            .iter()
            .any(|finding| finding.status == Status::Fail),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::{evaluate, tests::good};
    use crate::facts::Facts;

    #[test]
    fn what_is_wrong_is_told_with_its_remedy() {
        let facts = Facts {
            kernel_release: Some("5.4".into()),
            somaxconn: Some(128),
            smt_active: None,
            ..good()
        };
        let findings = evaluate(&facts);
        assert_eq!(exit_code(&findings), 1);
        let text = text(&findings);
        assert!(text.contains("FAIL    Kernel version"), "{text}");
        assert!(
            text.contains("how     sysctl -w net.core.somaxconn=4096"),
            "{text}"
        );
        assert!(!text.contains("performance\n        wanted"), "{text}");
        assert!(
            text.ends_with("1 to improve, 1 failed, 1 unknown\n"),
            "{text}"
        );
        let json: serde_json::Value = serde_json::from_str(&json(&findings)).unwrap();
        assert_eq!(json["ok"], false);
        assert_eq!(json["checks"].as_array().unwrap().len(), findings.len());
        assert_eq!(json["checks"][0]["status"], "fail");
        assert_eq!(json["checks"][0]["severity"], "required");
    }

    #[test]
    fn warnings_are_no_failure() {
        let findings = evaluate(&Facts {
            somaxconn: Some(128),
            ..good()
        });
        assert_eq!(exit_code(&findings), 0);
    }
}
