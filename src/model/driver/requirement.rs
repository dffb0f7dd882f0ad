//! Conditions such as `cuda>=12.4 brand=tesla,driver>=470,driver<471` that NVIDIA's container runtime tests before it
//! starts a container (`internal/requirements` in nvidia-container-toolkit).

use super::{ComputeCapability, Cuda, Version};

/// What a condition may be about. The brand, which the driver alone tells, is never known.
#[derive(Debug, Clone, Copy, Default)]
pub struct Properties<'v> {
    /// `driver`
    pub driver: Option<&'v Version>,
    /// `cuda`: the release that the driver brings.
    pub cuda: Option<Cuda>,
    /// `arch`: that of the GPU.
    pub arch: Option<ComputeCapability>,
}

/// Whether the properties satisfy a requirement: one of its terms, with all conditions of that. `None` where it depends
/// on something that is not known, or is no requirement.
pub fn satisfies(requirement: &str, properties: Properties<'_>) -> Option<bool> {
    let terms = requirement.split_ascii_whitespace().map(|term| {
        let conditions = term.split(',').map(|c| holds(c, properties)).collect::<Vec<_>>();
        match conditions.contains(&Some(false)) {
            true => Some(false),
            false => conditions.into_iter().collect::<Option<Vec<_>>>().map(|_| true),
        }
    });
    let terms: Vec<Option<bool>> = terms.collect();
    match terms.contains(&Some(true)) {
        true => Some(true),
        false => Some(false).filter(|_| !terms.is_empty() && !terms.contains(&None)),
    }
}

fn holds(condition: &str, properties: Properties<'_>) -> Option<bool> {
    let at = condition.find(['<', '>', '=', '!'])?;
    let (property, rest) = condition.split_at(at);
    let end = rest.find(|c| !matches!(c, '<' | '>' | '=' | '!'))?;
    let (operator, value) = rest.split_at(end);
    let numbers = |text: &str| text.split('.').map(|n| n.parse().ok()).collect::<Option<Vec<u32>>>();
    let mut own = match property {
        "driver" => numbers(&properties.driver?.to_string())?,
        "cuda" => numbers(&properties.cuda?.to_string())?,
        "arch" => numbers(&properties.arch?.to_string())?,
        _ => return None,
    };
    let mut wanted = numbers(value)?;
    // What is not written is zero.
    let length = own.len().max(wanted.len());
    own.resize(length, 0);
    wanted.resize(length, 0);
    Some(match operator {
        "=" => own == wanted,
        "!=" => own != wanted,
        "<" => own < wanted,
        "<=" => own <= wanted,
        ">" => own > wanted,
        ">=" => own >= wanted,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the image `nvidia/cuda:12.4.1-base`, shortened.
    const CUDA_12_4: &str = "cuda>=12.4 brand=tesla,driver>=470,driver<471 brand=unknown,driver>=535,driver<536";

    fn with(driver: &str, cuda: &str, requirement: &str) -> Option<bool> {
        let (driver, cuda) = (driver.parse::<Version>().ok(), cuda.parse().ok());
        satisfies(requirement, Properties { driver: driver.as_ref(), cuda, arch: Some(ComputeCapability::from_sm(89)) })
    }

    #[test]
    fn of_one_term_all_and_of_all_terms_one() {
        assert_eq!(with("550.54.14", "12.4", CUDA_12_4), Some(true));
        assert_eq!(with("545.23.06", "12.3", CUDA_12_4), Some(false));
        assert_eq!(with("535.104.05", "12.2", CUDA_12_4), None, "it depends on the brand");
        assert_eq!(with("550.54.14", "12.4", "driver>=535,cuda>=12.5"), Some(false));
        assert_eq!(with("550.54.14", "12.4", "driver>=535,cuda>=12.4,arch>=7.5"), Some(true));
    }

    #[test]
    fn operators() {
        for (requirement, expected) in [
            ("driver=550", false),
            ("driver!=550", true),
            ("driver>550", true),
            ("driver<=550.54.14", true),
            ("driver<550.54.14", false),
            ("cuda=12.4.0", true),
        ] {
            assert_eq!(with("550.54.14", "12.4", requirement), Some(expected), "{requirement}");
        }
        for requirement in ["", "cuda", "cuda>=", "cuda=>12", "cuda>=x", "colour=red"] {
            assert_eq!(with("550.54.14", "12.4", requirement), None, "{requirement}");
        }
        assert_eq!(with("", "", "cuda>=12.4"), None);
    }
}
