//! Lists of calls as TOML: read by [`parse`], written by [`print()`].

use serde_json::Value;

use crate::call::Sequence;

/// Reads a list.
///
/// # Errors
/// What is wrong with it, and where.
pub fn parse(text: &str) -> Result<Sequence, String> {
    toml::from_str(text).map_err(|error| error.to_string())
}

/// Writes a list, one call to a line.
pub fn print(sequence: &Sequence) -> String {
    let mut text = format!(
        "about = {:?}\nactors = {:?} # their users\nnodes = {}\ncalls = [\n",
        sequence.about, sequence.actors, sequence.nodes
    );
    for step in &sequence.calls {
        let value = serde_json::to_value(step).expect("a step is plain data");
        text += &format!("    {},\n", inline(&value));
    }
    text + "]\n"
}

fn inline(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            // The actor and the call first.
            let rank = |key: &str| match key {
                "actor" => 0,
                "call" => 1,
                "twist" => 3,
                _ => 2,
            };
            let mut fields: Vec<_> = fields.iter().filter(|(_, value)| !value.is_null()).collect();
            fields.sort_by_key(|(key, _)| rank(key));
            let fields: Vec<String> = fields.iter().map(|(key, value)| format!("{key} = {}", inline(value))).collect();
            format!("{{ {} }}", fields.join(", "))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(inline).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}
