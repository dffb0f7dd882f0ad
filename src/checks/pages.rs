//! The page behind each finding id: what `mldoctor explain ID` prints and `mldoctor list` lists.
//!
//! A finding is only as useful as its explanation, so there is one Markdown file per id, written for somebody who sees
//! the message for the first time. A new file needs no entry anywhere: `build.rs` embeds all of them. Their header is the
//! one place that holds the severity, the tier and the title of a finding, and the tests hold them to the same form.

use serde::{Deserialize, Serialize};

use crate::embedded;
use crate::suggestion::nearest;

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
    /// How much it matters.
    pub severity: Severity,
    /// When it can be known.
    pub tier: Tier,
    /// One line that says what is wrong.
    pub title: &'static str,
}

/// From the headers of `*.md`, sorted by id (`build.rs`).
static PAGES: &[Page] = include!(concat!(env!("OUT_DIR"), "/pages.rs"));

/// All pages, sorted by id.
pub fn all() -> &'static [Page] {
    PAGES
}

/// The page of an id that somebody typed.
///
/// # Errors
/// There is no such id.
pub fn get(id: &str) -> Result<&'static Page, String> {
    find(id).ok_or_else(|| {
        let near = nearest(id, PAGES.iter().map(|page| page.id));
        format!("no finding id {id}{}", if near.is_empty() { "; mldoctor list shows them" } else { &near })
    })
}

/// The page of a finding id.
pub fn find(id: &str) -> Option<&'static Page> {
    PAGES.binary_search_by(|page| page.id.cmp(id)).ok().map(|at| &PAGES[at])
}

/// The severity of a finding id; an id without a page, which the tests exclude, counts as an error.
pub fn severity(id: &str) -> Severity {
    find(id).map_or(Severity::Error, |page| page.severity)
}

impl Page {
    /// The Markdown text after the header.
    pub fn body(&self) -> String {
        let texts = embedded::unpack(include_bytes!(concat!(env!("OUT_DIR"), "/pages")));
        let at = PAGES.iter().position(|page| page.id == self.id).unwrap_or(usize::MAX);
        let text = texts.split(|b| *b == 0).nth(at).unwrap_or_default();
        String::from_utf8_lossy(text).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECTIONS: [&str; 5] =
        ["## What is wrong", "## What you see", "## How mldoctor knows", "## Fix", "## When it is not a problem"];

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
            let body = page.body();
            let found: Vec<_> = body.lines().filter(|line| line.starts_with("## ")).collect();
            assert_eq!(found, SECTIONS, "{}", page.id);
            for pair in page.body().split("\n## ").skip(1) {
                assert!(pair.lines().skip(1).any(|line| !line.trim().is_empty()), "{}: an empty section", page.id);
            }
        }
    }

    #[test]
    fn every_page_shows_a_message_and_a_fix() {
        for page in all() {
            let body = page.body();
            let section = |at: usize| body.split("\n## ").nth(at).unwrap();
            assert!(section(2).lines().any(|line| line.starts_with("    ")), "{}", page.id);
            assert!(section(4).contains("\n```"), "{}", page.id);
            assert_eq!(page.body().matches("\n```").count() % 2, 0, "{}: a fence is open", page.id);
        }
    }

    #[test]
    fn pages_fit_a_terminal() {
        for page in all() {
            for line in page.body().lines() {
                assert!(line.chars().count() <= 100, "{}: {line}", page.id);
                assert_eq!(line.trim_end(), line, "{}", page.id);
            }
            assert!(page.body().ends_with('\n') && !page.body().ends_with("\n\n"), "{}", page.id);
        }
    }
}
