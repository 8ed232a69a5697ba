//! What the user said, and the defaults, made into settings that fit together. Names every problem, not only the first.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{Error, Options, Problem, ProxyOptions, ProxySettings, Settings, Span, Switch};
use crate::telemetry;

/// Fills in what is not given, and checks.
pub(super) fn resolve(
    options: Options,
    reset: bool,
    default_cgroup: impl FnOnce() -> Result<PathBuf, Error>,
) -> Result<Settings, Error> {
    let cgroup = options.cgroup.map_or_else(default_cgroup, Ok)?;
    let state_dir = options.state_dir.unwrap_or_else(|| STATE_DIR.into());
    let settings = Settings {
        cgroup,
        pin_dir: options.pin_dir.unwrap_or_else(|| PIN_DIR.into()),
        api: options.api.unwrap_or(API),
        metrics: options.metrics.unwrap_or(METRICS),
        unix_socket: options.unix_socket.or_else(|| default_socket(&state_dir)),
        state_dir,
        token_file: options.token_file,
        allowed_host: options.allowed_host.unwrap_or_default(),
        workers: options.workers.map_or_else(processors, usize::from),
        acceleration: options.acceleration.unwrap_or_default(),
        log_level: options.log_level.unwrap_or_else(|| "info".to_owned()),
        log_format: options.log_format.unwrap_or_default(),
        access_log: options.access_log.unwrap_or(Switch::On),
        drain_timeout: or_default(options.drain_timeout, 30_000),
        virtual_range: options.virtual_range.unwrap_or_else(virtual_ranges),
        reset,
        proxy: resolve_proxy(&options.proxy),
    };
    let problems = check(&settings);
    if problems.is_empty() {
        Ok(settings)
    } else {
        Err(Error::Invalid(problems))
    }
}

fn resolve_proxy(options: &ProxyOptions) -> ProxySettings {
    ProxySettings {
        connect_timeout: or_default(options.connect_timeout, 5_000),
        header_timeout: or_default(options.header_timeout, 30_000),
        detect_timeout: or_default(options.detect_timeout, 100),
        idle_timeout: or_default(options.idle_timeout, 3_600_000),
        pool_idle_timeout: or_default(options.pool_idle_timeout, 60_000),
        max_connections: options.max_connections.unwrap_or(65_536),
        max_connections_per_workload: options.max_connections_per_workload.unwrap_or(16_384),
        max_header_bytes: options.max_header_bytes.unwrap_or(65_536),
        buffer_bytes: options.buffer_bytes.unwrap_or(65_536),
    }
}

fn default_socket(state_dir: &Path) -> Option<PathBuf> {
    if state_dir == Path::new(STATE_DIR) {
        return Some(UNIX_SOCKET.into());
    }
    let path = state_dir.join("agent.sock");
    (path.as_os_str().len() <= MAX_SOCKET_PATH).then_some(path)
}

fn or_default(span: Option<Span>, millis: u64) -> Duration {
    span.map_or_else(|| Duration::from_millis(millis), |span| span.0)
}

fn processors() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

fn virtual_ranges() -> Vec<IpNet> {
    let ula = [0xfd00, 0x240, 0x240, 0, 0, 0, 0, 0].into();
    vec![
        IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(240, 240, 0, 0), 16)),
        IpNet::V6(Ipv6Net::new_assert(ula, 64)),
    ]
}

