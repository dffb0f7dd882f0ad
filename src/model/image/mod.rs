//! What is in the file system of the image.

pub mod archive;
pub mod elf;
pub mod fatbin;
mod map;
pub mod packages;
pub mod programs;
pub mod rootfs;
pub mod rpmdb;
pub mod sections;
mod tar;
pub mod tree;
pub mod user;

pub use archive::Layers;
pub use map::Mapping;
pub use rootfs::{DirEntry, EntryKind, FileError, FileId, Opened, Rootfs, Stamp, Stat};
pub use tree::Tree;
pub use user::Credentials;
