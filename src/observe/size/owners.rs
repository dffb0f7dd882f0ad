//! Which package brought a file: `*.list` of dpkg, `installed` of apk (apk-tools, `db_read`), the database of rpm,
//! `conda-meta` of conda, RECORD of Python distributions.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustc_hash::FxHashMap;
use serde_json::Value;

use super::Lookup;
use crate::facts::size::{Manager, Package};
use crate::image::{Rootfs, Tree, rpmdb};
use crate::parallel;
use crate::python::distributions::{normalise, parse_info_name, parse_record};
use crate::python::site::normal;

/// Largest list of files read, in bytes.
const MAX_LIST: u64 = 64 * 1024 * 1024;

/// Directories of rpm's database; on most systems all but one lead to that one.
const RPM: [&str; 3] = ["/var/lib/rpm", "/usr/lib/sysimage/rpm", "/usr/share/rpm"];

/// A package with its files.
type Owned = (Package, Vec<usize>);

/// Packages, the owner of each file, and why some packages are not known.
pub fn find(rootfs: &Rootfs, tree: &Tree) -> (Vec<Package>, Vec<Option<usize>>, Option<String>) {
    let mut all = dpkg(rootfs, tree);
    all.extend(apk(rootfs, tree));
    let (packages, unread) = rpm(rootfs, tree);
    all.extend(packages);
    all.extend(conda(rootfs, tree));
    all.extend(python(rootfs, tree));
    let (mut packages, mut owners) = (Vec::new(), vec![None; tree.files.len()]);
    for (package, files) in all {
        for file in files {
            owners[file].get_or_insert(packages.len());
        }
        packages.push(package);
    }
    (packages, owners, unread)
}

fn dpkg(rootfs: &Rootfs, tree: &Tree) -> Vec<Owned> {
    let Some(info) = tree.dir(Path::new("/var/lib/dpkg/info")) else { return Vec::new() };
    let status = rootfs.read_text(Path::new("/var/lib/dpkg/status"), MAX_LIST).unwrap_or_default();
    let mut versions: FxHashMap<&str, &str> = FxHashMap::default();
    let mut package = "";
    for line in status.lines() {
        if let Some(name) = line.strip_prefix("Package: ") {
            package = name;
        } else if let Some(version) = line.strip_prefix("Version: ") {
            versions.insert(package, version);
        }
    }
    let lists: Vec<usize> =
        tree.dirs[info].files.clone().filter(|at| tree.files[*at].entry.name.as_bytes().ends_with(b".list")).collect();
    let chunks: Vec<&[usize]> = lists.chunks(32).collect();
    let read = parallel::map(&chunks, |chunk| {
        let (mut lookup, mut data, mut owned) = (Lookup::new(rootfs, tree), Vec::new(), Vec::new());
        for at in *chunk {
            let Some(name) = tree.files[*at].entry.name.to_str() else { continue };
            if rootfs.read_in(&tree.dirs[info].path, name, MAX_LIST, &mut data).is_err() {
                continue;
            }
            let name = name.trim_end_matches(".list").split(':').next().unwrap_or(name);
            let files = data.split(|b| *b == b'\n').filter_map(|path| lookup.file(path)).collect();
            let version = versions.get(name).copied().unwrap_or_default();
            owned.push((package_of(Manager::Dpkg, name, version), files));
        }
        owned
    });
    read.into_iter().flatten().collect()
}

fn package_of(manager: Manager, name: &str, version: &str) -> Package {
    Package { manager, name: name.to_owned(), version: version.to_owned() }
}

fn apk(rootfs: &Rootfs, tree: &Tree) -> Vec<Owned> {
    let text = ["/lib/apk/db/installed", "/usr/lib/apk/db/installed"]
        .iter()
        .find_map(|p| rootfs.read_text(Path::new(p), MAX_LIST).ok())
        .unwrap_or_default();
    let mut lookup = Lookup::new(rootfs, tree);
    let mut owned: Vec<Owned> = Vec::new();
    let mut dir = "";
    for line in text.lines() {
        let Some((field, value)) = line.split_once(':') else { continue };
        match (field, owned.last_mut()) {
            ("P", _) => owned.push((package_of(Manager::Apk, value, ""), Vec::new())),
            ("V", Some((package, _))) => package.version = value.to_owned(),
            ("F", _) => dir = value,
            ("R", Some((_, files))) => files.extend(lookup.file(format!("/{dir}/{value}").as_bytes())),
            _ => {}
        }
    }
    owned
}

