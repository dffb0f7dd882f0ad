//! An image that is still in its archive: what `docker save` writes, an OCI layout (a tar file or a directory), or a tar
//! file of a root file system (`docker export`).
//!
//! Nothing is unpacked. The headers of all layers make a tree in memory, with the rules that Docker and containerd use
//! when they put layers on top of each other (`UnpackLayer` in moby's `pkg/archive/diff.go`; the OCI image
//! specification, layer.md). The contents of an uncompressed layer are read where they lie in the archive. A compressed
//! layer has to be decompressed to be read at all, once; of that, what may be read later goes into a file without a name
//! in `TMPDIR` (else `/var/tmp`, else `/tmp`): ELF files, and other files of at most [`KEPT`] bytes, which is more than
//! any reader of those takes.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use serde_json::Value;

use super::Mapping;
use super::rootfs::{DirEntry, EntryKind, FileError, FileId, Rootfs, Stat};
use super::tar::{self, Entry, Kind, Stream};
use crate::structured;

/// Largest file that is kept of a compressed layer and is not ELF, in bytes.
pub const KEPT: u64 = 64 << 20;
/// What a compressed layer may unpack to, in bytes: a few times more than the largest images.
const MAX_UNPACKED: u64 = 256 << 30;
/// Entries of all layers together.
const MAX_ENTRIES: usize = 4_000_000;
/// Layers of an image; Docker allows 127.
const MAX_LAYERS: usize = 1024;
/// Manifests, configurations and indexes, in bytes; registries take 4 MiB.
const MAX_JSON: u64 = 8 << 20;
/// Indexes within indexes.
const MAX_INDEXES: usize = 8;
/// Symbolic links on the way to one entry, as in the kernel.
const MAX_LINKS: u32 = 40;
/// Longest path in bytes.
const PATH_MAX: usize = 4096;

/// Why an archive cannot be examined.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It, or the directory in its place, cannot be opened.
    #[error("{0}")]
    File(#[from] FileError),
    /// It is no image, or not one that can be examined here.
    #[error("{0}")]
    Image(String),
    /// A layer cannot be read.
    #[error("layer {0}: {1}")]
    Layer(String, io::Error),
}

fn image_error<T>(why: impl Into<String>) -> Result<T, ArchiveError> {
    Err(ArchiveError::Image(why.into()))
}

/// What an image says of how it is started (`config` of the OCI image configuration).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// `Env`, each `NAME=value`.
    pub env: Vec<String>,
    /// `User`: a name or number, and maybe a group.
    pub user: Option<String>,
    /// `WorkingDir`
    pub directory: Option<PathBuf>,
    /// `Entrypoint` and `Cmd`.
    pub command: Vec<String>,
    /// Whether there is a `Healthcheck` (Docker's own; the OCI specification has none).
    pub has_healthcheck: bool,
}

/// What the layers of an image hold that later ones replace or remove: it is pulled and stored, and nobody sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layers {
    /// Number of layers.
    pub count: usize,
    /// Bytes in the files of all layers.
    pub bytes: u64,
    /// Bytes in the files that are seen.
    pub seen: u64,
    /// Bytes of files at the time of their removal.
    removed: u64,
    /// Paths that several layers write or remove.
    pub written_again: BTreeMap<PathBuf, Versions>,
}

/// What became of one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    /// Bytes of all versions, and again those of each that was removed.
    all: u64,
    /// Bytes of the smallest.
    least: u64,
    /// Bytes of those that are not seen.
    pub hidden: u64,
    /// The layer that hid the last, from 1.
    pub by: usize,
}

impl Layers {
    /// Bytes that are not seen.
    pub fn hidden(&self) -> u64 {
        self.bytes.saturating_sub(self.seen)
    }

    /// Per cent: what the smallest version of each path takes, of what all versions and removals take, as dive has it
    /// (`dive/filetree/efficiency.go`). Of a directory that is removed, each file counts by itself.
    pub fn efficiency(&self) -> u64 {
        let all = self.bytes + self.removed;
        let excess: u64 = self.written_again.values().map(|v| v.all - v.least).sum();
        all.saturating_sub(excess).saturating_mul(100).checked_div(all).unwrap_or(100)
    }

