//! GPUs by name: the products of each compute capability (`capabilities.tsv`, `products.tsv`).

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use super::target::{ComputeCapability, Cuda, Target};

/// One compute capability.
#[derive(Debug)]
pub struct Capability {
    /// The number.
    pub cc: ComputeCapability,
    /// First release of CUDA that knows it, where that is confirmed.
    pub first: Option<Cuda>,
    /// Last release of CUDA that knows it, where there is one.
    pub last: Option<Cuda>,
    /// An integrated GPU.
    pub is_tegra: bool,
    /// The product that stands for it among current ones.
    pub shown: Option<&'static str>,
}

/// Every compute capability that is known, in order.
pub static CAPABILITIES: LazyLock<Vec<Capability>> = LazyLock::new(|| {
    super::rows(include_str!("capabilities.tsv"))
        .filter_map(|[sm, _, first, last, kind, shown, source]| {
            Some(Capability {
                cc: ComputeCapability::from_sm(sm.parse().ok()?),
                first: first.parse().ok().filter(|_| source != "?"),
                last: last.parse().ok(),
                is_tegra: kind == "tegra",
                shown: Some(shown).filter(|s| *s != "-"),
            })
        })
        .collect()
});

impl Capability {
    /// What is known of one.
    pub fn of(cc: ComputeCapability) -> Option<&'static Self> {
        CAPABILITIES.iter().find(|c| c.cc == cc)
    }
}

/// What a GPU is sold for, which decides whether `cuda-compat` may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Servers.
    Datacenter,
    /// Workstations.
    Workstation,
    /// Games.
    Geforce,
    /// Jetson and other boards with an integrated GPU.
    Tegra,
}

/// A GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// Its name.
    pub name: String,
    /// Its compute capability.
    pub cc: ComputeCapability,
}

/// A name that no product has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no GPU is known as {name:?}; near it: {}, or a compute capability such as sm_90 or 9.0", near.join(", "))]
pub struct UnknownGpu {
    name: String,
    near: Vec<&'static str>,
}

/// A row of `products.tsv`, taken apart.
pub(super) struct Product {
    pub(super) name: &'static str,
    pub(super) cc: ComputeCapability,
    pub(super) class: Class,
    key: String,
}

pub(super) static PRODUCTS: LazyLock<Vec<Product>> = LazyLock::new(|| {
    let rows = super::rows(include_str!("products.tsv"));
    let products = rows.filter_map(|[cc, class, names]| {
        let cc = cc.parse().ok()?;
        let class = match class {
            "datacenter" => Class::Datacenter,
            "workstation" => Class::Workstation,
            "geforce" => Class::Geforce,
            _ => Class::Tegra,
        };
        Some(names.split(", ").map(move |name| Product { name, cc, class, key: key(name) }))
    });
    products.flatten().collect()
});

/// What may follow the name of a product and does not change its compute capability.
const SUFFIXES: &[&str] = &[
    "blackwell",
    "edition",
    "generation",
    "gpu",
    "hbm2e",
    "hbm2",
    "hbm3e",
    "hbm3",
    "laptop",
    "maxqdesign",
    "maxq",
    "mig",
    "mobile",
    "nvgpu",
    "nvl",
    "pcie",
    "server",
    "super",
    "sxm2",
    "sxm3",
    "sxm4",
    "sxm5",
    "sxm6",
    "sxm",
    "ti",
    "with",
    "workstation",
];

/// Small letters and digits of a name, without the words for the brand.
fn key(name: &str) -> String {
    let words = name.split(|c: char| !c.is_ascii_alphanumeric()).map(str::to_ascii_lowercase);
    words.filter(|w| !matches!(w.as_str(), "nvidia" | "tesla" | "geforce")).collect()
}

/// Whether `rest` says no more than memory, form and cooling, such as `sxm480gbmig1g10gb`.
fn is_suffix(rest: &str) -> bool {
    if rest.is_empty() {
        return true;
    }
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let memory = rest[digits..].strip_prefix("gb").or_else(|| rest[digits..].strip_prefix('g')).filter(|_| digits > 0);
    memory.is_some_and(is_suffix) || SUFFIXES.iter().any(|s| rest.strip_prefix(s).is_some_and(is_suffix))
}

/// The product of a name.
fn product(name: &str) -> Option<&'static Product> {
    let key = key(name);
    let fits = PRODUCTS.iter().filter(|p| key.strip_prefix(p.key.as_str()).is_some_and(is_suffix));
    fits.max_by_key(|p| p.key.len())
}

