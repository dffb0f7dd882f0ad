//! One way in and one way out for JSON and TOML: through [`Value`]. A type then has one reader and one writer in the
//! program, not one per format and source, which would be a third of its size.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Result, Value};

/// Reads JSON.
///
/// # Errors
/// It is no JSON, or no such thing.
pub fn from_json<T: DeserializeOwned>(text: &[u8]) -> Result<T> {
    serde_json::from_value(serde_json::from_slice(text)?)
}

/// Reads TOML.
///
/// # Errors
/// It is no TOML, or no such thing.
pub fn from_toml<T: DeserializeOwned>(text: &str) -> anyhow::Result<T> {
    Ok(serde_json::from_value(toml::from_str::<Value>(text)?)?)
}

/// Writes JSON for people and programs, with a newline at the end.
///
/// # Errors
/// A map whose keys are no text.
pub fn to_json(value: &impl Serialize) -> Result<String> {
    Ok(serde_json::to_string_pretty(&serde_json::to_value(value)?)? + "\n")
}

/// Writes JSON in one line, with a newline at the end.
///
/// # Errors
/// A map whose keys are no text.
pub fn to_json_line(value: &impl Serialize) -> Result<String> {
    Ok(serde_json::to_value(value)?.to_string() + "\n")
}