    /// A file of `old` bytes is replaced by one of `new`, or removed.
    fn hide(&mut self, path: &Path, old: u64, new: Option<u64>, layer: usize) {
        let fresh = Versions { all: old, least: old, hidden: 0, by: 0 };
        let known = self.written_again.entry(path.to_owned()).or_insert(fresh);
        (known.hidden, known.by) = (known.hidden + old, layer + 1);
        if new.is_none() {
            self.removed += old;
        }
        known.add(new.unwrap_or(old));
    }
}

impl Versions {
    fn add(&mut self, bytes: u64) {
        (self.all, self.least) = (self.all + bytes, self.least.min(bytes));
    }
}

/// The files of an image.
pub struct Tree {
    nodes: Vec<Node>,
    /// Where contents lie: first what was kept of compressed layers, then archives and layers as they are.
    blobs: Vec<Mapping>,
    entries: usize,
    layers: Layers,
}

struct Node {
    stat: Stat,
    what: What,
    /// It has, or had, more than one name.
    linked: bool,
}

enum What {
    Dir(BTreeMap<Box<OsStr>, Name>),
    File { blob: usize, offset: u64 },
    Link(PathBuf),
    Special,
}

/// A name in a directory.
#[derive(Clone, Copy)]
struct Name {
    node: usize,
    /// The layer that it comes from.
    layer: usize,
}

/// What was kept of compressed layers.
#[derive(Default)]
struct Kept {
    file: Option<File>,
    size: u64,
}

/// Opens what `path` leads to, which is a file or the directory of an OCI layout.
///
/// # Errors
/// It is neither, or no image that can be examined.
pub fn open(path: &Path) -> Result<(Tree, Option<Config>), ArchiveError> {
    if path.is_dir() {
        return open_image(&Rootfs::open_root(path)?);
    }
    let file = File::open(path).map_err(|e| ArchiveError::Image(e.to_string()))?;
    let size = file.metadata().map_err(|e| ArchiveError::Image(e.to_string()))?.len();
    let bytes = Mapping::new(file.into(), size).map_err(|e| ArchiveError::Image(e.to_string()))?;
    match compression(&bytes) {
        Some(name) => return image_error(format!("the archive itself is compressed: unpack it first ({name} -d)")),
        None if bytes.len() < 512 => return image_error("neither a directory nor an archive"),
        None => {}
    }
    let outer = Tree::stack(vec![("of the archive".into(), bytes)])?;
    let root = |name| outer.find(Path::new(name)).is_ok();
    if root("/manifest.json") || root("/index.json") {
        return open_image(&Rootfs::of_tree(path, outer, None));
    }
    if !["/usr", "/etc", "/bin", "/lib", "/lib64", "/opt"].into_iter().any(root) {
        return image_error("an archive with neither an image nor a root file system in it");
    }
    Ok((outer, None))
}

/// Whether a directory is an OCI layout (image-layout.md of the OCI image specification).
pub fn is_layout(path: &Path) -> bool {
    path.join("oci-layout").is_file() && path.join("index.json").is_file()
}

fn compression(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0x1f, 0x8b, ..] => Some("gzip"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some("zstd"),
        // A skippable frame of zstd, with which zstd:chunked may start.
        [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some("zstd"),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => Some("xz"),
        [b'B', b'Z', b'h', ..] => Some("bzip2"),
        _ => None,
    }
}

fn open_image(blobs: &Rootfs) -> Result<(Tree, Option<Config>), ArchiveError> {
    let manifest = Path::new("/manifest.json");
    let (config, layers) = if blobs.is_file(manifest) { docker(&json(blobs, manifest)?)? } else { oci(blobs)? };
    let config = json(blobs, &config)?;
    let told = config["architecture"].as_str().unwrap_or(HERE);
    if told != HERE || config["os"].as_str().is_some_and(|os| os != "linux") {
        let os = config["os"].as_str().unwrap_or("linux");
        return image_error(format!("the image is for {os}/{told}, and this mldoctor examines linux/{HERE}"));
    }
    if layers.len() > MAX_LAYERS {
        return image_error(format!("{} layers", layers.len()));
    }
    let mut stack = Vec::new();
    for path in layers {
        let name = path.display().to_string();
        let (bytes, _) = blobs.map(&path).or_else(|e| image_error(format!("layer {name}: {e}")))?;
        stack.push((name, bytes));
    }
    Ok((Tree::stack(stack)?, Some(Config::read(&config["config"]))))
}

