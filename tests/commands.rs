//! The commands that take their place in a container: what they print, how they exit, and what they leave behind.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::json;
use support::driver;
use support::elf::ElfFile;
use tempfile::TempDir;

const MLDOCTOR: &str = env!("CARGO_BIN_EXE_mldoctor");
#[cfg(target_arch = "x86_64")]
const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";
#[cfg(target_arch = "aarch64")]
const LOADER: &str = "/lib/ld-linux-aarch64.so.1";

/// A program with a library of its own, and a driver with one GPU.
struct Container {
    dir: TempDir,
}

impl Container {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        driver::install(dir.path());
        let container = Self { dir };
        container.scenario(json!({}));
        fs::create_dir(container.path("state")).unwrap();
        fs::create_dir(container.path("lib")).unwrap();
        fs::write(container.path("lib/libown.so.1"), ElfFile::library("libown.so.1").build()).unwrap();
        let mut program = ElfFile::executable(LOADER).needs("libown.so.1");
        program.runpath = Some("$ORIGIN/lib".into());
        fs::write(container.path("program"), program.build()).unwrap();
        fs::set_permissions(container.path("program"), fs::Permissions::from_mode(0o755)).unwrap();
        container
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A healthy driver, but for these calls.
    fn scenario(&self, calls: serde_json::Value) {
        let scenario = json!({ "driver": "570.124.06", "cuda": 12080, "gpus": [{}], "calls": calls });
        fs::write(self.path("scenario.json"), scenario.to_string()).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(MLDOCTOR);
        command.args(arguments).env_clear().current_dir(self.dir.path());
        command.env("PATH", "/usr/bin:/bin").env("LD_LIBRARY_PATH", self.dir.path());
        command.env("FAKE_DRIVER", self.path("scenario.json")).env("MLDOCTOR_STATE_DIR", self.path("state"));
        command
    }

    fn health(&self, arguments: &[&str]) -> (i32, String) {
        let words = [&["health", "./program", "--deadline", "20s"], arguments].concat();
        said(self.command(&words).output().unwrap())
    }

    /// Until what the tests have just made is no longer so young that nothing is remembered of it.
    fn settle(&self) {
        std::thread::sleep(Duration::from_millis(2_100));
        let (code, text) = self.health(&[]);
        assert_eq!(code, 0, "{text}");
        assert_eq!(fs::read_dir(self.path("state")).unwrap().count(), 1);
    }

    fn exec(&self, options: &[&str], workload: &[&str]) -> Output {
        let words = [&["exec", "./program"], options, &["--"], workload].concat();
        self.command(&words).output().unwrap()
    }
}

fn said(output: Output) -> (i32, String) {
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.lines().next().is_some_and(|line| line.len() <= 80) && text.len() <= 4096, "{text}");
    (output.status.code().unwrap(), text)
}

#[test]
fn health_is_one_line_where_all_is_well() {
    let container = Container::new();
    let (code, text) = container.health(&[]);
    assert_eq!((code, text.lines().count()), (0, 1), "{text}");
    assert!(text.starts_with("READY"), "{text}");
}

#[test]
fn health_remembers_the_image_and_asks_nvml_again() {
    let container = Container::new();
    container.settle();
    // CUDA is initialised once.
    container.scenario(json!({ "cuInit": { "code": 999 } }));
    let (code, text) = container.health(&[]);
    assert_eq!(code, 0, "{text}");
    container.scenario(json!({ "nvmlDeviceGetHandleByIndex_v2(0)": { "code": 15 } }));
    let (code, text) = container.health(&[]);
    assert_eq!(code, 1, "{text}");
    assert!(text.starts_with("NOT READY  gpu-lost"), "{text}");
    container.scenario(json!({}));
    assert_eq!(container.health(&[]).0, 0);
}

#[test]
fn health_sees_that_a_library_is_gone_and_that_it_is_back() {
    let container = Container::new();
    container.settle();
    let library = container.path("lib/libown.so.1");
    fs::rename(&library, container.path("aside")).unwrap();
    let (code, text) = container.health(&[]);
    assert_eq!(code, 1, "{text}");
    assert!(text.starts_with("NOT READY  lib-missing: program needs libown.so.1"), "{text}");
    fs::rename(container.path("aside"), &library).unwrap();
    assert_eq!(container.health(&[]).0, 0);
}

#[test]
fn health_sees_that_a_library_was_written_over() {
    let container = Container::new();
    container.settle();
    fs::write(container.path("lib/libown.so.1"), "no library any more, and long enough for the header of an ELF file")
        .unwrap();
    let (code, text) = container.health(&[]);
    assert_eq!(code, 1, "{text}");
    assert!(text.starts_with("NOT READY  lib-corrupt"), "{text}");
}

#[test]
fn health_is_not_well_where_the_driver_could_not_be_asked() {
    let container = Container::new();
    container.settle();
    let probe = container.path("probe");
    fs::write(&probe, "no program").unwrap();
    fs::set_permissions(&probe, fs::Permissions::from_mode(0o755)).unwrap();
    let (code, text) = container.health(&["--probes", probe.to_str().unwrap()]);
    assert_eq!(code, 1, "{text}");
    assert!(text.starts_with("UNDETERMINED  gpu: the driver could not be asked"), "{text}");
}

