//! bitsandbytes brings one library for each release of CUDA, and loads the one that suits torch
//! (`get_cuda_bnb_library_path` in `bitsandbytes/cextension.py`).

use super::release;

/// Since when another release of the same CUDA will do.
const ANY_OF_MAJOR: &[u32] = &[0, 50];

/// The digits in the name of the library, `124` in `libbitsandbytes_cuda124.so`, that `installed` loads with a torch for
/// `cuda`. `forced` is `BNB_CUDA_VERSION`, `packaged` the digits of the libraries that are there. Without a suitable one
/// the digits of one that is not there.
pub fn library(installed: &str, cuda: &str, forced: Option<&str>, packaged: &[String]) -> String {
    if let Some(forced) = forced {
        return forced.to_owned();
    }
    let wanted = release(cuda).into_iter().take(2).map(|n| n.to_string()).collect::<String>();
    let Some(own) = split(&wanted) else { return wanted };
    if *release(installed) < *ANY_OF_MAJOR || packaged.contains(&wanted) {
        return wanted;
    }
    let of_major = || packaged.iter().filter_map(|p| Some((split(p)?, p))).filter(|((major, _), _)| *major == own.0);
    let older = of_major().filter(|(v, _)| *v < own).max();
    let found = older.or_else(|| of_major().min());
    found.map_or(wanted, |(_, digits)| digits.clone())
}

/// The major release has two digits.
fn split(digits: &str) -> Option<(u32, u32)> {
    let (major, minor) = digits.split_at_checked(2)?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_for_a_release_of_cuda() {
        let packaged = ["118", "121", "124", "128", "130"].map(str::to_owned);
        let library = |installed, cuda, forced| library(installed, cuda, forced, &packaged);
        assert_eq!(library("0.50.2", "12.4", None), "124");
        assert_eq!(library("0.50.2", "12.6", None), "124");
        assert_eq!(library("0.50.2", "12.0", None), "121");
        assert_eq!(library("0.50.2", "14.0", None), "140");
        assert_eq!(library("0.50.2", "12.4", Some("118")), "118");
        assert_eq!(library("0.49.2", "12.6", None), "126");
    }
}
