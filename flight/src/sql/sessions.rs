//! Which session a request belongs to: the bearer token that the handshake gave.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use plexus_coordinator::Session;
use tonic::metadata::MetadataMap;

/// Sessions kept; the one unused for longest goes first.
const SESSIONS_MAX: usize = 10_000;
/// Unused for this long, a session is forgotten.
const IDLE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Sessions by token.
#[derive(Default)]
pub struct Sessions(Mutex<HashMap<String, Entry>>);

struct Entry {
    session: Arc<Session>,
    used: Instant,
}

impl Sessions {
    /// A new token for a client that said who it is.
    pub fn open(&self) -> String {
        let token = uuid::Uuid::new_v4().simple().to_string();
        self.insert(token.clone());
        token
    }

    fn insert(&self, token: String) -> Arc<Session> {
        let session = Arc::new(Session::default());
        let mut sessions = self.lock();
        if sessions.len() >= SESSIONS_MAX {
            sessions.retain(|_, entry| entry.used.elapsed() < IDLE_MAX);
            let oldest = sessions.iter().min_by_key(|(_, entry)| entry.used).map(|(token, _)| token.clone());
            if let Some(token) = oldest.filter(|_| sessions.len() >= SESSIONS_MAX) {
                sessions.remove(&token);
            }
        }
        sessions.insert(token, Entry { session: session.clone(), used: Instant::now() });
        session
    }

    /// The session of a request. A token of another node is taken over: it names the client all the same.
    /// A request without one gets a session of its own, which ends with it.
    pub fn of(&self, metadata: &MetadataMap) -> Arc<Session> {
        let Some(token) = bearer(metadata) else {
            return Arc::new(Session::ephemeral());
        };
        if let Some(entry) = self.lock().get_mut(&token) {
            entry.used = Instant::now();
            return entry.session.clone();
        }
        self.insert(token)
    }

    /// Ends the session of a request.
    pub fn close(&self, metadata: &MetadataMap) {
        if let Some(token) = bearer(metadata) {
            self.lock().remove(&token);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Entry>> {
        self.0.lock().expect("no code panics while it holds this lock")
    }
}

/// What follows an authentication scheme, whose name has no case (RFC 9110, 11.1).
pub fn credentials<'a>(metadata: &'a MetadataMap, scheme: &str) -> Option<&'a str> {
    let (found, rest) = metadata.get("authorization")?.to_str().ok()?.split_once(' ')?;
    found.eq_ignore_ascii_case(scheme).then(|| rest.trim())
}

pub fn bearer(metadata: &MetadataMap) -> Option<String> {
    let token = credentials(metadata, "bearer")?;
    (!token.is_empty() && token.len() <= 256).then(|| token.to_owned())
}
