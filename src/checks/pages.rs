//! The page behind each finding id: what `mldoctor explain ID` prints and `mldoctor list` lists.
//!
//! A finding is only as useful as its explanation, so there is one Markdown file per id, written for somebody who sees
//! the message for the first time. The files are embedded; their header is the one place that holds the severity, the
//! tier and the title of a finding, and the tests hold all of them to the same form.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

/// How much a finding matters when a required capability depends on what it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The capability does not work.
    Error,
    /// It works, but something is wrong that will break it or costs a lot.
    Warning,
    /// Worth knowing.
    Note,
}

/// The earliest point at which a finding can be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Tier {
    /// From the image alone: its files and its environment.
    S,
    /// In the running container, without a call to the driver.
    C,
    /// From calls to the driver that create no context.
    R,
    /// From a context, a kernel or a real compilation.
    D,
}

/// One finding id and its explanation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Page {
    /// The finding id, `lib-nvjitlink`.
    pub id: &'static str,
    pub severity: Severity,
    pub tier: Tier,
    /// One line that says what is wrong.
    pub title: &'static str,
    /// The Markdown text after the header.
    #[serde(skip)]
    pub body: &'static str,
}

/// All pages, sorted by id.
pub fn all() -> &'static [Page] {
    static PAGES: LazyLock<Vec<Page>> =
        LazyLock::new(|| SOURCES.iter().filter_map(|(_, text)| Page::parse(text)).collect());
    &PAGES
}

/// The page of a finding id.
pub fn find(id: &str) -> Option<&'static Page> {
    all().binary_search_by(|page| page.id.cmp(id)).ok().map(|at| &all()[at])
}

/// The severity of a finding id; an id without a page, which the tests exclude, counts as an error.
pub fn severity(id: &str) -> Severity {
    find(id).map_or(Severity::Error, |page| page.severity)
}

impl Page {
    /// Reads one page: a header between two lines `---`, then `# ` and the id. `None` for any other form, which the
    /// tests exclude.
    fn parse(text: &'static str) -> Option<Page> {
        let (header, body) = text.strip_prefix("---\n")?.split_once("\n---\n")?;
        let field = |name: &str| {
            header
                .lines()
                .find_map(|line| line.split_once(": ").filter(|(key, _)| *key == name))
                .map(|(_, value)| value)
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
        let id = body.strip_prefix("# ")?.lines().next()?;
        Some(Page { id, severity, tier, title: field("title")?, body })
    }
}

/// The file stems and the texts of the pages.
macro_rules! sources {
    ($($stem:literal,)*) => {
        const SOURCES: &[(&str, &str)] = &[$(($stem, include_str!(concat!($stem, ".md")))),*];
    };
}

// Sorted, which `find` relies on.
sources![
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const SECTIONS: [&str; 5] =
        ["## What is wrong", "## What you see", "## How mldoctor knows", "## Fix", "## When it is not a problem"];

    #[test]
    fn every_page_parses_and_is_named_after_its_id() {
        assert_eq!(all().len(), SOURCES.len());
        for ((stem, text), page) in SOURCES.iter().zip(all()) {
            assert_eq!(page.id.replace('-', "_"), *stem);
            let header: Vec<_> = text.lines().take(5).collect();
            let keys = ["---", "severity: ", "tier: ", "title: ", "---"];
            assert!(header.iter().zip(keys).all(|(line, key)| line.starts_with(key)), "{stem}: {header:?}");
        }
    }

    #[test]
    fn every_file_is_registered() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/checks");
        let files: BTreeSet<String> = std::fs::read_dir(folder)
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().to_str()?.strip_suffix(".md").map(str::to_owned))
            .collect();
        let registered: BTreeSet<String> = SOURCES.iter().map(|(stem, _)| (*stem).to_owned()).collect();
        assert_eq!(files, registered);
    }

    #[test]
    fn pages_are_sorted_and_found() {
        assert!(all().is_sorted_by(|a, b| a.id < b.id));
        for page in all() {
            assert_eq!(find(page.id), Some(page));
        }
        assert_eq!(find("lib-nvjitlink").map(|p| p.severity), Some(Severity::Error));
        assert_eq!(find("no-such-id"), None);
    }

    #[test]
    fn titles_are_one_short_sentence() {
        for page in all() {
            let title = page.title;
            assert!(
                title.chars().count() <= 70 && !title.ends_with('.') && title.trim() == title,
                "{}: {title}",
                page.id
            );
        }
    }

    #[test]
    fn every_page_has_its_sections_in_order() {
        for page in all() {
            let found: Vec<_> = page.body.lines().filter(|line| line.starts_with("## ")).collect();
            assert_eq!(found, SECTIONS, "{}", page.id);
            for pair in page.body.split("\n## ").skip(1) {
                assert!(pair.lines().skip(1).any(|line| !line.trim().is_empty()), "{}: an empty section", page.id);
            }
        }
    }

    #[test]
    fn every_page_shows_a_message_and_a_fix() {
        for page in all() {
            let section = |at: usize| page.body.split("\n## ").nth(at).unwrap();
            assert!(section(2).lines().any(|line| line.starts_with("    ")), "{}", page.id);
            assert!(section(4).contains("\n```"), "{}", page.id);
            assert_eq!(page.body.matches("\n```").count() % 2, 0, "{}: a fence is open", page.id);
        }
    }

    #[test]
    fn pages_fit_a_terminal() {
        for page in all() {
            for line in page.body.lines() {
                assert!(line.chars().count() <= 100, "{}: {line}", page.id);
                assert_eq!(line.trim_end(), line, "{}", page.id);
            }
            assert!(page.body.ends_with('\n') && !page.body.ends_with("\n\n"), "{}", page.id);
        }
    }
}
