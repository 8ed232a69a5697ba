//! What tidy finds, and what it leaves alone.

use super::{problems_of, production};

#[track_caller]
fn check(name: &str, text: &str, expected: &[&str]) {
    let problems = problems_of(name, text);
    assert_eq!(problems.len(), expected.len(), "{problems:?}");
    for (problem, part) in problems.iter().zip(expected) {
        assert!(problem.contains(part), "{problem:?} lacks {part:?}");
    }
}

#[test]
fn a_module_may_import_from_the_rows_below() {
    check(
        "mesh-agent/src/proxy/outbound.rs",
        "//! Text.\nuse crate::state::Snapshot;\nuse crate::proxy::pool::Pool;\n",
        &[],
    );
}

#[test]
fn a_module_must_not_import_from_its_own_row_or_above() {
    check(
        "mesh-agent/src/proxy.rs",
        "//! Text.\nuse crate::ebpf::Datapath;\nlet x = crate::app::run();\n",
        &[
            "`proxy` must not import `ebpf`",
            "`proxy` must not import `app`",
        ],
    );
}

#[test]
fn a_module_outside_the_layers_is_a_problem() {
    check(
        "mesh-agent/src/net/socket.rs",
        "//! Text.\nuse crate::zoo::Lion;\n",
        &["`crate::zoo` is in no layer"],
    );
}

#[test]
fn tests_may_import_anything() {
    check(
        "mesh-agent/src/net.rs",
        "//! Text.\n#[cfg(test)]\nmod tests {\n    use crate::app::App;\n}\n",
        &[],
    );
}

#[test]
fn grouped_imports_are_refused() {
    check(
        "mesh-agent/src/app.rs",
        "//! Text.\nuse crate::{api, ebpf};\n",
        &["one `use` per module"],
    );
}

#[test]
fn a_file_begins_with_a_sentence() {
    check("xtask/src/x.rs", "fn main() {}\n", &["first line"]);
}

#[test]
fn names_that_say_nothing_are_refused() {
    check(
        "tests/src/utils.rs",
        "//! Text.\n",
        &["`utils` says nothing"],
    );
    check(
        "tests/src/pod/mod.rs",
        "//! Text.\n",
        &["`mod` says nothing"],
    );
}

#[test]
fn files_have_a_size() {
    let long = |lines: usize| format!("//! Text.\n{}", "fn x() {}\n".repeat(lines - 1));
    check("mesh-agent/src/net.rs", &long(400), &[]);
    check(
        "mesh-agent/src/net.rs",
        &long(401),
        &["401 lines, more than 400"],
    );
    let hook = long(200).replacen("fn x()", "#[sk_msg]\nfn x()", 1);
    check("mesh-ebpf/src/connect.rs", &hook, &["more than 200"]);
    check("mesh-ebpf/src/tables.rs", &long(201), &[]);
    check("mesh-agent/src/main.rs", &long(101), &["more than 100"]);
    check("mesh-agent/src/net/tests.rs", &long(900), &[]);
}

#[test]
fn libraries_have_owners() {
    check(
        "mesh-agent/src/state/store.rs",
        "//! Text.\nuse aya::maps::Map;\nuse hyper::Request;\n",
        &["must not use `aya`", "must not use `hyper`"],
    );
    check(
        "mesh-agent/src/proxy/metrics.rs",
        "//! Text.\nuse prometheus_client::registry::Registry;\nuse hyper::Uri;\nlet a = yaya::x;\n",
        &[],
    );
}

#[test]
fn allow_is_refused_everywhere() {
    check(
        "tests/src/pod.rs",
        "//! Text.\n#[allow(dead_code)]\nfn x() {}\n",
        &["`allow` does not expire"],
    );
}

#[test]
fn names_in_the_kernel_are_short() {
    check(
        "mesh-common/src/names.rs",
        "//! Text.\npub const A: &str = \"fifteen_letters\";\npub const B: &str = \"sixteen__letters\";\n",
        &["`sixteen__letters` is longer than 15"],
    );
}

#[test]
fn a_declaration_of_tests_does_not_end_production() {
    let text = "//! Text.\n#[cfg(test)]\nmod tests;\nfn more() {}\n";
    assert_eq!(production(text), text);
}
