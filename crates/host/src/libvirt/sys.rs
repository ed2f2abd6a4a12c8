//! The libvirt calls that the crate `virt` does not wrap, each behind a safe function. This
//! crate's unsafe code is here and in `huge_pages`.
//!
//! C interface: <https://libvirt.org/html/libvirt-libvirt-domain.html>.

#![expect(unsafe_code, reason = "libvirt is a C library, and `virt` leaves these calls out")]

use std::ffi::{CStr, CString, c_char, c_int, c_longlong, c_uint, c_void};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::time::Duration;

use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::Error;
use virt_sys as c;

unsafe extern "C" {
    /// C's own, for what libvirt allocates.
    fn free(pointer: *mut c_void);
}

/// Something that libvirt told us about a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Notice {
    /// A raw event of QEMU's monitor, with QEMU's own wall-clock time since 1970.
    Monitor { name: String, at: Duration },
    /// A block job of a disk changed: `virConnectDomainEventBlockJobStatus`.
    BlockJob { target: String, status: u32 },
    /// The guest was started, stopped, suspended, resumed.
    Lifecycle,
    /// A job of the guest as a whole ended.
    JobCompleted,
}

/// Whoever is to hear of notices: the guest's UUID and what happened.
pub(super) type Listener = Box<dyn Fn(String, Notice) + Send + Sync>;

/// `virDomainGetState`: the state and its reason, as libvirt's numbers.
pub(super) fn state(domain: &Domain) -> Result<(u32, u32), Error> {
    let (mut state, mut reason) = (0, 0);
    // SAFETY: the pointer lives as long as `domain`, and both results are ours.
    checked(unsafe { c::virDomainGetState(domain.as_ptr(), &raw mut state, &raw mut reason, 0) })?;
    Ok((state.cast_unsigned(), reason.cast_unsigned()))
}

/// `virDomainGetJobStats`: which operation (`virDomainJobOperation`) runs, if any does.
pub(super) fn job_operation(domain: &Domain) -> Result<Option<u32>, Error> {
    let (mut kind, mut count, mut operation) = (0, 0, 0);
    let mut parameters = ptr::null_mut();
    // SAFETY: libvirt allocates the parameters, which are freed below by its own function; a null
    // pointer with a count of zero is allowed for both functions that read them.
    unsafe {
        let (kind, parameters, count) = (&raw mut kind, &raw mut parameters, &raw mut count);
        checked(c::virDomainGetJobStats(domain.as_ptr(), kind, parameters, count, 0))?;
    }
    if !parameters.is_null() {
        let name = c::VIR_DOMAIN_JOB_OPERATION.as_ptr();
        // SAFETY: as above; `name` is a constant C string.
        unsafe {
            c::virTypedParamsGetInt(parameters, count, name, &raw mut operation);
            c::virTypedParamsFree(parameters, count);
        }
    }
    Ok((kind.cast_unsigned() != c::VIR_DOMAIN_JOB_NONE).then_some(operation.cast_unsigned()))
}

/// `virDomainGetBlockJobInfo`: which kind of job (`virDomainBlockJobType`) a disk has, if it has one.
pub(super) fn block_job(domain: &Domain, target: &str) -> Result<Option<u32>, Error> {
    let target = CString::new(target)?;
    let mut info = c::virDomainBlockJobInfo { type_: 0, bandwidth: 0, cur: 0, end: 0 };
    // SAFETY: the pointer lives as long as `domain`, the rest as long as this function.
    let found =
        unsafe { c::virDomainGetBlockJobInfo(domain.as_ptr(), target.as_ptr(), &raw mut info, 0) };
    checked(found)?;
    Ok((found > 0).then_some(info.type_.cast_unsigned()))
}

/// `virDomainGetMessages`: how many things taint the domain.
pub(super) fn taints(domain: &Domain) -> Result<usize, Error> {
    let mut messages: *mut *mut c_char = ptr::null_mut();
    let flags = c::VIR_DOMAIN_MESSAGE_TAINTING;
    // SAFETY: libvirt allocates an array of so many C strings, ours to free with C's own function.
    unsafe {
        let count = c::virDomainGetMessages(domain.as_ptr(), &raw mut messages, flags);
        checked(count)?;
        let count = usize::try_from(count).unwrap_or(0);
        (0..count).for_each(|index| free((*messages.add(index)).cast()));
        free(messages.cast());
        Ok(count)
    }
}

