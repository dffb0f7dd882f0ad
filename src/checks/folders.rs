//! Folders that programs write to: not writable, read-only, full, or on a file system that executes nothing.

use super::place::{below, variable};
use super::{Check, Rule, Surveyed, finding};
use crate::checks::pages::Severity;
use crate::facts::surroundings::{Access, Folder};
use crate::facts::{Facts, Observed};
use crate::finding::{Finding, Fix};

/// Folders.
pub static FOLDERS: Check = Check {
    ids: &["jit-cache-dir", "jit-noexec", "res-rofs", "res-shm-noexec-small-tmp"],
    rule: Rule::Survey(folders),
};
/// A user without a name.
pub static USER: Check = Check { ids: &["jit-getpwuid"], rule: Rule::Survey(user) };
/// Libraries on file systems that execute nothing.
pub static LIBRARIES: Check = Check { ids: &["lib-noexec"], rule: Rule::Survey(libraries) };

const COMPILE: &str = "torch.compile";
/// Less room than this is as good as none: one compiled graph takes some megabytes.
const LITTLE: u64 = 64 << 20;
/// Distributions that launch Triton kernels of their own, without Inductor, which would name another folder.
const TRITON_USERS: &[&str] = &["vllm", "sglang", "unsloth", "liger-kernel", "flash-linear-attention"];

/// What comes of a folder that cannot be used.
struct Effect {
    severity: Severity,
    breaks: Option<&'static str>,
}

fn folders(facts: &Facts) -> Surveyed {
    let here = &facts.image.surroundings;
    if here.account.is_none() {
        return Surveyed::not_applicable("it is not known who the workload runs as; --user tells");
    }
    if here.folders.is_empty() {
        return Surveyed::not_applicable("nothing is installed that is known to write");
    }
    let mut findings: Vec<Finding> = Vec::new();
    for folder in &here.folders {
        let Some(effect) = effect(facts, folder) else { continue };
        let found = match folder.access {
            Access::ReadOnly | Access::Denied | Access::NoDirectory => Some(refused(facts, folder)),
            Access::Writable if folder.noexec && loads_code(folder) => Some(noexec(folder)),
            Access::Writable => little(folder),
        };
        let Some(mut found) = found else { continue };
        found.severity = effect.severity.max(found.severity);
        found.breaks = effect.breaks.filter(|_| found.severity == Severity::Error).map(str::to_owned);
        // Several programs share a full file system.
        let is_told =
            |f: &Finding| found.id == "res-shm-noexec-small-tmp" && f.id == found.id && f.subject == found.subject;
        if !findings.iter().any(is_told) {
            findings.push(found);
        }
    }
    Surveyed::found(findings)
}

/// What depends on a folder; none where nothing that is examined does.
fn effect(facts: &Facts, folder: &Folder) -> Option<Effect> {
    let compiles = facts.subjects.iter().any(|s| s.capability == COMPILE);
    let imports = facts.subjects.iter().any(|s| s.capability.starts_with("import:"));
    let has = |name: &str| facts.python.as_ref().and_then(Observed::seen).is_some_and(|python| python.has(name));
    let set = |name: &str| variable(facts, name).is_some_and(|v| matches!(v, "1" | "true" | "True" | "TRUE" | "YES"));
    let of = |severity| Some(Effect { severity, breaks: None });
    let breaks = Some(Effect { severity: Severity::Error, breaks: Some(COMPILE) });
    match folder.program.as_str() {
        "inductor" | "tempfile" if compiles => breaks,
        // Inductor takes over what the variable names, and names a folder of its own otherwise.
        "triton" if compiles && folder.by == "TRITON_CACHE_DIR" => breaks,
        "triton" if TRITON_USERS.iter().any(|name| has(name)) => of(Severity::Warning),
        "vllm" => of(Severity::Warning),
        "flashinfer" if !has("flashinfer-jit-cache") => of(Severity::Warning),
        "torch-extensions" if facts.image.surroundings.toolkit.nvcc.is_none() => None,
        "huggingface" if set("HF_HUB_OFFLINE") => None,
        "inductor" | "tempfile" | "triton" | "torch-extensions" | "huggingface" | "flashinfer" if imports => {
            of(Severity::Note)
        }
        "cuda" => of(Severity::Note),
        _ => None,
    }
}

