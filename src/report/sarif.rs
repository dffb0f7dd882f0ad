//! SARIF 2.1.0 (OASIS), as GitHub code scanning and others take it: a rule per finding id, a result per finding.
//!
//! Made with serde_json and not with serde-sarif, whose types for the whole of the format weigh more than all other
//! formats together; the tests read the result with it.

use std::path::Path;

use serde_json::{Value, json};

use super::{Answer, plain, text};
use crate::checks::pages::{self, Severity};
use crate::finding::{Finding, Status, Verdict};
use crate::structured;

/// The base of all paths: the root of what was examined.
const ROOT: &str = "ROOT";

/// Renders a report.
///
/// # Errors
/// Never in practice: every part is serialisable.
pub fn render(answer: &Answer<'_>) -> serde_json::Result<String> {
    let report = answer.report;
    let mut ids: Vec<&str> = report.findings.iter().map(|f| f.id.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    let rules: Vec<Value> = ids.iter().map(|id| rule(id)).collect();
    let results: Vec<Value> = report.findings.iter().map(|f| result(f, &ids, answer)).collect();
    // What could not be found out is no result, but must not look like none.
    let unknown = report.capabilities.iter().filter(|c| c.required && c.status == Status::Unknown);
    let notifications: Vec<Value> = unknown
        .map(|c| json!({"level": "error", "message": {"text": format!("{} is unknown: {}", c.id, c.summary)}}))
        .collect();
    let run = json!({
        "tool": {"driver": {
            "name": env!("CARGO_PKG_NAME"),
            "semanticVersion": env!("CARGO_PKG_VERSION"),
            "rules": rules,
        }},
        "invocations": [{
            "executionSuccessful": report.verdict != Verdict::Undetermined,
            "exitCode": answer.exit.code(),
            "exitCodeDescription": text::verdict_line(answer.facts, report),
            "toolExecutionNotifications": notifications,
        }],
        "originalUriBaseIds": {ROOT: {"description": {"text": "The root of the image's file system."}}},
        "columnKind": "unicodeCodePoints",
        "results": results,
    });
    structured::to_json(&json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [run],
    }))
}

fn rule(id: &str) -> Value {
    let Some(page) = pages::find(id) else { return json!({"id": id}) };
    let body = page.body();
    json!({
        "id": id,
        "shortDescription": {"text": page.title},
        "help": {"text": body, "markdown": body},
        "defaultConfiguration": {"level": level(page.severity)},
    })
}

fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Note => "note",
    }
}

fn result(finding: &Finding, ids: &[&str], answer: &Answer<'_>) -> Value {
    let level = if answer.fails(finding) { "error" } else { level(finding.severity) };
    // Code scanning refuses a result without a file, so what is not about one is about the whole image.
    let file = file_of(finding).unwrap_or("/");
    json!({
        "ruleId": finding.id,
        "ruleIndex": ids.binary_search(&finding.id.as_str()).unwrap_or(0),
        "level": level,
        "message": {"text": plain(finding)},
        "locations": [{
            "physicalLocation": {"artifactLocation": {"uri": relative_uri(file), "uriBaseId": ROOT}},
            "logicalLocations": [{"name": finding.subject}],
        }],
        "partialFingerprints": {"idAndSubject/v1": format!("{}:{}", finding.id, finding.subject)},
    })
}

/// The file that a finding is about: its subject, or the first that its proof names.
fn file_of(finding: &Finding) -> Option<&str> {
    let named = finding.evidence.iter().flat_map(|e| [Some(e.value.as_str()), e.source.as_deref()]).flatten();
    std::iter::once(finding.subject.as_str())
        .chain(named)
        .filter_map(|text| text.split(' ').next())
        .find(|text| Path::new(text).is_absolute())
}

/// A relative reference of RFC 3986: everything that is not unreserved is encoded.
fn relative_uri(path: &str) -> String {
    let path = path.trim_start_matches('/');
    if path.is_empty() {
        return ".".into();
    }
    let mut uri = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            uri.push(byte.into());
        } else {
            uri += &format!("%{byte:02X}");
        }
    }
    uri
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_relative_references() {
        assert_eq!(relative_uri("/"), ".");
        assert_eq!(relative_uri("/opt/a b/libstdc++.so:6"), "opt/a%20b/libstdc%2B%2B.so%3A6");
    }
}
