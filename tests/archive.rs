//! Images in archives: what is said of one must be what is said of its files when they are unpacked.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use support::skip;
use support::tree::{Built, SITE, Tree, expand};

const ARCH: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
const PYTHON: &str = "/opt/venv/bin/python";
const HIDDEN: &str = "opt/old";

/// How layers are compressed.
#[derive(Clone, Copy)]
enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    fn pack(self, tar: &[u8]) -> Vec<u8> {
        let gzip = |part: &[u8]| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(part).unwrap();
            encoder.finish().unwrap()
        };
        let zstd = |part: &[u8]| ruzstd::encoding::compress_to_vec(part, ruzstd::encoding::CompressionLevel::Fastest);
        // Two members or frames, and one of zstd to be skipped, as parallel and seekable compressors write them.
        let (one, two) = tar.split_at(tar.len() / 2);
        match self {
            Self::None => tar.to_vec(),
            Self::Gzip => [gzip(one), gzip(two)].concat(),
            Self::Zstd => [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3], &zstd(one)[..], &zstd(two)].concat(),
        }
    }
}

fn header(kind: tar::EntryType, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn file(layer: &mut tar::Builder<Vec<u8>>, path: &str, data: &[u8]) {
    let mut header = header(tar::EntryType::Regular, 0o644);
    header.set_size(data.len() as u64);
    layer.append_data(&mut header, path, data).unwrap();
}

fn link(layer: &mut tar::Builder<Vec<u8>>, kind: tar::EntryType, path: &str, target: &str) {
    layer.append_link(&mut header(kind, 0o777), path, target).unwrap();
}

/// A layer with a path that `tar` would not write.
fn raw(path: &[u8], kind: tar::EntryType, size: u64) -> Vec<u8> {
    let mut header = header(kind, 0o644);
    header.as_mut_bytes()[..path.len()].copy_from_slice(path);
    header.set_size(size);
    header.set_cksum();
    [header.as_bytes(), &[0; 1024][..]].concat()
}

/// An image of layers: what is in it, and how it is started.
struct Image {
    layers: Vec<Vec<u8>>,
    config: Value,
}

impl Image {
    fn new(layers: Vec<Vec<u8>>) -> Self {
        Self { layers, config: json!({"architecture": ARCH, "os": "linux", "config": {}}) }
    }

    fn archive(files: &[(String, Vec<u8>)]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, data) in files {
            file(&mut archive, path, data);
        }
        archive.into_inner().unwrap()
    }

    /// As `docker save` writes it; the layer that comes twice is a link, as older releases have it.
    fn docker(&self, compression: Compression) -> Vec<u8> {
        let names: Vec<String> = (0..self.layers.len()).map(|n| format!("{n}/layer.tar")).collect();
        let manifest = json!([{"Config": "config.json", "RepoTags": ["x:1"], "Layers": names}]);
        let mut archive = tar::Builder::new(Vec::new());
        for (number, layer) in self.layers.iter().enumerate() {
            match self.layers[..number].iter().position(|l| l == layer) {
                Some(same) => {
                    let target = format!("../{same}/layer.tar");
                    link(&mut archive, tar::EntryType::Symlink, &names[number], &target);
                }
                None => file(&mut archive, &names[number], &compression.pack(layer)),
            }
        }
        file(&mut archive, "config.json", self.config.to_string().as_bytes());
        file(&mut archive, "manifest.json", manifest.to_string().as_bytes());
        archive.into_inner().unwrap()
    }

    /// The files of an OCI layout, with an index in an index and an image for another processor.
    fn oci(&self, compression: Compression) -> Vec<(String, Vec<u8>)> {
        let mut files = vec![("oci-layout".to_owned(), b"{\"imageLayoutVersion\":\"1.0.0\"}".to_vec())];
        let mut add = |data: Vec<u8>| {
            // Nothing depends on a digest being one.
            let digest = format!("{:064}", files.len());
            files.push((format!("blobs/sha256/{digest}"), data));
            json!({"digest": format!("sha256:{digest}")})
        };
        let layers: Vec<Value> = self.layers.iter().map(|l| add(compression.pack(l))).collect();
        let config = add(self.config.to_string().into_bytes());
        let mut manifest = add(json!({"config": config, "layers": layers}).to_string().into_bytes());
        manifest["platform"] = json!({"architecture": ARCH, "os": "linux"});
        let other = json!({"digest": "sha256:00", "platform": {"architecture": "s390x", "os": "linux"}});
        let inner = add(json!({"manifests": [other, manifest]}).to_string().into_bytes());
        files.push(("index.json".into(), json!({"manifests": [inner]}).to_string().into_bytes()));
        files
    }
}

