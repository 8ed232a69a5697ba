//! Workloads of the host's network namespace, which are known by their cgroup.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use mesh_tests::assert_eventually;
use mesh_tests::registry::object;
use serde_json::json;

use crate::shop::{Shop, WEB, cache};

#[test]
fn processes_of_the_host_namespace_are_enrolled_by_cgroup() {
    let Some(shop) = Shop::open(1) else { return };
    shop.open_web();
    shop.open_cache();
    let host = shop.node.host_pod("host", &shop.client);
    let stranger = shop.node.host_pod("stranger", &shop.client);
    shop.node.enrol(&host);
    assert_eq!(host.get(WEB).header("x-server"), "web-1");
    host.connect(cache()).unwrap().echo("hello").unwrap();
    assert!(stranger.connect(cache()).is_err());
    let coverage = || shop.node.api().coverage("shop", "host");
    assert_eventually!(coverage()["captured"] == 1 && coverage()["direct"] == 1);
}

#[test]
fn processes_in_a_cgroup_below_that_of_the_workload_belong_to_it() {
    let Some(shop) = Shop::open(1) else { return };
    shop.open_cache();
    let host = shop.node.host_pod("host", &shop.client);
    shop.node.enrol(&host);
    let deeper = host.cgroup().join("deeper/still");
    fs::create_dir_all(&deeper).unwrap();
    let cache = cache();
    let script = format!(
        "echo $$ > {}/cgroup.procs; exec 3<>/dev/tcp/{}/{}",
        deeper.display(),
        cache.ip(),
        cache.port()
    );
    let output = host
        .run(Command::new("bash").args(["-c", &script]))
        .unwrap();
    fs::remove_dir(&deeper).unwrap();
    fs::remove_dir(host.cgroup().join("deeper")).unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eventually!(shop.node.api().coverage("shop", "host")["direct"] == 1);
}

#[test]
fn a_cgroup_too_deep_for_the_kernel_is_not_told_as_enrolled() {
    let Some(shop) = Shop::open(1) else { return };
    shop.open_cache();
    let host = shop.node.host_pod("host", &shop.client);
    let device = fs::metadata(host.cgroup()).unwrap().dev();
    let is_cgroup = |it: &&Path| fs::metadata(it).unwrap().dev() == device;
    let levels = host.cgroup().ancestors().take_while(is_cgroup).count();
    let mut deepest = host.cgroup().to_owned();
    deepest.extend((levels..16).map(|level| level.to_string()));
    let deeper = deepest.join("deeper");
    fs::create_dir_all(&deeper).unwrap();
    for (name, cgroup) in [("deepest", &deepest), ("deeper", &deeper)] {
        let workload = object("Workload", name, &json!({ "cgroup": cgroup }));
        shop.node.api().apply(&workload);
    }
    let enrolled = |name| shop.reason(name, "Enrolled");
    assert_eventually!(enrolled("deepest") == "Enrolled");
    assert_eventually!(enrolled("deeper") == "TooDeep");
    shop.node.settle();
    let dial = format!(
        "echo $$ > {}/cgroup.procs; exec 3<>/dev/tcp/{}/{}",
        deepest.display(),
        cache().ip(),
        cache().port()
    );
    let dialled = host.run(Command::new("bash").args(["-c", &dial])).unwrap();
    for cgroup in deeper.ancestors().take_while(|it| *it != host.cgroup()) {
        fs::remove_dir(cgroup).unwrap();
    }
    assert!(dialled.status.success(), "{dialled:?}");
    assert_eventually!(shop.node.api().coverage("shop", "deepest")["direct"] == 1);
}

#[test]
fn processes_of_the_cgroup_in_another_network_namespace_are_told() {
    let Some(shop) = Shop::open(1) else { return };
    let host = shop.node.host_pod("host", &shop.client);
    shop.node.enrol(&host);
    let join = format!(
        "echo $$ > {}/cgroup.procs; exec sleep 600",
        host.cgroup().display()
    );
    let mut away = Command::new("unshare")
        .args(["--net", "sh", "-c", &join])
        .spawn()
        .unwrap();
    let enrolled = || shop.reason("host", "Enrolled");
    assert_eventually!(enrolled() == "OtherNamespace");
    // Those that are here stay captured.
    shop.open_cache();
    host.connect(cache()).unwrap().echo("hello").unwrap();
    away.kill().unwrap();
    away.wait().unwrap();
    assert_eventually!(enrolled() == "Enrolled");
}

#[test]
fn processes_outside_the_hooked_cgroup_are_listed_as_bypassed() {
    let Some(shop) = Shop::open(1) else { return };
    let outside = shop.node.pod_outside("outside");
    shop.node.enrol(&outside);
    let coverage = || shop.node.api().coverage("shop", "outside");
    assert_eventually!(coverage()["reasons"]["outside-cgroup"].as_u64() >= Some(1));
}