/// `virDomainAbortJob`.
pub(super) fn abort_job(domain: &Domain) -> Result<(), Error> {
    // SAFETY: the pointer lives as long as `domain`.
    checked(unsafe { c::virDomainAbortJob(domain.as_ptr()) })
}

/// `virDomainQemuMonitorCommandWithFiles`: a command that hands a descriptor over.
pub(super) fn monitor_command_with(
    domain: &Domain,
    command: &str,
    file: BorrowedFd<'_>,
) -> Result<String, Error> {
    let command = CString::new(command)?;
    let (mut file, mut reply) = (file.as_raw_fd(), ptr::null_mut());
    // SAFETY: the pointers live as long as this function, the descriptor is open for as long, and
    // libvirt keeps a duplicate; no descriptors are asked for in return.
    checked(unsafe {
        c::virDomainQemuMonitorCommandWithFiles(
            domain.as_ptr(),
            command.as_ptr(),
            1,
            &raw mut file,
            ptr::null_mut(),
            ptr::null_mut(),
            &raw mut reply,
            0,
        )
    })?;
    // SAFETY: libvirt gives a C string that is ours to free, with C's own function.
    unsafe {
        let said = text(reply);
        free(reply.cast());
        Ok(said)
    }
}

/// `virDomainBlockCommit` of the active `top` into `base`, which libvirt checks to be directly
/// below it (`SHALLOW`), so that an image further down can never be written.
pub(super) fn block_commit(
    domain: &Domain,
    target: &str,
    base: &Path,
    top: &Path,
) -> Result<(), Error> {
    let (target, base, top) = (CString::new(target)?, path(base)?, path(top)?);
    let flags = c::VIR_DOMAIN_BLOCK_COMMIT_ACTIVE | c::VIR_DOMAIN_BLOCK_COMMIT_SHALLOW;
    let (target, base, top) = (target.as_ptr(), base.as_ptr(), top.as_ptr());
    // SAFETY: the pointer lives as long as `domain`, the strings as long as this function.
    checked(unsafe { c::virDomainBlockCommit(domain.as_ptr(), target, base, top, 0, flags) })
}

/// `virDomainBlockJobAbort` without waiting: ends a disk's job, with `pivot` by making the image
/// that it has filled the disk's top.
pub(super) fn end_block_job(domain: &Domain, target: &str, pivot: bool) -> Result<(), Error> {
    let target = CString::new(target)?;
    let pivot = if pivot { c::VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT } else { 0 };
    let flags = c::VIR_DOMAIN_BLOCK_JOB_ABORT_ASYNC | pivot;
    // SAFETY: the pointer lives as long as `domain`, the string as long as this function.
    checked(unsafe { c::virDomainBlockJobAbort(domain.as_ptr(), target.as_ptr(), flags) })
}

/// A connection's registrations; they end with this value.
pub(super) struct Subscriptions {
    connection: Connect,
    domain_events: Vec<c_int>,
    monitor_events: Vec<c_int>,
}

impl Subscriptions {
    /// Has `listener` called, on the event loop's thread, for every guest of the connection.
    pub(super) fn new(
        connection: &Connect,
        listener: impl Fn() -> Listener,
    ) -> Result<Self, Error> {
        let mut this = Self {
            connection: connection.clone(),
            domain_events: Vec::new(),
            monitor_events: Vec::new(),
        };
        // SAFETY: a callback is stored as the generic type, and libvirt calls it with the
        // signature that belongs to the event's number: this is how its C interface is meant.
        let generic = unsafe {
            [
                (
                    c::VIR_DOMAIN_EVENT_ID_LIFECYCLE,
                    std::mem::transmute::<*const (), GenericCallback>(on_lifecycle as *const ()),
                ),
                (
                    c::VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2,
                    std::mem::transmute::<*const (), GenericCallback>(on_block_job as *const ()),
                ),
                (
                    c::VIR_DOMAIN_EVENT_ID_JOB_COMPLETED,
                    std::mem::transmute::<*const (), GenericCallback>(on_job_end as *const ()),
                ),
            ]
        };
        for (event, callback) in generic {
            let opaque = into_opaque(listener());
            // SAFETY: `opaque` comes from `into_opaque`, and libvirt hands it to `free_opaque`
            // once, after the last call.
            let id = unsafe {
                let connection = connection.as_ptr();
                let free = Some(free_opaque as unsafe extern "C" fn(*mut c_void));
                let event = event.cast_signed();
                let none = ptr::null_mut();
                c::virConnectDomainEventRegisterAny(connection, none, event, callback, opaque, free)
            };
            this.domain_events.push(registered(id, opaque)?);
        }
        for event in [c"STOP", c"RESUME"] {
            let opaque = into_opaque(listener());
            // SAFETY: as above; the event's name is a constant C string.
            let id = unsafe {
                c::virConnectDomainQemuMonitorEventRegister(
                    connection.as_ptr(),
                    ptr::null_mut(),
                    event.as_ptr(),
                    Some(on_monitor_event),
                    opaque,
                    Some(free_opaque),
                    0,
                )
            };
            this.monitor_events.push(registered(id, opaque)?);
        }
        Ok(this)
    }
}

