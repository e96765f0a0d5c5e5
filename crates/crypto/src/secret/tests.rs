//! Properties and values of secrets. The wrapped values were made with `openssl enc -aes-256-cbc`, and the messages
//! are those of qemu-img 10.0.2.

use super::*;

const KEY: &str = "0123456789012345678901234567890-";
const ZERO_IV: &str = "AAAAAAAAAAAAAAAAAAAAAA==";

fn object(properties: &str) -> Result<SecretObject> {
    SecretObject::new(properties.split(',').filter_map(|property| property.split_once('=')))
}

fn load(properties: &str) -> Result<Vec<u8>> {
    let mut secrets = Secrets::default();
    secrets.add("k", Secret::new(KEY.as_bytes().to_vec()));
    secrets.add("short", Secret::new(b"abc".to_vec()));
    Ok(object(properties)?.load(&secrets)?.bytes().to_vec())
}

fn refusal(properties: &str) -> String {
    load(properties).unwrap_err().to_string()
}

#[test]
fn properties_are_checked_in_qemu_imgs_order() {
    for (properties, message) in [
        ("qom-type=foo", "Parameter 'qom-type' does not accept value 'foo'"),
        ("data=a", "Parameter 'id' is missing"),
        ("id=9,foo=1,format=hex", "Parameter 'format' does not accept value 'hex'"),
        ("id=9,foo=1", "Parameter 'foo' is unexpected"),
        ("id=9", "Parameter 'id' expects an identifier"),
        ("id=a b,data=x", "Parameter 'id' expects an identifier"),
        ("id=s", "Either 'file' or 'data' must be provided"),
        ("id=s,file=a,data=b", "'file' and 'data' are mutually exclusive"),
        (
            "id=s,file=/nosuch",
            "Unable to read /nosuch: Failed to open file “/nosuch”: No such file or directory",
        ),
        ("id=s,file=/", "Unable to read /: Error reading file “/”: Is a directory"),
        ("id=s,data=%,format=base64", "Base64 data contains invalid characters"),
        ("id=s,data=a,keyid=s", "Secret with id 's' has no data"),
        ("id=s,data=a,keyid=none", "No secret with id 'none'"),
        ("id=s,data=a,keyid=short", "Key should be 32 bytes in length"),
        ("id=s,data=a,keyid=k", "IV is required to decrypt secret"),
        ("id=s,data=a,keyid=k,iv=YWJj", "IV should be 16 bytes in length not 3"),
    ] {
        assert_eq!(refusal(properties), message, "{properties}");
    }
    let wrapped = |data: &str| refusal(&format!("id=s,data={data},keyid=k,iv={ZERO_IV}"));
    assert_eq!(wrapped("abc"), "Length 3 must be a multiple of block size 16");
    assert_eq!(
        wrapped("0123456789012345"),
        "Incorrect number of padding bytes (111) found on decrypted data"
    );
}

#[test]
fn values_are_raw_base64_or_files() {
    assert_eq!(load("id=s.-_9,data=abc").unwrap(), b"abc");
    assert_eq!(load("qom-type=secret,id=s,data=a,data=b,iv=unused").unwrap(), b"b");
    assert_eq!(load("id=s,data=").unwrap(), b"");
    assert_eq!(load("id=s,data=YWJj,format=base64").unwrap(), b"abc");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "YWJj\n").unwrap();
    let name = file.path().to_str().unwrap();
    assert_eq!(load(&format!("id=s,file={name}")).unwrap(), b"YWJj\n");
    assert_eq!(load(&format!("id=s,format=base64,file={name}")).unwrap(), b"abc");
}

#[test]
fn wrapped_values_are_decrypted_and_lose_their_padding() {
    for (sealed, value) in WRAPPED {
        let wrapped = format!("id=s,format=base64,keyid=k,iv={ZERO_IV},data={sealed}");
        assert_eq!(load(&wrapped).unwrap(), *value);
    }
    assert_eq!(load(&format!("id=s,data=,keyid=k,iv={ZERO_IV}")).unwrap(), b"");
}

#[test]
fn an_identifier_is_given_once() {
    let mut secrets = Secrets::default();
    object("id=s,data=a").unwrap().add_to(&mut secrets).unwrap();
    let error = object("id=s,data=b").unwrap().add_to(&mut secrets).unwrap_err();
    assert_eq!(error.to_string(), "attempt to add duplicate property 's' to object (type 'container')");
    assert_eq!(secrets.get("s").unwrap().bytes(), b"a");
}

#[test]
fn values_are_not_printed() {
    assert!(!format!("{:?}", object("id=s,data=hunter2").unwrap()).contains("hunter2"));
}

/// Base64 of what is encrypted with [`KEY`] and a zero IV, and the value.
const WRAPPED: &[(&str, &[u8])] = &[
    ("WGe8eu80RUJ+SfprFIUYkw==", b"abc"),
    ("ZlMTgkaIQtJGPzBsSlHbzKOHnUTmhd4oWEKDBz+Dg04=", b"xxxxxxxxxxxxxxxxxxxxabcdabcd"),
    ("9RGoZ/wNAY/FINpZonIofg==", b"abcdefghijklmno\0"),
    ("oer2O2F5c0pIm4GA5+CzUA==", b""),
];
