//! The time and the kernel: reads the clock and `/proc`.

use std::fs;

use jiff::Timestamp;
use vitrify_core::ports::{Answer, Clock};
use vitrify_core::problem::Problem;

/// The host's own clock and kernel.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn boot(&self) -> Answer<String> {
        read("/proc/sys/kernel/random/boot_id")
    }

    fn kernel(&self) -> Answer<String> {
        read("/proc/sys/kernel/osrelease")
    }
}

fn read(path: &str) -> Answer<String> {
    let text = fs::read_to_string(path)
        .map_err(|error| Problem::io(format!("cannot read {path}"), error))?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_and_kernel_are_known() {
        let boot = SystemClock.boot().unwrap();
        assert_eq!((boot.len(), boot.matches('-').count()), (36, 4), "{boot}");
        assert_eq!(SystemClock.boot().unwrap(), boot);
        assert!(SystemClock.kernel().unwrap().starts_with(|first: char| first.is_ascii_digit()));
    }
}