/// Go's name of this processor, which images use.
const HERE: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

fn json(blobs: &Rootfs, path: &Path) -> Result<Value, ArchiveError> {
    let text = blobs.read(path, MAX_JSON).or_else(|e| image_error(format!("{}: {e}", path.display())))?;
    structured::from_json(&text).or_else(|e| image_error(format!("{}: {e}", path.display())))
}

/// `manifest.json` of `docker save`: the files of configuration and layers, lowest first.
fn docker(manifest: &Value) -> Result<(PathBuf, Vec<PathBuf>), ArchiveError> {
    let images = manifest.as_array().map_or(&[][..], Vec::as_slice);
    let [image] = images else {
        let tags: Vec<String> = images.iter().map(|i| i["RepoTags"].to_string()).collect();
        return image_error(format!("{} images, of which one must be chosen: {}", images.len(), tags.join(", ")));
    };
    let path = |value: &Value| value.as_str().map(|text| Path::new("/").join(text));
    let config = path(&image["Config"]);
    let layers = image["Layers"].as_array().map(|l| l.iter().map(path).collect::<Option<Vec<_>>>());
    match (config, layers) {
        (Some(config), Some(Some(layers))) => Ok((config, layers)),
        _ => image_error("/manifest.json names no configuration or no layers"),
    }
}

/// `index.json` of an OCI layout: the image for this processor.
fn oci(blobs: &Rootfs) -> Result<(PathBuf, Vec<PathBuf>), ArchiveError> {
    let mut path = PathBuf::from("/index.json");
    for _ in 0..MAX_INDEXES {
        let value = json(blobs, &path)?;
        if let Some(layers) = value["layers"].as_array() {
            let layers = layers.iter().map(blob).collect::<Option<Vec<_>>>();
            return match (blob(&value["config"]), layers) {
                (Some(config), Some(layers)) => Ok((config, layers)),
                _ => image_error(format!("{}: a digest that is none", path.display())),
            };
        }
        let all = value["manifests"].as_array().map_or(&[][..], Vec::as_slice);
        let fits = |m: &&Value| {
            let platform = &m["platform"];
            platform.is_null() || (platform["architecture"] == HERE && platform["os"] == "linux")
        };
        let fitting: Vec<&Value> = all.iter().filter(fits).collect();
        let [one] = fitting[..] else {
            return image_error(format!(
                "{}: {} of {} images are for linux/{HERE}, and it must be one",
                path.display(),
                fitting.len(),
                all.len()
            ));
        };
        let Some(next) = blob(one) else { return image_error(format!("{}: a digest that is none", path.display())) };
        path = next;
    }
    image_error("an index in an index in an index")
}

/// `/blobs/sha256/…` of a descriptor.
fn blob(descriptor: &Value) -> Option<PathBuf> {
    let (algorithm, digest) = descriptor["digest"].as_str()?.split_once(':')?;
    Some(Path::new("/blobs").join(algorithm).join(digest))
}

impl Config {
    fn read(config: &Value) -> Self {
        let texts = |value: &Value| -> Vec<String> {
            value.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
        };
        let text = |value: &Value| value.as_str().filter(|t| !t.is_empty()).map(str::to_owned);
        Self {
            env: texts(&config["Env"]),
            user: text(&config["User"]),
            directory: text(&config["WorkingDir"]).map(PathBuf::from),
            command: [texts(&config["Entrypoint"]), texts(&config["Cmd"])].concat(),
            has_healthcheck: config["Healthcheck"]["Test"][0].as_str().is_some_and(|kind| kind != "NONE"),
        }
    }
}

impl Tree {
    /// Puts layers on top of each other, lowest first.
    fn stack(layers: Vec<(String, Mapping)>) -> Result<Self, ArchiveError> {
        let mut tree =
            Self { nodes: Vec::new(), blobs: vec![Mapping::default()], entries: 0, layers: Layers::default() };
        tree.layers.count = layers.len();
        tree.add(Stat::of_tree(FileType::Directory, 0o755), What::Dir(BTreeMap::new()));
        let mut kept = Kept::default();
        for (number, (name, bytes)) in layers.into_iter().enumerate() {
            tree.blobs.push(bytes.clone());
            tree.apply(&bytes, number, &mut kept).map_err(|e| ArchiveError::Layer(name, e))?;
        }
        tree.blobs[0] = kept.map().map_err(|e| ArchiveError::Image(e.to_string()))?;
        tree.layers.seen = tree.seen();
        Ok(tree)
    }

