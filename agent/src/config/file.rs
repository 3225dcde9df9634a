//! The configuration file: YAML, one mapping from keys to scalars or, for what may be repeated, lists of them.
//!
//! It must never ignore a key: an unknown one is an error that names the nearest right one. Values stay text
//! here; what they mean is decided in `settings.rs`, as for flags.

use std::io::Read;
use std::path::Path;

use serde_yaml_ng::Value;

use super::error::{ConfigError, one_line};
use super::settings::{SETTINGS, Times};
use super::{Given, MAX_FILE};

/// Reads a file of at most [`MAX_FILE`] bytes.
pub(super) fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_FILE as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > MAX_FILE {
        return Err(std::io::Error::other("it is longer than 1 MiB"));
    }
    Ok(bytes)
}

/// The settings in a file's text.
pub(super) fn parse(path: &Path, text: &[u8]) -> Result<Vec<Given>, ConfigError> {
    let broken = |reason: &str| ConfigError::File { path: path.to_owned(), reason: one_line(reason) };
    let document: Value = serde_yaml_ng::from_slice(text).map_err(|error| broken(&error.to_string()))?;
    let mapping = match document {
        Value::Null => return Ok(Vec::new()),
        Value::Mapping(mapping) => mapping,
        _ => return Err(broken("it is not a mapping of keys to values, such as ring_bytes: 16MiB")),
    };
    let place = path.to_string_lossy();
    let mut found = Vec::new();
    for (key, value) in mapping {
        let what = format!("key of {}", one_line(&place));
        // A file cannot name another one.
        let known = || SETTINGS.iter().map(|setting| setting.key).filter(|key| *key != "config");
        let unknown = |name: &str| ConfigError::unknown(&what, name, known());
        let Value::String(key) = key else {
            return Err(unknown(&scalar(&key).unwrap_or_default()));
        };
        let setting = SETTINGS
            .iter()
            .find(|setting| setting.key == key && key != "config")
            .ok_or_else(|| unknown(&key))?;
        let name = format!("{key} in {}", one_line(&place));
        let wrong = |wanted: &str| ConfigError::Usage { key: name.clone(), problem: wanted.to_owned() };
        let texts = match (value, setting.times) {
            (Value::Null, _) => continue,
            (Value::Sequence(values), Times::Repeated) => {
                let texts: Option<Vec<String>> = values.iter().map(scalar).collect();
                texts.ok_or_else(|| wrong("each value of the list must be a text or a number"))?
            }
            (Value::Sequence(_), Times::Once) => return Err(wrong("it takes one value, not a list")),
            (value, _) => vec![scalar(&value).ok_or_else(|| wrong("its value must be a text or a number"))?],
        };
        found.push(Given { key: setting.key, name, texts });
    }
    Ok(found)
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Null | Value::Sequence(_) | Value::Mapping(_) | Value::Tagged(_) => None,
    }
}
