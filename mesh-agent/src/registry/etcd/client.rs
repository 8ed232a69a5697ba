//! A client of etcd: questions with a deadline, asked of whichever member answers.
//!
//! It speaks to the JSON gateway that every etcd v3 has, so that no code has to be made of protocol buffers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::address::{Address, Member};
use super::error::Error;
use super::transport::{self, Connection};
use super::watch::Watch;
use super::wire::{
    self, Authenticate, Authenticated, Grant, Lease, LeaseId, Number, Range, Ranged, Refused,
    Streamed, Text, Transacted, Transaction, WatchCreate, end_of,
};
use crate::net::tls::{Connector, TlsError, TlsFiles};

/// How long one member may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// Largest answer.
const MAX_ANSWER: usize = 64 << 20;
/// Connections kept for the next question.
const MAX_IDLE: usize = 4;

/// Makes a member end a watch once it is cut off from the others, instead of saying nothing (`hasleader` in the API of
/// etcd; the gateway passes it on).
const NEEDS_LEADER: HeaderName = HeaderName::from_static("grpc-metadata-hasleader");

/// Asks the members of one cluster.
pub(super) struct Client {
    address: Address,
    connector: Option<Connector>,
    /// The member that answered last.
    current: AtomicUsize,
    /// Open connections to it.
    idle: Mutex<Vec<(usize, Connection)>>,
    token: Mutex<Option<HeaderValue>>,
}

/// What is asked.
struct Question {
    path: &'static str,
    body: Bytes,
    repeat: Repeat,
    /// Whether the answer has no end.
    goes_on: bool,
}

/// What is answered.
enum Answer {
    Whole {
        member: String,
        status: u16,
        body: Bytes,
    },
    GoesOn(Watch),
}

impl Answer {
    fn read<A: DeserializeOwned>(&self, path: &str) -> Result<A, Error> {
        match self {
            Self::Whole {
                member,
                status,
                body,
            } => serde_json::from_slice(body).map_err(|source| Error::Answer {
                member: member.clone(),
                path: path.to_owned(),
                status: *status,
                source,
            }),
            Self::GoesOn(_) => Err(Error::Ended("an answer has no end".to_owned())),
        }
    }
}

/// Whether a question may be asked twice.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Repeat {
    /// Asking again changes nothing.
    Safe,
    /// Only if it surely has not been heard.
    Unsent,
}

impl Client {
    /// Connects to nobody yet.
    pub(super) fn new(address: Address, files: Option<&TlsFiles>) -> Result<Self, TlsError> {
        Ok(Self {
            address,
            connector: files.map(Connector::new).transpose()?,
            current: AtomicUsize::new(0),
            idle: Mutex::default(),
            token: Mutex::default(),
        })
    }

    /// What all keys begin with.
    pub(super) fn prefix(&self) -> &str {
        &self.address.prefix
    }

    /// At most `limit` keys from `first` on that begin with `prefix`, as they were after the write `revision` (zero: as
    /// they are).
    pub(super) async fn page(
        &self,
        first: Vec<u8>,
        prefix: &str,
        limit: i64,
        revision: i64,
    ) -> Result<Ranged, Error> {
        let range = Range {
            key: Text(first),
            end: end_of(prefix),
            limit: Number(limit),
            revision: Number(revision),
        };
        self.ask("kv/range", &range, Repeat::Safe).await
    }

    /// Writes all or nothing.
    pub(super) async fn transact(&self, transaction: &Transaction) -> Result<Transacted, Error> {
        self.ask("kv/txn", transaction, Repeat::Unsent).await
    }