    fn apply(&mut self, bytes: &[u8], layer: usize, kept: &mut Kept) -> io::Result<()> {
        let mut stream = match compression(bytes) {
            None => Stream::Mapped(bytes, 0),
            Some("gzip") => Stream::Decoded(Box::new(flate2::bufread::MultiGzDecoder::new(bytes)), MAX_UNPACKED),
            Some("zstd") => Stream::Decoded(Box::new(Zstd::new(bytes)), MAX_UNPACKED),
            Some(other) => return Err(bad(format!("compressed by {other}, which is not read"))),
        };
        while let Some(entry) = stream.entry()? {
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                return Err(bad(format!("more than {MAX_ENTRIES} entries")));
            }
            let shown = String::from_utf8_lossy(&entry.path).into_owned();
            let size = entry.size;
            self.place(entry, layer, &mut stream, kept)
                .map_err(|e| if e.kind() == io::ErrorKind::InvalidData { bad(format!("{shown}: {e}")) } else { e })?;
            stream.skip(tar::padding(size))?;
        }
        Ok(())
    }

    /// Puts an entry where it belongs, and leaves the stream behind its contents.
    fn place(&mut self, entry: Entry, layer: usize, stream: &mut Stream<'_>, kept: &mut Kept) -> io::Result<()> {
        let path = inside(&entry.path)?;
        let Some(name) = path.file_name().map(OsStr::to_owned) else {
            // The root itself.
            self.nodes[0].stat.set(&entry);
            return stream.skip(entry.size);
        };
        let dir = self.directory(path.parent().unwrap_or(Path::new("")), layer)?;
        if let Some(hidden) = name.as_bytes().strip_prefix(b".wh.") {
            self.hide(dir, &path, hidden, layer);
            return stream.skip(entry.size);
        }
        let old = self.names(dir).get(&*name).copied();
        self.count(&path, &entry, old, layer);
        if entry.kind == Kind::Dir
            && let Some(old) = old
            && matches!(self.nodes[old.node].what, What::Dir(_))
        {
            self.nodes[old.node].stat.set(&entry);
            self.set_name(dir, &name, Name { node: old.node, layer });
            return stream.skip(entry.size);
        }
        let mut stat = Stat::of_tree(file_type(entry.kind), 0);
        stat.set(&entry);
        let node = match entry.kind {
            Kind::HardLink => {
                let target = self.hard_link(&entry.link)?;
                self.nodes[target].linked = true;
                stream.skip(entry.size)?;
                target
            }
            Kind::File => {
                let (blob, offset) = self.contents(entry.size, layer, stream, kept)?;
                self.add(stat, What::File { blob, offset })
            }
            Kind::Dir => self.add(stat, What::Dir(BTreeMap::new())),
            Kind::Symlink => self.add(stat, What::Link(PathBuf::from(OsString::from_vec(entry.link)))),
            Kind::Special => self.add(stat, What::Special),
        };
        self.set_name(dir, &name, Name { node, layer });
        Ok(())
    }

    /// Where the contents of a file are: in the layer, or what of it is kept.
    fn contents(&self, size: u64, layer: usize, stream: &mut Stream<'_>, kept: &mut Kept) -> io::Result<(usize, u64)> {
        if let Stream::Mapped(_, at) = stream {
            let offset = *at as u64;
            stream.skip(size)?;
            return Ok((layer + 1, offset));
        }
        Ok((0, kept.keep(size, stream)?))
    }

    fn hard_link(&mut self, target: &[u8]) -> io::Result<usize> {
        let path = Path::new("/").join(inside(target)?);
        let parent = self.walk(path.parent().unwrap_or(Path::new("/")), None)?;
        let node = path.file_name().and_then(|name| self.names(parent).get(name)).map(|name| name.node);
        match node {
            Some(node) if !matches!(self.nodes[node].what, What::Dir(_)) => Ok(node),
            _ => Err(bad(format!("a hard link to {}, which is not there", path.display()))),
        }
    }

    /// A whiteout at `path`: what lower layers have under this name is gone, or with `.wh..opq` all that they have here.
    fn hide(&mut self, dir: usize, path: &Path, name: &[u8], layer: usize) {
        let parent = path.parent().unwrap_or(Path::new(""));
        if name == b".wh..opq" {
            self.prune(dir, parent, layer);
        } else if !name.starts_with(b".wh.") {
            let name = OsStr::from_bytes(name);
            let Some(old) = self.names(dir).get(name).copied() else { return };
            if old.layer < layer && self.is_lower(old.node, &parent.join(name), layer) {
                self.remove_name(dir, name);
            }
        }
    }

    /// Takes away everything in the directory at `path` that is not of this layer.
    fn prune(&mut self, dir: usize, path: &Path, layer: usize) {
        let names: Vec<(Box<OsStr>, Name)> = self.names(dir).iter().map(|(n, at)| (n.clone(), *at)).collect();
        for (name, at) in names {
            if at.layer < layer && self.is_lower(at.node, &path.join(&*name), layer) {
                self.remove_name(dir, &name);
            }
        }
    }

    /// Whether nothing of this layer would go with it; what is of lower layers in a directory goes.
    fn is_lower(&mut self, node: usize, path: &Path, layer: usize) -> bool {
        match self.nodes[node].what {
            What::Dir(_) => {
                self.prune(node, path, layer);
                self.names(node).is_empty()
            }
            What::File { .. } => {
                self.layers.hide(path, self.nodes[node].stat.size, None, layer);
                true
            }
            What::Link(_) | What::Special => true,
        }
    }

    /// Counts what an entry brings, and what it puts in the place of.
    fn count(&mut self, path: &Path, entry: &Entry, old: Option<Name>, layer: usize) {
        let new = (entry.kind == Kind::File).then_some(entry.size);
        self.layers.bytes += new.unwrap_or(0);
        match old.filter(|old| old.layer < layer) {
            Some(old) => match self.nodes[old.node].what {
                What::File { .. } => self.layers.hide(path, self.nodes[old.node].stat.size, new, layer),
                What::Dir(_) if entry.kind != Kind::Dir => self.prune(old.node, path, layer),
                _ => {}
            },
            // What was removed before comes back.
            None => {
                if let (Some(known), Some(new)) = (self.layers.written_again.get_mut(path), new) {
                    known.add(new);
                }
            }
        }
    }

    /// Bytes in the files that have a name.
    fn seen(&self) -> u64 {
        let mut is_seen = vec![false; self.nodes.len()];
        let (mut open, mut bytes) = (vec![0], 0);
        while let Some(at) = open.pop() {
            match &self.nodes[at].what {
                _ if std::mem::replace(&mut is_seen[at], true) => {}
                What::Dir(names) => open.extend(names.values().map(|name| name.node)),
                What::File { .. } => bytes += self.nodes[at].stat.size,
                What::Link(_) | What::Special => {}
            }
        }
        bytes
    }

    /// The directory of an entry, through links of lower layers. One that no entry made is made.
    fn directory(&mut self, path: &Path, layer: usize) -> io::Result<usize> {
        self.walk(path, Some(layer))
    }

    fn walk(&mut self, path: &Path, make: Option<usize>) -> io::Result<usize> {
        let mut at = vec![0];
        let mut todo: VecDeque<OsString> = path.components().filter_map(part).collect();
        let mut links = MAX_LINKS;
        while let Some(name) = todo.pop_front() {
            let here = at.last().copied().unwrap_or(0);
            if name == ".." {
                if at.len() > 1 {
                    at.pop();
                }
                continue;
            }
            match (self.names(here).get(&*name).copied(), make) {
                (Some(next), _) => match &self.nodes[next.node].what {
                    What::Dir(_) => at.push(next.node),
                    What::Link(target) => {
                        links = links.checked_sub(1).ok_or_else(|| bad("its links lead in a circle".into()))?;
                        if target.is_absolute() {
                            at.truncate(1);
                        }
                        for part in target.components().rev().filter_map(part) {
                            todo.push_front(part);
                        }
                        if todo.len() > PATH_MAX {
                            return Err(bad("its links lead too far".into()));
                        }
                    }
                    What::File { .. } | What::Special => return Err(bad("it is in a file, not a directory".into())),
                },
                (None, Some(layer)) => {
                    let new = self.add(Stat::of_tree(FileType::Directory, 0o755), What::Dir(BTreeMap::new()));
                    self.set_name(here, &name, Name { node: new, layer });
                    at.push(new);
                }
                (None, None) => return Err(bad("it is in a directory that is not there".into())),
            }
        }
        Ok(at.last().copied().unwrap_or(0))
    }

    fn add(&mut self, mut stat: Stat, what: What) -> usize {
        stat.id = FileId { dev: 0, ino: self.nodes.len() as u64 + 1 };
        self.nodes.push(Node { stat, what, linked: false });
        self.nodes.len() - 1
    }

    fn names(&self, dir: usize) -> &BTreeMap<Box<OsStr>, Name> {
        static NONE: BTreeMap<Box<OsStr>, Name> = BTreeMap::new();
        match &self.nodes[dir].what {
            What::Dir(names) => names,
            _ => &NONE,
        }
    }

    fn set_name(&mut self, dir: usize, name: &OsStr, to: Name) {
        if let What::Dir(names) = &mut self.nodes[dir].what {
            names.insert(name.into(), to);
        }
    }

    fn remove_name(&mut self, dir: usize, name: &OsStr) {
        if let What::Dir(names) = &mut self.nodes[dir].what {
            names.remove(name);
        }
    }

    /// The node of an absolute path without links in its directories.
    fn find(&self, path: &Path) -> Result<&Node, FileError> {
        let mut at = 0;
        for component in path.components() {
            if let Component::Normal(name) = component {
                at = self.names(at).get(name).ok_or(FileError::NotFound)?.node;
            }
        }
        Ok(&self.nodes[at])
    }

    /// `lstat(2)` of a path without links in its directories.
    pub(super) fn lstat(&self, path: &Path) -> Result<Stat, FileError> {
        Ok(self.find(path)?.stat)
    }

    /// `readlink(2)`; `None` where it is no link.
    pub(super) fn read_link(&self, path: &Path) -> Result<Option<PathBuf>, FileError> {
        Ok(match &self.find(path)?.what {
            What::Link(target) => Some(target.clone()),
            _ => None,
        })
    }

    /// The contents of a regular file.
    pub(super) fn map(&self, path: &Path) -> Result<Mapping, FileError> {
        let node = self.find(path)?;
        match node.what {
            What::File { blob, offset } => self.blobs[blob].part(offset, node.stat.size).ok_or(FileError::TooLarge),
            What::Link(_) => Err(FileError::Loop),
            What::Dir(_) => Err(FileError::Directory),
            What::Special => Err(FileError::Special),
        }
    }

    /// The entries of a directory, by name.
    pub(super) fn read_dir(&self, path: &Path) -> Result<Vec<DirEntry>, FileError> {
        let node = self.find(path)?;
        let What::Dir(names) = &node.what else { return Err(FileError::NotFound) };
        let kind = |at: &Name| self.nodes[at.node].what.kind();
        Ok(names.iter().map(|(name, at)| DirEntry { name: name.clone().into_os_string(), kind: kind(at) }).collect())
    }

    /// The entries of a directory with what is said of each. An archive has no blocks: a file occupies what is in it.
    pub(super) fn entries(&self, path: &Path) -> Result<Vec<super::tree::Entry>, FileError> {
        let node = self.find(path)?;
        let What::Dir(names) = &node.what else { return Err(FileError::NotFound) };
        Ok(names.iter().map(|(name, at)| self.nodes[at.node].entry(name)).collect())
    }

    /// The root directory.
    pub(super) fn root_entry(&self) -> super::tree::Entry {
        self.nodes[0].entry(OsStr::new("."))
    }

    /// What its layers hide.
    pub(super) fn layers(&self) -> &Layers {
        &self.layers
    }
}

