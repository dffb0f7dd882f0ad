//! The page behind every finding id: what it means, how it is known, what cures it.
//!
//! One Markdown file per id, embedded. Severity, tier and title stand in its header, so that `list`, `explain` and the
//! findings themselves can never disagree.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something that the workload needs does not work.
    Error,
    /// Something will break under circumstances that are named, or is wasted.
    Warning,
    /// Worth knowing.
    Note,
}

/// The earliest point at which a finding can be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Tier {
    /// From the image's files alone.
    S,
    /// From the running container, without driver calls.
    C,
    /// From driver calls without a context.
    R,
    /// From contexts, kernels and compilations.
    D,
}

/// A finding id and all that is written about it.
#[derive(Debug, Clone)]
pub struct Page {
    /// Finding id.
    pub id: &'static str,
    /// Severity where a required capability depends on it.
    pub severity: Severity,
    /// Tier.
    pub tier: Tier,
    /// One line.
    pub title: &'static str,
    /// Markdown below the header.
    pub body: &'static str,
}

macro_rules! pages {
    ($($stem:literal),* $(,)?) => {
        /// File stems and contents of every page.
        const SOURCES: &[(&str, &str)] = &[$(($stem, include_str!(concat!($stem, ".md")))),*];
    };
}

pages![
    "drv_baked_libs",
    "drv_build_link",
    "drv_empty_placeholder",
    "jit_cc",
    "jit_cxx",
    "jit_ldconfig",
    "jit_libc_dev",
    "jit_ptxas_missing",
    "jit_python_h",
    "lib_broken_link",
    "lib_corrupt",
    "lib_cpu_torch",
    "lib_cublaslt",
    "lib_cudnn_mix",
    "lib_cudnn_sub",
    "lib_cupti",
    "lib_cusparselt",
    "lib_dup_cuda",
    "lib_flash_abi",
    "lib_glibc",
    "lib_glibcxx",
    "lib_ldpath_shadow",
    "lib_missing",
    "lib_musl",
    "lib_nccl_mix",
    "lib_nvjitlink",
    "lib_nvrtc_builtins",
    "lib_nvrtc_dlopen_py",
    "lib_nvrtc_name",
    "lib_nvshmem_cufile",
    "lib_ort_cuda",
    "lib_permission",
    "lib_pyabi",
    "lib_rpath_target",
    "lib_symbol",
    "lib_sys_gl",
    "lib_sys_gomp",
    "lib_sys_ibverbs",
    "lib_sys_numa",
    "lib_te_cublas",
    "lib_te_cudnn",
    "lib_te_major",
    "lib_tgi_rootlib",
    "lib_torch_deps",
    "lib_version",
    "py_extension",
    "py_interpreter",
    "py_module_missing",
    "py_record",
    "ver_stub_34",
];

static PAGES: LazyLock<Vec<Page>> = LazyLock::new(|| {
    let mut pages: Vec<Page> = SOURCES.iter().filter_map(|(_, source)| parse(source)).collect();
    pages.sort_by_key(|p| p.id);
    pages
});

/// Every page, sorted by id.
pub fn all() -> &'static [Page] {
    &PAGES
}

/// The page of a finding id.
pub fn find(id: &str) -> Option<&'static Page> {
    PAGES.binary_search_by_key(&id, |p| p.id).ok().map(|i| &PAGES[i])
}

/// Severity of a finding id; an id without a page would be an error in this program, and counts as one.
pub fn severity(id: &str) -> Severity {
    find(id).map_or(Severity::Error, |p| p.severity)
}

fn parse(source: &'static str) -> Option<Page> {
    let rest = source.strip_prefix("---\n")?;
    let (header, body) = rest.split_once("\n---\n")?;
    let field = |name: &str| {
        header.lines().find_map(|l| Some(l.strip_prefix(name)?.strip_prefix(':')?.split(" #").next()?.trim()))
    };
    let severity = match field("severity")? {
        "error" => Severity::Error,
        "warning" => Severity::Warning,
        "note" => Severity::Note,
        _ => return None,
    };
    let tier = match field("tier")? {
        "S" => Tier::S,
        "C" => Tier::C,
        "R" => Tier::R,
        "D" => Tier::D,
        _ => return None,
    };
    let body = body.trim_start();
    let id = body.lines().next()?.strip_prefix("# ")?.trim();
    Some(Page { id, severity, tier, title: field("title")?, body })
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use super::*;

    #[test]
    fn every_page_on_disk_is_registered_and_well_formed() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/checks");
        let mut on_disk: Vec<String> = std::fs::read_dir(dir)
            .unwrap()
            .filter_map(|e| Some(e.unwrap().file_name().to_str()?.strip_suffix(".md")?.to_owned()))
            .collect();
        on_disk.sort();
        let mut registered: Vec<&str> = SOURCES.iter().map(|(stem, _)| *stem).collect();
        registered.sort_unstable();
        assert_eq!(on_disk, registered);
        for (stem, source) in SOURCES {
            let page = parse(source).unwrap_or_else(|| panic!("{stem}.md has no well-formed header"));
            assert_eq!(*stem, page.id.replace('-', "_"), "file stem and id differ");
            assert!(page.title.len() <= 70, "{stem}: the title is {} long", page.title.len());
            for section in [
                "## What is wrong",
                "## What you see",
                "## How mldoctor knows",
                "## Fix",
                "## When it is not a problem",
            ] {
                assert!(page.body.contains(section), "{stem}.md lacks the section {section:?}");
            }
            let fix = page.body.split("## Fix").nth(1).unwrap().split("\n## ").next().unwrap();
            assert!(fix.contains("```"), "{stem}.md: the fix shows no line to copy");
            for line in source.lines() {
                assert!(line.chars().count() <= 100, "{stem}.md: line too long: {line}");
            }
        }
    }
}
