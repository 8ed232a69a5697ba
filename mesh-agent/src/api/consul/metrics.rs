//! The series of the agent as Consul lists its own. Pure.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Gauges and counters, with their labels.
pub(super) fn list(text: &str) -> Value {
    let mut kinds: BTreeMap<&str, &str> = BTreeMap::new();
    let (mut gauges, mut counters) = (Vec::new(), Vec::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            kinds.extend(rest.split_once(' '));
            continue;
        }
        let Some((series, value)) = line.rsplit_once(' ').filter(|_| !line.starts_with('#')) else {
            continue;
        };
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let Ok(value) = value.parse::<f64>() else {
            continue;
        };
        let labels = labels.trim_end_matches('}');
        let entry =
            |name: &str| json!({"Name": name, "Value": value, "Labels": {"series": labels}});
        match name.strip_suffix("_total") {
            Some(family) if kinds.get(family) == Some(&"counter") => {
                counters.push(
                    json!({"Name": name, "Count": 1, "Sum": value, "Labels": {"series": labels}}),
                );
            }
            _ if kinds.get(name) == Some(&"gauge") => gauges.push(entry(name)),
            _ => {}
        }
    }
    json!({"Timestamp": "", "Gauges": gauges, "Points": [], "Counters": counters, "Samples": []})
}
