//! What only building needs: compilers, static libraries, headers.

use std::path::Path;

use super::caches::found;
use super::{Candidate, Seen};
use crate::facts::size::Kind;
use crate::finding::Fix;

/// Programs of the CUDA toolkit that compile, link or take apart.
const CUDA_PROGRAMS: &[&str] = &[
    "nvcc",
    "__nvcc_device_query",
    "ptxas",
    "cicc",
    "cudafe++",
    "nvlink",
    "fatbinary",
    "bin2c",
    "cuobjdump",
    "nvdisasm",
    "nvprune",
    "cu++filt",
    "tileiras",
];
/// Compilers of C, C++ and Fortran, without the prefix of their target and the number of their release.
const COMPILERS: &[&str] =
    &["gcc", "g++", "cpp", "c++", "cc", "c89-gcc", "c99-gcc", "gfortran", "clang", "clang++", "clang-cpp", "lto-dump"];

/// Compilers.
pub fn compilers(seen: &Seen<'_>) -> Vec<Candidate> {
    let mut candidate = Candidate::new("compilers", "compilers, and nothing compiles at run time");
    for dir in &seen.size.tree.dirs {
        let path = dir.path.to_string_lossy();
        let Some(place) = CompilerPlace::of(&path) else { continue };
        let is_one = |at: &usize| place.holds(&String::from_utf8_lossy(seen.name(*at)), seen.size.kinds[*at]);
        for at in dir.files.clone().filter(|at| seen.is_left(*at)).filter(is_one) {
            candidate.add(place.shown, at);
        }
    }
    // `ctypes.util.find_library` asks gcc where there is no cache of libraries (Lib/ctypes/util.py).
    let musl = seen.facts.image.loader.as_ref().is_some_and(|l| l.libc == "musl");
    let asked = musl.then(|| "on musl, ctypes.util.find_library asks the compiler".to_owned());
    candidate.stays = seen.compiles.clone().or(asked);
    candidate.fix = Fix::dockerfile(
        "compile in a stage of its own, and copy what it makes",
        match &seen.size.cuda {
            Some(release) => format!("FROM nvidia/cuda:{release}.0-runtime-…   # instead of -devel"),
            None => {
                "RUN apt-get purge -y gcc g++ cpp && apt-get autoremove -y   # in the RUN that installs them".into()
            }
        },
    );
    found(candidate)
}

/// A directory that compilers are in.
struct CompilerPlace<'d> {
    /// As it is shown.
    shown: &'d str,
    /// Whether all of it is a compiler's.
    whole: bool,
    /// Whether those of the system are there.
    system: bool,
}

impl<'d> CompilerPlace<'d> {
    fn of(dir: &'d str) -> Option<Self> {
        if dir.starts_with("/usr/lib/gcc/") || dir.starts_with("/usr/libexec/gcc/") {
            let end = dir.match_indices('/').nth(3).map_or(dir.len(), |(at, _)| at);
            return Some(Self { shown: &dir[..end], whole: true, system: false });
        }
        let whole = dir.starts_with("/usr/local/cuda") && dir.contains("/nvvm");
        let system = matches!(dir, "/usr/bin" | "/usr/local/bin" | "/bin");
        (whole || dir.ends_with("/bin")).then_some(Self { shown: dir, whole, system })
    }

    fn holds(&self, name: &str, kind: Kind) -> bool {
        self.whole || (CUDA_PROGRAMS.contains(&name) && kind == Kind::Program) || (self.system && is_compiler(name))
    }
}

/// `x86_64-linux-gnu-g++-12` is `g++`.
fn is_compiler(name: &str) -> bool {
    let name = name.split_once("-linux-gnu-").or(name.split_once("-alpine-linux-musl-")).map_or(name, |(_, rest)| rest);
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.').trim_end_matches('-');
    COMPILERS.contains(&stem)
}

/// `*.a`
pub fn static_libraries(seen: &Seen<'_>) -> Vec<Candidate> {
    let mut candidate = Candidate::new("static libraries", "static libraries: only a linker reads them");
    for at in seen.of_kind(Kind::StaticLibrary) {
        candidate.add(seen.dir(at).to_string_lossy(), at);
    }
    candidate.stays = seen.compiles.clone();
    candidate.fix = Fix::dockerfile("in the RUN that brings them", "RUN … && find / -xdev -name '*.a' -delete");
    found(candidate)
}

/// Headers. `pyconfig.h` stays: `sysconfig` may parse it.
pub fn headers(seen: &Seen<'_>) -> Vec<Candidate> {
    let mut candidate = Candidate::new("headers", "C, C++ and CUDA headers: only a compiler reads them");
    let is_meant = |at: usize| seen.size.kinds[at] == Kind::Header && seen.name(at) != b"pyconfig.h";
    for dir in &seen.size.tree.dirs {
        let mut files = dir.files.clone().filter(|at| is_meant(*at) && seen.is_left(*at)).peekable();
        if files.peek().is_some() {
            candidate.add_all(include_directory(&dir.path), files);
        }
    }
    let compiles_without_torch = || {
        let nvrtc = seen.facts.subjects.iter().flat_map(|s| &s.mapped).find(|m| m.soname.starts_with("libnvrtc.so"))?;
        (!seen.has_distribution("torch")).then(|| format!("{} may include them", nvrtc.path))
    };
    candidate.stays = seen.compiles.clone().or_else(compiles_without_torch);
    candidate.fix = Fix::dockerfile(
        "in the RUN that brings them",
        "RUN … && find / -xdev -path '*/include/*' \\( -name '*.h' -o -name '*.hpp' -o -name '*.cuh' -o -name '*.inl' \\) \\\n    ! -name pyconfig.h -delete",
    );
    found(candidate)
}

/// The part of a path up to `include`.
fn include_directory(dir: &Path) -> String {
    let text = dir.to_string_lossy();
    let end = text.find("/include").map_or(text.len(), |at| at + "/include".len());
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_compilers() {
        for name in ["gcc", "gcc-12", "x86_64-linux-gnu-g++-12", "clang-14", "c++"] {
            assert!(is_compiler(name), "{name}");
        }
        for name in ["gcc-ar-12", "ld", "objdump", "ccache", "python3.11", "gccgo", ""] {
            assert!(!is_compiler(name), "{name}");
        }
    }
}
