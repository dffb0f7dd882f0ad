//! The driver that the tests make up.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// The library that cargo has built beside this program.
pub fn fake_driver() -> PathBuf {
    let deps = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    let is_it = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with("libfake_driver") && name.ends_with(".so")
    };
    let built = fs::read_dir(deps).unwrap().map(|entry| entry.unwrap().path()).filter(is_it);
    built.max_by_key(|path| fs::metadata(path).unwrap().modified().unwrap()).unwrap()
}

/// It, under the names of the driver's libraries.
pub fn install(dir: &Path) {
    fs::create_dir(dir.join("driver")).unwrap();
    fs::copy(fake_driver(), dir.join("driver/libfake.so")).unwrap();
    for name in ["libcuda.so.1", "libnvidia-ml.so.1"] {
        symlink("driver/libfake.so", dir.join(name)).unwrap();
    }
}
