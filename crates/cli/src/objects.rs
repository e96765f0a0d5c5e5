//! `--object`: user-creatable objects. Secrets are the only kind there is; they are kept for the whole run.

use diskimg::core::options::split_options;
use diskimg::crypto::SecretObject;

use crate::command::Value;
use crate::ui::{Exit, Ui};

const SECRET: &str = "secret";
const SECRET_HELP: &str = "secret options:
  data=<string>
  file=<string>
  format=<QCryptoSecretFormat>
  iv=<string>
  keyid=<string>
";

type Properties = Vec<(String, String)>;

/// Makes the object of an `--object`; images that are opened from now on find it. Asking for help ends the program.
///
/// What the library does: [`SecretObject::new`] with the properties, then [`SecretObject::add_to`] the secrets that go
/// into the context ([`diskimg::Context::with_secrets`]).
pub(crate) fn add(ui: &Ui, value: Value) -> Result<(), Exit> {
    let text = value.text(ui)?;
    let properties = if text.starts_with('{') { from_json(ui, &text)? } else { from_list(ui, &text)? };
    if get(&properties, "qom-type").is_none() {
        return Err(ui.fail("Parameter 'qom-type' is missing"));
    }
    let named = properties.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let added = SecretObject::new(named).and_then(|secret| ui.with_secrets(|secrets| secret.add_to(secrets)));
    added.map_err(|error| ui.library_error(&error))
}

fn get<'a>(properties: &'a Properties, name: &str) -> Option<&'a str> {
    properties.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

/// `KIND,name=value,…`.
fn from_list(ui: &Ui, text: &str) -> Result<Properties, Exit> {
    let mut properties = Properties::new();
    for (at, (name, value)) in split_options(text).into_iter().enumerate() {
        match value {
            Some(value) => properties.push((name, value)),
            None if matches!(name.as_str(), "help" | "?") => {
                let secret = get(&properties, "qom-type") == Some(SECRET);
                let list = format!("List of user creatable objects:\n  {SECRET}\n");
                ui.print(if secret { SECRET_HELP } else { &list });
                return Err(Exit::OK);
            }
            None if at == 0 => properties.push(("qom-type".to_owned(), name)),
            None => return Err(ui.fail(format!("Expected '=' after parameter '{name}'"))),
        }
    }
    Ok(properties)
}

/// `{"qom-type": KIND, …}`: all values are strings.
fn from_json(ui: &Ui, text: &str) -> Result<Properties, Exit> {
    let value: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(text).map_err(|error| ui.fail(format!("JSON parse error, {error}")))?;
    let mut properties = Properties::new();
    for (name, value) in value {
        match value {
            serde_json::Value::String(text) => properties.push((name, text)),
            // Whether there is such a property is another question, and comes first.
            other if !SecretObject::PROPERTIES.contains(&name.as_str()) => {
                properties.push((name, other.to_string()));
            }
            _ => return Err(ui.fail(format!("Invalid parameter type for '{name}', expected: string"))),
        }
    }
    Ok(properties)
}