impl Drop for Subscriptions {
    fn drop(&mut self) {
        // SAFETY: the connection lives, and the numbers are its own. A failure (the daemon is
        // gone) leaves nothing to be done.
        unsafe {
            for id in &self.domain_events {
                c::virConnectDomainEventDeregisterAny(self.connection.as_ptr(), *id);
            }
            for id in &self.monitor_events {
                c::virConnectDomainQemuMonitorEventDeregister(self.connection.as_ptr(), *id);
            }
        }
    }
}

type GenericCallback = c::virConnectDomainEventGenericCallback;

fn checked(answer: c_int) -> Result<(), Error> {
    if answer < 0 { Err(Error::last_error()) } else { Ok(()) }
}

fn path(path: &Path) -> Result<CString, Error> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

fn into_opaque(listener: Listener) -> *mut c_void {
    Box::into_raw(Box::new(listener)).cast()
}

unsafe extern "C" fn free_opaque(opaque: *mut c_void) {
    // SAFETY: made by `into_opaque`, and freed once.
    drop(unsafe { Box::from_raw(opaque.cast::<Listener>()) });
}

fn registered(id: c_int, opaque: *mut c_void) -> Result<c_int, Error> {
    checked(id).inspect_err(|_| {
        // SAFETY: libvirt did not take the value over.
        unsafe { free_opaque(opaque) };
    })?;
    Ok(id)
}

/// Tells a listener what happened to a guest.
///
/// # Safety
/// `domain` must be libvirt's for this call, and `opaque` one of `into_opaque`'s.
unsafe fn tell(domain: c::virDomainPtr, opaque: *mut c_void, notice: Notice) {
    const LENGTH: usize = c::VIR_UUID_STRING_BUFLEN as usize;
    let mut uuid: [c_char; LENGTH] = [0; LENGTH];
    // SAFETY: by this function's contract; the buffer is as long as libvirt wants it.
    unsafe {
        if c::virDomainGetUUIDString(domain, uuid.as_mut_ptr()) == 0 {
            let listener = &*opaque.cast::<Listener>();
            listener(text(uuid.as_ptr()), notice);
        }
    }
}

/// # Safety
/// `text` must be null or a C string.
unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: by this function's contract.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

unsafe extern "C" fn on_lifecycle(
    _: c::virConnectPtr,
    domain: c::virDomainPtr,
    _event: c_int,
    _detail: c_int,
    opaque: *mut c_void,
) -> c_int {
    // SAFETY: libvirt's arguments, and the value that was registered.
    unsafe { tell(domain, opaque, Notice::Lifecycle) };
    0
}

unsafe extern "C" fn on_block_job(
    _: c::virConnectPtr,
    domain: c::virDomainPtr,
    target: *const c_char,
    _kind: c_int,
    status: c_int,
    opaque: *mut c_void,
) {
    // SAFETY: libvirt's arguments, and the value that was registered.
    unsafe {
        let notice = Notice::BlockJob { target: text(target), status: status.cast_unsigned() };
        tell(domain, opaque, notice);
    }
}

unsafe extern "C" fn on_job_end(
    _: c::virConnectPtr,
    domain: c::virDomainPtr,
    _parameters: c::virTypedParameterPtr,
    _count: c_int,
    opaque: *mut c_void,
) {
    // SAFETY: libvirt's arguments, and the value that was registered.
    unsafe { tell(domain, opaque, Notice::JobCompleted) };
}

unsafe extern "C" fn on_monitor_event(
    _: c::virConnectPtr,
    domain: c::virDomainPtr,
    event: *const c_char,
    seconds: c_longlong,
    micros: c_uint,
    _details: *const c_char,
    opaque: *mut c_void,
) {
    let seconds = Duration::from_secs(seconds.max(0).cast_unsigned());
    let at = seconds + Duration::from_micros(u64::from(micros));
    // SAFETY: libvirt's arguments, and the value that was registered.
    unsafe { tell(domain, opaque, Notice::Monitor { name: text(event), at }) };
}
