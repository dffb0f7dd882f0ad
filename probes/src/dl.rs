//! Loaded libraries, and the functions in them.

use std::ffi::{CStr, CString};
use std::mem::ManuallyDrop;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_LOCAL, RTLD_NOW};
use mldoctor_probes::{CallError, Load, Mode};

/// A library that stays loaded: destructors of half-initialised ones crash.
pub struct Loaded {
    library: ManuallyDrop<Library>,
    /// `l_name` of its link map.
    pub path: String,
}

/// Loads a library; its initialisers run.
pub fn open(load: &Load) -> Result<Loaded, CallError> {
    let mode = match load.mode {
        Mode::Local => RTLD_LOCAL,
        Mode::Global => RTLD_GLOBAL,
    };
    // SAFETY: that initialisers may do anything is why this is a process of its own.
    let library = unsafe { Library::open(Some(&load.file), RTLD_NOW | mode) }.map_err(|e| message(&e))?;
    let handle = library.into_raw();
    let path = mapped_path(handle).unwrap_or_else(|| load.file.to_string_lossy().into_owned());
    // SAFETY: the handle is the one that was just given away.
    Ok(Loaded { library: ManuallyDrop::new(unsafe { Library::from_raw(handle) }), path })
}

impl Loaded {
    /// A function of the library.
    ///
    /// # Safety
    /// `T` must be the type of the function that has this name.
    pub unsafe fn function<T: Copy>(&self, name: &str) -> Result<T, CallError> {
        let name = CString::new(name).map_err(|e| CallError { code: None, name: e.to_string() })?;
        // SAFETY: as promised by the caller.
        let symbol = unsafe { self.library.get::<T>(name.as_bytes_with_nul()) }.map_err(|e| message(&e))?;
        Ok(*symbol)
    }
}

/// The text of `dlerror` without what the crate puts around it.
fn message(error: &libloading::Error) -> CallError {
    let text = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
    CallError { code: None, name: text }
}

/// The head of glibc's `struct link_map` (`<link.h>`).
#[repr(C)]
struct LinkMap {
    l_addr: usize,
    l_name: *const libc::c_char,
}

fn mapped_path(handle: *mut libc::c_void) -> Option<String> {
    let mut map: *const LinkMap = std::ptr::null();
    // SAFETY: the handle is open, and with RTLD_DI_LINKMAP dlinfo stores a pointer to its link map, which lives as
    // long as the library is loaded; its name is a C string.
    unsafe {
        if libc::dlinfo(handle, libc::RTLD_DI_LINKMAP, (&raw mut map).cast()) != 0 || map.is_null() {
            return None;
        }
        text((*map).l_name)
    }
}

/// Every object in the process, in the order of the link map.
pub fn mapped() -> Vec<String> {
    unsafe extern "C" fn add(info: *mut libc::dl_phdr_info, _size: usize, list: *mut libc::c_void) -> libc::c_int {
        // SAFETY: dl_iterate_phdr gives a valid entry, and passes on the list that it was called with.
        unsafe {
            if let Some(path) = text((*info).dlpi_name) {
                (*list.cast::<Vec<String>>()).push(path);
            }
        }
        0
    }
    let mut list: Vec<String> = Vec::new();
    // SAFETY: the callback only uses the list while it is called.
    unsafe { libc::dl_iterate_phdr(Some(add), (&raw mut list).cast()) };
    list.retain(|path| !path.is_empty());
    list
}

/// # Safety
/// Null, or a C string.
pub unsafe fn text(pointer: *const libc::c_char) -> Option<String> {
    // SAFETY: as promised by the caller.
    (!pointer.is_null()).then(|| unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned())
}
