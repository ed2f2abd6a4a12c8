//! The boot-sector witness: the code that `witness/` is assembled to, with a guest's settings in it. The
//! self-test boots it, and so do the guests of the lab.

use std::time::Duration;

/// What the build has assembled; whole sectors.
const CODE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/witness.bin"));
/// Where the settings lie; `PARAMETERS` in `witness.s`.
const SETTINGS: usize = 434;
const PAGE_BYTES: u64 = 4096;
/// The timer's clock in Hz; it divides by 16 bits, so that a step can take 54 ms at most.
const TIMER_HZ: u64 = 1_193_182;
/// Least time between two status lines, in milliseconds.
const STATUS_EVERY_MS: u64 = 50;

/// How a witness works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// MiB of RAM to fill with data that does not compress.
    pub fill_mib: u64,
    /// MB/s of the fill to make dirty.
    pub dirty_mbps: u64,
    /// The time from one count to the next: 1 to 54 ms.
    pub step: Duration,
}

/// What the first sectors of the first disk hold of a witness with these settings.
pub fn code(settings: &Settings) -> Vec<u8> {
    let step_ms = (settings.step.as_millis() as u64).clamp(1, 54);
    let fill_pages = (settings.fill_mib << 20) / PAGE_BYTES;
    let rate = settings.dirty_mbps * 1_000_000 / PAGE_BYTES * step_ms / 1000;
    let pages_per_step = if fill_pages == 0 { 0 } else { rate };
    let divisor = TIMER_HZ * step_ms / 1000;
    let mut bytes = Vec::new();
    bytes.extend((fill_pages as u32).to_le_bytes());
    bytes.extend((pages_per_step as u32).to_le_bytes());
    bytes.extend((divisor as u16).to_le_bytes());
    bytes.extend((STATUS_EVERY_MS.div_ceil(step_ms) as u16).to_le_bytes());
    let mut code = CODE.to_vec();
    code[SETTINGS..SETTINGS + bytes.len()].copy_from_slice(&bytes);
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where a boot sector's last bytes lie, and what they are.
    const SIGNATURE_AT: usize = 510;
    const SIGNATURE: [u8; 2] = [0x55, 0xaa];

    #[test]
    fn the_settings_lie_where_the_code_looks_for_them() {
        let empty = [0; SIGNATURE_AT - SETTINGS];
        assert_eq!(CODE[SETTINGS..SIGNATURE_AT], empty, "nothing else lies there");
        assert_eq!(CODE[SIGNATURE_AT..SIGNATURE_AT + 2], SIGNATURE);
        assert_eq!(CODE.len() % 512, 0);
        // 1 MiB, 41 MB/s in 20 ms, a status each 3 steps.
        let step = Duration::from_millis(20);
        let code = code(&Settings { fill_mib: 1, dirty_mbps: 41, step });
        let settings = [0, 1, 0, 0, 200, 0, 0, 0, 0x37, 0x5d, 3, 0];
        assert_eq!(code[SETTINGS..SETTINGS + settings.len()], settings);
    }
}