#[test]
fn health_counts_the_gpus_anew() {
    let container = Container::new();
    container.settle();
    assert_eq!(container.health(&["--expect-gpus", "1"]).0, 0);
    let (code, text) = container.health(&["--expect-gpus", "2"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.starts_with("NOT READY  gpu-count"), "{text}");
}

#[test]
fn health_believes_nothing_that_another_could_have_written() {
    let container = Container::new();
    container.settle();
    let file = fs::read_dir(container.path("state")).unwrap().next().unwrap().unwrap().path();
    // What is remembered of another environment is no answer either.
    container.scenario(json!({ "cuInit": { "code": 999 } }));
    let words = ["health", "./program", "--deadline", "20s"];
    assert_eq!(container.command(&words).env("OTHER", "1").output().unwrap().status.code(), Some(1));
    for (text, mode) in [(fs::read(&file).unwrap(), 0o666), (b"{}".to_vec(), 0o600), (Vec::new(), 0o600)] {
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let (code, text) = container.health(&[]);
        assert_eq!(code, 1, "{text}");
    }
}

#[test]
fn a_driver_that_hangs_is_unhealthy_in_time_unless_that_is_tolerated() {
    let container = Container::new();
    container.scenario(json!({ "nvmlInit_v2": "hang", "cuInit": "hang" }));
    let start = Instant::now();
    let words = ["health", "./program", "--deadline", "3s"];
    let (code, text) = said(container.command(&words).output().unwrap());
    assert!(start.elapsed() < Duration::from_secs(20));
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("gpu-hang"), "{text}");
    let words = [&words[..], &["--tolerate-slow-driver"]].concat();
    let (code, text) = said(container.command(&words).output().unwrap());
    assert_eq!(code, 0, "{text}");
}

#[test]
fn health_has_an_answer_at_its_deadline_whatever_it_is_doing() {
    let container = Container::new();
    let words = ["health", "./program", "--deadline", "0ms"];
    let (code, text) = said(container.command(&words).output().unwrap());
    assert_eq!(code, 1);
    assert!(text.starts_with("UNDETERMINED  not done within 0 ms"), "{text}");
}

#[test]
fn health_has_two_exit_codes() {
    let container = Container::new();
    for words in [&["health", "--no-such-flag"][..], &["health", "--python", "/nowhere", "torch"]] {
        assert_eq!(container.command(words).output().unwrap().status.code(), Some(1), "{words:?}");
    }
}

#[test]
fn exec_becomes_the_workload() {
    let container = Container::new();
    let tell = "echo $$; pwd; env | sort; grep -E 'Sig(Blk|Ign|Cgt)' /proc/self/status; ls /proc/self/fd | wc -l";
    let mut direct = Command::new("sh");
    let environment: Vec<_> =
        container.command(&[]).get_envs().map(|(k, v)| (k.to_owned(), v.unwrap().to_owned())).collect();
    direct.args(["-c", tell]).env_clear().envs(environment).current_dir(container.dir.path());
    let child = direct.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let expected = (child.id(), String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap());
    let words = ["exec", "./program", "--", "sh", "-c", tell];
    let mut command = container.command(&words);
    let child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    let output = child.wait_with_output().unwrap();
    let real = String::from_utf8(output.stdout).unwrap();
    let without_pid = |text: &str| text.split_once('\n').unwrap().1.to_owned();
    assert_eq!(without_pid(&real), without_pid(&expected.1));
    assert!(real.starts_with(&format!("{pid}\n")), "{real}");
    assert!(String::from_utf8(output.stderr).unwrap().starts_with("READY"));
}

#[test]
fn exec_passes_on_how_the_workload_ended() {
    let container = Container::new();
    assert_eq!(container.exec(&["-q"], &["sh", "-c", "exit 42"]).status.code(), Some(42));
    assert_eq!(container.exec(&["-q"], &["/nowhere/program"]).status.code(), Some(127));
    assert_eq!(container.exec(&["-q"], &["no-such-command"]).status.code(), Some(127));
    assert_eq!(container.exec(&["-q"], &["/etc/passwd"]).status.code(), Some(126));
    assert_eq!(container.command(&["exec", "--no-such-flag"]).output().unwrap().status.code(), Some(125));
    assert_eq!(container.command(&["exec", "./program"]).output().unwrap().status.code(), Some(125));
}

#[test]
fn exec_starts_nothing_that_cannot_run_unless_told_to() {
    let container = Container::new();
    fs::remove_file(container.path("lib/libown.so.1")).unwrap();
    let ready = container.path("ready");
    fs::write(&ready, "").unwrap();
    let ready_file = ["--ready-file", ready.to_str().unwrap()];
    let output = container.exec(&ready_file, &["echo", "started"]);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), &b""[..]));
    let report = String::from_utf8(output.stderr).unwrap();
    assert!(report.starts_with("NOT READY  lib-missing") && report.contains("bring libown.so.1 back"), "{report}");
    assert!(!ready.exists());
    let output =
        container.exec(&["--report-only", "--export"], &["sh", "-c", "echo $MLDOCTOR_VERDICT $MLDOCTOR_FINDINGS"]);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "not-ready lib-missing\n");
}

