//! The JSON that is printed, held against `schemas/`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use jsonschema::Validator;
use serde_json::Value;

/// What the text has that `schemas/` does not describe. Whoever reads a report must bear with more than is described, as
/// later versions add to it, but this version has nothing that is not described.
pub fn schema(name: &str, text: &str) -> Vec<String> {
    static SCHEMAS: OnceLock<BTreeMap<String, Validator>> = OnceLock::new();
    let schemas = SCHEMAS.get_or_init(|| {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas");
        let read = |entry: std::io::Result<fs::DirEntry>| {
            let path = entry.unwrap().path();
            let mut schema: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
            forbid_more(&mut schema);
            let name = path.file_name().unwrap().to_str().unwrap().trim_end_matches(".schema.json").to_owned();
            (name, jsonschema::validator_for(&schema).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
        };
        fs::read_dir(dir).unwrap().map(read).collect()
    });
    let value: Value = serde_json::from_str(text).unwrap();
    schemas[name].iter_errors(&value).map(|e| format!("{name}: {e} ({})", e.instance_path())).collect()
}

fn forbid_more(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if map.get("properties").is_some_and(|p| p.is_object()) && map.contains_key("type") {
                map.insert("additionalProperties".into(), false.into());
            }
            map.values_mut().for_each(forbid_more);
        }
        Value::Array(list) => list.iter_mut().for_each(forbid_more),
        _ => {}
    }
}
