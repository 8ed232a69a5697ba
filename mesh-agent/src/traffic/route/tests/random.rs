//! Random tables against a reference that compares every match with every other one.

use proptest::prelude::*;

use super::*;

/// A match in the words of the reference.
#[derive(Clone, Debug)]
struct Line {
    route: usize,
    rule: usize,
    host: Option<&'static str>,
    path: (&'static str, &'static str),
    method: Option<&'static str>,
    headers: Vec<(&'static str, &'static str)>,
    query: Vec<(&'static str, &'static str)>,
}

const HOSTS: [&str; 5] = ["a.x", "b.x", "*.x", "*.a.x", "y"];
const PATHS: [(&str, &str); 10] = [
    ("PathPrefix", "/"),
    ("PathPrefix", "/a"),
    ("PathPrefix", "/a/"),
    ("PathPrefix", "/a/b"),
    ("PathPrefix", "/b"),
    ("Exact", "/a"),
    ("Exact", "/a/b"),
    ("Exact", "/"),
    ("RegularExpression", "/a.*"),
    ("RegularExpression", ".*b"),
];
const ASKED_HOSTS: [&str; 6] = ["a.x", "b.x", "q.x", "q.a.x", "y", "z"];
const ASKED_PATHS: [&str; 8] = ["/", "/a", "/a/", "/a/b", "/a/b/c", "/ab", "/b", "/c/"];
const PAIRS: [(&str, &str); 4] = [("k", "1"), ("k", "2"), ("l", "1"), ("m", "1")];

fn pairs() -> impl Strategy<Value = Vec<(&'static str, &'static str)>> {
    proptest::sample::subsequence(&PAIRS[..], 0..=2).prop_map(|mut list| {
        list.dedup_by_key(|(name, _)| *name);
        list
    })
}

fn line() -> impl Strategy<Value = Line> {
    (
        0..4_usize,
        0..3_usize,
        proptest::sample::select(&PATHS[..]),
        proptest::option::of(proptest::sample::select(&["GET", "PUT"][..])),
        pairs(),
        pairs(),
    )
        .prop_map(|(route, rule, path, method, headers, query)| Line {
            route,
            rule,
            host: None,
            path,
            method,
            headers,
            query,
        })
}

fn ask() -> impl Strategy<Value = Ask> {
    (
        proptest::sample::select(&ASKED_HOSTS[..]),
        proptest::sample::select(&ASKED_PATHS[..]),
        proptest::sample::select(&["GET", "PUT"][..]),
        pairs(),
        pairs(),
    )
        .prop_map(|(host, path, method, headers, query)| {
            let query: Vec<_> = query.iter().map(|(k, v)| format!("{k}={v}")).collect();
            let mut ask = Ask::get(path).host(host).method(method.parse().unwrap());
            ask.query = (!query.is_empty()).then(|| query.join("&"));
            for (name, value) in headers {
                ask = ask.header(name, value.as_bytes());
            }
            ask
        })
}

fn host_score(line: &Line, host: &str) -> Option<(u8, usize)> {
    match line.host {
        None => Some((0, 0)),
        Some(pattern) => match pattern.strip_prefix('*') {
            Some(end) => (host.ends_with(end) && host != end).then_some((1, end.len())),
            None => (host == pattern).then_some((2, 0)),
        },
    }
}

/// How specific a path is, if it matches.
fn path_score(line: &Line, path: &str) -> Option<(u8, usize)> {
    let (kind, value) = line.path;
    match kind {
        "Exact" => (path == value).then_some((3, 0)),
        "PathPrefix" => {
            let prefix = value.trim_end_matches('/');
            let matches = path == prefix || path.starts_with(&format!("{prefix}/"));
            let class = if prefix.is_empty() { 0 } else { 2 };
            matches.then_some((class, prefix.len()))
        }
        _ => {
            let is_match = match value {
                "/a.*" => path.starts_with("/a"),
                _ => path.ends_with('b'),
            };
            is_match.then_some((1, value.len()))
        }
    }
}

fn has_all(line: &Line, ask: &Ask) -> bool {
    let header = |(name, value): &(&str, &str)| {
        let values: Vec<_> = ask.headers.get_all(*name).iter().collect();
        let values: Vec<_> = values.iter().map(|it| it.to_str().unwrap()).collect();
        values.join(", ") == *value
    };
    let parameter = |(name, value): &(&str, &str)| {
        let query = ask.query.as_deref().unwrap_or_default();
        let first = query
            .split('&')
            .find(|it| it.starts_with(&format!("{name}=")));
        first == Some(&format!("{name}={value}"))
    };
    line.method.is_none_or(|method| ask.method == method)
        && line.headers.iter().all(header)
        && line.query.iter().all(parameter)
}

fn reference(lines: &[Line], ask: &Ask) -> String {
    let best = lines
        .iter()
        .filter(|line| has_all(line, ask))
        .filter_map(|line| {
            let score = (
                host_score(line, ask.host)?,
                path_score(line, &ask.path)?,
                line.method.is_some(),
                line.headers.len(),
                line.query.len(),
            );
            Some((score, std::cmp::Reverse((line.route, line.rule))))
        })
        .max();
    best.map_or_else(
        || "none".to_owned(),
        |(_, std::cmp::Reverse((route, rule)))| format!("r{route}/{rule}"),
    )
}

/// Routes as they would be written, of lines in any order.
fn routes(lines: &[Line], hosts: &[Option<&'static str>]) -> Vec<Arc<CompiledRoute>> {
    let route = |number: usize| {
        let rule = |rule: usize| {
            let list = |pairs: &[(&str, &str)]| -> Vec<_> {
                let pairs = pairs.iter();
                pairs
                    .map(|(name, value)| json!({"name": name, "value": value}))
                    .collect()
            };
            let matches: Vec<_> = lines
                .iter()
                .filter(|line| (line.route, line.rule) == (number, rule))
                .map(|line| {
                    let (kind, value) = line.path;
                    json!({"path": {"type": kind, "value": value}, "method": line.method,
                        "headers": list(&line.headers), "queryParams": list(&line.query)})
                })
                .collect();
            // A rule without matches would take everything.
            let nothing = json!({"path": {"type": "Exact", "value": "/nothing"}});
            json!({"matches": if matches.is_empty() { vec![nothing] } else { matches }})
        };
        let rules: Vec<_> = (0..3).map(rule).collect();
        let spec = json!({"hostnames": Vec::from_iter(hosts[number]), "rules": rules});
        http(&format!("r{number}"), u32::try_from(number).unwrap(), &spec)
    };
    (0..hosts.len()).map(route).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_table_chooses_as_the_reference_does(
        lines in proptest::collection::vec(line(), 1..40),
        hosts in proptest::collection::vec(proptest::option::of(proptest::sample::select(&HOSTS[..])), 4),
        asks in proptest::collection::vec(ask(), 20),
    ) {
        let lines: Vec<_> = lines
            .into_iter()
            .map(|line| Line { host: hosts[line.route], ..line })
            .collect();
        let table = Table::new(routes(&lines, &hosts));
        for ask in asks {
            prop_assert_eq!(chosen(&table, &ask), reference(&lines, &ask), "{:?}", ask);
        }
    }
}
