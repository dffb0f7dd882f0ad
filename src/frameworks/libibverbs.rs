//! libibverbs loads a library for each kind of InfiniBand adapter, once there is an adapter that no loaded one serves.
//!
//! `load_drivers` and `read_config_file` of rdma-core (`libibverbs/dynamic_driver.c`): files in `/etc/libibverbs.d` name the
//! drivers; each is opened in a directory that is compiled in, and then by its bare name. Both names end in the version of
//! the interface, `lib%s-rdmav34.so`, which must be that of libibverbs itself. Watched with 44.0 and an adapter made up in
//! `SYSFS_PATH`.

use std::path::PathBuf;

use crate::image::Rootfs;

/// Where drivers are named.
const CONFIG: &str = "/etc/libibverbs.d";
/// Largest file read there, in bytes.
const MAX_CONFIG: u64 = 64 * 1024;
/// Drivers taken into account; rdma-core has twenty.
const MAX_DRIVERS: usize = 100;
/// Longest path that is compiled in, in bytes.
const MAX_PATH: usize = 200;

/// The names under which the drivers of an image are opened by the libibverbs with these bytes, for each driver in turn.
pub fn names(rootfs: &Rootfs, libibverbs: &[u8]) -> Vec<Vec<String>> {
    let patterns = patterns(libibverbs);
    let files = rootfs.read_dir(CONFIG.as_ref()).unwrap_or_default();
    let paths = files.iter().map(|entry| PathBuf::from(CONFIG).join(&entry.name));
    let texts = paths.filter_map(|path| rootfs.read_text(&path, MAX_CONFIG).ok());
    let drivers: Vec<String> = texts.flat_map(|text| drivers(&text)).take(MAX_DRIVERS).collect();
    let names = |driver: &String| patterns.iter().map(|p| p.replace("%s", driver)).collect();
    drivers.iter().filter(|d| !d.starts_with('/')).map(names).collect()
}

/// `driver mlx5` on a line of its own.
fn drivers(config: &str) -> Vec<String> {
    let driver = |line: &str| {
        let mut words = line.split('#').next()?.split_whitespace();
        (words.next()? == "driver").then(|| words.next().map(str::to_owned)).flatten()
    };
    config.lines().filter_map(driver).collect()
}

/// The texts `…lib%s-rdmavN.so`, those with a directory first.
fn patterns(data: &[u8]) -> Vec<String> {
    let text = |at: usize| {
        let before = &data[at.saturating_sub(MAX_PATH)..at];
        let start = at - before.iter().rev().take_while(|b| b.is_ascii_graphic()).count();
        let length = data[start..].iter().take(2 * MAX_PATH).take_while(|b| b.is_ascii_graphic()).count();
        std::str::from_utf8(&data[start..start + length]).ok().filter(|t| t.ends_with(".so")).map(str::to_owned)
    };
    let mut patterns: Vec<String> = memchr::memmem::find_iter(data, "lib%s-rdmav").filter_map(text).collect();
    patterns.sort_by_key(|pattern| !pattern.starts_with('/'));
    patterns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_configuration_names() {
        let config = "# c\ndriver   irdma # x\n\nfoo bar\ndriver mlx5\ndriver\n";
        assert_eq!(drivers(config), ["irdma", "mlx5"]);
    }

    #[test]
    fn what_is_compiled_in() {
        let data = b"\0lib%s-rdmav34.so\0/usr/lib64/libibverbs/lib%s-rdmav34.so\0lib%s-rdmav";
        assert_eq!(patterns(data), ["/usr/lib64/libibverbs/lib%s-rdmav34.so", "lib%s-rdmav34.so"]);
    }
}