fn mldoctor(root: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mldoctor"));
    command.args(["check", "--format", "json", "--python", PYTHON, "--root"]).arg(root).args(arguments);
    command.env_remove("MLDOCTOR_WORKLOAD").output().unwrap()
}

/// The report, without what must differ.
fn report(root: &Path, arguments: &[&str]) -> Value {
    let output = mldoctor(root, arguments);
    let mut report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("no report ({e}): {}", String::from_utf8_lossy(&output.stderr)));
    report["target"]["root"].take();
    report["timing_ms"].take();
    report
}

/// A tree, and two layers that make it: files replaced, hidden one by one and all at once, links of both kinds.
fn image() -> (Built, Image) {
    let base: Tree =
        toml::from_str(&expand("from = ['torch']\n[files]\n'/opt/old/a' = 'a'\n'/opt/old/b' = 'b'\n")).unwrap();
    let built = Built::new(&base);
    let root = built.root();
    let mut lower = tar::Builder::new(Vec::new());
    lower.follow_symlinks(false);
    lower.append_dir_all(".", &root).unwrap();

    let site = SITE.trim_start_matches('/');
    let mut upper = tar::Builder::new(Vec::new());
    // What is left of a library is its first half.
    let path = format!("{site}/triton/_C/libtriton.so");
    let whole = fs::read(root.join(&path)).unwrap();
    file(&mut upper, &path, &whole[..whole.len() / 2]);
    fs::write(root.join(&path), &whole[..whole.len() / 2]).unwrap();
    let mode = fs::Permissions::from_mode(0o644);
    fs::set_permissions(root.join(&path), mode).unwrap();
    // A directory of which only what this layer puts there is left, with the whiteout behind it.
    file(&mut upper, &format!("{HIDDEN}/new"), b"new");
    file(&mut upper, &format!("{HIDDEN}/.wh..wh..opq"), b"");
    fs::remove_dir_all(root.join(HIDDEN)).unwrap();
    fs::create_dir(root.join(HIDDEN)).unwrap();
    fs::write(root.join(HIDDEN).join("new"), "new").unwrap();
    // One file hidden.
    let gone = walk(&root).into_iter().find(|p| p.to_string_lossy().contains("libcudnn_")).unwrap();
    let shown = gone.strip_prefix(&root).unwrap();
    let name = format!(".wh.{}", shown.file_name().unwrap().to_str().unwrap());
    file(&mut upper, shown.with_file_name(name).to_str().unwrap(), b"");
    fs::remove_file(&gone).unwrap();
    link(&mut upper, tar::EntryType::Link, "opt/hard", &format!("{HIDDEN}/new"));
    fs::hard_link(root.join(HIDDEN).join("new"), root.join("opt/hard")).unwrap();
    link(&mut upper, tar::EntryType::Symlink, "opt/soft", "/opt/hard");
    std::os::unix::fs::symlink("/opt/hard", root.join("opt/soft")).unwrap();
    let image = Image::new(vec![lower.into_inner().unwrap(), upper.into_inner().unwrap()]);
    (built, image)
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() { open.push(entry.path()) } else { found.push(entry.path()) }
        }
    }
    found.sort();
    found
}

/// The archive in every form: its file or directory.
fn forms(image: &Image, dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for (name, compression) in [("none", Compression::None), ("gzip", Compression::Gzip), ("zstd", Compression::Zstd)] {
        let docker = dir.join(format!("docker-{name}.tar"));
        fs::write(&docker, image.docker(compression)).unwrap();
        let files = image.oci(compression);
        let oci = dir.join(format!("oci-{name}.tar"));
        fs::write(&oci, Image::archive(&files)).unwrap();
        let layout = dir.join(format!("oci-{name}"));
        for (path, data) in &files {
            let path = layout.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, data).unwrap();
        }
        all.extend([docker, oci, layout]);
    }
    all
}

