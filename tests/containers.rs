//! Real containers: the examples of `docker/` are built and run, and what their users see is looked at. The base image
//! is made with debootstrap, the driver is made up, and PyTorch is a stand-in of two small libraries, so that each thing
//! can be taken away; the real one has tests of its own.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use support::elf::ElfFile;
use support::podman::Podman;
use support::{debian, driver, skip};

/// Image of the example.
const APP: &str = "mldoctor-test-app";
/// The doctor's own image.
const DOCTOR: &str = "mldoctor-test-doctor";
const BASE: &str = "mldoctor-test-base";
/// Where PyTorch's own library is in the example.
const LIBRARY: &str = "/opt/venv/lib/python3.13/site-packages/torch/lib/libtorch_python.so";

/// Everything that is built once.
struct Lab {
    podman: Podman,
    /// Holds the made-up driver.
    driver: PathBuf,
    /// The shipped file.
    doctor: PathBuf,
}

fn lab() -> Option<&'static Lab> {
    static LAB: OnceLock<Result<Lab, String>> = OnceLock::new();
    match LAB.get_or_init(Lab::build) {
        Ok(lab) => Some(lab),
        Err(why) => {
            skip(why);
            None
        }
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn must(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    if output.status.success() { Ok(text(&output)) } else { Err(format!("{command:?}: {}", text(&output))) }
}

impl Lab {
    fn build() -> Result<Self, String> {
        let podman = Podman::open()?;
        let project = Path::new(env!("CARGO_MANIFEST_DIR"));
        let doctor = project.join(format!("dist/mldoctor-{}", std::env::consts::ARCH));
        if !doctor.exists() {
            return Err(format!("{} is not built (cargo xtask dist)", doctor.display()));
        }
        let dir = project.join("target/acceptance/containers");
        let _ = fs::remove_dir_all(&dir);
        for sub in ["context", "driver", "doctor"] {
            fs::create_dir_all(dir.join(sub)).map_err(|e| e.to_string())?;
        }
        driver::install(&dir.join("driver"));
        let lab = Self { podman, driver: dir.join("driver"), doctor };
        lab.scenario("{}");
        lab.podman.import(&debian::root_with("trixie", "python", &["python3-venv"])?, BASE)?;
        must(Command::new(&lab.doctor).arg("install").arg(dir.join("doctor")))?;
        fs::write(
            dir.join("doctor/Dockerfile"),
            "FROM scratch\nCOPY mldoctor mldoctor-probes /\nENTRYPOINT [\"/mldoctor\"]\n",
        )
        .map_err(|e| e.to_string())?;
        lab.build_image(DOCTOR, &dir.join("doctor/Dockerfile"), &dir.join("doctor"), &[])?;
        let context = dir.join("context");
        wheel(&context)?;
        fs::copy(project.join("docker/examples/smoke.py"), context.join("smoke.py")).map_err(|e| e.to_string())?;
        fs::write(context.join("requirements.txt"), "--no-index\n--find-links=/wheels\ntorch==2.6.0\n").unwrap();
        // The wheel has to be in the builder, and the example says nothing of it.
        fs::write(context.join("with-wheel.Dockerfile"), format!("FROM {BASE}\nCOPY *.whl /wheels/\n")).unwrap();
        lab.build_image("mldoctor-test-wheels", &context.join("with-wheel.Dockerfile"), &context, &[])?;
        let example = project.join("docker/examples/pytorch.Dockerfile");
        let arguments = [
            "BASE_IMAGE=localhost/mldoctor-test-wheels",
            "MLDOCTOR_IMAGE=localhost/mldoctor-test-doctor",
            "REQUIRE=import:torch",
        ];
        lab.build_image(APP, &example, &context, &arguments)?;
        Ok(lab)
    }

    fn build_image(&self, name: &str, file: &Path, context: &Path, arguments: &[&str]) -> Result<String, String> {
        let mut build = self.podman.command();
        build.args(["build", "--isolation", "chroot", "--network", "host", "--format", "docker", "--tag", name]);
        for argument in arguments {
            build.args(["--build-arg", argument]);
        }
        must(build.arg("--file").arg(file).arg(context))
    }

    /// What the driver does.
    fn scenario(&self, calls: &str) {
        let text = format!(r#"{{"driver": "570.124.06", "cuda": 12080, "gpus": [{{}}], "calls": {calls}}}"#);
        fs::write(self.driver.join("scenario.json"), text).unwrap();
    }

    /// Options that give a container the driver.
    fn options(&self) -> Vec<String> {
        ["-v", &format!("{}:/usr/local/nvidia/lib64:ro", self.driver.display())]
            .into_iter()
            .chain(["-e", "LD_LIBRARY_PATH=/usr/local/nvidia/lib64"])
            .chain(["-e", "FAKE_DRIVER=/usr/local/nvidia/lib64/scenario.json"])
            .map(str::to_owned)
            .collect()
    }

    fn run(&self, options: &[&str], image: &str, command: &[&str]) -> Output {
        let own = self.options();
        let options: Vec<&str> = own.iter().map(String::as_str).chain(options.iter().copied()).collect();
        self.podman.run(&options, image, command)
    }

    /// A container that goes on until it is dropped.
    fn start<'l>(&'l self, name: &'l str, options: &[&str], command: &[&str]) -> Running<'l> {
        let _ = self.podman.command().args(["rm", "-f", "-t", "0", name]).output();
        let mut run = self.podman.command();
        run.args(["run", "-d", "--name", name, "--network", "none"]).args(self.options()).args(options);
        must(run.arg(APP).args(command)).unwrap();
        Running { lab: self, name }
    }
}

struct Running<'l> {
    lab: &'l Lab,
    name: &'l str,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let _ = self.lab.podman.command().args(["rm", "-f", "-t", "0", self.name]).output();
    }
}

