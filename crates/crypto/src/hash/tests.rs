//! PBKDF2 against the published vectors and the `pbkdf2` crate; digests against their specifications.

use super::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn derive(hash: Hash, password: &[u8], salt: &[u8], iterations: u32, len: usize) -> String {
    let mut out = vec![0; len];
    pbkdf2(hash, password, salt, iterations, &mut out, &Task::quiet()).unwrap();
    hex(&out)
}

#[test]
fn rfc_6070() {
    let sha1 = |password: &[u8], salt: &[u8], count, len| derive(Hash::Sha1, password, salt, count, len);
    assert_eq!(sha1(b"password", b"salt", 1, 20), "0c60c80f961f0e71f3a9b524af6012062fe037a6");
    assert_eq!(sha1(b"password", b"salt", 2, 20), "ea6c014dc72d6f8ccd1ed92ace1d41f0d8de8957");
    assert_eq!(sha1(b"password", b"salt", 4096, 20), "4b007901b765489abead49d926f721d065a429c1");
    let (password, salt) = (b"passwordPASSWORDpassword", b"saltSALTsaltSALTsaltSALTsaltSALTsalt");
    assert_eq!(sha1(password, salt, 4096, 25), "3d2eec4fe41c849b80c8d83662c0e44a8b291a964cf2f07038");
    assert_eq!(sha1(b"pass\0word", b"sa\0lt", 4096, 16), "56fa6aa75548099dcc37d7f03425e0c3");
}

#[test]
fn rfc_7914() {
    let expected = "55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc\
                    49ca9cccf179b645991664b39d77ef317c71b845b1e30bd509112041d3a19783";
    assert_eq!(derive(Hash::Sha256, b"passwd", b"salt", 1, 64), expected);
}

#[test]
fn every_hash_derives_as_the_reference_does() {
    for hash in Hash::ALL {
        let mut expected = [0; 150];
        with_hash!(*hash, H => ::pbkdf2::pbkdf2_hmac::<H>(b"some password", b"and salt", 77, &mut expected));
        assert_eq!(derive(*hash, b"some password", b"and salt", 77, 150), hex(&expected), "{hash:?}");
    }
}

#[test]
fn digests_of_abc() {
    for (hash, expected) in [
        (Hash::Md5, "900150983cd24fb0d6963f7d28e17f72"),
        (Hash::Sha1, "a9993e364706816aba3e25717850c26c9cd0d89d"),
        (Hash::Ripemd160, "8eb208f7e05d987a9b044a8e98c6b087f15a0bfc"),
        (Hash::Sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (Hash::Sm3, "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0"),
    ] {
        assert_eq!(hex(&digest(hash, &[b"a", b"bc"])), expected);
    }
    for hash in Hash::ALL {
        assert_eq!(digest(*hash, &[]).len(), hash.digest_len());
    }
}

#[test]
fn derivation_can_be_stopped() {
    let task = Task::quiet();
    task.cancel.cancel();
    let error = pbkdf2(Hash::Sha256, b"p", b"s", u32::MAX, &mut [0; 32], &task).unwrap_err();
    assert_eq!(error.kind(), diskimg_core::ErrorKind::Cancelled);
}