#[test]
fn every_form_gives_the_report_of_the_unpacked_tree() {
    let (built, image) = image();
    let dir = tempfile::tempdir().unwrap();
    let arguments = ["torch", "--require", "torch.conv,torch.compile"];
    let expected = report(&built.root(), &arguments);
    let ids: BTreeSet<&str> =
        expected["findings"].as_array().unwrap().iter().map(|f| f["id"].as_str().unwrap()).collect();
    assert!(ids.is_superset(&["lib-cudnn-sub", "py-record"].into()), "{ids:?}");
    for form in forms(&image, dir.path()) {
        assert_eq!(report(&form, &arguments), expected, "{}", form.display());
    }
}

#[test]
fn a_tar_file_of_a_root_is_an_image_too() {
    let (built, _) = image();
    let dir = tempfile::tempdir().unwrap();
    let mut archive = tar::Builder::new(Vec::new());
    archive.follow_symlinks(false);
    archive.append_dir_all(".", built.root()).unwrap();
    let path = dir.path().join("root.tar");
    fs::write(&path, archive.into_inner().unwrap()).unwrap();
    assert_eq!(report(&path, &["torch"]), report(&built.root(), &["torch"]));
}

/// What `size` says, as JSON.
fn size(root: &Path) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mldoctor"));
    let output = command.args(["size", "--format", "json", "--python", PYTHON, "--root"]).arg(root).output().unwrap();
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("no report ({e}): {}", String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn the_size_of_every_form_is_that_of_the_unpacked_tree() {
    let (built, image) = image();
    let dir = tempfile::tempdir().unwrap();
    let whole = size(&built.root());
    for form in forms(&image, dir.path()) {
        let told = size(&form);
        for key in ["apparent_bytes", "files", "directories", "workload"] {
            assert_eq!(told[key], whole[key], "{key} of {}", form.display());
        }
        let files = |kinds: &Value| -> BTreeSet<(String, u64)> {
            let kinds = kinds.as_array().unwrap().iter();
            kinds.map(|k| (k["kind"].as_str().unwrap().to_owned(), k["files"].as_u64().unwrap())).collect()
        };
        assert_eq!(files(&told["kinds"]), files(&whole["kinds"]), "{}", form.display());
        assert_eq!(told["layers"]["count"], 2);
    }
    assert_eq!(whole["layers"], Value::Null);
}

#[test]
fn what_layers_hide_is_counted() {
    const MB: usize = 1_000_000;
    let layer = |files: &[(&str, usize)]| {
        let mut layer = tar::Builder::new(Vec::new());
        files.iter().for_each(|(path, megabytes)| file(&mut layer, path, &vec![0; megabytes * MB]));
        layer.into_inner().unwrap()
    };
    let image = Image::new(vec![
        layer(&[("opt/again", 3), ("opt/gone/x", 2), ("opt/kept", 1), ("opt/back", 2)]),
        layer(&[("opt/again", 1), ("opt/.wh.gone", 0), ("opt/.wh.back", 0)]),
        layer(&[("opt/back", 2)]),
    ]);
    let dir = tempfile::tempdir().unwrap();
    for form in forms(&image, dir.path()) {
        let told = size(&form);
        // Versions and removals: again 3 + 1, gone 2 + 2, kept 1, back 2 + 2 + 2; the smallest of each: 1, 2, 1, 2.
        let expected = json!({
            "count": 3, "bytes": 11 * MB, "hidden_bytes": 7 * MB, "efficiency_percent": 6 * 100 / 15,
        });
        assert_eq!(told["layers"], expected, "{}", form.display());
        assert_eq!(told["apparent_bytes"], 4 * MB);
        let found = told["findings"].as_array().unwrap().iter().find(|f| f["id"] == "size-lower-layers").unwrap();
        assert_eq!((&found["bytes"], &found["can_go"]), (&json!(7 * MB), &json!(false)));
        let places: Vec<&str> =
            found["evidence"].as_array().unwrap().iter().map(|e| e["value"].as_str().unwrap()).collect();
        assert_eq!(
            places,
            ["/opt/again (3.0 MB, by layer 2)", "/opt/back (2.0 MB, by layer 2)", "/opt/gone/x (2.0 MB, by layer 2)"]
        );
    }
}

#[test]
fn the_configuration_tells_of_root_and_of_health() {
    let ids = |config: Value| -> BTreeSet<String> {
        let mut image = Image::new(vec![layer_of_nothing()]);
        image.config["config"] = config;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image.tar");
        fs::write(&path, image.docker(Compression::None)).unwrap();
        size(&path)["findings"].as_array().unwrap().iter().map(|f| f["id"].as_str().unwrap().to_owned()).collect()
    };
    let both = BTreeSet::from(["sec-no-healthcheck".to_owned(), "sec-root".to_owned()]);
    assert_eq!(ids(json!({})), both);
    assert_eq!(ids(json!({"Healthcheck": {"Test": ["NONE"]}, "User": "0"})), both);
    let told = json!({"Healthcheck": {"Test": ["CMD", "mldoctor", "health"]}, "User": "65532:65532"});
    assert_eq!(ids(told), BTreeSet::new());
}

#[test]
fn what_is_unpacked_is_gone_when_it_is_read() {
    let (_, image) = image();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.tar");
    fs::write(&path, image.docker(Compression::Gzip)).unwrap();
    let tmp = dir.path().join("tmp");
    fs::create_dir(&tmp).unwrap();
    let run = |tmp: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mldoctor"));
        command.args(["check", "torch", "--python", PYTHON, "--root"]).arg(&path).env("TMPDIR", tmp).output().unwrap()
    };
    assert_eq!(run(&tmp).status.code(), Some(0));
    assert_eq!(fs::read_dir(&tmp).unwrap().count(), 0);
    let refused = run(&dir.path().join("none"));
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("TMPDIR"));
}

