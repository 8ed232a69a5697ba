//! Why a connection or request failed: whose fault it is, whether to retry, what the client is told.

use std::io;
use std::net::SocketAddr;

use http::StatusCode;

/// What hyper or h2 says of a failure.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// A connection that speaks HTTP/1.1.
    #[error(transparent)]
    Hyper(#[from] hyper::Error),
    /// A connection that speaks HTTP/2.
    #[error(transparent)]
    H2(#[from] h2::Error),
}

/// A failed connection or request.
///
/// Every question about a failure is answered here by an exhaustive `match`, so that a new variant does not compile
/// until each question has its answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The client's side failed.
    #[error("the connection from the client failed")]
    Downstream(#[source] io::Error),
    /// The kernel does not know the connection: somebody dialled the listener itself.
    #[error("the kernel knows no connection of this socket")]
    NoConnection,
    /// The kernel knows the connection, and did not send it here.
    #[error("the kernel did not send this connection to the proxy")]
    NotProxied,
    /// The kernel cannot be asked.
    #[error("cannot read what the kernel knows of the connection")]
    ConnTable(#[source] io::Error),
    /// A limit on connections is reached.
    #[error("too many connections")]
    ConnectionLimit,
    /// A limit on buffered bytes is reached.
    #[error("too many bytes in buffers")]
    BufferLimit,
    /// The service is gone, or lost this port.
    #[error("no service at {0}")]
    NoService(SocketAddr),
    /// The service has routes, and none is for this request or connection.
    #[error("no route matches")]
    NoRoute,
    /// The route sends this share to a service that does not exist, or nowhere.
    #[error("the route has no backend for this request")]
    BadBackend,
    /// The route has a filter that cannot be honoured.
    #[error("a filter of the route cannot be applied")]
    BadFilter,
    /// Nobody can take the request.
    #[error("no endpoint takes connections")]
    NoEndpoint,
    /// An authorization policy refuses.
    #[error("policy does not admit the caller to {0}")]
    Policy(SocketAddr),
    /// A rate limit is reached.
    #[error("too many requests")]
    RateLimited,
    /// The service has as many requests as it can take.
    #[error("the service has as many requests as it can take")]
    Concurrency,
    /// The agent has more to do than it can; how it came that this request was shed.
    #[error("the agent is overloaded ({0})")]
    Overload(&'static str),
    /// Injected by a traffic policy.
    #[error("a fault that a traffic policy injects")]
    Fault {
        /// What the client is told.
        status: StatusCode,
        /// The same in gRPC, where the policy says so.
        grpc: Option<u8>,
    },
    /// The request breaks the rules of HTTP.
    #[error("bad request: {0}")]
    BadRequest(&'static str),
    /// There is no socket to be had in the caller's network namespace.
    #[error("cannot make a socket for the caller")]
    Socket(#[source] io::Error),
    /// The endpoint did not accept a connection.
    #[error("cannot connect to {endpoint}")]
    Connect {
        /// The endpoint that was tried.
        endpoint: SocketAddr,
        /// What the socket said.
        #[source]
        source: io::Error,
    },
    /// The endpoint did not answer the SYN in time.
    #[error("{0} does not answer")]
    ConnectTimeout(SocketAddr),
    /// The protocol could not be agreed with the endpoint.
    #[error("{endpoint} does not speak the protocol")]
    Handshake {
        /// The endpoint that was tried.
        endpoint: SocketAddr,
        /// What was said of it.
        #[source]
        source: Cause,
    },
    /// The endpoint ended the connection before it answered.
    #[error("{endpoint} ended the connection without an answer")]
    Upstream {
        /// The endpoint that was asked.
        endpoint: SocketAddr,
        /// What was said of it.
        #[source]
        source: Cause,
    },
    /// A connection of raw bytes failed on the endpoint's side.
    #[error("the connection to the endpoint failed")]
    UpstreamIo(#[source] io::Error),
    /// The endpoint did not answer in time.
    #[error("{0} gave no answer in time")]
    ResponseTimeout(SocketAddr),
    /// The request has taken longer than it may, all attempts together.
    #[error("the deadline of the request has passed")]
    Deadline,
    /// A circuit breaker is open.
    #[error("the circuit breaker is open")]
    BreakerOpen,
    /// A limit of a circuit breaker is reached.
    #[error("too many {0} for the service")]
    Overflow(&'static str),
    /// The endpoint switched protocols although nobody asked.
    #[error("{0} switched protocols unasked")]
    UnaskedUpgrade(SocketAddr),
    /// The response of the endpoint breaks the rules of HTTP.
    #[error("bad response of {endpoint}: {what}")]
    BadResponse {
        /// The endpoint that was asked.
        endpoint: SocketAddr,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The body of the request stopped coming.
    #[error("the body of the request was silent for too long")]
    SilentBody,
    /// The body of the request broke off.
    #[error("the body of the request broke off")]
    BrokenBody,
    /// Nothing moved for too long.
    #[error("idle for too long")]
    Idle,
    /// The proxy is being stopped.
    #[error("the proxy is stopping")]
    Draining,
}

impl Error {
    /// What the client is told.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::Downstream(_) | Self::BadRequest(_) | Self::BrokenBody => StatusCode::BAD_REQUEST,
            Self::SilentBody => StatusCode::REQUEST_TIMEOUT,
            Self::NoConnection | Self::NotProxied | Self::Policy(_) => StatusCode::FORBIDDEN,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::Fault { status, .. } => *status,
            Self::ConnTable(_) | Self::Socket(_) | Self::BadBackend | Self::BadFilter => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
            Self::ConnectionLimit
            | Self::BufferLimit
            | Self::Concurrency
            | Self::Overload(_)
            | Self::NoService(_)
            | Self::NoEndpoint
            | Self::Connect { .. }
            | Self::ConnectTimeout(_)
            | Self::BreakerOpen
            | Self::Overflow(_)
            | Self::Draining => StatusCode::SERVICE_UNAVAILABLE,
            Self::Handshake { .. }
            | Self::Upstream { .. }
            | Self::UpstreamIo(_)
            | Self::UnaskedUpgrade(_)
            | Self::BadResponse { .. } => StatusCode::BAD_GATEWAY,
            Self::ResponseTimeout(_) | Self::Deadline | Self::Idle => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// Whether another endpoint may be tried: only if this one cannot have seen the request.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::ConnectTimeout(_) | Self::Handshake { .. } => true,
            Self::Downstream(_)
            | Self::NoConnection
            | Self::NotProxied
            | Self::ConnTable(_)
            | Self::Socket(_)
            | Self::ConnectionLimit
            | Self::BufferLimit
            | Self::RateLimited
            | Self::Concurrency
            | Self::Overload(_)
            | Self::Fault { .. }
            | Self::NoService(_)
            | Self::NoRoute
            | Self::BadBackend
            | Self::BadFilter
            | Self::NoEndpoint
            | Self::Policy(_)
            | Self::BadRequest(_)
            | Self::Upstream { .. }
            | Self::UpstreamIo(_)
            | Self::ResponseTimeout(_)
            | Self::Deadline
            | Self::BreakerOpen
            | Self::Overflow(_)
            | Self::UnaskedUpgrade(_)
            | Self::BadResponse { .. }
            | Self::SilentBody
            | Self::BrokenBody
            | Self::Idle
            | Self::Draining => false,
        }
    }

    /// Whether no endpoint was found: there is none, or none that lets anybody in at the moment.
    #[must_use]
    pub const fn is_for_want_of_endpoints(&self) -> bool {
        matches!(
            self,
            Self::NoEndpoint
                | Self::BreakerOpen
                | Self::Overflow(_)
                | Self::RateLimited
                | Self::Concurrency
        )
    }

    /// Whether it speaks against the service as a whole, for its circuit breaker.
    #[must_use]
    pub fn is_failure_of_service(&self) -> bool {
        match self {
            Self::Upstream { .. } | Self::ResponseTimeout(_) => true,
            _ => self.blames_endpoint(),
        }
    }

    /// Whether the endpoint is to blame, so that others should leave it alone for a while: it refused, is not there,
    /// or speaks another protocol. A route that the caller's namespace lacks says nothing about the endpoint.
    #[must_use]
    pub fn blames_endpoint(&self) -> bool {
        match self {
            Self::Connect { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::TimedOut
                    | io::ErrorKind::HostUnreachable
            ),
            Self::ConnectTimeout(_) | Self::Handshake { .. } => true,
            _ => false,
        }
    }

    /// The word in metrics, in the access log and in `x-mesh-error`.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Downstream(_) => "downstream",
            Self::NoConnection => "no-connection",
            Self::NotProxied => "not-proxied",
            Self::ConnTable(_) => "conn-table",
            Self::Socket(_) => "socket",
            Self::ConnectionLimit => "connection-limit",
            Self::BufferLimit => "buffer-limit",
            Self::RateLimited => "rate-limited",
            Self::Concurrency => "concurrency",
            Self::Overload(_) => "overload",
            Self::Fault { .. } => "fault",
            Self::NoService(_) => "no-service",
            Self::NoRoute => "no-route",
            Self::BadBackend => "bad-backend",
            Self::BadFilter => "bad-filter",
            Self::NoEndpoint => "no-endpoint",
            Self::Policy(_) => "policy",
            Self::BadRequest(_) => "bad-request",
            Self::Connect { .. } => "connect",
            Self::ConnectTimeout(_) => "connect-timeout",
            Self::Handshake { .. } => "handshake",
            Self::Upstream { .. } | Self::UpstreamIo(_) => "upstream",
            Self::ResponseTimeout(_) => "response-timeout",
            Self::Deadline => "deadline",
            Self::BreakerOpen => "breaker-open",
            Self::Overflow(_) => "overflow",
            Self::UnaskedUpgrade(_) => "unasked-upgrade",
            Self::BadResponse { .. } => "bad-response",
            Self::SilentBody => "silent-body",
            Self::BrokenBody => "broken-body",
            Self::Idle => "idle",
            Self::Draining => "draining",
        }
    }

    /// The flag of the Istio series.
    #[must_use]
    pub const fn flags(&self) -> &'static str {
        match self {
            Self::Downstream(_) | Self::BrokenBody => "DC",
            Self::BadRequest(_) => "DPE",
            Self::NoConnection | Self::NotProxied | Self::ConnTable(_) | Self::Policy(_) => "UAEX",
            Self::ConnectionLimit
            | Self::BufferLimit
            | Self::Socket(_)
            | Self::BreakerOpen
            | Self::Overflow(_)
            | Self::Concurrency
            | Self::Overload(_) => "UO",
            Self::RateLimited => "RL",
            Self::Fault { .. } => "FI",
            Self::NoService(_) | Self::NoRoute => "NR",
            Self::BadBackend => "NC",
            Self::BadFilter => "NFCF",
            Self::NoEndpoint => "UH",
            Self::Connect { .. } | Self::ConnectTimeout(_) => "UF",
            Self::Handshake { .. } | Self::UnaskedUpgrade(_) | Self::BadResponse { .. } => "UPE",
            Self::Upstream { .. } | Self::UpstreamIo(_) => "UC",
            Self::ResponseTimeout(_) | Self::Deadline => "UT",
            Self::Idle | Self::SilentBody => "SI",
            Self::Draining => "LR",
        }
    }

    /// The status of a gRPC call that fails so.
    #[must_use]
    pub fn grpc_status(&self) -> u8 {
        if let Self::Fault {
            grpc: Some(code), ..
        } = self
        {
            return *code;
        }
        match self.status() {
            _ if matches!(self, Self::BadBackend) => 14,
            StatusCode::NOT_FOUND => 12,
            StatusCode::TOO_MANY_REQUESTS => 8,
            StatusCode::FORBIDDEN => 7,
            StatusCode::BAD_REQUEST | StatusCode::INTERNAL_SERVER_ERROR => 13,
            StatusCode::GATEWAY_TIMEOUT | StatusCode::REQUEST_TIMEOUT => 4,
            _ => 14,
        }
    }
}