#[test]
fn exec_tells_others_that_the_workload_is_about_to_start() {
    let container = Container::new();
    let ready = container.path("ready");
    let ready_file = ["-q", "--ready-file", ready.to_str().unwrap()];
    let output = container.exec(&ready_file, &["ls", ready.to_str().unwrap()]);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    container.exec(&ready_file, &["no-such-command"]);
    assert!(!ready.exists());
}

#[test]
fn exec_leaves_the_reason_for_the_kubelet() {
    let container = Container::new();
    let log = container.path("termination-log");
    let told = || fs::read_to_string(&log).unwrap();
    let option = ["--termination-log", log.to_str().unwrap()];
    let refused = |options: &[&str]| {
        let output = container.exec(options, &["echo", "started"]);
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), &b""[..]), "{output:?}");
    };
    fs::write(&log, "").unwrap();
    assert!(container.exec(&option, &["true"]).status.success());
    assert_eq!(told(), "");
    fs::remove_file(container.path("lib/libown.so.1")).unwrap();
    assert!(container.exec(&[&option[..], &["--report-only"]].concat(), &["true"]).status.success());
    assert_eq!(told(), "");
    refused(&option);
    assert!(told().starts_with("NOT READY  lib-missing") && told().contains("bring libown.so.1 back"), "{}", told());
    assert!(told().len() <= 4096 && !told().contains("more finding"), "{}", told());
    fs::remove_file(&log).unwrap();
    refused(&option);
    assert!(!log.exists());
}

#[test]
fn a_mistyped_name_is_answered_with_the_one_that_is_meant() {
    let container = Container::new();
    let refused = |words: &[&str], why: &str| {
        let output = container.command(words).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), said), (Some(2), format!("mldoctor: {why}\n")), "{words:?}");
    };
    refused(&["chek", "--image"], "no command chek, and no module; is check meant?");
    refused(&["exce", "--", "./program"], "no command exce, and no module; is exec meant?");
    refused(&["explain", "lib-cupty"], "no finding id lib-cupty; is lib-cupti meant?");
    refused(&["check", "--skip", "gpu-lots", "./program"], "no finding id gpu-lots; is gpu-lost meant?");
    refused(&["explain", "zzz"], "no finding id zzz; mldoctor list shows them");
    // What stands behind a command, and what a file is called, is no slip.
    fs::write(container.path("helth"), "").unwrap();
    for words in [&["check", "--image", "chek"][..], &["--image", "helth"], &["--image", "torch"]] {
        let output = container.command(words).output().unwrap();
        assert!(output.stderr.is_empty() && output.stdout.starts_with(b"NOT READY"), "{words:?}: {output:?}");
    }
    let required = format!("load:{}", container.path("progam").display());
    let words = ["check", "--image", "--format", "json", "--require", &required, "./program"];
    let report = String::from_utf8(container.command(&words).output().unwrap().stdout).unwrap();
    let meant = format!("capability; is load:{} meant?", container.path("program").display());
    assert!(report.contains(&meant), "{report}");
}

/// On a machine without a driver.
#[test]
fn the_first_command_says_that_there_is_no_driver() {
    if std::path::Path::new("/proc/driver/nvidia").exists() {
        return support::skip("this machine has a driver");
    }
    let container = Container::new();
    let output = container.command(&["check"]).env_remove("LD_LIBRARY_PATH").output().unwrap();
    let report = String::from_utf8(output.stdout).unwrap();
    assert!(report.starts_with("NOT READY  drv-absent"), "{report}");
    assert!(report.contains("--gpus all"), "{report}");
    let is_one_word = |line: &str| line.trim().split(' ').count() <= 2;
    let long: Vec<&str> = report.lines().filter(|line| line.chars().count() > 80 && !is_one_word(line)).collect();
    assert!(long.is_empty(), "{long:?}");
}

#[test]
fn a_module_that_is_not_there_has_no_libraries() {
    let container = Container::new();
    for command in ["libs", "matrix"] {
        let output = container.command(&[command, "no_such_module"]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            (output.status.code(), said.as_str()),
            (Some(2), "mldoctor: no module no_such_module in this environment\n")
        );
    }
}

#[test]
fn what_is_installed_starts_its_probe_from_its_own_file() {
    let container = Container::new();
    let bin = container.path("bin");
    let words = ["install", bin.to_str().unwrap()];
    assert!(container.command(&words).status().unwrap().success());
    let mut command = Command::new(bin.join("mldoctor"));
    command.args(["check", "-v", "./program"]).env_clear().current_dir(container.dir.path());
    command.env("LD_LIBRARY_PATH", container.dir.path()).env("FAKE_DRIVER", container.path("scenario.json"));
    let report = String::from_utf8(command.output().unwrap().stdout).unwrap();
    let probe = bin.join("mldoctor-probes");
    assert!(report.contains(&format!("Tried for real by {}.", probe.display())), "{report}");
}