/// Whether what is written there is then loaded.
fn loads_code(folder: &Folder) -> bool {
    matches!(folder.program.as_str(), "inductor" | "triton" | "torch-extensions" | "flashinfer")
}

fn shown(folder: &Folder) -> &'static str {
    match folder.program.as_str() {
        "inductor" => "torch.compile (Inductor)",
        "tempfile" => "Python's tempfile",
        "triton" => "Triton",
        "torch-extensions" => "torch.utils.cpp_extension",
        "huggingface" => "huggingface_hub",
        "vllm" => "vLLM",
        "flashinfer" => "FlashInfer",
        _ => "the CUDA driver",
    }
}

fn refused(facts: &Facts, folder: &Folder) -> Finding {
    let (id, why) = match folder.access {
        Access::ReadOnly => ("res-rofs", "on a read-only file system"),
        Access::NoDirectory => ("jit-cache-dir", "no directory"),
        Access::Denied | Access::Writable => ("jit-cache-dir", "not the user's to write to"),
    };
    let made = first_made(folder);
    let sees = match (folder.program.as_str(), folder.access) {
        ("tempfile", _) => {
            "FileNotFoundError: [Errno 2] No usable temporary directory found in ['/tmp', '/var/tmp', '/usr/tmp', …]"
                .to_owned()
        }
        (_, Access::ReadOnly) => format!("OSError: [Errno 30] Read-only file system: '{made}'"),
        (_, Access::NoDirectory) => format!("NotADirectoryError: [Errno 20] Not a directory: '{made}'"),
        (_, Access::Denied | Access::Writable) => format!("PermissionError: [Errno 13] Permission denied: '{made}'"),
    };
    let mut found = finding(id, &folder.path, format!("{} writes to {}, which is {why}", shown(folder), folder.path))
        .sees(sees)
        .proof("folder", &folder.path, Some(folder.by.clone()))
        .proof("would be made in", &folder.at, None);
    if let Some(account) = &facts.image.surroundings.account {
        found = found.proof("user", account.uid.to_string(), None).proof(
            "home",
            &account.home,
            Some(account.home_by.clone()),
        );
    }
    found.cure(elsewhere(folder, "name a folder that the user may write to"))
}

/// The first directory that `os.makedirs` has to make, which is the one that its message names.
fn first_made(folder: &Folder) -> String {
    let rest = below(&folder.at, &folder.path).unwrap_or("");
    let first = rest.split('/').find(|part| !part.is_empty());
    first.map_or_else(|| folder.path.clone(), |first| format!("{}/{first}", folder.at.trim_end_matches('/')))
}

fn noexec(folder: &Folder) -> Finding {
    finding("jit-noexec", &folder.path, format!("{} loads what it compiled from a noexec mount", shown(folder)))
        .sees(format!("{}/….so: failed to map segment from shared object", folder.path))
        .proof("folder", &folder.path, Some(folder.by.clone()))
        .proof("mount of", format!("{}: noexec", folder.at), None)
        .cure(elsewhere(folder, "mount it without noexec, or name another folder"))
}

fn little(folder: &Folder) -> Option<Finding> {
    let space = folder.space.filter(|space| space.free < LITTLE)?;
    let message = format!("{} has {} left in {}", shown(folder), bytes(space.free), folder.at);
    Some(
        finding("res-shm-noexec-small-tmp", &folder.at, message)
            .sees("OSError: [Errno 28] No space left on device")
            .proof("free", format!("{} of {}", bytes(space.free), bytes(space.total)), Some(folder.at.clone()))
            .proof("folder", &folder.path, Some(folder.by.clone()))
            .cure(elsewhere(folder, "give it a larger volume")),
    )
}

