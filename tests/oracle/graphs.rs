//! Random graphs of libraries: names, search paths, links, versions and symbols, cache and hwcaps.

use crate::support::elf::{Definition, ElfFile, Hash, Reference};
use crate::support::skip;
use crate::world::{World, loader_path, may_chroot};

/// Graphs per run.
const GRAPHS: u64 = 1_000;

/// xorshift64*: small, and the same everywhere.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn pick<'t, T>(&mut self, from: &'t [T]) -> &'t T {
        &from[self.below(from.len())]
    }
}

pub const DIRS: &[&str] =
    &["/a", "/b", "/c", "/opt/x/lib", "/usr/lib", "/lib", "/lib/glibc-hwcaps/x86-64-v2", "/a/glibc-hwcaps/x86-64-v2"];
const PATHS: &[&str] =
    &["/a", "/b", "/c", "$ORIGIN", "$ORIGIN/../b", "/nowhere", "/opt/x/lib", "${ORIGIN}/../c", "", "/a/"];

fn path_list(r: &mut Random) -> String {
    let n = 1 + r.below(3);
    (0..n).map(|_| *r.pick(PATHS)).collect::<Vec<_>>().join(":")
}

/// The tree and the environment that belong to a seed.
pub fn build(seed: u64) -> World {
    build_for(loader_path(), seed)
}

/// The same for another loader.
pub fn build_for(loader: &str, seed: u64) -> World {
    let mut r = Random::new(seed);
    let mut world = World::with_loader(loader);
    let count = 2 + r.below(7);
    let name = |i: usize| format!("libn{i}.so.1");
    for i in 0..count {
        for copy in 0..1 + r.below(2) {
            let mut file = ElfFile::library(&name(i));
            if r.chance(10) {
                file.soname = None;
            } else if r.chance(8) {
                file.soname = Some(name(r.below(count)));
            }
            for _ in 0..r.below(4) {
                let needed = name(r.below(count + 1));
                if !file.needed.contains(&needed) {
                    file.needed.push(needed);
                }
            }
            match r.below(6) {
                0 => file.rpath = Some(path_list(&mut r)),
                1 => file.runpath = Some(path_list(&mut r)),
                2 if r.chance(20) => {
                    file.rpath = Some(path_list(&mut r));
                    file.runpath = Some(path_list(&mut r));
                }
                _ => {}
            }
            if r.chance(5) {
                file.flags_1 |= 0x800;
            }
            file.hash = *r.pick(&[Hash::Gnu, Hash::Gnu, Hash::Sysv, Hash::Both]);
            for s in 0..r.below(4) {
                let version = r.chance(40).then(|| format!("V{}", r.below(3)));
                let hidden = version.is_some() && r.chance(20);
                let name = format!("s{s}");
                file.defines.push(Definition { name, version, hidden });
            }
            for s in 0..r.below(3) {
                let version = if r.chance(30) && !file.needed.is_empty() {
                    Some((r.pick(&file.needed).clone(), format!("V{}", r.below(3))))
                } else {
                    None
                };
                file.refers.push(Reference {
                    name: format!("s{s}"),
                    version,
                    weak: r.chance(15),
                    function: r.chance(30),
                    unused: r.chance(10),
                });
            }
            let dir = *r.pick(DIRS);
            let path = format!("{dir}/{}", name(i));
            if copy == 1 && r.chance(30) && !world.outside(&path).exists() {
                let to = format!("{}/{}", r.pick(DIRS), name(i));
                world.link(&path, &to);
            } else if !world.outside(&path).exists() && std::fs::symlink_metadata(world.outside(&path)).is_err() {
                world.elf(&path, &file);
            }
        }
    }
    let mut main = ElfFile::executable(loader);
    for _ in 0..1 + r.below(4) {
        let needed = name(r.below(count));
        if !main.needed.contains(&needed) {
            main.needed.push(needed);
        }
    }
    match r.below(3) {
        0 => main.rpath = Some(path_list(&mut r)),
        1 => main.runpath = Some(path_list(&mut r)),
        _ => {}
    }
    for s in 0..r.below(3) {
        main.refers.push(Reference { name: format!("s{s}"), ..Reference::default() });
    }
    world.elf("/bin/main", &main);
    if r.chance(50) {
        let list: Vec<&str> = (0..1 + r.below(3)).map(|_| *r.pick(&["/a", "/b", "/c", "/nowhere", ""])).collect();
        world.env.push(("LD_LIBRARY_PATH".into(), list.join(if r.chance(50) { ":" } else { ";" })));
    }
    if r.chance(15) {
        world.env.push(("LD_PRELOAD".into(), name(r.below(count))));
    }
    if r.chance(60) {
        let dirs: Vec<&str> = ["/a", "/b", "/opt/x/lib"].into_iter().filter(|_| r.chance(50)).collect();
        world.ldconfig(&dirs);
    }
    world
}

/// The seed that a run begins with: `MLDOCTOR_TEST_SEED`.
pub fn first_seed() -> u64 {
    std::env::var("MLDOCTOR_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1)
}

/// Compares for as many seeds; `MLDOCTOR_TEST_SEED` is the first of them.
pub fn for_each_seed(count: u64, compare: impl Fn(u64) -> Result<(), String> + Sync) {
    let first = first_seed();
    let next = std::sync::atomic::AtomicU64::new(first);
    let failures = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if seed >= first + count {
                        return;
                    }
                    if let Err(difference) = compare(seed) {
                        failures.lock().unwrap().push(format!("MLDOCTOR_TEST_SEED={seed}: {difference}"));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(
        failures.is_empty(),
        "{} of {count} differ:\n{}",
        failures.len(),
        failures.iter().take(8).cloned().collect::<Vec<_>>().join("\n")
    );
}

#[test]
fn a_thousand_random_graphs() {
    if !may_chroot() {
        return skip("random graphs need root, to change the root directory");
    }
    for_each_seed(GRAPHS, |seed| build(seed).agree("/bin/main"));
}
