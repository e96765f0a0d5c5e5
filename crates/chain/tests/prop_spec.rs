//! No text makes the parsers of names, JSON and options panic, and none of them changes what it was given.
#![allow(clippy::unwrap_used)]

use diskimg_chain::name::{has_protocol, protocol_of, resolve_backing};
use diskimg_chain::spec::{parse_image_opts, parse_json};
use diskimg_core::options::RuntimeValue;
use proptest::prelude::*;

proptest! {
    #[test]
    fn any_text_is_a_name(text in ".*", overlay in ".*") {
        prop_assert_eq!(has_protocol(&text), protocol_of(&text).is_some());
        if let Some(resolved) = resolve_backing(Some(&overlay), &text) {
            prop_assert!(resolved.ends_with(&text));
        }
    }

    #[test]
    fn any_text_is_parsed_or_refused(text in ".*") {
        let _ = parse_json(&text);
        let _ = parse_image_opts(&text);
    }

    #[test]
    fn text_like_json_is_parsed_or_refused(text in r#"[\[\]{},:'"\\a-z0-9.eE+\-u ]{0,60}"#) {
        let _ = parse_json(&text);
    }

    #[test]
    fn option_values_survive(key in "[a-z.-]{1,8}", value in "[ -~]{0,20}") {
        prop_assume!(key != "id");
        let text = format!("{key}={}", value.replace(',', ",,"));
        let parsed = parse_image_opts(&text).unwrap();
        prop_assert_eq!(parsed.options.get(&key), Some(&RuntimeValue::Str(value)));
    }

    #[test]
    fn json_strings_survive(value in "[^\"\\\\\\x00-\\x1f]{0,20}") {
        let parsed = parse_json(&format!("json:{{\"a\": {{\"b\": \"{value}\"}}}}")).unwrap();
        prop_assert_eq!(parsed.get("a.b"), Some(&RuntimeValue::Str(value)));
    }
}
