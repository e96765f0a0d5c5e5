//! Any text as the name of an image: `json:{…}`, `key=value,…`, protocol prefixes, relative backing names.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = diskimg_chain::spec::parse_json(text);
    let options = diskimg_chain::spec::parse_image_opts(text);
    let _ = format!("{options:?}");
    let spec = diskimg_chain::ImageSpec::name(text);
    assert_eq!(spec.label(), text);
});