impl Gpu {
    /// `L4`, `NVIDIA H100 80GB HBM3`, `sm_90` or `9.0`.
    ///
    /// # Errors
    /// No such product or compute capability is known.
    pub fn parse(text: &str) -> Result<Self, UnknownGpu> {
        let text = text.trim();
        let target = text.strip_prefix("sm_").and_then(|t| t.parse::<Target>().ok()).map(|t| t.cc);
        let cc = target.or_else(|| text.parse().ok()).filter(|cc| Capability::of(*cc).is_some());
        if let Some(cc) = cc {
            return Ok(Self { name: format!("sm_{}", cc.sm()), cc });
        }
        match product(text) {
            Some(product) => Ok(Self { name: text.to_owned(), cc: product.cc }),
            None => Err(UnknownGpu { name: text.to_owned(), near: near(text) }),
        }
    }

    /// What it is sold for, if the name tells.
    pub fn class(&self) -> Option<Class> {
        product(&self.name).map(|p| p.class)
    }

    /// Name and target: `B200 (sm_100)`.
    pub fn describe(&self) -> String {
        let target = format!("sm_{}", self.cc.sm());
        if self.name == target { target } else { format!("{} ({target})", self.name) }
    }
}

/// The products whose names are most like one.
fn near(name: &str) -> Vec<&'static str> {
    let wanted = key(name);
    let alike = |p: &Product| {
        let start = p.key.bytes().zip(wanted.bytes()).take_while(|(a, b)| a == b).count();
        let inside = !wanted.is_empty() && (p.key.contains(&wanted) || wanted.contains(&p.key));
        // The newer of two is the likelier.
        (start + if inside { wanted.len().min(p.key.len()) } else { 0 }, p.cc)
    };
    let mut found: Vec<&'static str> = Vec::new();
    while found.len() < 3 {
        let rest = PRODUCTS.iter().filter(|p| !found.contains(&p.name));
        found.extend(rest.max_by_key(|p| alike(p)).map(|p| p.name));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sm(name: &str) -> Option<u32> {
        Gpu::parse(name).ok().map(|g| g.cc.sm())
    }

    #[test]
    fn names_that_nvml_reports() {
        for (name, expected) in [
            ("NVIDIA H100 80GB HBM3", 90),
            ("NVIDIA H100 PCIe", 90),
            ("NVIDIA H100 NVL", 90),
            ("NVIDIA GH200 480GB", 90),
            ("NVIDIA A100-SXM4-40GB", 80),
            ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", 80),
            ("NVIDIA A10", 86),
            ("NVIDIA A10G", 86),
            ("Tesla T4", 75),
            ("Tesla V100-SXM2-16GB", 70),
            ("Tesla P100-PCIE-16GB", 60),
            ("NVIDIA L4", 89),
            ("NVIDIA L40S", 89),
            ("NVIDIA B200", 100),
            ("NVIDIA B300 SXM6", 103),
            ("NVIDIA GeForce RTX 4090", 89),
            ("NVIDIA GeForce RTX 3080 Ti Laptop GPU", 86),
            ("NVIDIA GeForce RTX 4070 Ti SUPER", 89),
            ("NVIDIA GeForce GTX 1080 with Max-Q Design", 61),
            ("NVIDIA RTX 6000 Ada Generation", 89),
            ("NVIDIA RTX A6000", 86),
            ("Quadro RTX 6000", 75),
            ("NVIDIA RTX PRO 6000 Blackwell Server Edition", 120),
            ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", 120),
            ("NVIDIA TITAN X (Pascal)", 61),
            ("Orin (nvgpu)", 87),
            ("NVIDIA Thor", 110),
            ("NVIDIA GB10", 121),
        ] {
            assert_eq!(sm(name), Some(expected), "{name}");
        }
    }

    #[test]
    fn names_that_people_type() {
        for (name, expected) in
            [("l4", 89), ("rtx4090", 89), ("RTX-5090", 120), (" a10g ", 86), ("sm_90a", 90), ("9.0", 90), ("12.1", 121)]
        {
            assert_eq!(sm(name), Some(expected), "{name}");
        }
        for name in ["", "H10", "RTX 6000", "L400", "sm_95", "9", "NVIDIA", "RX 7900", "A10X", "40GB"] {
            assert_eq!(sm(name), None, "{name}");
        }
        let error = Gpu::parse("H10").unwrap_err().to_string();
        assert!(error.contains("H100") && error.contains("sm_90"), "{error}");
    }

    #[test]
    fn no_name_is_there_twice() {
        let mut keys: Vec<&str> = PRODUCTS.iter().map(|p| p.key.as_str()).collect();
        let all = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), all);
        assert!(PRODUCTS.iter().all(|p| !p.key.is_empty() && product(p.name).is_some_and(|q| q.name == p.name)));
    }
}
