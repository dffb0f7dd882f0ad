//! Targets that device code is compiled for, and the GPUs that run it.
//!
//! The rules are those of the CUDA C++ Programming Guide ("Binary Compatibility", "PTX Compatibility", "Family-Specific
//! Features"); those for PTX are what `ptxas` 13.5 accepts for each pair of a `.target` and an architecture, those for
//! Tegra are what `torch/cuda/__init__.py` (`DEVICE_REQUIREMENT`) tests.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Capability;

/// Version of the features of a GPU, such as 9.0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ComputeCapability {
    /// Before the dot.
    pub major: u32,
    /// After it, one digit.
    pub minor: u32,
}

impl ComputeCapability {
    /// From the number in `sm_90`.
    pub const fn from_sm(sm: u32) -> Self {
        Self { major: sm / 10, minor: sm % 10 }
    }

    /// The number in `sm_90`.
    pub const fn sm(self) -> u32 {
        self.major.saturating_mul(10).saturating_add(self.minor)
    }

    /// An integrated GPU, for which code of the other GPUs is not made.
    pub fn is_tegra(self) -> bool {
        Capability::of(self).is_some_and(|c| c.is_tegra)
    }

    /// The same GPU: 10.1 was renamed to 11.0 by CUDA 13.0.
    fn is(self, other: Self) -> bool {
        let renamed = |c: Self| if c.sm() == 101 { 110 } else { c.sm() };
        renamed(self) == renamed(other)
    }
}

impl fmt::Display for ComputeCapability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for ComputeCapability {
    type Err = String;

    /// `9.0`
    fn from_str(text: &str) -> Result<Self, String> {
        let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit()).then(|| t.parse().ok()).flatten();
        let (major, minor) = text.split_once('.').unwrap_or_default();
        match (digits(major), digits(minor)) {
            (Some(major @ 0..1000), Some(minor @ 0..10)) => Ok(Self { major, minor }),
            _ => Err(format!("{text:?} is no compute capability, such as 9.0")),
        }
    }
}

/// What code is compiled for, such as `sm_90a` or `compute_90`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// The number.
    pub cc: ComputeCapability,
    /// The letter after it.
    pub variant: Variant,
}

/// How far code for one compute capability carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Variant {
    /// No letter.
    Plain,
    /// `a`: this compute capability alone.
    Architecture,
    /// `f`: its family.
    Family,
}

/// The first release of CUDA whose code for desktop GPUs is also that of Tegra, as `torch/cuda/__init__.py` has it.
const UNIFIED: Cuda = Cuda { major: 13, minor: 2 };

impl Target {
    /// Whether machine code for it runs on a GPU. `cuda` is the release that made the code, where that is known.
    pub fn runs_on(self, gpu: ComputeCapability, cuda: Option<Cuda>) -> bool {
        let newer = self.cc.major == gpu.major && self.cc.minor <= gpu.minor;
        match self.variant {
            Variant::Architecture => self.cc.is(gpu),
            Variant::Family => self.cc.is(gpu) || newer,
            Variant::Plain if self.cc.is_tegra() => self.cc.is(gpu),
            Variant::Plain if gpu.is_tegra() => newer && cuda.is_some_and(|c| c >= UNIFIED),
            Variant::Plain => newer,
        }
    }

    /// Whether the driver can compile PTX for it for a GPU.
    pub fn compiles_for(self, gpu: ComputeCapability) -> bool {
        match self.variant {
            Variant::Plain => self.cc <= gpu,
            Variant::Architecture => self.cc.is(gpu),
            Variant::Family => self.cc.major == gpu.major && self.cc.minor <= gpu.minor,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = match self.variant {
            Variant::Plain => "",
            Variant::Architecture => "a",
            Variant::Family => "f",
        };
        write!(f, "{}{letter}", self.cc.sm())
    }
}

impl FromStr for Target {
    type Err = String;

    /// `90a`
    fn from_str(text: &str) -> Result<Self, String> {
        let (number, variant) = if let Some(number) = text.strip_suffix('a') {
            (number, Variant::Architecture)
        } else if let Some(number) = text.strip_suffix('f') {
            (number, Variant::Family)
        } else {
            (text, Variant::Plain)
        };
        match number.parse::<u32>() {
            Ok(sm @ 10..10_000) => Ok(Self { cc: ComputeCapability::from_sm(sm), variant }),
            _ => Err(format!("{text:?} is no target, such as 90a")),
        }
    }
}

/// Two numbers with a dot between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MajorMinor {
    /// Before the dot.
    pub major: u32,
    /// After it.
    pub minor: u32,
}

/// Version of the PTX language (`.version`).
pub type Isa = MajorMinor;
/// Release of CUDA.
pub type Cuda = MajorMinor;

impl fmt::Display for MajorMinor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for MajorMinor {
    type Err = String;

    /// `8.4`; what follows a second dot is left out.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split('.').map(|p| p.parse().ok());
        match (parts.next().flatten(), parts.next().flatten()) {
            (Some(major), Some(minor)) => Ok(Self { major, minor }),
            _ => Err(format!("{text:?} is no version, such as 8.4")),
        }
    }
}

