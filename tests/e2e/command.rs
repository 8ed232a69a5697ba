//! The command line against a live agent: every question, in every form.

use std::process::Output;

use mesh_tests::assert_eventually;
use mesh_tests::registry::{object, policy};
use serde_json::{Value, json};

use crate::shop::{Shop, WEB, cache, web};

/// Questions, each with words that its answer contains in every form.
const QUESTIONS: [(&[&str], &[&str]); 12] = [
    (&["status"], &["services", "endpoints", "workloads"]),
    (&["services"], &["web", "cache", "240.240.0.20", "6379"]),
    (&["services", "web", "-n", "shop"], &["web", "240.240.0.10"]),
    (&["services", "web"], &["web", "240.240.0.10"]),
    (&["endpoints"], &["web-1", "web-1-v6", "cache-1", "7000"]),
    (&["workloads", "-A"], &["client", "/run/netns/"]),
    (&["policies", "-n", "shop"], &["no-web", "Deny"]),
    (
        &["connections"],
        &["shop/client", "240.240.0.20:6379", "direct"],
    ),
    (&["coverage", "-n", "shop"], &["client", "service"]),
    (
        &["explain", "shop/client", "240.240.0.10:80"],
        &["deny", "policy", "shop/web", "shop/no-web"],
    ),
    (
        &["explain", "shop/client", "web.shop.mesh:80"],
        &["deny", "policy", "shop/web", "shop/no-web"],
    ),
    (&["bpf"], &["SERVICES", "POLICY", "STATS"]),
];

/// A shop with a connection, past ones, and a client that may not dial the web service.
fn busy_shop() -> Option<Shop> {
    let shop = Shop::open(1)?;
    shop.open_web();
    shop.open_cache();
    assert_eq!(shop.client.get(WEB).status, 200);
    let from = json!({ "serviceAccounts": ["client"] });
    shop.node
        .apply(&[policy("no-web", "Deny", ("Service", "web"), &from)]);
    assert!(shop.client.connect(web()).is_err());
    // What is listed is the same for who asks again.
    assert_eventually!(is_over(&shop));
    Some(shop)
}

/// Whether the agent has heard of the end of every connection.
fn is_over(shop: &Shop) -> bool {
    let list = shop.node.api().get("/api/v1/connections");
    let items = list["items"].as_array().unwrap();
    !items.is_empty() && items.iter().all(|it| it["closed"] == true)
}

#[test]
fn every_question_is_answered_in_every_form() {
    let Some(shop) = busy_shop() else { return };
    let kept = shop.client.connect(cache()).unwrap();
    kept.echo("hello").unwrap();
    for (words, expected) in QUESTIONS {
        let ask = |form: &str| {
            let mut words = words.to_vec();
            words.extend(["-o", form]);
            succeed(&shop, &words)
        };
        let json_text = ask("json");
        let json: Value = serde_json::from_str(&json_text).unwrap();
        let yaml_text = ask("yaml");
        let yaml: Value = serde_saphyr::from_str(&yaml_text).unwrap();
        assert_eq!(shape(&json), shape(&yaml), "{words:?}");
        let table = ask("table");
        for word in expected {
            for text in [&json_text, &yaml_text, &table] {
                assert!(text.contains(word), "{words:?}: no {word} in\n{text}");
            }
        }
        assert!(serde_json::from_str::<Value>(&table).is_err(), "{table}");
        let by_default = succeed(&shop, words);
        let head = |text: &str| text.lines().next().map(ToOwned::to_owned);
        assert_eq!(head(&by_default), head(&table), "a table by default");
    }
}

/// The names of all fields: values may have changed between two questions.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| (name.clone(), shape(value)))
            .collect(),
        Value::Array(items) => items.iter().map(shape).collect(),
        _ => Value::Null,
    }
}

#[test]
fn answers_are_narrowed_to_a_namespace() {
    let Some(shop) = busy_shop() else { return };
    for kind in ["services", "endpoints", "workloads", "coverage"] {
        let text = succeed(&shop, &[kind, "-n", "elsewhere", "-o", "json"]);
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(answer["items"], json!([]), "{kind}");
    }
    let text = succeed(&shop, &["services", "web", "-n", "shop", "-o", "json"]);
    let answer: Value = serde_json::from_str(&text).unwrap();
    let path = "/api/v1/namespaces/shop/services/web";
    assert_eq!(answer, shop.node.api().get(path));
}

#[test]
fn objects_are_applied_and_deleted_by_command() {
    let Some(shop) = Shop::open(1) else { return };
    shop.open_cache();
    let file = shop.node.state_dir().join("objects.json");
    let spec = json!({ "target": { "kind": "Service", "name": "cache" }, "action": "Allow" });
    let nobody = object("AuthorizationPolicy", "nobody", &spec);
    std::fs::write(&file, nobody.to_string()).unwrap();
    succeed(&shop, &["apply", "-f", file.to_str().unwrap()]);
    assert_eventually!(shop.client.connect(cache()).is_err());
    succeed(&shop, &["delete", "policy", "nobody", "-n", "shop"]);
    assert_eventually!(shop.client.connect(cache()).is_ok());
}

#[test]
fn what_is_wrong_has_its_exit_code() {
    let Some(mut shop) = busy_shop() else { return };
    for (words, code) in [
        (&["services", "nothing", "-n", "shop"][..], 66),
        (&["routes", "nothing"], 66),
        (&["explain", "shop/nobody", "240.240.0.10:80"], 66),
        (&["explain", "shop/client", "web"], 2),
        (&["services", "-o", "xml"], 2),
        (&["services", "no/name", "-n", "shop"], 64),
    ] {
        fail(&shop, words, code);
    }
    shop.node.agent().kill();
    for words in [&["status"][..], &["bpf", "-o", "json"]] {
        fail(&shop, words, 69);
    }
}

#[track_caller]
fn fail(shop: &Shop, words: &[&str], code: i32) {
    let output = run(shop, words);
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{words:?}: {complaint}");
    assert!(complaint.starts_with("error: "), "{words:?}: {complaint}");
    assert!(output.stdout.is_empty(), "{words:?}: {output:?}");
}

/// What a command that succeeds prints.
#[track_caller]
fn succeed(shop: &Shop, words: &[&str]) -> String {
    let output = run(shop, words);
    assert!(output.status.success(), "{words:?}: {output:?}");
    assert!(output.stderr.is_empty(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn run(shop: &Shop, words: &[&str]) -> Output {
    shop.node.command(words).output().unwrap()
}
