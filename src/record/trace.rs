//! Following a tree of processes with `ptrace(2)`, stopping only at the system calls that name files.
//!
//! A tracer that stops at every system call makes a program several times slower. Here a seccomp filter decides in the
//! kernel: only calls that take a path stop (`SECCOMP_RET_TRACE`), all others run at full speed. Children are followed
//! from their first instruction (`PTRACE_O_TRACEFORK` and its kin), and all of them die with the tracer
//! (`PTRACE_O_EXITKILL`), for a call that stops and finds no tracer fails with `ENOSYS`.
//!
//! `PTRACE_SEIZE` is used, so that stopping and continuing by job control stay what they are, and
//! `PTRACE_GET_SYSCALL_INFO` (Linux 5.3) tells number and arguments alike on every processor. All `unsafe` of recording is
//! in this file.

#![allow(unsafe_code)]

use std::ffi::{CString, OsString, c_char, c_int, c_long};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};

/// A process, or a thread of one.
pub type Pid = i32;

const SEIZE: c_int = 0x4206;
const LISTEN: c_int = 0x4208;
const GET_SYSCALL_INFO: c_int = 0x420e;
const GET_EVENT_MESSAGE: c_int = 0x4201;
const CONTINUE: c_int = 7;
const TO_SYSCALL_EXIT: c_int = 24;
const EVENT_EXEC: c_int = 4;
const EVENT_SECCOMP: c_int = 7;
const EVENT_STOP: c_int = 128;
/// System call stops are told apart from signals; forks, vforks, clones and execs are followed; the filter stops.
const OPTIONS: c_long = 0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x80 | 0x0010_0000;

/// Longest path in bytes (`PATH_MAX`).
const PATH_MAX: usize = 4096;
const PAGE: usize = 4096;

/// `AUDIT_ARCH_*` of this processor, which tells calls of 32-bit programs apart.
const ARCHITECTURE: u32 = if cfg!(target_arch = "aarch64") { 0xc000_00b7 } else { 0xc000_003e };
/// Calls of the x32 interface carry this bit.
const X32: u32 = 0x4000_0000;
/// `AT_EMPTY_PATH`: `fstat` in disguise, which names no file.
const EMPTY_PATH: u32 = 0x1000;

/// What a traced call does with a path, and which of its arguments are the directory and the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Opens it; the argument with the flags.
    Open(Flags),
    /// Executes it.
    Execute,
    /// Looks at it: `stat`, `access`, `readlink`.
    Look,
    /// Changes what paths mean, or opens files in a way that is not followed: what it is.
    Blind(&'static str),
}

/// Where the flags of an `open` are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flags {
    /// The argument of this number.
    Argument(u8),
    /// The first word of the structure that this argument points to (`openat2`).
    Structure(u8),
    /// Always `O_CREAT|O_WRONLY|O_TRUNC` (`creat`).
    Create,
}

/// A traced system call.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    number: c_long,
    /// Argument with the directory; none where the path is relative to the working directory.
    pub directory: Option<u8>,
    /// Argument with the path.
    pub path: u8,
    /// What it does.
    pub kind: Kind,
    /// Argument whose `AT_EMPTY_PATH` makes it a call about a descriptor.
    empty: Option<u8>,
}

const fn at(number: c_long, kind: Kind) -> Call {
    Call { number, directory: Some(0), path: 1, kind, empty: None }
}

#[cfg(target_arch = "x86_64")]
const fn plain(number: c_long, kind: Kind) -> Call {
    Call { number, directory: None, path: 0, kind, empty: None }
}

const fn blind(number: c_long, what: &'static str) -> Call {
    Call { number, directory: None, path: 0, kind: Kind::Blind(what), empty: None }
}

