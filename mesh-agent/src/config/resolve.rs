//! What the user said, and the defaults, made into settings.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{
    Error, Options, ProxyOptions, ProxySettings, Settings, Sources, Span, Switch, validate,
};
use crate::state::endpoint::Locality;

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
        stale_grace: or_default(options.stale_grace, 10_000),
        virtual_range: options.virtual_range.unwrap_or_else(virtual_ranges),
        dns: options.dns.unwrap_or(Switch::On),
        dns_ttl: or_default(options.dns_ttl, 5_000),
        resolv_conf: options
            .resolv_conf
            .unwrap_or_else(|| PathBuf::from(RESOLV_CONF)),
        reset,
        registry: options.registry,
        registry_ca: options.registry_ca,
        check_ca: options.check_ca,
        registry_cert: options.registry_cert,
        registry_key: options.registry_key,
        registry_ttl: or_default(options.registry_ttl, 15_000),
        restore: false,
        sources: Sources {
            files: options.sources.files,
        },
        locality: Locality {
            region: options.locality.region,
            zone: options.locality.zone,
            node: options.locality.node,
        },
        proxy: resolve_proxy(&options.proxy),
    };
    let problems = validate::validate(&settings);
    if problems.is_empty() {
        Ok(settings)
    } else {
        Err(Error::Invalid(problems))
    }
}

fn resolve_proxy(options: &ProxyOptions) -> ProxySettings {
    ProxySettings {
        connect_timeout: or_default(options.connect_timeout, 1000),
        first_byte_timeout: or_default(options.first_byte_timeout, 60_000),
        header_timeout: or_default(options.header_timeout, 10_000),
        body_timeout: or_default(options.body_timeout, 300_000),
        response_timeout: or_default(options.response_timeout, 300_000),
        keep_alive_timeout: or_default(options.keep_alive_timeout, 600_000),
        max_connection_age: or_default(options.max_connection_age, 24 * 3_600_000),
        idle_timeout: or_default(options.idle_timeout, 3_600_000),
        pool_idle_timeout: or_default(options.pool_idle_timeout, 60_000),
        detect_timeout: or_default(options.detect_timeout, 1000),
        detect_race: or_default(options.detect_race, 20),
        max_connections: options.max_connections.unwrap_or(16 * 1024),
        max_connections_per_workload: options.max_connections_per_workload.unwrap_or(8 * 1024),
        max_buffered_bytes: options.max_buffered_bytes.unwrap_or(1 << 30),
        max_buffered_bytes_per_workload: options
            .max_buffered_bytes_per_workload
            .unwrap_or(512 << 20),
        max_header_bytes: options.max_header_bytes.unwrap_or(64 * 1024),
        max_idle_connections: options.max_idle_connections.unwrap_or(256),
        max_requests: options.max_requests.unwrap_or(16 * 1024),
        max_requests_per_workload: options.max_requests_per_workload.unwrap_or(8 * 1024),
        max_queued_requests: options.max_queued_requests.unwrap_or(8 * 1024),
        queue_timeout: or_default(options.queue_timeout, 1000),
        path_normalization: options.path_normalization.unwrap_or_default(),
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

/// A loopback address: anybody on another machine has to be let in on purpose.
pub(super) const API: SocketAddr = loopback(15000);
const METRICS: SocketAddr = loopback(15020);
pub(super) const PIN_DIR: &str = "/sys/fs/bpf/mesh";
const STATE_DIR: &str = "/var/lib/mesh";
/// Where resolvers are named on any machine.
pub(super) const RESOLV_CONF: &str = "/etc/resolv.conf";
const UNIX_SOCKET: &str = "/run/mesh/agent.sock";
/// What fits into `sun_path`, with its end.
pub(super) const MAX_SOCKET_PATH: usize = 107;

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::options::{LocalityOptions, SourceOptions};

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
            registry: Some(
                "etcd://10.0.0.1,10.0.0.2:80/fleet"
                    .parse()
                    .expect("an address"),
            ),
            locality: LocalityOptions {
                zone: Some("eu-1a".to_owned()),
                ..LocalityOptions::default()
            },
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
        std::fs::write(token.path(), "0123456789abcdef\n").expect("there is a disk");
        options.token_file = Some(token.path().to_owned());
        resolved(options).expect("it is right");
    }

    #[test]
    fn certificates_that_cannot_be_read_are_refused() {
        let absent = || Some("/does/not/exist".into());
        let with = |registry: &str| Options {
            registry: Some(registry.parse().expect("an address")),
            ..Options::default()
        };
        for (options, key) in [
            (
                Options {
                    check_ca: absent(),
                    ..Options::default()
                },
                "checkCa",
            ),
            (
                Options {
                    registry_ca: absent(),
                    ..with("etcds://127.0.0.1")
                },
                "registryCa",
            ),
        ] {
            let error = resolved(options).unwrap_err().to_string();
            assert!(error.starts_with(key), "{error}");
            assert!(error.contains("/does/not/exist: "), "{error}");
        }
    }

    #[test]
    fn files_that_may_come_are_missed() {
        let options = Options {
            resolv_conf: Some("/does/not/exist".into()),
            sources: SourceOptions {
                files: Some("/nor/does/this".into()),
            },
            ..Options::default()
        };
        let missing = resolved(options).expect("they may come").missing();
        let keys: Vec<_> = missing.iter().map(|problem| problem.key).collect();
        assert_eq!(keys, ["sources.files", "resolvConf"]);
        let settings = resolved(Options::default()).expect("the defaults are right");
        assert_eq!(settings.missing(), []);
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
        let place = |zone: Option<&str>, node: &str| LocalityOptions {
            zone: zone.map(str::to_owned),
            node: Some(node.to_owned()),
            ..LocalityOptions::default()
        };
        let above = Options {
            workers: Some(1),
            locality: place(None, "above"),
            ..Options::default()
        };
        let below = Options {
            workers: Some(2),
            state_dir: Some("/below".into()),
            locality: place(Some("below"), "below"),
            ..Options::default()
        };
        let settings = resolved(above.over(below)).expect("it is right");
        assert_eq!(settings.workers, 1);
        assert_eq!(settings.state_dir, Path::new("/below"));
        assert_eq!(settings.locality.zone.as_deref(), Some("below"));
        assert_eq!(settings.locality.node.as_deref(), Some("above"));
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
