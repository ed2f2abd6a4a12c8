//! Whatever comes is refused, or it is a header that comes back as it was read.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vitrify_core::save_image::{FIXED, Header};

fuzz_target!(|input: &[u8]| {
    if let Ok(header) = Header::decode(input) {
        let fixed = input.first_chunk::<FIXED>().expect("it was decoded");
        assert!(Header::length(fixed).is_ok_and(|length| length <= input.len()));
        assert_eq!(Header::decode(&header.encode()), Ok(header));
    }
});