/// One kind of device code: `sm_90a`, or `ptx 8.4 compute_90`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Code {
    /// Machine code (SASS, a cubin).
    Sass(Target),
    /// PTX, which the driver compiles when it is first used.
    Ptx(Target, Isa),
}

impl Code {
    /// What it is compiled for.
    pub fn target(self) -> Target {
        match self {
            Self::Sass(target) | Self::Ptx(target, _) => target,
        }
    }

    /// The version of its language, if it is PTX.
    pub fn isa(self) -> Option<Isa> {
        match self {
            Self::Sass(_) => None,
            Self::Ptx(_, isa) => Some(isa),
        }
    }

    /// The name that compilers have for the target: `sm_90a`, `compute_90`.
    pub fn target_name(self) -> String {
        match self {
            Self::Sass(target) => format!("sm_{target}"),
            Self::Ptx(target, _) => format!("compute_{target}"),
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sass(_) => f.write_str(&self.target_name()),
            Self::Ptx(_, isa) => write!(f, "ptx {isa} {}", self.target_name()),
        }
    }
}

impl FromStr for Code {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(target) = text.strip_prefix("sm_") {
            return Ok(Self::Sass(target.parse()?));
        }
        let parts = text.strip_prefix("ptx ").and_then(|t| t.split_once(" compute_"));
        let (isa, target) = parts.ok_or_else(|| format!("{text:?} is no code, such as sm_90 or ptx 8.4 compute_90"))?;
        Ok(Self::Ptx(target.parse()?, isa.parse()?))
    }
}

/// Facts hold these as the text that people read.
macro_rules! as_text {
    ($type:ty) => {
        impl TryFrom<String> for $type {
            type Error = String;
            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        }
        impl From<$type> for String {
            fn from(value: $type) -> String {
                value.to_string()
            }
        }
    };
}
as_text!(ComputeCapability);
as_text!(MajorMinor);
as_text!(Code);

#[cfg(test)]
mod tests {
    use super::*;

    fn gpus(sm: &[u32], runs: impl Fn(ComputeCapability) -> bool) -> Vec<u32> {
        sm.iter().copied().filter(|sm| runs(ComputeCapability::from_sm(*sm))).collect()
    }

    const ALL: &[u32] = &[53, 61, 70, 72, 75, 80, 86, 87, 89, 90, 100, 103, 110, 120, 121];

    #[test]
    fn machine_code() {
        let runs = |target: &str| {
            gpus(ALL, |g| target.parse::<Target>().unwrap().runs_on(g, Some(Cuda { major: 12, minor: 8 })))
        };
        assert_eq!(runs("80"), [80, 86, 89]);
        assert_eq!(runs("86"), [86, 89]);
        assert_eq!(runs("87"), [87]);
        assert_eq!(runs("90"), [90]);
        assert_eq!(runs("70"), [70, 75]);
        assert_eq!(runs("90a"), [90]);
        assert_eq!(runs("100"), [100, 103]);
        assert_eq!(runs("100a"), [100]);
        assert_eq!(runs("100f"), [100, 103]);
        assert_eq!(runs("120f"), [120, 121]);
        assert_eq!(runs("120"), [120, 121]);
        assert_eq!(runs("101"), [110]);
        assert_eq!(runs("101a"), [110]);
    }

    #[test]
    fn tegra_runs_the_code_of_desktop_gpus_since_13_2() {
        let target: Target = "80".parse().unwrap();
        let orin = ComputeCapability::from_sm(87);
        assert!(target.runs_on(orin, Some(UNIFIED)));
        assert!(!target.runs_on(orin, Some(Cuda { major: 13, minor: 1 })));
        assert!(!"87".parse::<Target>().unwrap().runs_on(ComputeCapability::from_sm(89), Some(UNIFIED)));
    }

    /// What `ptxas` 13.5 accepts.
    #[test]
    fn ptx() {
        let compiles = |target: &str| gpus(&ALL[4..], |g| target.parse::<Target>().unwrap().compiles_for(g));
        assert_eq!(compiles("80"), ALL[5..]);
        assert_eq!(compiles("103"), [103, 110, 120, 121]);
        assert_eq!(compiles("90a"), [90]);
        assert_eq!(compiles("100f"), [100, 103]);
        assert_eq!(compiles("103f"), [103]);
        assert_eq!(compiles("120f"), [120, 121]);
        assert_eq!(compiles("110f"), [110]);
    }

    #[test]
    fn code_is_told_as_it_is_read() {
        for text in ["sm_90a", "sm_100f", "ptx 8.4 compute_90", "ptx 9.0 compute_120f"] {
            assert_eq!(text.parse::<Code>().unwrap().to_string(), text);
        }
        for text in ["sm_", "sm_9", "90", "ptx 8 compute_90", "ptx 8.4 sm_90", "sm_90b", ""] {
            assert!(text.parse::<Code>().is_err(), "{text}");
        }
        assert_eq!("9.0".parse(), Ok(ComputeCapability::from_sm(90)));
        assert_eq!("12.1".parse(), Ok(ComputeCapability::from_sm(121)));
        for text in ["9", "9.", ".0", "9.10", "+9.0", "90a"] {
            assert!(text.parse::<ComputeCapability>().is_err(), "{text}");
        }
    }
}
