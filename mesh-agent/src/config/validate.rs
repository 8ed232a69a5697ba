//! Whether settings fit together. Names every problem, not only the first.

use std::error::Error as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

use super::resolve::MAX_SOCKET_PATH;
use super::{Problem, ProxySettings, Settings};
use crate::net::tls::{Connector, TlsError, TlsFiles};
use crate::state::validate::MAX_LOCALITY;
use crate::telemetry;

/// What does not fit.
pub(super) fn validate(settings: &Settings) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut refuse = |key, message: String| problems.push(Problem { key, message });

    for (key, path) in [
        ("cgroup", &settings.cgroup),
        ("pinDir", &settings.pin_dir),
        ("stateDir", &settings.state_dir),
    ] {
        if !path.is_absolute() {
            refuse(key, format!("{} is not absolute", path.display()));
        }
    }
    if let Some(path) = settings
        .sources
        .files
        .as_ref()
        .filter(|it| !it.is_absolute())
    {
        refuse(
            "sources.files",
            format!("{} is not absolute", path.display()),
        );
    }
    let socket = settings.unix_socket.as_ref();
    if socket.is_some_and(|path| path.as_os_str().len() > MAX_SOCKET_PATH) {
        let message = format!("use at most {MAX_SOCKET_PATH} bytes: the kernel takes no more");
        refuse("unixSocket", message);
    }
    check_listeners(settings, &mut refuse);
    if !(1..=MAX_WORKERS).contains(&settings.workers) {
        refuse("workers", format!("use 1 to {MAX_WORKERS}"));
    }
    if let Err(error) = telemetry::check_level(&settings.log_level) {
        refuse("logLevel", error.to_string());
    }
    if settings.drain_timeout > MAX_DRAIN {
        refuse("drainTimeout", "use at most 1h".to_owned());
    }
    if settings.stale_grace > MAX_DRAIN {
        refuse("staleGrace", "use at most 1h".to_owned());
    }
    if settings.dns_ttl > MAX_DNS_TTL {
        refuse("dnsTtl", "use at most 1h".to_owned());
    }
    let locality = &settings.locality;
    for (key, name) in [
        ("locality.region", &locality.region),
        ("locality.zone", &locality.zone),
        ("locality.node", &locality.node),
    ] {
        let length = name.as_ref().map(String::len);
        if length.is_some_and(|length| !(1..=MAX_LOCALITY).contains(&length)) {
            refuse(key, format!("use 1 to {MAX_LOCALITY} bytes"));
        }
    }
    check_registry(settings, &mut refuse);
    check_certificates(settings, &mut refuse);
    check_ranges(&settings.virtual_range, &mut refuse);
    check_proxy(&settings.proxy, &mut refuse);
    problems
}

