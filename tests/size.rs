//! What `size` counts against what `du` counts, to the byte.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Command;

use mldoctor::image::{Rootfs, Tree};

/// What `du` says; one file system, as an image is one.
fn du(root: &Path, options: &[&str]) -> Option<u64> {
    let output = Command::new("du").args(["-sx", "--block-size=1"]).args(options).arg(root).output().ok()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().split('\t').next()?.parse().ok()
}

/// What is to be added to agree with coreutils before 9.2, which counts `st_size` of directories too.
fn sizes_of_directories(tree: &Tree, root: &Path) -> u64 {
    let empty = tempfile::tempdir().unwrap();
    if du(empty.path(), &["--apparent-size"]) == Some(0) {
        return 0;
    }
    let size = |path: &Path| fs::symlink_metadata(root.join(path.strip_prefix("/").unwrap())).unwrap().size();
    tree.dirs.iter().map(|d| size(&d.path)).sum()
}

fn agree(root: &Path) {
    let Some(occupied) = du(root, &[]) else {
        assert!(std::env::var_os("MLDOCTOR_TEST_ALL").is_none(), "no du");
        return println!("skipped: no du");
    };
    let tree = Tree::walk(&Rootfs::open_root(root).unwrap()).unwrap();
    assert_eq!(tree.unread, []);
    assert_eq!(tree.allocated(), occupied, "{}", root.display());
    assert_eq!(tree.totals()[0], occupied);
    let apparent = du(root, &["--apparent-size"]).unwrap();
    assert_eq!(tree.apparent() + sizes_of_directories(&tree, root), apparent, "{}", root.display());
}

#[test]
fn links_holes_and_special_files() {
    let root = tempfile::tempdir().unwrap();
    let at = |path: &str| root.path().join(path);
    fs::create_dir_all(at("a/b/c")).unwrap();
    fs::create_dir_all(at("z")).unwrap();
    fs::write(at("a/data"), vec![1; 100_001]).unwrap();
    // The second name comes in another directory, and before the first in the order of names.
    fs::hard_link(at("a/data"), at("a/b/c/again")).unwrap();
    fs::hard_link(at("a/data"), at("z/0")).unwrap();
    File::create(at("z/hole")).unwrap().set_len(1 << 30).unwrap();
    fs::write(at("z/empty"), b"").unwrap();
    symlink("a/data", at("short")).unwrap();
    // Longer than what fits into an inode.
    symlink("x".repeat(900), at("a/long")).unwrap();
    symlink(root.path(), at("a/loop")).unwrap();
    let _ = Command::new("mkfifo").arg(at("z/fifo")).status();
    agree(root.path());
}

#[test]
fn what_removing_gives_back() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("one"), vec![1; 10_000]).unwrap();
    fs::hard_link(root.path().join("one"), root.path().join("two")).unwrap();
    fs::write(root.path().join("alone"), vec![1; 10_000]).unwrap();
    let tree = Tree::walk(&Rootfs::open_root(root.path()).unwrap()).unwrap();
    let file = |name: &str| tree.file_at(Path::new(name)).unwrap();
    let occupied = tree.files[file("/alone")].entry.allocated;
    assert!(occupied >= 10_000);
    assert_eq!(tree.freed([file("/alone")]), occupied);
    assert_eq!(tree.freed([file("/one")]), 0);
    assert_eq!(tree.freed([file("/one"), file("/two")]), tree.files[file("/one")].entry.allocated);
}

#[test]
fn the_programs_of_this_machine() {
    agree(Path::new("/usr/bin"));
    agree(Path::new("/usr/lib"));
    agree(Path::new("/etc"));
}

#[test]
fn names_outside_of_the_image_do_not_count() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("file"), vec![1; 10_000]).unwrap();
    fs::hard_link(root.join("file"), dir.path().join("elsewhere")).unwrap();
    let tree = Tree::walk(&Rootfs::open_root(&root).unwrap()).unwrap();
    assert!(tree.freed([0]) >= 10_000);
}

#[test]
fn files_belong_to_the_packages_of_rpm() {
    let root = tempfile::tempdir().unwrap();
    let at = |path: &str| root.path().join(path);
    fs::create_dir_all(at("var/lib/rpm")).unwrap();
    fs::create_dir_all(at("usr/lib64/small")).unwrap();
    fs::write(at("usr/lib64/small/1.h"), vec![1; 5000]).unwrap();
    let packed = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/rpm/rpmdb.sqlite.gz");
    let database = File::create(at("var/lib/rpm/rpmdb.sqlite")).unwrap();
    std::io::copy(&mut flate2::read::GzDecoder::new(File::open(packed).unwrap()), &mut &database).unwrap();
    let size = || -> serde_json::Value {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mldoctor"));
        let output = command.args(["size", "--format", "json", "--root"]).arg(root.path()).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let all = size();
    let packages = all["packages"].as_array().unwrap().iter();
    let small = packages.into_iter().find(|p| p["name"] == "small").unwrap();
    assert_eq!((&small["manager"], &small["version"]), (&"rpm".into(), &"1.2-4.el9".into()));
    assert!(small["bytes"].as_u64().unwrap() >= 5000, "{small}");
    assert!(all["unowned"]["why"].is_null(), "{}", all["unowned"]);
    database.set_len(100_000).unwrap();
    let why = &size()["unowned"]["why"];
    assert_eq!(why, "packages of rpm are not all known: /var/lib/rpm/rpmdb.sqlite is damaged");
}