impl What {
    fn kind(&self) -> EntryKind {
        match self {
            Self::Dir(_) => EntryKind::Dir,
            Self::File { .. } => EntryKind::File,
            Self::Link(_) => EntryKind::Link,
            Self::Special => EntryKind::Special,
        }
    }
}

impl Node {
    fn entry(&self, name: &OsStr) -> super::tree::Entry {
        let kind = self.what.kind();
        super::tree::Entry {
            name: name.to_owned(),
            kind,
            mode: self.stat.mode,
            links: if self.linked { 2 } else { 1 },
            size: self.stat.size,
            allocated: if kind == EntryKind::File { self.stat.size } else { 0 },
            id: self.stat.id,
            is_mount: false,
        }
    }
}

/// A path of an archive, relative to its root.
fn inside(path: &[u8]) -> io::Result<PathBuf> {
    if path.len() >= PATH_MAX {
        return Err(bad("a path that is too long".into()));
    }
    let path = Path::new(OsStr::from_bytes(path));
    if path.components().any(|c| c == Component::ParentDir) {
        return Err(bad("a path that leads out of the archive".into()));
    }
    Ok(path.components().filter_map(part).collect())
}

fn part(component: Component<'_>) -> Option<OsString> {
    match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    }
}

fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File | Kind::HardLink => FileType::RegularFile,
        Kind::Symlink => FileType::Symlink,
        Kind::Dir => FileType::Directory,
        Kind::Special => FileType::Fifo,
    }
}