fn check_listeners(settings: &Settings, refuse: &mut impl FnMut(&'static str, String)) {
    if !settings.api.ip().is_loopback() && settings.token_file.is_none() {
        let message = format!(
            "{} is not a loopback address: whoever reaches it would rule the mesh; give tokenFile too",
            settings.api
        );
        refuse("api", message);
    }
    if settings.api == settings.metrics && settings.api.port() != 0 {
        refuse("metrics", format!("{} is the API's already", settings.api));
    }
    if let Some(path) = &settings.token_file
        && let Err(error) = check_token(path)
    {
        refuse("tokenFile", format!("{}: {error}", path.display()));
    }
    for host in &settings.allowed_host {
        let is_host = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
        if host.is_empty() || !host.chars().all(is_host) {
            refuse("allowedHost", format!("{host:?} is no host name"));
        }
    }
}

fn check_registry(settings: &Settings, refuse: &mut impl FnMut(&'static str, String)) {
    let is_tls = settings.registry.as_ref().is_some_and(|it| it.is_tls);
    for (key, path) in [
        ("registryCa", &settings.registry_ca),
        ("registryCert", &settings.registry_cert),
        ("registryKey", &settings.registry_key),
    ] {
        if path.is_some() && !is_tls {
            refuse(key, "is for a registry at etcds:// only".to_owned());
        }
    }
    if settings.registry_cert.is_some() != settings.registry_key.is_some() {
        refuse(
            "registryKey",
            "a certificate and its key go together".to_owned(),
        );
    }
    if !REGISTRY_TTL.contains(&settings.registry_ttl) {
        refuse("registryTtl", "use 2s to 1h".to_owned());
    }
}

/// Reads what the agent would read when it begins, so that what cannot be used is told with the rest.
fn check_certificates(settings: &Settings, refuse: &mut impl FnMut(&'static str, String)) {
    let mut check = |key, authorities: Option<&PathBuf>, own| {
        let authorities = authorities.cloned();
        if let Err(error) = Connector::new(&TlsFiles { authorities, own }) {
            refuse(key, with_cause(&error));
        }
    };
    if let Some(path) = &settings.check_ca {
        check("checkCa", Some(path), None);
    }
    if settings.registry.as_ref().is_some_and(|it| it.is_tls) {
        let authorities = settings.registry_ca.as_ref();
        let certificate = settings.registry_cert.clone();
        match certificate.zip(settings.registry_key.clone()) {
            None => check("registryCa", authorities, None),
            own => check("registryCert", authorities, own),
        }
    }
}

fn with_cause(error: &TlsError) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

fn check_token(path: &Path) -> Result<(), TokenError> {
    let text = std::fs::read_to_string(path)?;
    if text.trim().len() < MIN_TOKEN {
        return Err(TokenError::Short);
    }
    Ok(())
}

#[derive(Debug, thiserror::Error)]
enum TokenError {
    #[error("cannot read it: {0}")]
    Read(#[from] std::io::Error),
    #[error("use at least {MIN_TOKEN} characters, for example from `openssl rand -base64 32`")]
    Short,
}

fn check_ranges(ranges: &[IpNet], refuse: &mut impl FnMut(&'static str, String)) {
    let key = "virtualRange";
    if !ranges.iter().any(|range| matches!(range, IpNet::V4(_))) {
        refuse(key, "give at least one IPv4 range".to_owned());
    }
    for (index, range) in ranges.iter().enumerate() {
        if range.max_prefix_len() - range.prefix_len() < MIN_HOST_BITS {
            refuse(key, format!("{range} is too small for services"));
        }
        let address = range.addr();
        if address.is_loopback() || address.is_multicast() || address.is_unspecified() {
            refuse(key, format!("{range} cannot be dialled"));
        }
        let rest = ranges.iter().skip(index + 1);
        for other in rest.filter(|other| range.contains(*other) || other.contains(range)) {
            refuse(key, format!("{range} and {other} overlap"));
        }
    }
}

fn check_proxy(proxy: &ProxySettings, refuse: &mut impl FnMut(&'static str, String)) {
    for (key, time) in [
        ("proxy.connectTimeout", proxy.connect_timeout),
        ("proxy.firstByteTimeout", proxy.first_byte_timeout),
        ("proxy.headerTimeout", proxy.header_timeout),
        ("proxy.bodyTimeout", proxy.body_timeout),
        ("proxy.responseTimeout", proxy.response_timeout),
        ("proxy.keepAliveTimeout", proxy.keep_alive_timeout),
        ("proxy.idleTimeout", proxy.idle_timeout),
        ("proxy.poolIdleTimeout", proxy.pool_idle_timeout),
        ("proxy.detectTimeout", proxy.detect_timeout),
        ("proxy.detectRace", proxy.detect_race),
        ("proxy.queueTimeout", proxy.queue_timeout),
    ] {
        if time.is_zero() {
            refuse(key, "must not be zero".to_owned());
        }
    }
    let total = proxy.max_connections;
    let buffers = proxy.max_buffered_bytes;
    for (key, number, allowed) in [
        ("proxy.maxConnections", total, 1..=1 << 24),
        (
            "proxy.maxConnectionsPerWorkload",
            proxy.max_connections_per_workload,
            1..=total,
        ),
        ("proxy.maxBufferedBytes", buffers, MIB..=usize::MAX),
        (
            "proxy.maxBufferedBytesPerWorkload",
            proxy.max_buffered_bytes_per_workload,
            MIB..=buffers,
        ),
        // hyper does not work with less.
        ("proxy.maxHeaderBytes", proxy.max_header_bytes, 8192..=MIB),
        (
            "proxy.maxIdleConnections",
            proxy.max_idle_connections,
            0..=1 << 16,
        ),
        ("proxy.maxRequests", proxy.max_requests, 1..=1 << 24),
        (
            "proxy.maxRequestsPerWorkload",
            proxy.max_requests_per_workload,
            1..=proxy.max_requests,
        ),
        (
            "proxy.maxQueuedRequests",
            proxy.max_queued_requests,
            0..=1 << 24,
        ),
    ] {
        if !allowed.contains(&number) {
            refuse(key, format!("use {} to {}", allowed.start(), allowed.end()));
        }
    }
}

const MIB: usize = 1 << 20;
/// 96 bits, in base64.
const MIN_TOKEN: usize = 16;
/// More threads than any node has processors.
const MAX_WORKERS: usize = 1024;
const MAX_DNS_TTL: Duration = Duration::from_hours(1);
const MAX_DRAIN: Duration = Duration::from_hours(1);
/// etcd makes no lease shorter than its own elections allow: 2 s as it is configured by default.
const REGISTRY_TTL: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(2)..=Duration::from_hours(1);
/// Sixteen addresses.
const MIN_HOST_BITS: u8 = 4;