fn check(settings: &Settings) -> Vec<Problem> {
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

fn check_token(path: &Path) -> Result<(), TokenError> {
    let text = std::fs::read_to_string(path)?;
    if text.trim().is_empty() {
        return Err(TokenError::Empty);
    }
    Ok(())
}

#[derive(Debug, thiserror::Error)]
enum TokenError {
    #[error("cannot read it: {0}")]
    Read(#[from] std::io::Error),
    #[error("it is empty")]
    Empty,
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
        ("proxy.headerTimeout", proxy.header_timeout),
        ("proxy.detectTimeout", proxy.detect_timeout),
        ("proxy.idleTimeout", proxy.idle_timeout),
        ("proxy.poolIdleTimeout", proxy.pool_idle_timeout),
    ] {
        if time.is_zero() {
            refuse(key, "must not be zero".to_owned());
        }
    }
    for (key, number, least, most) in [
        ("proxy.maxConnections", proxy.max_connections, 1, 1 << 24),
        (
            "proxy.maxConnectionsPerWorkload",
            proxy.max_connections_per_workload,
            1,
            proxy.max_connections,
        ),
        // hyper refuses to work with less than 8 KiB.
        (
            "proxy.maxHeaderBytes",
            proxy.max_header_bytes,
            8192,
            1 << 20,
        ),
        ("proxy.bufferBytes", proxy.buffer_bytes, 1024, 1 << 24),
    ] {
        if !(least..=most).contains(&number) {
            refuse(key, format!("use {least} to {most}"));
        }
    }
}

/// A loopback address: anybody on another machine has to be let in on purpose.
pub(super) const API: SocketAddr = loopback(15000);
const METRICS: SocketAddr = loopback(15020);
pub(super) const PIN_DIR: &str = "/sys/fs/bpf/mesh";
const STATE_DIR: &str = "/var/lib/mesh";
const UNIX_SOCKET: &str = "/run/mesh/agent.sock";
/// What fits into `sun_path`, with its end.
const MAX_SOCKET_PATH: usize = 107;
/// More threads than any node has processors.
const MAX_WORKERS: usize = 1024;
const MAX_DRAIN: Duration = Duration::from_hours(1);
/// Sixteen addresses.
const MIN_HOST_BITS: u8 = 4;

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_safe_and_fit_together() {
        let settings = resolved(Options::default()).expect("the defaults are right");
        assert!(settings.api.ip().is_loopback() && settings.metrics.ip().is_loopback());
        assert_eq!(settings.cgroup, Path::new("/cg"));
        assert_eq!(settings.drain_timeout, Duration::from_secs(30));
        assert!(settings.workers >= 1);
    }

    #[test]
    fn what_is_printed_is_read_back_the_same() {
        let options = Options {
            workers: Some(3),
            access_log: Some(Switch::Off),
            allowed_host: Some(vec!["mesh.example".to_owned()]),
            drain_timeout: Some(Span(Duration::from_millis(1500))),
            ..Options::default()
        };
        let settings = resolved(options).expect("it is right");
        let yaml = settings.to_yaml().expect("it can be written");
        let read: Options = serde_saphyr::from_str(&yaml).expect(&yaml);
        assert_eq!(resolved(read).expect("it is right"), settings, "{yaml}");
    }

    #[test]
    fn every_problem_is_named_at_once() {
        let options = Options {
            pin_dir: Some("relative".into()),
            workers: Some(0),
            log_level: Some("loud".to_owned()),
            api: Some(([0, 0, 0, 0], 15000).into()),
            virtual_range: Some(vec!["10.0.0.0/31".parse().expect("it is a range")]),
            proxy: ProxyOptions {
                max_header_bytes: Some(1),
                ..ProxyOptions::default()
            },
            ..Options::default()
        };
        let Err(Error::Invalid(problems)) = resolved(options) else {
            panic!("it is wrong")
        };
        let keys: Vec<_> = problems.iter().map(|problem| problem.key).collect();
        assert_eq!(
            keys,
            [
                "pinDir",
                "api",
                "workers",
                "logLevel",
                "virtualRange",
                "proxy.maxHeaderBytes"
            ]
        );
    }

    #[test]
    fn a_public_api_needs_a_token_that_is_there() {
        let mut options = Options {
            api: Some(([0, 0, 0, 0], 15000).into()),
            token_file: Some("/does/not/exist".into()),
            ..Options::default()
        };
        let error = resolved(options.clone()).unwrap_err().to_string();
        assert!(error.starts_with("tokenFile: /does/not/exist"), "{error}");

        let token = tempfile::NamedTempFile::new().expect("there is a disk");
        std::fs::write(token.path(), "secret\n").expect("there is a disk");
        options.token_file = Some(token.path().to_owned());
        resolved(options).expect("it is right");
    }

    #[test]
    fn ranges_that_overlap_are_refused() {
        let ranges = ["10.0.0.0/8", "10.1.0.0/16"].map(|range| range.parse().expect("a range"));
        let options = Options {
            virtual_range: Some(ranges.to_vec()),
            ..Options::default()
        };
        let error = resolved(options).unwrap_err().to_string();
        assert!(error.contains("overlap"), "{error}");
    }

    #[test]
    fn what_stands_above_wins() {
        let above = Options {
            workers: Some(1),
            ..Options::default()
        };
        let below = Options {
            workers: Some(2),
            state_dir: Some("/below".into()),
            ..Options::default()
        };
        let settings = resolved(above.over(below)).expect("it is right");
        assert_eq!(settings.workers, 1);
        assert_eq!(settings.state_dir, Path::new("/below"));
    }

    #[test]
    fn agents_with_different_state_do_not_meet_at_one_socket() {
        let socket = |state_dir: &str| {
            let options = Options {
                state_dir: Some(state_dir.into()),
                ..Options::default()
            };
            resolved(options).expect("it is right").unix_socket
        };
        assert_eq!(socket(STATE_DIR), Some(UNIX_SOCKET.into()));
        assert_eq!(socket("/tmp/a"), Some("/tmp/a/agent.sock".into()));
        assert_eq!(socket(&format!("/{}", "a".repeat(100))), None);
    }

    fn resolved(options: Options) -> Result<Settings, Error> {
        resolve(options, false, || Ok("/cg".into()))
    }
}
