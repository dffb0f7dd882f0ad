//! The dynamic loader as a function of the files: which library every name resolves to, and what does not bind.
//!
//! A [`Loader`] is one dynamic loader (glibc's or musl's) over one file system and environment. A [`Process`] is a
//! program started by it: the main program, `LD_PRELOAD`, their closure, then a sequence of `dlopen` calls. It models
//! a process and not a file because an already loaded SONAME wins over any search, so that the order of loading
//! decides most failures of mixed libraries. The rules are those of glibc's `elf/` directory; each function names
//! the one that it follows. Nothing is executed.

mod cache;
mod dynamic_loader;
mod error;
mod process;
mod search;
mod store;
mod symbols;

pub use cache::Cache;
pub use dynamic_loader::{DynamicLoader, Libc, isa_levels};
pub use error::{Failure, ISA_TOO_LOW, LoadError, Loaded, Searched, SearchedWhy};
pub use process::{Mode, Object, ObjectId, Process, Via, is_of_libc};
pub use search::Environment;
pub use store::{ElfFile, ElfStore, Opened};

use std::path::PathBuf;
use std::sync::Arc;

use crate::image::{Credentials, Rootfs};

/// One dynamic loader over one file system, environment and user.
pub struct Loader {
    pub(crate) rootfs: Rootfs,
    pub(crate) store: Arc<ElfStore>,
    pub(crate) dl: DynamicLoader,
    pub(crate) cache: Option<Arc<Cache>>,
    pub(crate) env: Environment,
    pub(crate) cwd: PathBuf,
    pub(crate) isa: Option<u32>,
}

impl Loader {
    /// The loader `dl` as it would run in `rootfs` with `env` and the working directory `cwd`, for `user`.
    pub fn new(rootfs: &Rootfs, dl: DynamicLoader, env: Environment, cwd: PathBuf, user: Option<Credentials>) -> Self {
        let cache = dl.cache_path().and_then(|path| Cache::read(rootfs, path, dl.machine())).map(Arc::new);
        let store = Arc::new(ElfStore::new(rootfs.clone(), dl.machine(), user));
        Self { rootfs: rootfs.clone(), store, dl, cache, env, cwd, isa: None }
    }

    /// The same loader on a processor with these levels, as [`isa_levels`] gives them; without, any file may need any.
    pub fn on_processor(self, levels: Option<u32>) -> Self {
        Self { isa: levels, ..self }
    }

    /// The same loader with another environment. What was read of the files is shared.
    pub fn in_environment(&self, env: Environment) -> Self {
        Self {
            rootfs: self.rootfs.clone(),
            store: Arc::clone(&self.store),
            dl: self.dl.clone(),
            cache: self.cache.clone(),
            env,
            cwd: self.cwd.clone(),
            isa: self.isa,
        }
    }

    /// The loader itself.
    pub fn dynamic_loader(&self) -> &DynamicLoader {
        &self.dl
    }

    /// Every ELF file opened so far.
    pub fn store(&self) -> &ElfStore {
        &self.store
    }
}
