//! A root file system with the machine's own dynamic loader in it, where both sides are asked the same.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::chroot;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use mldoctor::image::Rootfs;
use mldoctor::image::elf::Machine;
use mldoctor::loader::{DynamicLoader, Loader, Process};

use crate::answer::Answer;
use crate::support::elf::ElfFile;

/// A tree in a temporary directory.
pub struct World {
    dir: tempfile::TempDir,
    /// Environment of the program.
    pub env: Vec<(String, String)>,
    /// Path of the loader.
    loader: String,
}

/// The loader of the machine.
pub fn loader_path() -> &'static str {
    match Machine::host() {
        Machine::AARCH64 => "/lib/ld-linux-aarch64.so.1",
        _ => "/lib64/ld-linux-x86-64.so.2",
    }
}

/// Whether the tests may change the root; only root may.
pub fn may_chroot() -> bool {
    rustix::process::geteuid().is_root()
}

/// Lets a command start with another root directory.
pub fn in_root(command: &mut Command, root: PathBuf) {
    // SAFETY: chroot and chdir are async-signal-safe system calls.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(move || {
            chroot(&root)?;
            std::env::set_current_dir("/")
        });
    }
}

impl World {
    /// An empty world with a loader and nothing else.
    pub fn new() -> Self {
        Self::with_loader(loader_path())
    }

    /// An empty world with this loader of the machine.
    pub fn with_loader(loader: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let world = Self { dir, env: Vec::new(), loader: loader.to_owned() };
        let real = fs::canonicalize(loader).unwrap();
        world.write(loader, &fs::read(real).unwrap());
        world
    }

    /// The directory that is the root.
    pub fn root(&self) -> &Path {
        self.dir.path()
    }

    /// The path outside of a path inside.
    pub fn outside(&self, path: &str) -> PathBuf {
        self.root().join(path.trim_start_matches('/'))
    }

    /// Writes a file that may be executed.
    pub fn write(&self, path: &str, content: &[u8]) {
        let path = self.outside(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }

    /// Makes an ELF file.
    pub fn elf(&self, path: &str, file: &ElfFile) {
        self.write(path, &file.build());
    }

    /// Makes a link.
    pub fn link(&self, path: &str, to: &str) {
        let path = self.outside(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(to, path).unwrap();
    }

    /// `ldconfig` for this root, with `dirs` in its configuration.
    pub fn ldconfig(&self, dirs: &[&str]) {
        self.write("/etc/ld.so.conf", (dirs.join("\n") + "\n").as_bytes());
        let status =
            Command::new("/sbin/ldconfig").arg("-r").arg(self.root()).stderr(std::process::Stdio::null()).status();
        assert!(status.unwrap().success());
    }

    fn run(&self, program: &str, more: &[(&str, &str)]) -> Output {
        self.run_loader(&[program], more)
    }

    /// Starts the loader with these arguments.
    pub fn run_loader(&self, arguments: &[&str], more: &[(&str, &str)]) -> Output {
        let root = self.root().to_owned();
        let mut command = Command::new(&self.loader);
        command.args(arguments).env_clear().envs(self.env.iter().cloned()).envs(more.iter().copied());
        in_root(&mut command, root);
        loop {
            match command.output() {
                // Another thread forked while the file was being written, and its child has not yet closed it.
                Err(e) if e.kind() == std::io::ErrorKind::ExecutableFileBusy => std::thread::yield_now(),
                outcome => return outcome.unwrap(),
            }
        }
    }

    /// What the real loader says: `ldd -r PROGRAM`, and whether it went on with an empty library in place of one that it
    /// did not find. Nothing where it dies of an inconsistency of its own.
    pub fn real(&self, program: &str) -> Option<(Answer, bool)> {
        let output = self.run(program, &Answer::TRACE);
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        // A definition without any version in the very file that should have the version; no such pair of files was ever
        // linked by a linker.
        if text.contains("check_match: Assertion") {
            return None;
        }
        Some((Answer::told(&text), text.contains("=> not found")))
    }

    /// How the program really ends when it is started and binds everything at once: its message, if any.
    pub fn starts(&self, program: &str) -> Result<(), String> {
        let output = self.run(program, &[("LD_BIND_NOW", "1")]);
        if output.status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let only_told =
            |l: &&str| !l.contains("cannot be preloaded") && !l.contains("no version information available");
        let line = text.lines().find(only_told).unwrap_or_default();
        let message = line
            .split_once("error while loading shared libraries: ")
            .or_else(|| line.split_once("symbol lookup error: "));
        Err(message.map_or_else(|| line.split_once(": ").map_or(line, |(_, m)| m), |(_, m)| m).to_owned())
    }

    /// The loader model for this root, with more variables than the world has.
    pub fn loader_with(&self, more: &[(&str, &str)]) -> Loader {
        let rootfs = Rootfs::open_root(self.root()).unwrap();
        let dl = DynamicLoader::read(&rootfs, Path::new(&self.loader), Machine::host()).unwrap();
        let own = self.env.iter().map(|(k, v)| (OsString::from(k), OsString::from(v)));
        let env = own.chain(more.iter().map(|(k, v)| (OsString::from(k), OsString::from(v)))).collect();
        Loader::new(&rootfs, dl, env, PathBuf::from("/"), None)
    }

    fn loader(&self) -> Loader {
        self.loader_with(&[("LD_BIND_NOW", "1")])
    }

    /// What the model says.
    pub fn model(&self, program: &str) -> Answer {
        let loader = self.loader();
        let (process, errors) = Process::start(&loader, Path::new(program));
        Answer::modelled(process.as_ref(), &errors)
    }

    /// What the model says of starting the program.
    pub fn model_starts(&self, program: &str) -> Result<(), String> {
        let loader = self.loader();
        let (_, errors) = Process::start(&loader, Path::new(program));
        errors.iter().find(|e| e.is_fatal()).map_or(Ok(()), |e| Err(e.message()))
    }

    /// Both sides must agree: on every path and on how the program ends.
    pub fn agree(&self, program: &str) -> Result<(), String> {
        let Some((mut real, has_empty)) = self.real(program) else { return Ok(()) };
        let mut model = self.model(program);
        // The empty library also answers for the versions wanted of that name, and its version table is read without
        // having been made. Nothing like that happens to a program.
        if has_empty {
            for answer in [&mut real, &mut model] {
                answer.undefined.clear();
                answer.versions.clear();
            }
        }
        let starts = self.starts(program);
        // An auxiliary filtee that is missing is told by `ldd -r`, and does no harm.
        if starts.is_ok() {
            real.libraries.retain(|_, path| path.is_some());
        }
        // A file that ends everything ends the real answer too, while the model goes on.
        if real.fatal.is_some() || model.fatal.is_some() {
            if real.fatal != model.fatal {
                return Err(format!("\n  real:  {real:?}\n  model: {model:?}"));
            }
            return Ok(());
        }
        if real != model {
            return Err(format!("\n  real:  {real:?}\n  model: {model:?}"));
        }
        let (real, model) = (starts, self.model_starts(program));
        // The error number in the message is the last one that any system call left: 0 if nothing was opened because all
        // directories are known not to be there, and at the start of a program few numbers have a text (`dl-minimal.c`).
        let what = |m: String| match m.split_once("cannot open shared object file") {
            Some((name, _)) => name.to_owned(),
            None => m,
        };
        let (real, model) = (real.map_err(what), model.map_err(what));
        if real != model {
            return Err(format!("\n  real start:  {real:?}\n  model start: {model:?}"));
        }
        Ok(())
    }
}
