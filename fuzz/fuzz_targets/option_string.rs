//! Any text as create options and as a size: every accepted value is kept, nothing panics.
#![no_main]

use diskimg_core::options::{OptUse, ParsedOptions, split_options};
use diskimg_core::size::{parse_argument_size, parse_option_number, parse_option_size, parse_size};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let (Ok(plain), Ok(option)) = (parse_size(text), parse_option_size("size", text)) {
        assert_eq!(plain, option);
    }
    let _ = parse_option_number("number", text);
    let _ = parse_argument_size("image size", text);
    let items = split_options(text);
    assert!(items.len() <= text.len());
    for driver in [&diskimg_qcow2::DRIVER, &diskimg_raw::DRIVER] {
        let mut options = ParsedOptions::new(&[driver.options]);
        let parsed = options.parse(text);
        if parsed.is_ok() {
            for (name, _) in options.shown() {
                assert!(options.get(name).is_some(), "{name} has no value");
            }
        }
        if let Some(creator) = driver.creator {
            let _ = (creator.validate)(&options);
        }
        let _ = options.help(OptUse::CREATE);
    }
});