    /// Makes a lease with the number `id`. Fails where there is one.
    pub(super) async fn grant(&self, id: i64, ttl: Duration) -> Result<Lease, Error> {
        let grant = Grant {
            id: Number(id),
            ttl: Number(i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX)),
        };
        self.ask("lease/grant", &grant, Repeat::Unsent).await
    }

    /// Renews a lease. The answer has no time left where there is none.
    pub(super) async fn keep_alive(&self, id: i64) -> Result<Lease, Error> {
        let id = LeaseId { id: Number(id) };
        match self.ask("lease/keepalive", &id, Repeat::Safe).await? {
            Streamed::Result(lease) => Ok(lease),
            Streamed::Error(Refused { code, message }) => Err(Error::Refused { code, message }),
        }
    }

    /// Every change of the keys that begin with `prefix`, from the write `revision` on.
    pub(super) async fn watch(&self, prefix: &str, revision: i64) -> Result<Watch, Error> {
        let watch = wire::Watch {
            create_request: WatchCreate {
                key: prefix.into(),
                end: end_of(prefix),
                start_revision: Number(revision),
                progress_notify: true,
                fragment: true,
            },
        };
        let question = Question {
            path: "watch",
            body: body_of(&watch)?,
            repeat: Repeat::Safe,
            goes_on: true,
        };
        match self.with_members(&question).await? {
            Answer::GoesOn(watch) => Ok(watch),
            Answer::Whole { member, .. } => Err(Error::Ended(format!("{member} has not begun it"))),
        }
    }

    /// Whether the last answer came from the member that is watched.
    pub(super) fn is_of_current(&self, watch: &Watch) -> bool {
        let current = self.current.load(Ordering::Relaxed);
        let member = self.address.members.get(current);
        member.is_some_and(|it| it.to_string() == watch.member())
    }

    async fn ask<Q, A>(&self, path: &'static str, asked: &Q, repeat: Repeat) -> Result<A, Error>
    where
        Q: Serialize + Sync,
        A: DeserializeOwned,
    {
        let question = Question {
            path,
            body: body_of(asked)?,
            repeat,
            goes_on: false,
        };
        self.with_members(&question).await?.read(path)
    }

    /// Tries each member once, and each again with a new token where the old one has lapsed.
    async fn with_members(&self, question: &Question) -> Result<Answer, Error> {
        let count = self.address.members.len();
        let first = self.current.load(Ordering::Relaxed);
        let mut last = None;
        for index in (0..count).map(|step| (first + step) % count) {
            let Some(member) = self.address.members.get(index) else {
                continue;
            };
            let error = match self.authenticated(index, member, question).await {
                Ok(answer) => {
                    self.current.store(index, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(error) => error,
            };
            let may_go_on = error.is_unsent() || question.repeat == Repeat::Safe;
            if !error.is_of_member() || !may_go_on {
                return Err(error);
            }
            last = Some(error);
        }
        Err(last.unwrap_or_else(|| Error::Ended("no member is configured".to_owned())))
    }

    async fn authenticated(
        &self,
        index: usize,
        member: &Member,
        question: &Question,
    ) -> Result<Answer, Error> {
        if self.address.user.is_some() && self.token().is_none() {
            self.authenticate(index, member).await?;
        }
        match self.exchange(index, member, question).await {
            Err(error) if error.is_of_token() && self.address.user.is_some() => {
                self.authenticate(index, member).await?;
                self.exchange(index, member, question).await
            }
            answer => answer,
        }
    }

    /// Gets a token for the user, where etcd asks for one.
    async fn authenticate(&self, index: usize, member: &Member) -> Result<(), Error> {
        let Some(user) = &self.address.user else {
            return Ok(());
        };
        self.set_token(None);
        let question = Question {
            path: "auth/authenticate",
            body: body_of(&Authenticate {
                name: &user.name,
                password: &user.password,
            })?,
            repeat: Repeat::Safe,
            goes_on: false,
        };
        let answer = self.exchange(index, member, &question).await;
        match answer.and_then(|it| it.read::<Authenticated>(question.path)) {
            Ok(answer) => {
                let mut token = HeaderValue::from_str(&answer.token).ok();
                if let Some(token) = &mut token {
                    token.set_sensitive(true);
                }
                self.set_token(token);
                Ok(())
            }
            // Whoever may do everything may do it with a name, too.
            Err(Error::Refused { message, .. }) if message.contains("not enabled") => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn exchange(
        &self,
        index: usize,
        member: &Member,
        question: &Question,
    ) -> Result<Answer, Error> {
        let exchange = async {
            let mut connection = if question.goes_on {
                self.dial(member).await?
            } else {
                self.connection(index, member).await?
            };
            let token = self.token();
            let response = send(&mut connection, member, question, token).await?;
            let status = response.status();
            if question.goes_on && status.is_success() {
                let body = response.into_body();
                return Ok(Answer::GoesOn(Watch::new(
                    member.to_string(),
                    connection,
                    body,
                )));
            }
            let body = read_body(member, response).await?;
            self.keep(index, connection);
            let answer = Answer::Whole {
                member: member.to_string(),
                status: status.as_u16(),
                body,
            };
            if status.is_success() {
                return Ok(answer);
            }
            let Refused { code, message } = answer.read(question.path)?;
            Err(Error::Refused { code, message })
        };
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, exchange).await;
        answer.unwrap_or_else(|_elapsed| {
            Err(Error::Timeout {
                member: member.to_string(),
            })
        })
    }

    /// An open connection, or a new one.
    async fn connection(&self, index: usize, member: &Member) -> Result<Connection, Error> {
        let kept = {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.retain(|(of, connection)| *of == index && connection.is_open());
            idle.pop()
        };
        match kept {
            Some((_, connection)) => Ok(connection),
            None => self.dial(member).await,
        }
    }

    async fn dial(&self, member: &Member) -> Result<Connection, Error> {
        Connection::dial(member, self.connector.as_ref()).await
    }

    fn keep(&self, index: usize, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE {
            idle.push((index, connection));
        }
    }

    fn token(&self) -> Option<HeaderValue> {
        let token = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        token.clone()
    }

    fn set_token(&self, token: Option<HeaderValue>) {
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = token;
    }
}

fn body_of(question: &(impl Serialize + Sync)) -> Result<Bytes, Error> {
    let body = serde_json::to_vec(question).map_err(|source| Error::Exchange {
        member: "no member".to_owned(),
        source: source.into(),
    })?;
    Ok(body.into())
}

async fn send(
    connection: &mut Connection,
    member: &Member,
    question: &Question,
    token: Option<HeaderValue>,
) -> Result<Response<Incoming>, Error> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| Error::Exchange {
        member: member.to_string(),
        source,
    };
    let request = transport::request(member, question.path, token.as_ref(), question.body.clone());
    let mut request = request.map_err(|error| failed(error.into()))?;
    if question.goes_on {
        let wanted = HeaderValue::from_static("true");
        request.headers_mut().insert(NEEDS_LEADER, wanted);
    }
    let response = connection.send(request).await;
    response.map_err(|error| failed(error.into()))
}

async fn read_body(member: &Member, response: Response<Incoming>) -> Result<Bytes, Error> {
    let body = Limited::new(response.into_body(), MAX_ANSWER)
        .collect()
        .await;
    let body = body.map_err(|source| {
        let member = member.to_string();
        if source.is::<LengthLimitError>() {
            Error::TooLarge { member }
        } else {
            Error::Exchange { member, source }
        }
    })?;
    Ok(body.to_bytes())
}