/// The calls that stop. The processors differ only in the old ones, which newer processors never had.
const CALLS: &[Call] = &[
    at(libc::SYS_openat, Kind::Open(Flags::Argument(2))),
    Call { empty: Some(3), ..at(libc::SYS_newfstatat, Kind::Look) },
    Call { empty: Some(2), ..at(libc::SYS_statx, Kind::Look) },
    at(libc::SYS_readlinkat, Kind::Look),
    at(libc::SYS_faccessat, Kind::Look),
    at(libc::SYS_faccessat2, Kind::Look),
    Call { directory: None, path: 0, ..at(libc::SYS_execve, Kind::Execute) },
    at(libc::SYS_execveat, Kind::Execute),
    at(libc::SYS_openat2, Kind::Open(Flags::Structure(2))),
    #[cfg(target_arch = "x86_64")]
    plain(libc::SYS_open, Kind::Open(Flags::Argument(1))),
    #[cfg(target_arch = "x86_64")]
    plain(libc::SYS_creat, Kind::Open(Flags::Create)),
    #[cfg(target_arch = "x86_64")]
    plain(libc::SYS_stat, Kind::Look),
    #[cfg(target_arch = "x86_64")]
    plain(libc::SYS_lstat, Kind::Look),
    #[cfg(target_arch = "x86_64")]
    plain(libc::SYS_access, Kind::Look),
    #[cfg(target_arch = "x86_64")]
    plain(libc::SYS_readlink, Kind::Look),
    blind(libc::SYS_chroot, "files opened after a change of the root directory (chroot)"),
    blind(libc::SYS_pivot_root, "files opened after a change of the root directory (pivot_root)"),
    blind(libc::SYS_io_uring_setup, "files opened through io_uring"),
    blind(libc::SYS_open_by_handle_at, "files opened by handle (open_by_handle_at)"),
    blind(libc::SYS_ptrace, "processes that another debugger traces: only one may"),
];

/// One instruction of the filter (`struct sock_filter`).
#[repr(C)]
struct Instruction {
    code: u16,
    if_true: u8,
    if_false: u8,
    value: u32,
}

/// `struct sock_fprog`
#[repr(C)]
struct Program {
    length: u16,
    instructions: *const Instruction,
}

const LOAD: u16 = 0x20;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
const JUMP_SET: u16 = 0x45;
const RETURN: u16 = 0x06;
const ALLOW: u32 = 0x7fff_0000;
const TRACE: u32 = 0x7ff0_0000;

/// The filter: [`CALLS`] of this architecture stop, everything else runs.
fn filter() -> Vec<Instruction> {
    let instruction = |code, value, if_true, if_false| Instruction { code, if_true, if_false, value };
    // `struct seccomp_data`: number at 0, architecture at 4, arguments from 16 on, 8 bytes each.
    let mut head = vec![instruction(LOAD, 4, 0, 0), instruction(JUMP_EQUAL, ARCHITECTURE, 1, 0)];
    head.extend([instruction(RETURN, ALLOW, 0, 0), instruction(LOAD, 0, 0, 0)]);
    if cfg!(target_arch = "x86_64") {
        head.extend([instruction(JUMP_GREATER_OR_EQUAL, X32, 0, 1), instruction(RETURN, ALLOW, 0, 0)]);
    }
    for call in CALLS {
        let number = u32::try_from(call.number).unwrap_or(u32::MAX);
        match call.empty {
            None => head.extend([instruction(JUMP_EQUAL, number, 0, 1), instruction(RETURN, TRACE, 0, 0)]),
            Some(argument) => head.extend([
                instruction(JUMP_EQUAL, number, 0, 4),
                instruction(LOAD, 16 + 8 * u32::from(argument), 0, 0),
                instruction(JUMP_SET, EMPTY_PATH, 0, 1),
                instruction(RETURN, ALLOW, 0, 0),
                instruction(RETURN, TRACE, 0, 0),
            ]),
        }
    }
    head.push(instruction(RETURN, ALLOW, 0, 0));
    head
}

/// Why nothing can be recorded.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The kernel does not let this process trace another.
    #[error(
        "tracing is refused ({0}): a container needs the system call ptrace (docker run --cap-add SYS_PTRACE, or \
         --security-opt seccomp=unconfined), no other tracer, kernel.yama.ptrace_scope below 3, and a kernel that is \
         not emulated as by gVisor"
    )]
    Trace(io::Error),
    /// No filter may be installed.
    #[error("a seccomp filter is refused ({0}): the kernel must have seccomp filters, and the container allow them")]
    Filter(io::Error),
    /// The kernel is too old to tell which call stopped.
    #[error("the kernel has no PTRACE_GET_SYSCALL_INFO ({0}); Linux 5.3 has it")]
    Kernel(io::Error),
    /// The program does not start.
    #[error("{0}: {1}")]
    Start(String, io::Error),
    /// Anything else that fails before the program runs.
    #[error(transparent)]
    Other(#[from] io::Error),
}

/// The program that is recorded, from its start to the end of the last process that it left.
pub struct Tracee {
    /// Its process.
    pub pid: Pid,
    name: String,
    /// What the child says before it becomes the program: a letter and an error number.
    said: OwnedFd,
}

/// What the child says before it becomes the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    NoNewPrivileges,
    NoFilter(i32),
    NotStarted(i32),
}

