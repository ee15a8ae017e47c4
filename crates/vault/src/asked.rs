//! What a machine of the protocol waits for, as text, for tests that hold store calls against it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use vmkeep_envelope::PackName;
use vmkeep_model::SessionId;

use crate::protocol::Request;
use crate::vault::{Inner, Vault};

/// Puts back what was asked for before, once this is answered: to answer may take a machine of its own.
pub(crate) struct InFlight {
    asked: Arc<Mutex<Option<Request>>>,
    before: Option<Request>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = self.before.take();
    }
}

impl Inner {
    /// Notes what a machine asks for until the answer is there.
    pub(crate) fn in_flight(&self, request: &Request) -> InFlight {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let before = asked.replace(request.clone());
        InFlight { asked: Arc::clone(&self.asked), before }
    }
}

impl Vault {
    /// What a machine of the protocol waits for just now: a word for what it is, then the names it is about.
    #[doc(hidden)]
    pub fn asked(&self) -> Option<String> {
        let asked = self.inner.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.as_ref().map(ToString::to_string)
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(name) => write!(f, "read {name}"),
            Self::Exists(name) => write!(f, "exists {name}"),
            Self::List(prefix) => write!(f, "list {prefix}"),
            Self::Create(name, _) => write!(f, "create {name}"),
            Self::ReadBack(name, _) => write!(f, "read-back {name}"),
            Self::Overwrite(name, _) => write!(f, "overwrite {name}"),
            Self::Delete(names) => {
                f.write_str("delete")?;
                names.iter().try_for_each(|name| write!(f, " {name}"))
            }
            Self::Examine(examine) => write!(f, "examine {:?}", examine.numbers),
            Self::Unused { number, sessions } => {
                write!(f, "unused {number}")?;
                sessions.iter().try_for_each(|session| write!(f, " {session}"))
            }
            Self::Build(build) => write!(f, "build {}", SessionId(build.sweep)),
            Self::Births((session, name)) => write!(f, "births {}/{}", SessionId(*session), PackName(*name)),
        }
    }
}
