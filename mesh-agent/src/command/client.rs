//! A small HTTP client for the agent's API, over TCP or its unix socket: one connection per question, one deadline.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time;

use super::error::{Error, Problem};
use crate::config::cli;

/// Asks one agent.
#[derive(Debug)]
pub(super) struct Client {
    place: Place,
    token: Option<HeaderValue>,
}

#[derive(Debug)]
enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Client {
    pub(super) fn new(target: &cli::Target) -> Result<Self, Error> {
        let place = target.unix_socket.as_ref().map_or_else(
            || Place::Tcp(dialled(target.api)),
            |path| Place::Unix(path.clone()),
        );
        let token = target.token_file.as_ref().map(read_token).transpose()?;
        Ok(Self { place, token })
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        let (_, body) = self.ask(Method::GET, path, Bytes::new()).await?;
        read(path, &body)
    }

    /// Writes, and says whether something new was made.
    pub(super) async fn put(
        &self,
        path: &str,
        body: &(impl Serialize + Sync),
    ) -> Result<bool, Error> {
        let body = serde_json::to_vec(body).map_err(|source| Error::Answer {
            path: path.to_owned(),
            source,
        })?;
        let (status, _) = self.ask(Method::PUT, path, body.into()).await?;
        Ok(status == StatusCode::CREATED)
    }

    /// Writes an object: whether it is new, and what it is now.
    pub(super) async fn put_object(
        &self,
        path: &str,
        object: &Value,
    ) -> Result<(bool, Value), Error> {
        let body = Bytes::from(object.to_string());
        let (status, body) = self.ask(Method::PUT, path, body).await?;
        let is_new = status == StatusCode::CREATED;
        if status == StatusCode::NO_CONTENT {
            return Ok((is_new, Value::Null));
        }
        Ok((is_new, read(path, &body)?))
    }

    pub(super) async fn post(&self, path: &str) -> Result<(), Error> {
        self.ask(Method::POST, path, Bytes::new()).await?;
        Ok(())
    }

    pub(super) async fn delete(&self, path: &str) -> Result<(), Error> {
        self.ask(Method::DELETE, path, Bytes::new()).await?;
        Ok(())
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), Error> {
        let exchange = async {
            match &self.place {
                Place::Tcp(address) => {
                    let stream = TcpStream::connect(address).await;
                    self.exchange(stream, method, path, body).await
                }
                Place::Unix(path_of_socket) => {
                    let stream = UnixStream::connect(path_of_socket).await;
                    self.exchange(stream, method, path, body).await
                }
            }
        };
        let (status, body) = time::timeout(DEADLINE, exchange)
            .await
            .map_err(|_elapsed| Error::Timeout {
                target: self.target(),
            })??;
        if status.is_success() {
            Ok((status, body))
        } else {
            Err(Error::Refused(Problem::read(status, &body)))
        }
    }

    async fn exchange<S>(
        &self,
        stream: std::io::Result<S>,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), Error>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let stream = stream.map_err(|source| Error::Unreachable {
            target: self.target(),
            source,
        })?;
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| Error::Exchange {
            target: self.target(),
            source,
        };
        let request = self
            .request(method, path, body)
            .map_err(|error| failed(error.into()))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| failed(error.into()))?;
        let exchange = async move {
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER);
            let body = body.collect().await?.to_bytes();
            Ok((status, body))
        };
        // The connection ends when the exchange drops its sender; what it has to say, the exchange says too.
        let (answer, _) = tokio::join!(exchange, connection);
        answer.map_err(failed)
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, http::Error> {
        let mut request = Request::builder().method(method).uri(path);
        request = match &self.place {
            Place::Tcp(address) => request.header(HOST, address.to_string()),
            Place::Unix(_) => request.header(HOST, "localhost"),
        };
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token);
        }
        request.body(Full::new(body))
    }

    fn target(&self) -> String {
        match &self.place {
            Place::Tcp(address) => address.to_string(),
            Place::Unix(path) => path.display().to_string(),
        }
    }
}

/// Reads an answer as what it should be.
pub(super) fn read<T: DeserializeOwned>(path: &str, body: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(body).map_err(|source| Error::Answer {
        path: path.to_owned(),
        source,
    })
}

/// Reads a part of an answer as what it should be.
pub(super) fn read_value<T: DeserializeOwned>(path: &str, value: Value) -> Result<T, Error> {
    serde_json::from_value(value).map_err(|source| Error::Answer {
        path: path.to_owned(),
        source,
    })
}