impl Running<'_> {
    fn exec(&self, options: &[&str], command: &[&str]) -> Output {
        self.lab.podman.command().arg("exec").args(options).arg(self.name).args(command).output().unwrap()
    }

    fn inspect(&self, format: &str) -> String {
        let mut inspect = self.lab.podman.command();
        must(inspect.args(["inspect", "--format", format, self.name])).unwrap().trim().to_owned()
    }

    /// One run of the image's HEALTHCHECK, as a timer would start it.
    fn healthcheck(&self) -> i32 {
        let mut command = self.lab.podman.command();
        command.args(["healthcheck", "run", self.name]).output().unwrap().status.code().unwrap()
    }

    /// Waits for the workload to print something, for as long as a loaded machine may take.
    fn wait_for(&self, what: &str) -> String {
        for _ in 0..300 {
            let log = text(&self.lab.podman.command().args(["logs", self.name]).output().unwrap());
            if log.contains(what) {
                return log;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        panic!(
            "{what:?} was never printed: {}",
            text(&self.lab.podman.command().args(["logs", self.name]).output().unwrap())
        );
    }
}

/// A package `torch` whose import loads one library after the other.
fn wheel(dir: &Path) -> Result<(), String> {
    let package = dir.join("torch");
    fs::create_dir_all(package.join("lib")).map_err(|e| e.to_string())?;
    let mut extension = ElfFile::library("_C.so").needs("libtorch_python.so");
    extension.runpath = Some("$ORIGIN/lib".into());
    let name = format!("_C.cpython-313-{}-linux-gnu.so", std::env::consts::ARCH);
    fs::write(package.join(name), extension.build()).map_err(|e| e.to_string())?;
    let library = ElfFile::library("libtorch_python.so").build();
    fs::write(package.join("lib/libtorch_python.so"), library).map_err(|e| e.to_string())?;
    fs::write(package.join("__init__.py"), "from torch import _C\n").map_err(|e| e.to_string())?;
    let info = dir.join("torch-2.6.0.dist-info");
    fs::create_dir_all(&info).map_err(|e| e.to_string())?;
    fs::write(info.join("METADATA"), "Metadata-Version: 2.1\nName: torch\nVersion: 2.6.0\n").unwrap();
    fs::write(info.join("WHEEL"), "Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: py3-none-any\n").unwrap();
    fs::write(info.join("RECORD"), "").unwrap();
    let pack = "import zipfile, pathlib, sys\n\
                with zipfile.ZipFile('torch-2.6.0-py3-none-any.whl', 'w') as z:\n  \
                [z.write(p) for d in ('torch', 'torch-2.6.0.dist-info') for p in pathlib.Path(d).rglob('*')]";
    must(Command::new("python3").args(["-c", pack]).current_dir(dir)).map(drop)
}

/// A command line that waits, and ends at once when it is told to.
const WAIT: &str = "trap 'exit 7' TERM; echo \"pid $$ $MLDOCTOR_VERDICT\"; while :; do sleep 0.1; done";

#[test]
fn a_healthcheck_goes_from_healthy_to_unhealthy_and_says_why() {
    let Some(lab) = lab() else { return };
    let app = lab.start("health", &[], &["sh", "-c", WAIT]);
    app.wait_for("pid 1");
    assert_eq!(app.healthcheck(), 0, "{}", app.inspect("{{json .State.Health}}"));
    assert_eq!(app.inspect("{{.State.Health.Status}}"), "healthy");
    assert!(app.exec(&["-u", "0"], &["rm", LIBRARY]).status.success());
    // Within the start period of the example, failures do not count.
    std::thread::sleep(std::time::Duration::from_secs(31));
    for _ in 0..4 {
        assert_eq!(app.healthcheck(), 1, "{}", app.inspect("{{json .State.Health}}"));
    }
    assert_eq!(app.inspect("{{.State.Health.Status}}"), "unhealthy");
    let log = app.inspect("{{json .State.Health}}");
    assert!(log.contains("NOT READY  lib-missing"), "{log}");
}

#[test]
fn the_entry_point_becomes_the_workload() {
    let Some(lab) = lab() else { return };
    let app = lab.start("entry", &[], &["sh", "-c", WAIT]);
    let log = app.wait_for("pid 1");
    assert!(log.contains("DEGRADED  torch, but not torch.compile"), "{log}");
    must(lab.podman.command().args(["stop", "-t", "60", "entry"])).unwrap();
    assert_eq!(app.inspect("{{.State.ExitCode}}"), "7");
}

#[test]
fn the_entry_point_refuses_what_cannot_run() {
    let Some(lab) = lab() else { return };
    // An empty directory hides PyTorch's libraries.
    let hidden = Path::new(LIBRARY).parent().unwrap().to_string_lossy().into_owned();
    let output = lab.run(&["--tmpfs", &format!("{hidden}:notmpcopyup")], APP, &["echo", "started"]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("NOT READY") && said.contains("libtorch_python.so") && !said.contains("started"), "{said}");
}

#[test]
fn the_verdict_is_the_same_however_little_a_container_may() {
    let Some(lab) = lab() else { return };
    let usual = lab.run(&["--entrypoint", "mldoctor"], APP, &["check", "--format", "json"]);
    let of = |output: &Output| -> serde_json::Value {
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(output)))
    };
    let capabilities = |report: &serde_json::Value| report["capabilities"].clone();
    assert_eq!(usual.status.code(), Some(0), "{}", text(&usual));
    for options in [
        &["--read-only"][..],
        &["--user", "12345"],
        &["--cap-drop", "ALL"],
        &["--memory", "512m"],
        &["--pids-limit", "8"],
        &["--read-only", "--user", "12345", "--cap-drop", "ALL", "--memory", "512m", "--pids-limit", "8"],
    ] {
        let options = [options, &["--entrypoint", "mldoctor"]].concat();
        let output = lab.run(&options, APP, &["check", "--format", "json"]);
        assert_eq!(output.status.code(), Some(0), "{options:?}: {}", text(&output));
        assert_eq!(capabilities(&of(&output)), capabilities(&of(&usual)), "{options:?}");
        let output = lab.run(&options, APP, &["health", "--deadline", "60s"]);
        assert_eq!(output.status.code(), Some(0), "{options:?}: {}", text(&output));
    }
    // The doctor gets by with little memory, and says that PyTorch does not.
    let output = lab.run(&["--memory", "64m", "--entrypoint", "mldoctor"], APP, &["check"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("res-oom"), "{}", text(&output));
}

