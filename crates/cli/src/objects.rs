//! `--object`: user-creatable objects. Secrets are the only kind there is; they are checked here.

use diskimg::core::options::split_options;

use crate::command::Value;
use crate::ui::{Exit, Ui};

const SECRET: &str = "secret";
const SECRET_PROPERTIES: [&str; 7] = ["qom-type", "id", "data", "file", "format", "iv", "keyid"];
const SECRET_HELP: &str = "secret options:
  data=<string>
  file=<string>
  format=<QCryptoSecretFormat>
  iv=<string>
  keyid=<string>
";

type Properties = Vec<(String, String)>;

/// Checks the value of `--object`; asking for help ends the program.
pub(crate) fn check(ui: &Ui, value: Value) -> Result<(), Exit> {
    let text = value.text(ui)?;
    let properties = if text.starts_with('{') { from_json(ui, &text)? } else { from_list(ui, &text)? };
    let kind = get(&properties, "qom-type").ok_or_else(|| ui.fail("Parameter 'qom-type' is missing"))?;
    if kind != SECRET {
        return Err(ui.fail(format!("Parameter 'qom-type' does not accept value '{kind}'")));
    }
    check_secret(ui, &properties)
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

fn from_json(ui: &Ui, text: &str) -> Result<Properties, Exit> {
    let value: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(text).map_err(|error| ui.fail(format!("JSON parse error, {error}")))?;
    let text_of = |value: serde_json::Value| match value {
        serde_json::Value::String(text) => text,
        other => other.to_string(),
    };
    Ok(value.into_iter().map(|(name, value)| (name, text_of(value))).collect())
}

fn check_secret(ui: &Ui, properties: &Properties) -> Result<(), Exit> {
    let Some(id) = get(properties, "id") else {
        return Err(ui.fail("Parameter 'id' is missing"));
    };
    if let Some((unknown, _)) =
        properties.iter().find(|(name, _)| !SECRET_PROPERTIES.contains(&name.as_str()))
    {
        return Err(ui.fail(format!("Parameter '{unknown}' is unexpected")));
    }
    if let Some(format) = get(properties, "format").filter(|format| !["raw", "base64"].contains(format)) {
        return Err(ui.fail(format!("Parameter 'format' does not accept value '{format}'")));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if !id.starts_with(|c: char| c.is_ascii_alphabetic()) || !id.chars().all(plain) {
        let hint = "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.";
        return Err(ui.fail(format!("Parameter 'id' expects an identifier\n{hint}")));
    }
    match (get(properties, "data"), get(properties, "file")) {
        (Some(_), Some(_)) => Err(ui.fail("'file' and 'data' are mutually exclusive")),
        (None, None) => Err(ui.fail("Either 'file' or 'data' must be provided")),
        _ => Ok(()),
    }
}
