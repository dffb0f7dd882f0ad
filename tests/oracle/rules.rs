//! One hand-made tree for each rule of the loader: what the rule says, what the real loader does, what the model does.

use crate::support::elf::{ElfFile, Hash, Reference};
use crate::support::skip;
use crate::world::{World, loader_path, may_chroot};

/// One rule: the tree that shows it, and what must come of it.
struct Rule {
    says: &'static str,
    tree: fn(&mut World),
    /// Name asked for → path, or nothing.
    resolves: &'static [(&'static str, Option<&'static str>)],
    /// The message that the program ends with.
    ends: Option<&'static str>,
}

const NOT_FOUND: Option<&str> = Some("libx.so.1: cannot open shared object file: No such file or directory");

fn main() -> ElfFile {
    ElfFile::executable(loader_path()).needs("libx.so.1")
}

fn x() -> ElfFile {
    ElfFile::library("libx.so.1")
}

fn with_rpath(mut file: ElfFile, path: &str) -> ElfFile {
    file.rpath = Some(path.into());
    file
}

fn with_runpath(mut file: ElfFile, path: &str) -> ElfFile {
    file.runpath = Some(path.into());
    file
}

fn library_path(world: &mut World, value: &str) {
    world.env.push(("LD_LIBRARY_PATH".into(), value.into()));
}

