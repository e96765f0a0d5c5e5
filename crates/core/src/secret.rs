//! [`Secrets`]: passwords and keys by their identifiers. They are wiped from memory when the last holder lets go.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::error::{Error, Result};

/// A password or a key. It is never printed.
#[derive(Clone)]
pub struct Secret(Arc<Zeroizing<Vec<u8>>>);

impl Secret {
    /// The bytes of `value`, which is wiped in the end.
    #[must_use]
    pub fn new(value: Vec<u8>) -> Self {
        Self(Arc::new(Zeroizing::new(value)))
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// It as a password: UTF-8 without a NUL. `id` is for the error.
    ///
    /// # Errors
    /// `InvalidArg` where it is not such text.
    pub fn password(&self, id: &str) -> Result<&[u8]> {
        if std::str::from_utf8(self.bytes()).is_err() || self.bytes().contains(&0) {
            return Err(Error::invalid(format!("Data from secret {id} is not valid UTF-8")));
        }
        Ok(self.bytes())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Secrets by identifier, as a plain value.
#[derive(Clone, Debug, Default)]
pub struct Secrets(BTreeMap<String, Secret>);

impl Secrets {
    /// Adds a secret; false (and nothing changed) if the identifier is taken.
    pub fn add(&mut self, id: &str, secret: Secret) -> bool {
        if self.0.contains_key(id) {
            return false;
        }
        self.0.insert(id.to_owned(), secret);
        true
    }

    /// The secret called `id`.
    ///
    /// # Errors
    /// `InvalidArg` if there is none.
    pub fn get(&self, id: &str) -> Result<Secret> {
        self.0.get(id).cloned().ok_or_else(|| unknown_secret(id))
    }
}

/// The error for an identifier that no secret has.
#[must_use]
pub fn unknown_secret(id: &str) -> Error {
    Error::invalid(format!("No secret with id '{id}'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_text() {
        assert_eq!(Secret::new(b"abc\n".to_vec()).password("s").unwrap(), b"abc\n");
        for bytes in [b"abc\0".to_vec(), vec![0xff]] {
            let error = Secret::new(bytes).password("s").unwrap_err();
            assert_eq!(error.to_string(), "Data from secret s is not valid UTF-8");
        }
    }

    #[test]
    fn a_secret_is_not_printed() {
        let mut secrets = Secrets::default();
        assert!(secrets.add("s", Secret::new(b"hunter2".to_vec())));
        assert!(!secrets.add("s", Secret::new(Vec::new())));
        assert!(!format!("{secrets:?}").contains("hunter2"));
        assert_eq!(secrets.get("x").unwrap_err().to_string(), "No secret with id 'x'");
    }
}