/// Packages of rpm, and why some are not known.
fn rpm(rootfs: &Rootfs, tree: &Tree) -> (Vec<Owned>, Option<String>) {
    let mut files = RPM.iter().flat_map(|dir| rpmdb::FILES.map(|file| Path::new(dir).join(file)));
    let Some(path) = files.find(|path| tree.file_at(path).is_some()) else { return (Vec::new(), None) };
    let (packages, why) = match rootfs.map(&path) {
        Ok((data, _)) => rpmdb::read(&data),
        Err(_) => (Vec::new(), Some("not readable")),
    };
    // What SQLite has not taken over from its journal yet.
    let mut journal = path.clone().into_os_string();
    journal.push("-wal");
    let has_journal = tree.file_at(Path::new(&journal)).is_some_and(|at| tree.files[at].entry.size > 0);
    let why = why.or(has_journal.then_some("older than its journal"));
    let mut lookup = Lookup::new(rootfs, tree);
    let owned = packages.into_iter().map(|package| {
        let files = package.files.iter().filter_map(|path| lookup.file(path)).collect();
        (package_of(Manager::Rpm, &package.name, &package.version), files)
    });
    (owned.collect(), why.map(|why| format!("packages of rpm are not all known: {} is {why}", path.display())))
}

fn conda(rootfs: &Rootfs, tree: &Tree) -> Vec<Owned> {
    let mut lookup = Lookup::new(rootfs, tree);
    let mut owned = Vec::new();
    for dir in tree.dirs.iter().filter(|d| d.path.ends_with("conda-meta")) {
        let Some(prefix) = dir.path.parent() else { continue };
        for at in dir.files.clone() {
            let read = rootfs.read(&tree.path(at), MAX_LIST).ok();
            let Some(meta) = read.and_then(|text| serde_json::from_slice::<Value>(&text).ok()) else { continue };
            let text = |key: &str| meta[key].as_str().unwrap_or_default();
            if text("name").is_empty() {
                continue;
            }
            let paths = meta["files"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let files = paths.filter_map(|p| lookup.file(prefix.join(p).as_os_str().as_bytes())).collect();
            owned.push((package_of(Manager::Conda, text("name"), text("version")), files));
        }
    }
    owned
}

fn python(rootfs: &Rootfs, tree: &Tree) -> Vec<Owned> {
    let infos: Vec<(usize, String, String)> = (0..tree.dirs.len())
        .filter_map(|at| {
            let (name, version) = parse_info_name(tree.dirs[at].path.file_name()?.to_str()?)?;
            Some((at, name, version))
        })
        .collect();
    parallel::map(&infos, |(info, name, version)| {
        let dir = &tree.dirs[*info];
        let mut files: Vec<usize> = Vec::new();
        let record = rootfs.read(&dir.path.join("RECORD"), MAX_LIST).unwrap_or_default();
        let location = dir.path.parent().unwrap_or(Path::new("/"));
        let mut lookup = Lookup::new(rootfs, tree);
        let mut last: (String, Option<usize>) = (String::new(), tree.dir(location));
        for listed in parse_record(&String::from_utf8_lossy(&record)) {
            let (parent, file) = listed.path.rsplit_once('/').unwrap_or(("", &listed.path));
            if last.0 != parent {
                let there = normal(&location.join(parent));
                last = (parent.to_owned(), lookup.dir(there.as_os_str().as_bytes()));
            }
            files.extend(last.1.and_then(|d| tree.file_in(d, file.as_bytes())));
        }
        // What an installer without RECORD (apt) leaves still has its own directory.
        files.extend(dir.files.clone().filter(|_| record.is_empty()));
        (package_of(Manager::Python, &normalise(name), version), files)
    })
}