/// Why a process stopped, or that it is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// A call of [`CALLS`] is about to be made; go on with [`go_on`] or [`go_to_exit`].
    Call,
    /// The call after [`go_to_exit`] has been made.
    CallDone,
    /// Another program runs now; the thread that asked for it was this one.
    Executed(Pid),
    /// A process or thread is new to the tracer.
    New,
    /// A signal is to be delivered.
    Signal(i32),
    /// Stopped by job control.
    Group,
    /// Nothing that matters.
    Other,
    /// It ended with this exit code.
    Exited(i32),
    /// It was killed by this signal.
    Killed(i32),
}

/// A call that stopped.
#[derive(Debug, Clone, Copy)]
pub struct CallInfo {
    /// Which.
    pub call: &'static Call,
    /// Its arguments.
    pub arguments: [u64; 6],
}

/// Process group and signals of the recorder must not keep it from writing what it has.
static FORWARD_TO: AtomicI32 = AtomicI32::new(0);

extern "C" fn forward(signal: c_int) {
    let pid = FORWARD_TO.load(Ordering::Relaxed);
    if pid > 0 {
        // SAFETY: kill is async-signal-safe.
        unsafe { libc::kill(pid, signal) };
    }
}

impl Tracee {
    /// Starts `command`, found as a shell finds it, and stops it before its first instruction.
    ///
    /// # Errors
    /// What keeps it from being traced.
    pub fn start(command: &[OsString]) -> Result<Self, Refused> {
        let name = command.first().map(|c| c.to_string_lossy().into_owned()).unwrap_or_default();
        let words: Result<Vec<CString>, _> = command.iter().map(|w| CString::new(w.clone().into_vec())).collect();
        let words = words.map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let mut arguments: Vec<*const c_char> = words.iter().map(|w| w.as_ptr()).collect();
        arguments.push(ptr::null());
        let instructions = filter();
        let program = Program { length: instructions.len() as u16, instructions: instructions.as_ptr() };
        let (gate, opened) = pipe()?;
        let (said, say) = pipe()?;
        // SAFETY: this program has one thread at this point. The child calls nothing that allocates, and everything that it
        // uses was made before.
        let pid = unsafe { libc::fork() };
        if pid < 0 {
            return Err(io::Error::last_os_error().into());
        }
        if pid == 0 {
            // SAFETY: as above; the descriptors and arrays live until the child is another program or gone.
            unsafe {
                libc::close(opened.as_raw_fd());
                become_program(gate.as_raw_fd(), say.as_raw_fd(), &program, arguments.as_ptr())
            }
        }
        drop((gate, say));
        if let Err(e) = request(SEIZE, pid, 0, OPTIONS) {
            // The gate closes with `opened`, and the child goes.
            drop(opened);
            // SAFETY: the child is ours, and waited for once.
            unsafe { libc::waitpid(pid, ptr::null_mut(), 0) };
            return Err(Refused::Trace(e));
        }
        FORWARD_TO.store(pid, Ordering::Relaxed);
        // SAFETY: the handler is async-signal-safe; a terminal sends the others to the program itself, too.
        unsafe {
            for signal in [libc::SIGTERM, libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2] {
                libc::signal(signal, forward as *const () as libc::sighandler_t);
            }
            for signal in [libc::SIGINT, libc::SIGQUIT] {
                libc::signal(signal, libc::SIG_IGN);
            }
            libc::write(opened.as_raw_fd(), [1u8].as_ptr().cast(), 1);
        }
        Ok(Self { pid, name, said })
    }

    /// After the program's process is gone: whether it could not even start, and whether it ran without the right to gain
    /// privileges (`no_new_privs`).
    ///
    /// # Errors
    /// It did not start.
    pub fn started(&self) -> Result<bool, Refused> {
        let mut without_privileges = false;
        for said in self.read_said() {
            match said {
                Said::NoNewPrivileges => without_privileges = true,
                Said::NoFilter(errno) => return Err(Refused::Filter(io::Error::from_raw_os_error(errno))),
                Said::NotStarted(errno) => {
                    return Err(Refused::Start(self.name.clone(), io::Error::from_raw_os_error(errno)));
                }
            }
        }
        Ok(without_privileges)
    }

