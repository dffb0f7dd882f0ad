//! What is said about the facts: findings, capabilities and the verdict. The shape is that of `mldoctor.report/1`.

use serde::{Deserialize, Serialize};

pub use crate::checks::pages::Severity;

/// Something that is wrong, with its proof and its cure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Finding id, such as `lib-cupti`.
    pub id: String,
    /// How bad it is here.
    pub severity: Severity,
    /// The file, library or variable that it is about.
    pub subject: String,
    /// One sentence.
    pub message: String,
    /// The message that the user would otherwise meet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_sees: Option<String>,
    /// Proof.
    pub evidence: Vec<Evidence>,
    /// Cure.
    pub fix: Fix,
    /// The capability that cannot work because of it, where no step of it has shown that.
    #[serde(skip)]
    pub breaks: Option<String>,
}

/// One observation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// What it is, such as `needed by`.
    pub label: String,
    /// What was seen.
    pub value: String,
    /// Where: file and ELF tag, environment variable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// The lines that mend it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fix {
    /// In words.
    pub summary: String,
    /// Dockerfile lines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dockerfile: Option<String>,
    /// Options of `docker run`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub docker_run: Option<String>,
    /// Fields of a manifest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<String>,
}

impl Fix {
    /// A cure in words and as Dockerfile lines.
    pub fn dockerfile(summary: impl Into<String>, lines: impl Into<String>) -> Self {
        Self { summary: summary.into(), dockerfile: Some(lines.into()), ..Self::default() }
    }

    /// A cure in words alone.
    pub fn words(summary: impl Into<String>) -> Self {
        Self { summary: summary.into(), ..Self::default() }
    }
}

/// Whether the workload can do something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// It can.
    Ok,
    /// It cannot.
    Broken,
    /// It could not be found out.
    Unknown,
    /// The question does not arise.
    NotApplicable,
}

/// One thing that the workload can or cannot do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capability {
    /// Capability id.
    pub id: String,
    /// Whether it works.
    pub status: Status,
    /// Whether the verdict depends on it.
    pub required: bool,
    /// Ids of the findings that break it.
    pub blockers: Vec<String>,
    /// One line.
    pub summary: String,
    /// Whether it is as it is because of a capability that it needs.
    #[serde(skip)]
    pub inherited: bool,
}

impl Capability {
    /// One that the verdict does not depend on.
    pub fn new(id: impl Into<String>, status: Status, summary: impl Into<String>) -> Self {
        let (id, summary) = (id.into(), summary.into());
        Self { id, status, required: false, blockers: Vec::new(), summary, inherited: false }
    }
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Everything required works, and nothing else is wrong.
    Ready,
    /// Everything required works; something else does not.
    Degraded,
    /// Something required does not work.
    NotReady,
    /// Something required could not be found out, or there is nothing to judge.
    Undetermined,
}

impl Verdict {
    /// As it is written in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::NotReady => "not-ready",
            Self::Undetermined => "undetermined",
        }
    }
}

/// What became of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckResult {
    /// Finding id.
    pub id: String,
    /// Outcome.
    pub outcome: CheckOutcome,
    /// Why, where it is not a plain pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The four answers of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckOutcome {
    /// Looked, and all is well.
    Pass,
    /// Looked, and found something.
    Found,
    /// There was nothing to look at.
    NotApplicable,
    /// Could not look.
    Unknown,
}

/// Everything that is said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The answer.
    pub verdict: Verdict,
    /// In order of importance.
    pub capabilities: Vec<Capability>,
    /// Worst first.
    pub findings: Vec<Finding>,
    /// Every check, by id.
    pub checks: Vec<CheckResult>,
}