const RULES: &[Rule] = &[
    Rule {
        says: "RPATH comes before LD_LIBRARY_PATH",
        tree: |w| {
            w.elf("/bin/main", &with_rpath(main(), "/a"));
            w.elf("/a/libx.so.1", &x());
            w.elf("/b/libx.so.1", &x());
            library_path(w, "/b");
        },
        resolves: &[("libx.so.1", Some("/a/libx.so.1"))],
        ends: None,
    },
    Rule {
        says: "LD_LIBRARY_PATH comes before RUNPATH",
        tree: |w| {
            w.elf("/bin/main", &with_runpath(main(), "/a"));
            w.elf("/a/libx.so.1", &x());
            w.elf("/b/libx.so.1", &x());
            library_path(w, "/b");
        },
        resolves: &[("libx.so.1", Some("/b/libx.so.1"))],
        ends: None,
    },
    Rule {
        says: "RPATH of the object that loaded the requester is inherited",
        tree: |w| {
            w.elf("/bin/main", &with_rpath(main(), "/a"));
            w.elf("/a/libx.so.1", &x().needs("liby.so.1"));
            w.elf("/a/liby.so.1", &ElfFile::library("liby.so.1"));
        },
        resolves: &[("libx.so.1", Some("/a/libx.so.1")), ("liby.so.1", Some("/a/liby.so.1"))],
        ends: None,
    },
    Rule {
        says: "RUNPATH is not inherited",
        tree: |w| {
            w.elf("/bin/main", &with_runpath(main(), "/a"));
            w.elf("/a/libx.so.1", &x().needs("liby.so.1"));
            w.elf("/a/liby.so.1", &ElfFile::library("liby.so.1"));
        },
        resolves: &[("libx.so.1", Some("/a/libx.so.1")), ("liby.so.1", None)],
        ends: Some("liby.so.1: cannot open shared object file: No such file or directory"),
    },
    Rule {
        says: "RUNPATH of the requester switches inherited RPATHs off",
        tree: |w| {
            w.elf("/bin/main", &with_rpath(main(), "/a"));
            w.elf("/a/libx.so.1", &with_runpath(x().needs("liby.so.1"), "/nowhere"));
            w.elf("/a/liby.so.1", &ElfFile::library("liby.so.1"));
        },
        resolves: &[("libx.so.1", Some("/a/libx.so.1")), ("liby.so.1", None)],
        ends: Some("liby.so.1: cannot open shared object file: No such file or directory"),
    },
    Rule {
        says: "RPATH is ignored in a file that has RUNPATH",
        tree: |w| {
            w.elf("/bin/main", &with_runpath(with_rpath(main(), "/a"), "/b"));
            w.elf("/a/libx.so.1", &x());
            w.elf("/b/libx.so.1", &x());
        },
        resolves: &[("libx.so.1", Some("/b/libx.so.1"))],
        ends: None,
    },
    Rule {
        says: "$ORIGIN is the directory of the object, also in braces",
        tree: |w| {
            w.elf("/bin/main", &with_runpath(main(), "${ORIGIN}/../lib64/x"));
            w.elf("/lib64/x/libx.so.1", &with_runpath(x().needs("liby.so.1"), "$ORIGIN/y"));
            w.elf("/lib64/x/y/liby.so.1", &ElfFile::library("liby.so.1"));
        },
        resolves: &[
            ("libx.so.1", Some("/bin/../lib64/x/libx.so.1")),
            ("liby.so.1", Some("/bin/../lib64/x/y/liby.so.1")),
        ],
        ends: None,
    },
    Rule {
        says: "an empty element of LD_LIBRARY_PATH is the current directory",
        tree: |w| {
            w.elf("/bin/main", &main());
            w.elf("/libx.so.1", &x());
            library_path(w, "/nowhere:");
        },
        resolves: &[("libx.so.1", Some("libx.so.1"))],
        ends: None,
    },
    Rule {
        says: "LD_LIBRARY_PATH is split at semicolons too",
        tree: |w| {
            w.elf("/bin/main", &main());
            w.elf("/b/libx.so.1", &x());
            library_path(w, "/a;/b");
        },
        resolves: &[("libx.so.1", Some("/b/libx.so.1"))],
        ends: None,
    },
    Rule {
        says: "the cache comes before the default directories",
        tree: |w| {
            w.elf("/bin/main", &main());
            w.elf("/opt/x/libx.so.1", &x());
            w.ldconfig(&["/opt/x"]);
            w.elf("/usr/lib/libx.so.1", &x());
        },
        resolves: &[("libx.so.1", Some("/opt/x/libx.so.1"))],
        ends: None,
    },
    Rule {
        says: "a cache entry whose file is gone does not stop the search",
        tree: |w| {
            w.elf("/bin/main", &main());
            w.elf("/opt/x/libx.so.1", &x());
            w.ldconfig(&["/opt/x"]);
            std::fs::remove_file(w.outside("/opt/x/libx.so.1")).unwrap();
            w.elf("/usr/lib/libx.so.1", &x());
        },
        resolves: &[("libx.so.1", Some("/usr/lib/libx.so.1"))],
        ends: None,
    },
    Rule {
        says: "a directory that ldconfig never saw is not searched",
        tree: |w| {
            w.elf("/bin/main", &main());
            w.ldconfig(&["/opt/x"]);
            w.elf("/opt/x/libx.so.1", &x());
        },
        resolves: &[("libx.so.1", None)],
        ends: NOT_FOUND,
    },
    Rule {
        says: "-z nodeflib leaves the default directories out",
        tree: |w| {
            let mut file = main();
            file.flags_1 |= 0x800;
            w.elf("/bin/main", &file);
            w.elf("/usr/lib/libx.so.1", &x());
        },
        resolves: &[("libx.so.1", None)],
        ends: NOT_FOUND,
    },
    Rule {
        says: "a loaded SONAME wins over any search",
        tree: |w| {
            w.elf(
                "/bin/main",
                &with_runpath(ElfFile::executable(loader_path()).needs("/b/other.so").needs("liby.so.1"), "/a"),
            );
            w.elf("/b/other.so", &x());
            w.elf("/a/liby.so.1", &with_runpath(ElfFile::library("liby.so.1").needs("libx.so.1"), "/a"));
            w.elf("/a/libx.so.1", &x());
        },
        resolves: &[("liby.so.1", Some("/a/liby.so.1"))],
        ends: None,
    },
    Rule {
        says: "two names of one file are one object",
        tree: |w| {
            w.elf("/bin/main", &with_runpath(main().needs("libz.so.1"), "/a"));
            w.elf("/a/libx.so.1", &x());
            w.link("/a/libz.so.1", "libx.so.1");
        },
        resolves: &[("libx.so.1", Some("/a/libx.so.1"))],
        ends: None,
    },
    Rule {
        says: "a file that is too short ends everything",
        tree: |w| {
            w.elf("/bin/main", &with_runpath(main(), "/a:/b"));
            w.write("/a/libx.so.1", b"");
            w.elf("/b/libx.so.1", &x());
        },
        resolves: &[],
        ends: Some("/a/libx.so.1: file too short"),
    },
    Rule {
        says: "a file that is not ELF ends everything",
        tree: |w| {
            w.elf("/bin/main", &with_runpath(main(), "/a:/b"));
            w.write("/a/libx.so.1", &[b'<'; 4096]);
            w.elf("/b/libx.so.1", &x());
        },
        resolves: &[],
        ends: Some("/a/libx.so.1: invalid ELF header"),
    },
    Rule {
        says: "a file for another processor is passed over",
        tree: |w| {
            w.elf("/bin/main", &with_runpath(main(), "/a:/b"));
            let mut other = x().build();
            other[18..20].copy_from_slice(&8_u16.to_le_bytes());
            w.write("/a/libx.so.1", &other);
            w.elf("/b/libx.so.1", &x());
        },
        resolves: &[("libx.so.1", Some("/b/libx.so.1"))],
        ends: None,
    },
    Rule {
        says: "a dangling link is passed over",
        tree: |w| {
            w.elf("/bin/main", &with_runpath(main(), "/a:/b"));
            w.link("/a/libx.so.1", "libx.so.1.2.3");
            w.elf("/b/libx.so.1", &x());
        },
        resolves: &[("libx.so.1", Some("/b/libx.so.1"))],
        ends: None,
    },
    Rule {
        says: "a library in LD_PRELOAD that is not there is only warned about",
        tree: |w| {
            w.elf("/bin/main", &with_runpath(main(), "/a"));
            w.elf("/a/libx.so.1", &x());
            w.env.push(("LD_PRELOAD".into(), "/nowhere/libgone.so".into()));
        },
        resolves: &[("libx.so.1", Some("/a/libx.so.1"))],
        ends: None,
    },
    Rule {
        says: "LD_PRELOAD defines what nobody else does",
        tree: |w| {
            w.elf("/bin/main", &with_runpath(main(), "/a"));
            w.elf("/a/libx.so.1", &x().refers("wanted"));
            w.elf("/b/libp.so", &ElfFile::library("libp.so").defines("wanted"));
            w.env.push(("LD_PRELOAD".into(), "/b/libp.so".into()));
        },
        resolves: &[("libx.so.1", Some("/a/libx.so.1"))],
        ends: None,
    },
    Rule {
        says: "a symbol that nobody defines ends the program",
        tree: |w| {
            w.elf("/bin/main", &with_runpath(main(), "/a"));
            w.elf("/a/libx.so.1", &x().refers("wanted"));
        },
        resolves: &[("libx.so.1", Some("/a/libx.so.1"))],
        ends: Some("/a/libx.so.1: undefined symbol: wanted"),
    },
    Rule {
        says: "a weak reference may stay undefined",
        tree: |w| {
            w.elf("/bin/main", &with_runpath(main(), "/a"));
            let mut file = x();
            file.refers.push(Reference { name: "wanted".into(), weak: true, ..Reference::default() });
            w.elf("/a/libx.so.1", &file);
        },
        resolves: &[("libx.so.1", Some("/a/libx.so.1"))],
        ends: None,
    },
    Rule {
        says: "a version that the file does not define ends the program",
        tree: |w| {
            w.elf("/bin/main", &with_runpath(main().refers_version("s", "libx.so.1", "X_2"), "/a"));
            w.elf("/a/libx.so.1", &x().defines_version("s", "X_1"));
        },
        resolves: &[("libx.so.1", Some("/a/libx.so.1"))],
        ends: Some("/a/libx.so.1: version `X_2' not found (required by /bin/main)"),
    },
    Rule {
        says: "a version of the right name in another library does not count",
        tree: |w| {
            w.elf("/bin/main", &with_runpath(main().needs("liby.so.1").refers_version("s", "libx.so.1", "X_1"), "/a"));
            w.elf("/a/libx.so.1", &x().defines_version("other", "X_1"));
            w.elf("/a/liby.so.1", &ElfFile::library("liby.so.1").defines_version("s", "Y_1"));
        },
        resolves: &[("libx.so.1", Some("/a/libx.so.1")), ("liby.so.1", Some("/a/liby.so.1"))],
        ends: Some("/bin/main: undefined symbol: s, version X_1"),
    },
    Rule {
        says: "a reference without a version takes a definition with one",
        tree: |w| {
            w.elf("/bin/main", &with_runpath(main().refers("s"), "/a"));
            w.elf("/a/libx.so.1", &x().defines_version("s", "X_1"));
        },
        resolves: &[("libx.so.1", Some("/a/libx.so.1"))],
        ends: None,
    },
    Rule {
        says: "the old hash table alone is enough",
        tree: |w| {
            w.elf("/bin/main", &with_runpath(main().refers("s"), "/a"));
            let mut file = x().defines("s").defines("t");
            file.hash = Hash::Sysv;
            w.elf("/a/libx.so.1", &file);
        },
        resolves: &[("libx.so.1", Some("/a/libx.so.1"))],
        ends: None,
    },
    Rule {
        says: "a filter needs its filtee",
        tree: |w| {
            w.elf("/bin/main", &with_runpath(main(), "/a"));
            let mut file = x();
            file.filter.push("libgone.so.1".into());
            w.elf("/a/libx.so.1", &file);
        },
        resolves: &[("libx.so.1", Some("/a/libx.so.1")), ("libgone.so.1", None)],
        ends: Some("libgone.so.1: cannot open shared object file: No such file or directory"),
    },
    Rule {
        says: "an auxiliary filter may lack its filtee",
        tree: |w| {
            w.elf("/bin/main", &with_runpath(main(), "/a"));
            let mut file = x();
            file.auxiliary.push("libgone.so.1".into());
            w.elf("/a/libx.so.1", &file);
        },
        resolves: &[("libx.so.1", Some("/a/libx.so.1"))],
        ends: None,
    },
];

#[test]
fn every_rule_of_the_loader() {
    if !may_chroot() {
        return skip("the rules of the loader need root, to change the root directory");
    }
    let mut wrong = Vec::new();
    for rule in RULES {
        let mut world = World::new();
        world.write("/usr/lib/.keep", b"");
        (rule.tree)(&mut world);
        let expected = rule.resolves.iter().map(|(n, p)| ((*n).to_owned(), p.map(str::to_owned))).collect();
        let model = world.model("/bin/main");
        if model.fatal.is_none() && model.libraries != expected {
            wrong.push(format!("{}: the model resolves {:?}", rule.says, model.libraries));
        }
        let ends = world.model_starts("/bin/main").err();
        if ends.as_deref() != rule.ends {
            wrong.push(format!("{}: the model ends with {ends:?}", rule.says));
        }
        if let Err(difference) = world.agree("/bin/main") {
            wrong.push(format!("{}: {difference}", rule.says));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
