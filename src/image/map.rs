//! The one module that maps files, and so the one module of the doctor with `unsafe` in it.
//!
//! CUDA libraries are gigabytes; only the pages with headers and symbol tables are ever touched.

#![allow(unsafe_code)]

use std::fs::File;
use std::ops::Deref;
use std::os::fd::OwnedFd;

/// A file mapped read-only and shared. Dereferences to its bytes.
#[derive(Debug)]
pub struct Mapping(Option<memmap2::Mmap>);

impl Mapping {
    /// Maps `size` bytes of the regular file `fd`.
    ///
    /// # Errors
    /// As `mmap(2)`.
    pub(crate) fn new(fd: OwnedFd, size: u64) -> std::io::Result<Self> {
        if size == 0 {
            return Ok(Self(None));
        }
        let file = File::from(fd);
        let len = usize::try_from(size).map_err(|_| std::io::ErrorKind::FileTooLarge)?;
        // SAFETY: the mapping is read-only and is treated as untrusted bytes everywhere: no reference into it outlives
        // it and no invariant is derived from its content. A file that another process shortens while it is mapped
        // raises SIGBUS on access to the lost pages; images are not rewritten while they are examined.
        let map = unsafe { memmap2::MmapOptions::new().len(len).map(&file) }?;
        Ok(Self(Some(map)))
    }
}

impl Deref for Mapping {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or(&[])
    }
}