#[test]
fn the_image_says_what_it_runs_and_as_whom() {
    let base: Tree = toml::from_str(&expand("from = ['torch']\n")).unwrap();
    let built = Built::new(&base);
    let root = built.root();
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::write(root.join("etc/passwd"), "app:x:1000:1000::/:\n").unwrap();
    let hidden = format!("{}/torch/version.py", SITE.trim_start_matches('/'));
    let mut layer = tar::Builder::new(Vec::new());
    layer.follow_symlinks(false);
    layer.append_dir_all(".", &root).unwrap();
    assert!(fs::metadata(root.join(hidden)).unwrap().size() > 0);
    let mut image = Image::new(vec![layer.into_inner().unwrap()]);
    image.config["config"] = json!({
        "Env": ["PATH=/opt/venv/bin:/bin", "LD_LIBRARY_PATH=/nowhere"],
        "User": "app",
        "Entrypoint": ["/opt/venv/bin/python", "-u"],
        "Cmd": ["-m", "json.tool"],
    });
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.tar");
    fs::write(&path, image.docker(Compression::None)).unwrap();
    let facts = |arguments: &[&str]| -> Value {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mldoctor"));
        let output = command.args(["facts", "--root"]).arg(&path).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let own = facts(&[]);
    assert_eq!(own["image"]["uid"], 1000);
    assert_eq!(own["target"]["workload"], json!(["torch"]));
    assert!(own["image"]["env"].to_string().contains("/nowhere"), "{}", own["image"]["env"]);
    let told = facts(&["--user", "0", "--env", "LD_LIBRARY_PATH=/else", "torch"]);
    assert_eq!(told["image"]["uid"], 0);
    assert_eq!(told["target"]["workload"], json!(["torch"]));
    assert!(told["image"]["env"].to_string().contains("/else"));

    image.config["config"]["User"] = json!("nobody");
    fs::write(&path, image.docker(Compression::None)).unwrap();
    let refused = mldoctor(&path, &[]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("no user \"nobody\""));
}

#[test]
fn what_is_hostile_or_broken_is_told_and_ends() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.tar");
    let said = |bytes: Vec<u8>| {
        fs::write(&path, bytes).unwrap();
        let output = mldoctor(&path, &["torch"]);
        assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let layer = |layer: Vec<u8>| Image::new(vec![layer]).docker(Compression::None);
    let regular = tar::EntryType::Regular;
    for (expected, bytes) in [
        ("leads out of the archive", layer(raw(b"../../etc/passwd", regular, 0))),
        ("leads out of the archive", layer(raw(b"a/../../b", regular, 0))),
        ("cut short", layer(raw(b"etc/x", regular, 1 << 40))),
        ("cut short", layer(raw(b"etc/x", regular, u64::MAX >> 1))),
        ("sparse", layer(raw(b"etc/x", tar::EntryType::GNUSparse, 0))),
        ("no tar header", layer(vec![7; 4096])),
        ("neither an image nor a root", layer_of_nothing()),
        ("neither a directory nor an archive", b"short".to_vec()),
        ("unpack it first", Compression::Gzip.pack(&[0; 4096])),
    ] {
        let told = said(bytes);
        assert!(told.contains(expected), "{expected}: {told}");
    }

    let mut circle = tar::Builder::new(Vec::new());
    link(&mut circle, tar::EntryType::Symlink, "a", "b");
    link(&mut circle, tar::EntryType::Symlink, "b", "a");
    file(&mut circle, "a/x", b"");
    assert!(said(layer(circle.into_inner().unwrap())).contains("in a circle"));
    let mut hard = tar::Builder::new(Vec::new());
    link(&mut hard, tar::EntryType::Link, "a", "/none");
    assert!(said(layer(hard.into_inner().unwrap())).contains("hard link to /none"));

    let (_, whole) = image();
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let mut cut = Image::new(vec![compression.pack(&whole.layers[0])]);
        let end = cut.layers[0].len() / 3;
        cut.layers[0].truncate(end);
        assert!(said(cut.docker(Compression::None)).contains("layer "));
    }
    let archive = whole.docker(Compression::None);
    assert!(said(archive[..archive.len() / 2].to_vec()).contains("cut short"));

    let mut other = Image::new(vec![]);
    other.config["architecture"] = json!("s390x");
    assert!(said(other.docker(Compression::None)).contains("linux/s390x"));
    let two = json!([{"RepoTags": ["a:1"]}, {"RepoTags": ["b:1"]}]).to_string().into_bytes();
    assert!(said(Image::archive(&[("manifest.json".into(), two)])).contains("b:1"));
}