    fn read_said(&self) -> Vec<Said> {
        let mut bytes = [0u8; 64];
        let count = rustix::io::read(&self.said, &mut bytes).unwrap_or(0);
        let said = |chunk: &[u8]| {
            let errno = i32::from_le_bytes(chunk[1..5].try_into().unwrap_or_default());
            match chunk[0] {
                b'p' => Said::NoNewPrivileges,
                b'f' => Said::NoFilter(errno),
                _ => Said::NotStarted(errno),
            }
        };
        bytes[..count].chunks_exact(5).map(said).collect()
    }
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0 as RawFd; 2];
    // SAFETY: the array has room for two descriptors, which nobody else owns.
    unsafe {
        if libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok((OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])))
    }
}

/// The child: waits until it is traced, installs the filter, becomes the program.
///
/// # Safety
/// To be called in a child after `fork`; the pointers are those of live arrays.
unsafe fn become_program(gate: RawFd, say: RawFd, program: &Program, arguments: *const *const c_char) -> ! {
    let tell = |letter: u8, errno: i32| {
        let e = errno.to_le_bytes();
        let message = [letter, e[0], e[1], e[2], e[3]];
        // SAFETY: the buffer is as long as it says.
        unsafe { libc::write(say, message.as_ptr().cast(), message.len()) };
    };
    // SAFETY: only calls that are safe between fork and exec.
    unsafe {
        let mut byte = 0u8;
        if libc::read(gate, (&raw mut byte).cast(), 1) != 1 {
            libc::_exit(126);
        }
        // The standard library ignores it in this program, and a program that is started inherits that.
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        // Words as long as registers: what is shorter leaves the upper half of one as it was.
        let none: c_long = 0;
        let mode = c_long::from(libc::SECCOMP_SET_MODE_FILTER);
        let install = || libc::syscall(libc::SYS_seccomp, mode, none, ptr::from_ref(program));
        let mut result = install();
        // Without CAP_SYS_ADMIN, a filter needs no_new_privs. With it, programs can keep gaining privileges.
        if result != 0 && *libc::__errno_location() == libc::EACCES {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1 as c_long, none, none, none);
            tell(b'p', 0);
            result = install();
        }
        if result != 0 {
            tell(b'f', *libc::__errno_location());
            libc::_exit(126);
        }
        libc::execvp(*arguments, arguments);
        let errno = *libc::__errno_location();
        tell(b'e', errno);
        libc::_exit(if errno == libc::ENOENT { 127 } else { 126 })
    }
}

/// Waits for the next thing that any traced process does; `None` when none is left.
pub fn wait() -> io::Result<Option<(Pid, Stop)>> {
    let mut status = 0;
    let pid = loop {
        // SAFETY: the status is written to a variable of ours.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL) };
        if pid > 0 {
            break pid;
        }
        match io::Error::last_os_error() {
            e if e.kind() == io::ErrorKind::Interrupted => {}
            e if e.raw_os_error() == Some(libc::ECHILD) => return Ok(None),
            e => return Err(e),
        }
    };
    let stop = if libc::WIFEXITED(status) {
        Stop::Exited(libc::WEXITSTATUS(status))
    } else if libc::WIFSIGNALED(status) {
        Stop::Killed(libc::WTERMSIG(status))
    } else {
        let signal = libc::WSTOPSIG(status);
        match status >> 16 {
            EVENT_SECCOMP => Stop::Call,
            EVENT_EXEC => Stop::Executed(event_message(pid)),
            EVENT_STOP => match signal {
                libc::SIGSTOP | libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU => Stop::Group,
                _ => Stop::New,
            },
            0 if signal == libc::SIGTRAP | 0x80 => Stop::CallDone,
            0 => Stop::Signal(signal),
            _ => Stop::Other,
        }
    };
    Ok(Some((pid, stop)))
}

/// Lets a stopped process run, with a signal or 0. One that was killed meanwhile is gone, which waiting will tell.
pub fn go_on(pid: Pid, signal: i32) {
    let _ = request(CONTINUE, pid, 0, c_long::from(signal));
}

/// Lets a process make the call that it stopped at, and stop again after it.
pub fn go_to_exit(pid: Pid) {
    let _ = request(TO_SYSCALL_EXIT, pid, 0, 0);
}

/// Leaves a process stopped by job control stopped, until somebody continues it.
pub fn stay_stopped(pid: Pid) {
    let _ = request(LISTEN, pid, 0, 0);
}

fn event_message(pid: Pid) -> Pid {
    let mut message: libc::c_ulong = 0;
    let _ = request(GET_EVENT_MESSAGE, pid, 0, (&raw mut message) as c_long);
    message as Pid
}

/// `struct ptrace_syscall_info`
#[repr(C)]
#[derive(Default)]
struct SyscallInfo {
    op: u8,
    padding: [u8; 3],
    architecture: u32,
    instruction: u64,
    stack: u64,
    /// Number and arguments at entry; the result at exit.
    rest: [u64; 8],
}

