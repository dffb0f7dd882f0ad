//! What is in the file system of the image.

mod map;
pub mod rootfs;

pub use map::Mapping;
pub use rootfs::{DirEntry, EntryKind, FileError, FileId, Rootfs, Stat};