fn layer_of_nothing() -> Vec<u8> {
    Image::archive(&[("readme.txt".into(), b"x".to_vec())])
}

/// Links of a hostile image lead nowhere but into it.
#[test]
fn absolute_paths_and_links_stay_inside() {
    let mut layer = tar::Builder::new(Vec::new());
    link(&mut layer, tar::EntryType::Symlink, "lib", "/../../usr/lib");
    file(&mut layer, "lib/inside", b"x");
    link(&mut layer, tar::EntryType::Symlink, "etc", "../../../../../etc");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.tar");
    let absolute = raw(b"/opt/absolute", tar::EntryType::Regular, 0);
    fs::write(&path, Image::new(vec![layer.into_inner().unwrap(), absolute]).docker(Compression::None)).unwrap();
    let rootfs = mldoctor::image::Rootfs::open_image(&path).unwrap();
    assert_eq!(rootfs.read(Path::new("/usr/lib/inside"), 9).unwrap(), b"x");
    assert_eq!(rootfs.canonicalize(Path::new("/lib/inside")).unwrap(), Path::new("/usr/lib/inside"));
    assert!(rootfs.is_file(Path::new("/opt/absolute")));
    assert!(!rootfs.exists(Path::new("/etc/passwd")));
}

/// What buildah writes.
#[test]
fn images_of_buildah_are_read() {
    if Command::new("buildah").arg("--version").output().is_err() {
        return skip("buildah is not installed");
    }
    let (built, _) = image();
    let dir = tempfile::tempdir().unwrap();
    let storage = |name: &str| dir.path().join(name).display().to_string();
    let (root, run) = (storage("storage"), storage("run"));
    let buildah = |arguments: &[&str]| {
        let mut command = Command::new("buildah");
        command.args(["--root", &root, "--runroot", &run, "--storage-driver", "vfs"]).args(arguments);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let container = buildah(&["from", "scratch"]);
    buildah(&["copy", "--quiet", &container, &built.root().display().to_string(), "/"]);
    let expected = report(&built.root(), &["torch"]);
    for (transport, suffix) in [("docker-archive", ":x:1"), ("oci-archive", ""), ("oci", ":x")] {
        let path = dir.path().join(transport);
        let to = format!("{transport}:{}{suffix}", path.display());
        buildah(&["commit", "--quiet", &container, &to]);
        assert_eq!(report(&path, &["torch"]), expected, "{transport}");
    }
    buildah(&["rm", &container]);
}
