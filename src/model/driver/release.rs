//! CUDA releases, the PTX that their compilers write, and the drivers that bring them (`releases.tsv`).

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use super::target::{Cuda, Isa};

/// Version of a driver, such as 535.104.05, or only the beginning of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Version(String);

impl Version {
    fn numbers(&self) -> impl Iterator<Item = u32> {
        self.0.split('.').map_while(|n| n.parse().ok())
    }

    /// The branch, such as 535.
    pub fn branch(&self) -> u32 {
        self.numbers().next().unwrap_or(0)
    }

    /// Whether it is `other` or later, as far as its own numbers tell: 535 is as good as any 535.
    pub fn reaches(&self, other: &Version) -> bool {
        let differs = self.numbers().zip(other.numbers()).find(|(own, wanted)| own != wanted);
        differs.is_none_or(|(own, wanted)| own > wanted)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split('.').map(|n| n.bytes().all(|b| b.is_ascii_digit()) && n.parse::<u32>().is_ok());
        match numbers.clone().all(|n| n) && numbers.count() <= 4 {
            true => Ok(Self(text.to_owned())),
            false => Err(format!("{text:?} is no version of a driver, such as 535.104.05")),
        }
    }
}

impl TryFrom<String> for Version {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Version> for String {
    fn from(version: Version) -> String {
        version.0
    }
}

/// One release of CUDA.
#[derive(Debug)]
pub struct Release {
    /// The release.
    pub cuda: Cuda,
    /// PTX that its compilers write.
    pub isa: Isa,
    /// The first driver that brings the release, where it is known.
    pub driver: Option<Version>,
    /// The oldest driver that runs its programs, without the PTX in them.
    pub minimum: Version,
    /// Whether more than one source says so.
    pub confirmed: bool,
}

/// Every release that is known, oldest first.
pub static RELEASES: LazyLock<Vec<Release>> = LazyLock::new(|| {
    super::rows(include_str!("releases.tsv"))
        .filter_map(|[cuda, isa, driver, minimum, source]| {
            Some(Release {
                cuda: cuda.parse().ok()?,
                isa: isa.parse().ok()?,
                driver: driver.parse().ok(),
                minimum: minimum.parse().ok()?,
                confirmed: !source.starts_with('?'),
            })
        })
        .collect()
});

impl Release {
    /// A release of CUDA.
    pub fn of(cuda: Cuda) -> Option<&'static Self> {
        RELEASES.iter().find(|r| r.cuda == cuda)
    }

    /// What a driver brings. `None` for a driver that is older or newer than what is known.
    pub fn of_driver(driver: &Version) -> Option<&'static Self> {
        let known = || RELEASES.iter().filter_map(|r| Some((r, r.driver.as_ref()?)));
        let newest = known().next_back().map_or(0, |(_, d)| d.branch());
        known().rfind(|(_, first)| driver.reaches(first)).map(|(r, _)| r).filter(|_| driver.branch() <= newest)
    }

    /// The first release whose driver compiles PTX of a version.
    pub fn of_ptx(isa: Isa) -> Option<&'static Self> {
        RELEASES.iter().find(|r| r.isa >= isa)
    }
}

/// The newest release that is known.
pub fn newest() -> &'static Release {
    RELEASES.last().expect("the table has rows")
}

/// The oldest driver that runs programs with the runtime of a release. From 11 on, that of the major release counts
/// ("Minor Version Compatibility" in NVIDIA's guide to CUDA compatibility).
pub fn minimum(runtime: Cuda) -> Option<&'static Version> {
    if runtime.major < 11 {
        return Release::of(runtime).map(|r| &r.minimum);
    }
    // Later minor releases say what the guarantee is; the first may have come with an older driver.
    RELEASES.iter().rfind(|r| r.cuda.major == runtime.major).map(|r| &r.minimum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        text.parse().unwrap()
    }

    #[test]
    fn releases_are_in_order() {
        assert!(RELEASES.len() > 30);
        for pair in RELEASES.windows(2) {
            assert!(pair[0].cuda < pair[1].cuda && pair[0].isa <= pair[1].isa, "{}", pair[1].cuda);
            assert!(pair[1].minimum.reaches(&pair[0].minimum), "{}", pair[1].cuda);
            if let (Some(before), Some(after)) = (&pair[0].driver, &pair[1].driver) {
                assert!(after.reaches(before) && after != before, "{}", pair[1].cuda);
            }
        }
        for release in RELEASES.iter() {
            assert!(release.driver.as_ref().is_none_or(|d| d.reaches(&release.minimum)), "{}", release.cuda);
        }
    }

    #[test]
    fn what_a_driver_brings() {
        let brings = |driver: &str| Release::of_driver(&version(driver)).map(|r| r.cuda.to_string());
        assert_eq!(brings("535.104.05").as_deref(), Some("12.2"));
        assert_eq!(brings("535").as_deref(), Some("12.2"));
        assert_eq!(brings("470.256.02").as_deref(), Some("11.4"));
        assert_eq!(brings("550.163.01").as_deref(), Some("12.4"));
        assert_eq!(brings("565.57.01").as_deref(), Some("12.7"));
        assert_eq!(brings("580.95.05").as_deref(), Some("13.0"));
        assert_eq!(brings("615.71.09"), None, "newer than the table");
        assert_eq!(brings("340.108"), None, "older than the table");
    }

    #[test]
    fn ptx_and_minima() {
        let first = |isa: &str| Release::of_ptx(isa.parse().unwrap()).map(|r| r.cuda.to_string());
        assert_eq!(first("8.4").as_deref(), Some("12.4"));
        assert_eq!(first("8.5").as_deref(), Some("12.5"));
        assert_eq!(first("99.0"), None);
        assert_eq!(minimum(Cuda { major: 11, minor: 0 }).map(Version::to_string).as_deref(), Some("450.80.02"));
        assert_eq!(minimum(Cuda { major: 12, minor: 0 }).map(Version::to_string).as_deref(), Some("525.60.13"));
        assert_eq!(minimum(Cuda { major: 13, minor: 0 }).map(Version::to_string).as_deref(), Some("580.65.06"));
        assert_eq!(minimum(Cuda { major: 10, minor: 0 }).map(Version::to_string).as_deref(), Some("410.48"));
        assert!(minimum(Cuda { major: 7, minor: 0 }).is_none());
    }

    #[test]
    fn versions() {
        assert!(version("535.104.05").reaches(&version("535.54.03")));
        assert!(!version("535.54.03").reaches(&version("535.104.05")));
        assert!(version("580").reaches(&version("580.65.06")));
        assert!(!version("525.60.2").reaches(&version("525.60.13")));
        for text in ["", "535.", "r535", "535.104.05-1", "1.2.3.4.5"] {
            assert!(text.parse::<Version>().is_err(), "{text}");
        }
    }
}