fn syscall_info(pid: Pid) -> io::Result<SyscallInfo> {
    let mut info = SyscallInfo::default();
    request(GET_SYSCALL_INFO, pid, size_of::<SyscallInfo>() as c_long, (&raw mut info) as c_long)?;
    Ok(info)
}

/// The call that a process stopped at; `None` if it is gone.
///
/// # Errors
/// The kernel cannot tell.
pub fn call_of(pid: Pid) -> Result<Option<CallInfo>, Refused> {
    let info = match syscall_info(pid) {
        Ok(info) => info,
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
        Err(e) => return Err(Refused::Kernel(e)),
    };
    let call = CALLS.iter().find(|c| c.number as u64 == info.rest[0]);
    let mut arguments = [0; 6];
    arguments.copy_from_slice(&info.rest[1..7]);
    Ok(call.map(|call| CallInfo { call, arguments }))
}

/// What the call came to: its value, or an error number.
pub fn result_of(pid: Pid) -> Option<Result<i64, i32>> {
    let value = syscall_info(pid).ok()?.rest[0] as i64;
    Some(if (-4095..0).contains(&value) { Err(-value as i32) } else { Ok(value) })
}

/// Bytes of a process from `address` on, as many as can be read; at most `buffer`.
fn read_memory(pid: Pid, address: u64, buffer: &mut [u8]) -> usize {
    let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let remote = libc::iovec { iov_base: address as usize as *mut libc::c_void, iov_len: buffer.len() };
    // SAFETY: the kernel writes at most the length of our buffer, and checks the address of the other process.
    let count = unsafe { libc::process_vm_readv(pid, &raw const local, 1, &raw const remote, 1, 0) };
    usize::try_from(count).unwrap_or(0)
}

/// The text that ends with NUL at `address`; `None` if it cannot be read or is longer than a path may be.
pub fn read_text(pid: Pid, address: u64) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    let mut buffer = [0u8; PAGE];
    let mut next = address;
    while text.len() < PATH_MAX {
        // Not over the end of a page, behind which there may be nothing.
        let room = PAGE - (next as usize % PAGE);
        let count = read_memory(pid, next, &mut buffer[..room]);
        if count == 0 {
            return None;
        }
        if let Some(end) = memchr::memchr(0, &buffer[..count]) {
            text.extend_from_slice(&buffer[..end]);
            return Some(text);
        }
        text.extend_from_slice(&buffer[..count]);
        next += count as u64;
    }
    None
}

/// A word of 64 bits at `address`.
pub fn read_word(pid: Pid, address: u64) -> Option<u64> {
    let mut buffer = [0u8; 8];
    (read_memory(pid, address, &mut buffer) == 8).then(|| u64::from_le_bytes(buffer))
}

fn request(request: c_int, pid: Pid, address: c_long, data: c_long) -> io::Result<()> {
    // SAFETY: the requests used here read integers, or write a structure of ours whose size is given or fixed.
    let result = unsafe { libc::syscall(libc::SYS_ptrace, c_long::from(request), c_long::from(pid), address, data) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_stops_what_it_names_and_nothing_else() {
        let filter = filter();
        let run = |architecture: u32, number: u32, flags: u32| {
            let (mut at, mut value) = (0usize, 0u32);
            loop {
                let i = &filter[at];
                at += 1;
                match (i.code, i.value) {
                    (LOAD, 0) => value = number,
                    (LOAD, 4) => value = architecture,
                    (LOAD, _) => value = flags,
                    (RETURN, result) => return result,
                    (code, other) => {
                        let is = match code {
                            JUMP_EQUAL => value == other,
                            JUMP_SET => value & other != 0,
                            _ => value >= other,
                        };
                        at += usize::from(if is { i.if_true } else { i.if_false });
                    }
                }
            }
        };
        for call in CALLS {
            assert_eq!(run(ARCHITECTURE, call.number as u32, 0), TRACE);
            let empty = if call.empty.is_some() { ALLOW } else { TRACE };
            assert_eq!(run(ARCHITECTURE, call.number as u32, EMPTY_PATH), empty);
            assert_eq!(run(0x4000_0003, call.number as u32, 0), ALLOW, "another architecture");
        }
        for number in [libc::SYS_read, libc::SYS_mmap, libc::SYS_close] {
            assert_eq!(run(ARCHITECTURE, number as u32, 0), ALLOW);
        }
    }
}