fn bad(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

impl Kept {
    /// Takes the contents of a file out of the stream; gives the place where they are, or where they would be: of what
    /// nobody reads only the beginning is written, and the rest is a hole.
    fn keep(&mut self, size: u64, stream: &mut Stream<'_>) -> io::Result<u64> {
        let offset = self.size;
        let mut buffer = vec![0; size.min(256 * 1024) as usize];
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(nameless()?),
        };
        file.seek(SeekFrom::Start(offset))?;
        let mut left = size;
        while left > 0 {
            let part = &mut buffer[..left.min(256 * 1024) as usize];
            stream.read_exact(part)?;
            file.write_all(part).map_err(full)?;
            let is_first = left == size;
            left -= part.len() as u64;
            if is_first && size > KEPT && !part.starts_with(b"\x7fELF") {
                stream.skip(left)?;
                break;
            }
        }
        self.size += size;
        Ok(offset)
    }

    fn map(self) -> io::Result<Mapping> {
        let Some(file) = self.file else { return Ok(Mapping::default()) };
        file.set_len(self.size)?;
        Mapping::new(file.into(), self.size)
    }
}

fn full(error: io::Error) -> io::Error {
    let hint = "; TMPDIR may name another directory";
    io::Error::new(error.kind(), format!("cannot keep what it unpacks to: {error}{hint}"))
}

