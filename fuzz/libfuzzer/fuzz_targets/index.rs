//! See `plexus_fuzz::TARGETS`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use plexus_fuzz::Target;

fuzz_target!(|bytes: &[u8]| {
    if let Some(target) = Target::named("index") {
        let _ = (target.run)(bytes);
    }
});
