//! Tests of the tables: what people see.

use serde_json::json;

use super::report::size;
use super::*;
use crate::state::decode;
use crate::state::endpoint::Endpoint;
use crate::state::object::{Kind, ObjectKey};
use crate::state::report::{
    BpfReport, BreakerList, ConnectionList, CoverageList, Explanation, Status,
};
use crate::state::service::Service;

#[test]
fn services_are_shown_with_what_is_wrong() {
    let service: Service = serde_json::from_value(json!({
        "apiVersion": "mesh.dev/v1alpha1", "kind": "Service",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"ports": [{"name": "http", "port": 80, "protocol": "http"}, {"name": "dns", "port": 53, "protocol": "udp"}]},
        "status": {"addresses": ["240.240.0.10"], "conditions": [
            {"type": "Accepted", "status": "True", "reason": "Accepted"},
            {"type": "Programmed", "status": "False", "reason": "NotSupported"}]}
    }))
    .expect("it is a service");
    assert_eq!(
        services(&[service]),
        "\
NAMESPACE  NAME  ADDRESSES     PORTS           MODE  BALANCING     SOURCE  STATUS
shop       web   240.240.0.10  80/http,53/udp  auto  LeastRequest  api     Programmed=False(NotSupported)"
    );
}

#[test]
fn coverage_has_numbers_on_the_right() {
    let list: CoverageList = serde_json::from_value(json!({"items": [
        {"namespace": "shop", "name": "client", "captured": 12, "direct": 3, "passed": 0, "denied": 1, "bypassed": 0,
         "reasons": {"policy": 1, "service": 15}}]}))
    .expect("it is coverage");
    assert_eq!(
        coverage(&list),
        "\
NAMESPACE  NAME    CAPTURED  DIRECT  PASSED  DENIED  BYPASSED  REASONS
shop       client        12       3       0       1         0  policy=1,service=15"
    );
}

#[test]
fn an_explanation_without_a_service_has_dashes() {
    let explanation = Explanation {
        verdict: "pass".to_owned(),
        reason: "unknown".to_owned(),
        ..Explanation::default()
    };
    let shown = super::explanation(&explanation);
    assert!(shown.starts_with("Verdict:    pass\n"), "{shown}");
    assert!(shown.contains("Endpoints:  -"), "{shown}");
}

#[test]
fn a_status_says_what_readiness_waits_for() {
    let report = Status {
        pending: vec!["the first sync".to_owned()],
        revision: 3,
        programmed_revision: 1,
        ..Status::default()
    };
    let shown = status(&report);
    assert!(shown.contains("no, waits for: the first sync"), "{shown}");
    assert!(shown.contains("revision 3, 1 in force"), "{shown}");
}

#[test]
fn text_cannot_steer_the_terminal() {
    let endpoint: Endpoint = serde_json::from_value(json!({
        "apiVersion": "mesh.dev/v1alpha1", "kind": "Endpoint", "metadata": {"name": "web-1"},
        "spec": {"service": "web", "address": "10.0.0.3", "version": "v1\u{1b}[2J"}
    }))
    .expect("it is an endpoint");
    let shown = endpoints(&[endpoint]);
    assert!(
        !shown.contains('\u{1b}') && shown.contains("v1\u{fffd}[2J"),
        "{shown}"
    );
    assert!(shown.contains("pending"), "{shown}");
}

#[test]
fn an_empty_list_is_its_header() {
    assert_eq!(workloads(&[]).lines().count(), 1);
    assert!(all_policies(&[]).starts_with("NAMESPACE"));
    assert!(routes(&[]).starts_with("NAMESPACE"));
    assert!(connections(&ConnectionList::default()).starts_with("WORKLOAD"));
    assert!(bpf(&BpfReport::default()).contains("CAPACITY"));
}

#[test]
fn breaker_says_whom_it_is_for_and_how_it_is() {
    let list: BreakerList = serde_json::from_value(json!({"items": [
        {"kind": "Service", "namespace": "shop", "name": "web", "endpoint": "shop/web-1:8080", "state": "open",
         "since": "2026-01-02T03:04:05Z", "openings": 2},
        {"kind": "HTTPRoute", "namespace": "shop", "name": "web", "rule": "first", "state": "closed",
         "since": "2026-01-02T03:04:05Z", "openings": 0}]}))
    .expect("it is a list");
    assert_eq!(
        breakers(&list),
        "\
NAMESPACE  KIND       NAME  RULE   ENDPOINT         STATE   SINCE                 OPENINGS
shop       Service    web   -      shop/web-1:8080  open    2026-01-02T03:04:05Z         2
shop       HTTPRoute  web   first  -                closed  2026-01-02T03:04:05Z         0"
    );
}

#[test]
fn sizes_keep_at_least_four_digits_before_they_change_the_unit() {
    assert_eq!(size(0), "0B");
    assert_eq!(size(10_239), "10239B");
    assert_eq!(size(10_240), "10KiB");
    assert_eq!(size(u64::MAX), "16777215TiB");
}

#[test]
fn routes_and_policies_of_all_kinds_share_a_page() {
    let object = |kind: Kind, name: &str, spec: serde_json::Value| {
        let key = ObjectKey::new("shop", name);
        decode::manifest(kind, &key, json!({ "spec": spec })).expect("it is right")
    };
    let parent = json!([{"group": "", "kind": "Service", "name": "web", "port": 80}]);
    let backends =
        json!([{"name": "v1", "port": 80}, {"name": "v2", "port": 80}, {"name": "v1", "port": 80}]);
    let rules = json!([{ "backendRefs": backends }]);
    let http = json!({"parentRefs": parent, "hostnames": ["a.b"], "rules": rules});
    let tcp = json!({"parentRefs": parent, "rules": rules});
    let shown = routes(&[
        object(Kind::HttpRoute, "r", http),
        object(Kind::TcpRoute, "t", tcp),
    ]);
    assert_eq!(
        shown,
        "\
NAMESPACE  NAME  KIND       HOSTNAMES  PARENTS         RULES  BACKENDS     SOURCE  STATUS
shop       r     HTTPRoute  a.b        Service/web:80      1  v1:80,v2:80  api     pending
shop       t     TCPRoute   -          Service/web:80      1  v1:80,v2:80  api     pending"
    );
    let access = json!({"target": {"kind": "Service", "name": "web"}, "action": "Deny"});
    let traffic = json!({"target": {"kind": "HTTPRoute", "name": "r", "sectionName": "first"},
        "retries": {}, "faults": [{"abort": {"status": 503}}]});
    let shown = all_policies(&[
        object(Kind::AuthorizationPolicy, "a", access),
        object(Kind::TrafficPolicy, "p", traffic),
    ]);
    assert_eq!(
        shown,
        "\
NAMESPACE  NAME  TARGET       ACTION  MODE     RULES  SOURCE  STATUS
shop       a     Service/web  Deny    Enforce      0  api     pending

NAMESPACE  NAME  TARGET             SETS            SOURCE  STATUS
shop       p     HTTPRoute/r/first  retries,faults  api     pending"
    );
}
