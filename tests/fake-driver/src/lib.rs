//! One library that is `libcuda.so.1`, `libnvidia-ml.so.1` and some of the toolkit, with the functions that the probe
//! calls. What they
//! say, and whether they come back at all, stands in the JSON file that `FAKE_DRIVER` names.

#![allow(non_snake_case, missing_docs, clippy::missing_safety_doc)]

/// Functions of a driver's C interface that do what the scenario says, or else what stands here.
macro_rules! call {
    ($(fn $name:ident($($arg:ident: $type:ty),*) $body:block)*) => {$(
        #[unsafe(no_mangle)]
        #[allow(unused_unsafe, reason = "some do nothing dangerous")]
        pub unsafe extern "C" fn $name($($arg: $type),*) -> c_int {
            if let Some(code) = before(stringify!($name)) {
                return code;
            }
            // SAFETY: pointers are those of the caller.
            unsafe { $body }
            0
        }
    )*};
}

mod cuda;
mod library;
mod nvml;

use std::collections::BTreeMap;
use std::ffi::c_char;
use std::sync::LazyLock;
use std::time::Duration;

use serde::Deserialize;

/// What the driver is like.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scenario {
    pub driver: String,
    pub cuda: i32,
    pub gpus: Vec<Gpu>,
    /// How many of them CUDA sees; all, if it is not given.
    pub cuda_count: Option<i32>,
    /// What single calls do, by name, or by name and index: `nvmlDeviceGetName(1)`; and what `constructor` does, which
    /// runs when the library is loaded.
    pub calls: BTreeMap<String, Behaviour>,
}

/// One GPU.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gpu {
    pub name: String,
    pub uuid: String,
    pub cc: (i32, i32),
    pub memory_total: u64,
    pub memory_used: u64,
    pub mig: Option<Vec<String>>,
    pub mig_pending: bool,
    pub compute_mode: u32,
    pub uncorrected: u64,
    /// Correctable, uncorrectable, pending, failed.
    pub remapped_rows: [u32; 4],
    pub pages_pending: bool,
    pub recovery_action: u32,
    pub temperature: u32,
    pub clock_reasons: u64,
    pub persistence: bool,
    /// State and status.
    pub fabric: Option<(u8, u32)>,
    /// Whether its fabric spans nodes.
    pub clustered: bool,
    pub processes: Vec<(u32, u64)>,
    pub virtualization: u32,
    pub nvlinks: Vec<bool>,
}

impl Default for Gpu {
    fn default() -> Self {
        Self {
            name: "NVIDIA H100 80GB HBM3".into(),
            uuid: "GPU-00000000-0000-0000-0000-000000000000".into(),
            cc: (9, 0),
            memory_total: 80 << 30,
            memory_used: 1 << 30,
            mig: None,
            mig_pending: false,
            compute_mode: 0,
            uncorrected: 0,
            remapped_rows: [0; 4],
            pages_pending: false,
            recovery_action: 0,
            temperature: 40,
            clock_reasons: 1,
            persistence: true,
            fabric: None,
            clustered: false,
            processes: Vec::new(),
            virtualization: 0,
            nvlinks: Vec::new(),
        }
    }
}

/// What a call does instead of what it should.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Behaviour {
    /// It answers with this code.
    Code(i32),
    /// It never comes back.
    Hang,
    /// It kills the process.
    Crash,
    /// It ends the process with this status.
    Exit(i32),
    /// It takes so many milliseconds longer.
    Slow(u64),
    /// It prints so many megabytes on standard output.
    Print(usize),
    /// It takes so many megabytes of memory and writes to all of them.
    Take(usize),
    /// It starts a process that goes on for a minute, and holds all descriptors open.
    Fork,
}

static SCENARIO: LazyLock<Scenario> = LazyLock::new(|| {
    let file = std::env::var_os("FAKE_DRIVER").expect("FAKE_DRIVER names a scenario");
    serde_json::from_slice(&std::fs::read(file).expect("the scenario can be read")).expect("a scenario")
});

pub fn scenario() -> &'static Scenario {
    &SCENARIO
}

/// What a call is to do before, or instead of, what it should.
pub fn before(name: &str) -> Option<i32> {
    match scenario().calls.get(name)? {
        Behaviour::Code(code) => return Some(*code),
        Behaviour::Hang => loop {
            std::thread::sleep(Duration::from_secs(60));
        },
        // The first signal is answered by Rust, which waits for the instruction to fail again.
        // SAFETY: these end the process, or start another one that only sleeps.
        Behaviour::Crash => loop {
            unsafe { libc::raise(libc::SIGSEGV) };
        },
        Behaviour::Exit(status) => unsafe { libc::exit(*status) },
        Behaviour::Slow(milliseconds) => std::thread::sleep(Duration::from_millis(*milliseconds)),
        Behaviour::Print(megabytes) => {
            let line = "x".repeat(1023) + "\n";
            for _ in 0..megabytes * 1024 {
                // SAFETY: writes a buffer of this length.
                unsafe { libc::write(1, line.as_ptr().cast(), line.len()) };
            }
        }
        Behaviour::Take(megabytes) => std::mem::forget(std::hint::black_box(vec![1u8; megabytes << 20])),
        Behaviour::Fork => unsafe {
            if libc::fork() == 0 {
                libc::sleep(60);
                libc::_exit(0);
            }
        },
    }
    None
}

#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = {
    extern "C" fn construct() {
        // Programs are linked with this too, and have no scenario.
        if std::env::var_os("FAKE_DRIVER").is_some() {
            before("constructor");
        }
    }
    construct
};

/// Lets a program live without `memfd_create(2)`, as a strict seccomp profile does.
///
/// # Safety
/// To be called between `fork` and `exec`.
pub unsafe fn refuse_memfd() -> std::io::Result<()> {
    let rule = |code: u32, k: libc::c_long, jt, jf| libc::sock_filter { code: code as u16, jt, jf, k: k as u32 };
    let mut rules = [
        rule(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        rule(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, libc::SYS_memfd_create, 0, 1),
        rule(libc::BPF_RET | libc::BPF_K, i64::from(libc::SECCOMP_RET_ERRNO) | i64::from(libc::EPERM), 0, 0),
        rule(libc::BPF_RET | libc::BPF_K, i64::from(libc::SECCOMP_RET_ALLOW), 0, 0),
    ];
    let program = libc::sock_fprog { len: rules.len() as u16, filter: rules.as_mut_ptr() };
    // SAFETY: both only change this process, and the program is read during the call.
    let done = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
    };
    if done { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// # Safety
/// `to` has room for `length` bytes.
pub unsafe fn put(text: &str, to: *mut c_char, length: usize) {
    let bytes = &text.as_bytes()[..text.len().min(length.saturating_sub(1))];
    // SAFETY: as promised by the caller.
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.cast(), bytes.len());
        *to.add(bytes.len()) = 0;
    }
}