/// A file that is gone when the process ends.
fn nameless() -> io::Result<File> {
    let named = std::env::var_os("TMPDIR").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let dirs = named.map_or_else(|| vec!["/var/tmp".into(), "/tmp".into()], |dir| vec![dir]);
    let mut error = io::Error::from(io::ErrorKind::NotFound);
    for dir in dirs {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        match rustix::fs::open(&dir, flags, Mode::RUSR | Mode::WUSR) {
            Ok(fd) => return Ok(fd.into()),
            Err(_) => {
                // A file system without O_TMPFILE.
                let path = dir.join(format!("mldoctor-{}", std::process::id()));
                let made = File::options().read(true).write(true).create_new(true).open(&path);
                match made {
                    Ok(file) => return std::fs::remove_file(path).map(|()| file),
                    Err(e) => error = e,
                }
            }
        }
    }
    Err(full(error))
}

/// Frames of zstd one after the other, skippable ones left out (RFC 8878, 3.1).
struct Zstd<'a> {
    rest: &'a [u8],
    decoder: FrameDecoder,
    within: bool,
}

impl<'a> Zstd<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, decoder: FrameDecoder::new(), within: false }
    }
}

impl Read for Zstd<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.within {
                if self.rest.is_empty() {
                    return Ok(0);
                }
                match self.decoder.reset(&mut self.rest) {
                    Ok(()) => self.within = true,
                    Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                        length, ..
                    })) => {
                        self.rest = self.rest.get(length as usize..).ok_or(io::ErrorKind::UnexpectedEof)?;
                    }
                    Err(e) => return Err(bad(e.to_string())),
                }
                continue;
            }
            if self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let enough = BlockDecodingStrategy::UptoBytes(buffer.len());
                self.decoder.decode_blocks(&mut self.rest, enough).map_err(|e| bad(e.to_string()))?;
            }
            let count = self.decoder.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            self.within = !self.decoder.is_finished();
        }
    }
}
