//! Sessions of clients, found by the bearer token that the handshake returned.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use plexus_coordinator::Session;
use tonic::Status;
use tonic::metadata::MetadataMap;

/// Most sessions held at once. Beyond it the least recently used one is evicted.
const SESSIONS_MAX: usize = 10_000;
/// A session unused for this long may be evicted.
const IDLE_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Longest bearer token that identifies a session.
const TOKEN_BYTES_MAX: usize = 256;
/// The start of the tokens that nodes issue.
const ISSUED: &str = "plexus-";

/// Base64 of Basic credentials. Some drivers omit the padding.
const BASIC_CREDENTIALS: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Sessions by token.
#[derive(Default)]
pub(crate) struct Sessions(Mutex<HashMap<String, Entry>>);

struct Entry {
    session: Arc<Session>,
    last_used: Instant,
}

impl Sessions {
    /// Authenticates a handshake and returns the token of its session.
    ///
    /// There are no users yet: any well-formed Basic credentials open a new session. A client that already
    /// has a bearer token keeps it.
    pub(crate) fn handshake(&self, metadata: &MetadataMap) -> Result<String, Status> {
        match (credentials(metadata, "basic"), bearer_token(metadata)) {
            (Some(basic), _) => {
                let decoded =
                    BASIC_CREDENTIALS.decode(basic).ok().and_then(|bytes| String::from_utf8(bytes).ok());
                if !decoded.is_some_and(|text| text.contains(':')) {
                    return Err(Status::unauthenticated("malformed Basic authorization"));
                }
                Ok(self.open())
            }
            (None, Some(token)) => Ok(token),
            (None, None) => Err(Status::unauthenticated("the handshake needs Basic or Bearer authorization")),
        }
    }

    fn open(&self) -> String {
        let token = format!("{ISSUED}{}", uuid::Uuid::new_v4().simple());
        self.insert(token.clone(), Session::default());
        token
    }

    fn insert(&self, token: String, session: Session) -> Arc<Session> {
        let session = Arc::new(session);
        let mut sessions = self.lock();
        if sessions.len() >= SESSIONS_MAX {
            sessions.retain(|_, entry| entry.last_used.elapsed() < IDLE_MAX);
            let oldest =
                sessions.iter().min_by_key(|(_, entry)| entry.last_used).map(|(token, _)| token.clone());
            if let Some(token) = oldest.filter(|_| sessions.len() >= SESSIONS_MAX) {
                sessions.remove(&token);
            }
        }
        sessions.insert(token, Entry { session: session.clone(), last_used: Instant::now() });
        session
    }

    /// The session of a request.
    ///
    /// A token that the client chose names a session without transactions, since it may outlive them. A
    /// request without a token gets a session of its own, which ends with the request.
    ///
    /// # Errors
    /// `Unauthenticated` when the session of an issued token has ended, or is on another node. A new one
    /// would lack its settings, and commit each statement of its transaction alone.
    pub(crate) fn for_request(&self, metadata: &MetadataMap) -> Result<Arc<Session>, Status> {
        let Some(token) = bearer_token(metadata) else {
            return Ok(Arc::new(Session::ephemeral()));
        };
        match self.find(&token) {
            Some(session) => Ok(session),
            None if token.starts_with(ISSUED) => Err(Status::unauthenticated(
                "the session has ended, by a restart of this node or unused for long, or is one of another \
                 node; an open transaction is rolled back: connect again",
            )),
            None => Ok(self.insert(token, Session::without_transactions())),
        }
    }

    /// The session of a request that redeems a ticket; `None` if it is one of another node, or has none.
    pub(crate) fn known(&self, metadata: &MetadataMap) -> Option<Arc<Session>> {
        bearer_token(metadata).and_then(|token| self.find(&token))
    }

    fn find(&self, token: &str) -> Option<Arc<Session>> {
        let mut sessions = self.lock();
        let entry = sessions.get_mut(token)?;
        entry.last_used = Instant::now();
        Some(entry.session.clone())
    }

    /// Ends the session of a request.
    pub(crate) fn close(&self, metadata: &MetadataMap) {
        if let Some(token) = bearer_token(metadata) {
            self.lock().remove(&token);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Entry>> {
        self.0.lock().expect("no code panics while it holds this lock")
    }
}

/// The credentials after `scheme` in the authorization header. Scheme names are case-insensitive
/// (RFC 9110, section 11.1).
fn credentials<'a>(metadata: &'a MetadataMap, scheme: &str) -> Option<&'a str> {
    let (found, rest) = metadata.get("authorization")?.to_str().ok()?.split_once(' ')?;
    found.eq_ignore_ascii_case(scheme).then(|| rest.trim())
}

fn bearer_token(metadata: &MetadataMap) -> Option<String> {
    let token = credentials(metadata, "bearer")?;
    (!token.is_empty() && token.len() <= TOKEN_BYTES_MAX).then(|| token.to_owned())
}