/// Path of an object; of all in a namespace, without a name; of all, without both.
pub(super) fn path_of(
    plural: &str,
    namespace: Option<&str>,
    name: Option<&str>,
) -> Result<String, Error> {
    let namespace = namespace.map(checked).transpose()?;
    let name = name.map(checked).transpose()?;
    Ok(match (namespace, name) {
        (Some(namespace), Some(name)) => {
            format!("/api/v1/namespaces/{namespace}/{plural}/{name}")
        }
        (Some(namespace), None) => format!("/api/v1/namespaces/{namespace}/{plural}"),
        (None, Some(name)) => format!("/api/v1/namespaces/default/{plural}/{name}"),
        (None, None) => format!("/api/v1/{plural}"),
    })
}

/// A name that needs no escaping in a path.
pub(super) fn checked(name: &str) -> Result<&str, Error> {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let is_name = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if is_name && name.len() <= MAX_NAME && name.chars().all(is_plain) {
        Ok(name)
    } else {
        Err(Error::Name(name.to_owned()))
    }
}

/// An agent that listens everywhere is reached by loopback, which its check of `Host` knows.
const fn dialled(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

fn read_token(path: &PathBuf) -> Result<HeaderValue, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Read {
        path: path.clone(),
        source,
    })?;
    let unfit = || Error::Token { path: path.clone() };
    let token = Some(text.trim()).filter(|token| !token.is_empty());
    let header = format!("Bearer {}", token.ok_or_else(unfit)?);
    let mut header = HeaderValue::try_from(header).ok().ok_or_else(unfit)?;
    header.set_sensitive(true);
    Ok(header)
}

/// Longer than the API's own.
const DEADLINE: Duration = Duration::from_secs(35);
/// Lists of a large registry fit.
const MAX_ANSWER: usize = 256 << 20;
/// A DNS subdomain.
const MAX_NAME: usize = 253;

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn an_answer_is_read_and_the_request_is_well_formed() {
        let (listener, client) = agent().await;
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n{\"a\":1}";
        let (value, head) =
            tokio::join!(client.get::<Value>("/api/v1/x"), serve(&listener, answer));
        assert_eq!(value.expect("it answers"), json!({"a": 1}));
        assert_eq!(
            head.first().map(String::as_str),
            Some("GET /api/v1/x HTTP/1.1")
        );
        let host = format!("host: {}", listener.local_addr().expect("it is bound"));
        assert!(head.contains(&host), "{head:?}");
    }

    #[tokio::test]
    async fn a_refusal_is_an_error_with_the_field() {
        let (listener, client) = agent().await;
        let answer = "HTTP/1.1 422 Unprocessable Entity\r\nconnection: close\r\n\r\n{\"detail\":\"bad\",\"field\":\"spec\"}";
        let body = json!({});
        let (result, _) = tokio::join!(client.put("/api/v1/x", &body), serve(&listener, answer));
        let error = result.unwrap_err().to_string();
        assert!(error.ends_with("spec: bad"), "{error}");
    }

    #[tokio::test]
    async fn an_agent_that_is_not_there_is_named_with_the_cure() {
        let (listener, client) = agent().await;
        drop(listener);
        let error = client.get::<Value>("/").await.unwrap_err();
        assert!(error.to_string().contains("mesh-agent run"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_is_silent_is_given_up() {
        let (listener, client) = agent().await;
        let result = client.get::<Value>("/").await;
        assert!(matches!(result, Err(Error::Timeout { .. })), "{result:?}");
        drop(listener);
    }

    #[test]
    fn paths_take_only_names() {
        let path = path_of("services", Some("shop"), Some("web.v1")).expect("it is right");
        assert_eq!(path, "/api/v1/namespaces/shop/services/web.v1");
        assert_eq!(
            path_of("services", None, None).expect("it is right"),
            "/api/v1/services"
        );
        for name in ["", "..", "a/b", "A", "a b", "-a", "ä"] {
            assert!(path_of("services", None, Some(name)).is_err(), "{name}");
        }
    }

    #[test]
    fn an_agent_that_listens_everywhere_is_reached_by_loopback() {
        let everywhere = "0.0.0.0:15000".parse().expect("it is an address");
        assert_eq!(dialled(everywhere).to_string(), "127.0.0.1:15000");
        let everywhere = "[::]:15000".parse().expect("it is an address");
        assert_eq!(dialled(everywhere).to_string(), "[::1]:15000");
    }

    async fn agent() -> (TcpListener, Client) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let client = Client {
            place: Place::Tcp(listener.local_addr().expect("it is bound")),
            token: None,
        };
        (listener, client)
    }

    /// Answers one request, and gives its head.
    async fn serve(listener: &TcpListener, answer: &str) -> Vec<String> {
        let (stream, _) = listener.accept().await.expect("a connection");
        let mut stream = BufReader::new(stream);
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).await.expect("a line");
            match line.trim_end() {
                "" => break,
                line => head.push(line.to_owned()),
            }
        }
        stream
            .write_all(answer.as_bytes())
            .await
            .expect("it takes it");
        head
    }
}
