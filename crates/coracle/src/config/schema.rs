//! The configuration as JSON Schema, for editors.

use serde_json::{Map, Value, json};

use super::keys::{Config, Effect};
use super::sources::Given;

/// The schema (draft 2020-12) of the file and its fragments.
pub(crate) fn schema() -> Value {
    let mut properties = Map::new();
    for (key, default) in Config::settle(&Given::default()).values() {
        let mut schema = (key.schema)();
        let effect = match key.effect {
            Effect::Live => "Counts at once on reload.",
            Effect::Restart => "Counts after a restart of the daemon.",
        };
        if let Some(schema) = schema.as_object_mut() {
            schema.insert(
                "description".to_owned(),
                json!(format!("{} {effect}", key.sentence())),
            );
            schema.insert("default".to_owned(), of_toml(&default));
        }
        let (section, name) = key.parts();
        let place = if section.is_empty() {
            &mut properties
        } else {
            section_of(&mut properties, section)
        };
        place.insert(name.to_owned(), schema);
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Configuration of coracle",
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
    })
}

fn section_of<'a>(properties: &'a mut Map<String, Value>, section: &str) -> &'a mut Map<String, Value> {
    let entry = properties
        .entry(section)
        .or_insert_with(|| json!({"type": "object", "properties": {}, "additionalProperties": false}));
    entry["properties"]
        .as_object_mut()
        .expect("each section is made with its properties")
}

/// A value that is written as TOML, as JSON.
pub(crate) fn of_toml(text: &str) -> Value {
    let parsed = toml::from_str::<toml::Table>(&format!("value = {text}")).ok();
    let value = parsed.and_then(|mut table| table.remove("value"));
    value.map_or(Value::Null, |value| {
        serde_json::to_value(value).unwrap_or_default()
    })
}