/// A size for people.
pub fn bytes(size: u64) -> String {
    bytesize::ByteSize(size).to_string()
}

fn elsewhere(folder: &Folder, summary: &str) -> Fix {
    let name = &folder.variable;
    let path = if name == "TMPDIR" { "/scratch".to_owned() } else { format!("/scratch/{}", folder.program) };
    Fix {
        summary: summary.to_owned(),
        dockerfile: Some(format!("RUN mkdir -m 1777 /scratch\nENV {name}={path}")),
        docker_run: Some(format!("docker run --tmpfs /scratch:exec,mode=1777 -e {name}={path} …")),
        kubernetes: Some(format!(
            "volumes: [{{ name: scratch, emptyDir: {{}} }}]  # volumeMounts: [{{ name: scratch, mountPath: /scratch }}], env {name}={path}"
        )),
    }
}

fn user(facts: &Facts) -> Surveyed {
    let here = &facts.image.surroundings;
    let Some(account) = &here.account else {
        return Surveyed::not_applicable("it is not known who the workload runs as; --user tells");
    };
    let compiles = facts.subjects.iter().any(|s| s.capability == COMPILE);
    let Some(inductor) = here.inductor.filter(|inductor| inductor.needs_name && compiles) else {
        return Surveyed::not_applicable("nothing here needs the name of the user");
    };
    let is_named = variable(facts, "TORCHINDUCTOR_CACHE_DIR").is_some();
    if account.named_by.is_some() || (is_named && !inductor.needs_name_always) {
        return Surveyed::found(Vec::new());
    }
    let why = match &account.name {
        Observed::Absent(why) => why,
        Observed::Failed(why) => return Surveyed::unknown(why),
        Observed::Seen(_) | Observed::NotAsked => return Surveyed::found(Vec::new()),
    };
    let python = facts.python.as_ref().and_then(Observed::seen);
    // 3.13 turned the error of the look-up into one of its own.
    let is_new =
        python.and_then(|p| p.version.strip_prefix("3.")?.parse::<u32>().ok()).is_some_and(|minor| minor >= 13);
    let sees = if is_new {
        "OSError: No username set in the environment".to_owned()
    } else {
        format!("KeyError: 'getpwuid(): uid not found: {}'", account.uid)
    };
    let found =
        finding("jit-getpwuid", account.uid.to_string(), "torch.compile asks for the user's name, and there is none")
            .sees(sees)
            .proof("user", account.uid.to_string(), None)
            .proof("/etc/passwd", why, None)
            .proof("LOGNAME, USER, LNAME, USERNAME", "not set", Some("environment".into()))
            .breaks(COMPILE)
            .cure(Fix {
                summary: "set USER, or give the user a row in /etc/passwd; torch 2.13 does without".into(),
                dockerfile: Some("ENV USER=app".into()),
                docker_run: Some("docker run -e USER=app …".into()),
                kubernetes: Some("env: [{ name: USER, value: app }]".into()),
            });
    Surveyed::found(vec![found])
}

fn libraries(facts: &Facts) -> Surveyed {
    let dirs = &facts.image.surroundings.noexec;
    let Some(first) = dirs.first() else { return Surveyed::found(Vec::new()) };
    let mut findings = Vec::new();
    for subject in &facts.subjects {
        let is_below = |path: &str| dirs.iter().any(|dir| below(dir, path).is_some());
        let Some(mapped) = subject.mapped.iter().find(|m| is_below(&m.path)) else { continue };
        findings.push(
            finding("lib-noexec", first, "libraries lie on a file system that is mounted noexec")
                .sees(format!("ImportError: {}: failed to map segment from shared object", mapped.soname))
                .proof("library", &mapped.path, Some("statvfs: noexec".into()))
                .breaks(&subject.capability)
                .cure(Fix {
                    summary: "mount it without noexec".into(),
                    docker_run: Some("docker run --mount type=volume,src=…,dst=… …".into()),
                    ..Fix::default()
                }),
        );
    }
    Surveyed::found(findings)
}