#[test]
fn nothing_is_left_behind_by_five_hundred_health_checks() {
    let Some(lab) = lab() else { return };
    // The first process is one that never waits for the children of others.
    let app = lab.start("zombies", &["--entrypoint", "sleep"], &["1000"]);
    let checks =
        "for i in $(seq 500); do mldoctor health --deadline 60s >/dev/null || exit 1; done; cat /proc/[0-9]*/stat";
    let output = app.exec(&[], &["sh", "-c", checks]);
    assert!(output.status.success(), "{}", text(&output));
    let stat = text(&output);
    let state = |line: &str| line.rsplit_once(") ").map_or('?', |(_, rest)| rest.chars().next().unwrap_or('?'));
    let zombies: Vec<&str> = stat.lines().filter(|line| state(line) == 'Z').collect();
    assert!(zombies.is_empty(), "{zombies:?}");
    assert!(stat.lines().count() <= 4, "{stat}");
}

#[test]
fn another_container_is_examined_from_the_host_and_from_beside_it() {
    let Some(lab) = lab() else { return };
    let app = lab.start("other", &[], &["sh", "-c", WAIT]);
    app.wait_for("pid 1");
    let pid = app.inspect("{{.State.Pid}}");
    let from_host = Command::new(&lab.doctor).args(["check", "--pid", &pid, "--deadline", "60s"]).output().unwrap();
    assert_eq!(from_host.status.code(), Some(0), "{}", text(&from_host));
    assert!(text(&from_host).contains("GPU 0"), "{}", text(&from_host));
    let beside = |options: &[&str]| {
        let options = [&["--pid", "container:other"], options].concat();
        lab.podman.run(&options, DOCTOR, &["check", "--pid", "1", "--deadline", "60s"])
    };
    let output = beside(&["--privileged", "--cgroupns", "host", "-v", "/sys/fs/cgroup:/sys/fs/cgroup"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    // Without the right to enter, the files are judged, and the rest is unknown, with what it would take.
    let output = beside(&["--cap-add", "SYS_PTRACE", "--user", "0"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains("CAP_SYS_ADMIN"), "{}", text(&output));
    assert!(text(&output).contains("✓ import:torch"), "{}", text(&output));
    // What is lost there is seen from here.
    assert!(app.exec(&["-u", "0"], &["rm", LIBRARY]).status.success());
    let output = Command::new(&lab.doctor).args(["check", "--pid", &pid, "--deadline", "60s"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
}

#[test]
fn from_two_files_nothing_is_started_from_memory() {
    let Some(lab) = lab() else { return };
    let dir = tempfile::tempdir().unwrap();
    must(Command::new(&lab.doctor).arg("install").arg(dir.path())).unwrap();
    let trace = dir.path().join("trace");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-e", "trace=memfd_create,execve,execveat", "-o"]).arg(&trace);
    strace.arg(dir.path().join("mldoctor")).args(["health", "/bin/true", "--deadline", "60s"]);
    strace.env("LD_LIBRARY_PATH", &lab.driver).env("FAKE_DRIVER", lab.driver.join("scenario.json"));
    let Ok(output) = strace.output() else { return skip("strace is not installed") };
    let trace = fs::read_to_string(trace).unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert!(!trace.contains("memfd_create"), "{trace}");
    let own = dir.path().to_string_lossy().into_owned();
    let started: Vec<&str> =
        trace.lines().filter_map(|line| line.split("execve(\"").nth(1)?.split('"').next()).collect();
    assert!(started.len() >= 3, "{trace}");
    for program in started {
        assert!(program.starts_with(&own) || program.contains("/ld-linux"), "{trace}");
    }
}
