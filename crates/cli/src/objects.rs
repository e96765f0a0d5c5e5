//! `--object`: user-creatable objects, secrets and throttle groups. They are kept for the whole run.

use std::sync::Arc;

use diskimg::core::options::split_options;
use diskimg::crypto::SecretObject;
use diskimg::filters::ThrottleGroup;

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

const THROTTLE_GROUP: &str = "throttle-group";

/// Names behind `x-`, all of them numbers.
const LIMITS: [&str; 19] = [
    "bps-read-max-length",
    "bps-read-max",
    "bps-read",
    "bps-total-max-length",
    "bps-total-max",
    "bps-total",
    "bps-write-max-length",
    "bps-write-max",
    "bps-write",
    "iops-read-max-length",
    "iops-read-max",
    "iops-read",
    "iops-size",
    "iops-total-max-length",
    "iops-total-max",
    "iops-total",
    "iops-write-max-length",
    "iops-write-max",
    "iops-write",
];

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
    if get(&properties, "qom-type") == Some(THROTTLE_GROUP) {
        return add_group(ui, &properties);
    }
    let named = properties.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let added = SecretObject::new(named).and_then(|secret| ui.with_secrets(|secrets| secret.add_to(secrets)));
    added.map_err(|error| ui.library_error(&error))
}

fn add_group(ui: &Ui, properties: &Properties) -> Result<(), Exit> {
    let Some(id) = get(properties, "id") else { return Err(ui.fail("Parameter 'id' is missing")) };
    let limits = properties.iter().filter(|(name, _)| !matches!(name.as_str(), "qom-type" | "id"));
    let group = ThrottleGroup::new(limits.map(|(name, value)| (name.as_str(), value.as_str())));
    let group = group.map_err(|error| ui.library_error(&error))?;
    let is_secret = ui.with_secrets(|secrets| secrets.get(id).is_ok());
    if is_secret || !ui.with_objects(|objects| objects.add(id, Arc::new(group))) {
        return Err(ui.fail(format!("attempt to add duplicate property '{id}' to object (type 'container')")));
    }
    Ok(())
}

/// The page of `--object KIND,help`, or of `--object help`.
fn help(kind: Option<&str>) -> String {
    match kind {
        Some(SECRET) => SECRET_HELP.to_owned(),
        Some(THROTTLE_GROUP) => {
            let rows: String = LIMITS.iter().map(|name| format!("  x-{name}=<int>\n")).collect();
            format!("throttle-group options:\n  limits=<ThrottleLimits>\n{rows}")
        }
        _ => format!("List of user creatable objects:\n  {SECRET}\n  {THROTTLE_GROUP}\n"),
    }
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
                ui.print(&help(get(&properties, "qom-type")));
                return Err(Exit::OK);
            }
            None if at == 0 => properties.push(("qom-type".to_owned(), name)),
            None if !is_key(&name) => return Err(ui.fail(format!("Invalid parameter '{name}'"))),
            None => return Err(ui.fail(format!("Expected '=' after parameter '{name}'"))),
        }
    }
    Ok(properties)
}

/// True if a property could have that name: words with dots in between, of which all but the first may be numbers. A
/// word may have a vendor in front: `__vendor_word`.
fn is_key(name: &str) -> bool {
    let inside = |text: &str| text.chars().all(|next| next.is_ascii_alphanumeric() || "-_".contains(next));
    let word = |text: &str| {
        let text =
            text.strip_prefix("__").and_then(|rest| rest.split_once('_')).map_or(text, |(_, word)| word);
        text.starts_with(|first: char| first.is_ascii_alphabetic()) && inside(text)
    };
    let number = |text: &str| !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
    name.split('.').enumerate().all(|(at, text)| word(text) || (at > 0 && number(text)))
}

/// `{"qom-type": KIND, …}`: all values are strings.
fn from_json(ui: &Ui, text: &str) -> Result<Properties, Exit> {
    let value: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(text).map_err(|error| ui.fail(format!("JSON parse error, {error}")))?;
    let mut properties = Properties::new();
    for (name, value) in value {
        match value {
            serde_json::Value::String(text) => properties.push((name, text)),
            serde_json::Value::Number(number) if name.starts_with("x-") => {
                properties.push((name, number.to_string()))
            }
            serde_json::Value::Object(limits) if name == "limits" => {
                let limit = |(name, value): (String, serde_json::Value)| {
                    (format!("limits.{name}"), value.to_string())
                };
                properties.extend(limits.into_iter().map(limit));
            }
            // Whether there is such a property is another question, and comes first.
            other if !SecretObject::PROPERTIES.contains(&name.as_str()) => {
                properties.push((name, other.to_string()));
            }
            _ => return Err(ui.fail(format!("Invalid parameter type for '{name}', expected: string"))),
        }
    }
    Ok(properties)
}
