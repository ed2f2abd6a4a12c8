//! Whatever comes is refused, or it is a manifest that comes back as it was read.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vitrify_core::manifest::Manifest;

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(manifest) = Manifest::parse(text) {
        assert_eq!(Manifest::parse(&manifest.to_text()).expect("it was just written"), manifest);
    }
});
