//! The one module that maps files, with the `unsafe` that this takes.
//!
//! CUDA libraries are gigabytes; only the pages with headers and symbol tables are ever touched.

#![allow(unsafe_code)]

use std::fs::File;
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// A file, or a part of one, mapped read-only and shared. Dereferences to its bytes.
#[derive(Debug, Clone, Default)]
pub struct Mapping {
    map: Option<Arc<memmap2::Mmap>>,
    /// First byte of the part.
    start: usize,
    /// Bytes of the part.
    len: usize,
}

impl Mapping {
    /// Maps `size` bytes of the regular file `fd`.
    ///
    /// # Errors
    /// As `mmap(2)`.
    pub(crate) fn new(fd: OwnedFd, size: u64) -> std::io::Result<Self> {
        if size == 0 {
            return Ok(Self::default());
        }
        let file = File::from(fd);
        let len = usize::try_from(size).map_err(|_| std::io::ErrorKind::FileTooLarge)?;
        // SAFETY: the mapping is read-only and is treated as untrusted bytes everywhere: no reference into it outlives
        // it and no invariant is derived from its content. A file that another process shortens while it is mapped
        // raises SIGBUS on access to the lost pages; images are not rewritten while they are examined.
        let map = unsafe { memmap2::MmapOptions::new().len(len).map(&file) }?;
        Ok(Self { map: Some(Arc::new(map)), start: 0, len })
    }

    /// `size` bytes from `offset` on, if there are as many.
    pub(crate) fn part(&self, offset: u64, size: u64) -> Option<Self> {
        let (offset, len) = (usize::try_from(offset).ok()?, usize::try_from(size).ok()?);
        let is_within = offset.checked_add(len)? <= self.len;
        is_within.then(|| Self { map: self.map.clone(), start: self.start + offset, len })
    }
}

impl Deref for Mapping {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.map.as_deref().and_then(|map| map.get(self.start..self.start + self.len)).unwrap_or(&[])
    }
}
