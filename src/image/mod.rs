//! What is in the file system of the image.

pub mod archive;
pub mod elf;
mod map;
pub mod packages;
pub mod programs;
pub mod rootfs;
mod tar;
pub mod user;

pub use map::Mapping;
pub use rootfs::{DirEntry, EntryKind, FileError, FileId, Opened, Rootfs, Stamp, Stat};
pub use user::Credentials;
