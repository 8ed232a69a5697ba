//! Names as programs ask for them: glibc, musl and `dig`.

use std::fs;
use std::process::{Command, Output};

use mesh_tests::resolver::HOST;

use super::{open_resolver, open_web};
use crate::shop::Shop;

/// Runs a shell script in the client, which asks the test's resolver.
fn script(shop: &Shop, more: &str, script: &str) -> Output {
    let file = shop.node.state_dir().join("resolv.conf");
    let text = format!("nameserver {}\n{more}", shop.server().v4());
    fs::write(&file, text).unwrap();
    let script = format!(
        "mount --bind {} /etc/resolv.conf && {script}",
        file.display()
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script]);
    shop.client.run(&mut command).unwrap()
}

#[track_caller]
fn output(shop: &Shop, more: &str, text: &str) -> String {
    let output = script(shop, more, text);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text} {errors}");
    text
}

#[test]
fn glibc_resolves_with_and_without_a_search_list() {
    let Some(shop) = Shop::open(1) else { return };
    let (_v4, _v6) = open_resolver(&shop);
    open_web(&shop);
    let search = "search example.org shop.mesh\n";
    for (more, name) in [
        ("", "web.shop.mesh"),
        ("", "web"),
        ("", "web.shop"),
        (search, "web"),
    ] {
        let text = output(&shop, more, &format!("getent ahosts {name}"));
        assert!(text.contains("240.240.0.10"), "{name}: {text}");
        assert!(text.contains("fd00:240:240::10"), "{name}: {text}");
    }
    let text = output(&shop, "", "getent ahostsv4 host.example.com");
    assert!(text.contains(&HOST.to_string()), "{text}");
    let text = output(&shop, "", "getent hosts 240.240.0.10");
    assert!(text.contains("web.shop.mesh"), "{text}");
    assert!(
        !script(&shop, "", "getent ahosts api.shop.mesh")
            .status
            .success()
    );
}

#[test]
fn dig_asks_over_udp_and_tcp() {
    if !mesh_tests::requirements::has("dig", "bind9-dnsutils") {
        return;
    }
    let Some(shop) = Shop::open(1) else { return };
    let (_v4, _v6) = open_resolver(&shop);
    open_web(&shop);
    for flags in ["", "+tcp", "+noedns", "+bufsize=512"] {
        let dig = |question: &str| output(&shop, "", &format!("dig {flags} +short {question}"));
        assert_eq!(dig("web.shop.mesh A"), "240.240.0.10\n", "{flags}");
        assert_eq!(dig("-x 240.240.0.10"), "web.shop.mesh.\n", "{flags}");
        assert_eq!(dig("host.example.com A"), format!("{HOST}\n"), "{flags}");
        assert_eq!(dig("x.example.com TYPE65280"), "\\# 3 010203\n", "{flags}");
    }
    let text = output(&shop, "", "dig web.shop.mesh A");
    let server = format!("SERVER: {}#53", shop.server().v4());
    assert!(
        text.contains(&server) && text.contains("status: NOERROR"),
        "{text}"
    );
}

#[test]
fn musl_resolves_though_it_asks_all_resolvers_from_one_socket() {
    if !mesh_tests::requirements::has("musl-gcc", "musl-tools") {
        return;
    }
    let Some(shop) = Shop::open(2) else { return };
    let (_v4, _v6) = open_resolver(&shop);
    open_web(&shop);
    // The second resolver is dead.
    let more = format!("nameserver {}\n", shop.servers[1].v4());
    let folder = shop.node.state_dir();
    fs::write(folder.join("lookup.c"), LOOKUP).unwrap();
    let mut compiler = Command::new("musl-gcc");
    let compiled = compiler.args(["-static", "-o", "lookup", "lookup.c"]);
    assert!(compiled.current_dir(folder).status().unwrap().success());
    let program = folder.join("lookup");
    let lookup = |name: &str| output(&shop, &more, &format!("{} {name}", program.display()));
    for name in ["web.shop.mesh", "web", "web.shop"] {
        let text = lookup(name);
        assert!(text.contains("240.240.0.10"), "{name}: {text}");
        assert!(text.contains("fd00:240:240::10"), "{name}: {text}");
    }
    let text = lookup("host.example.com");
    assert_eq!(text.trim(), HOST.to_string());
}

/// Prints the addresses of a name.
const LOOKUP: &str = r#"
#include <netdb.h>
#include <stdio.h>
#include <arpa/inet.h>
int main(int argc, char **argv) {
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *list, *it;
    int error = getaddrinfo(argv[1], 0, &hints, &list);
    if (error) { fprintf(stderr, "%s\n", gai_strerror(error)); return 1; }
    for (it = list; it; it = it->ai_next) {
        char text[64];
        getnameinfo(it->ai_addr, it->ai_addrlen, text, sizeof text, 0, 0, NI_NUMERICHOST);
        puts(text);
    }
    return 0;
}
"#;
