//! Sessions: requests that belong together, and the endpoint that answered the last of them.
//!
//! Either the client carries the endpoint's name in a token, and gateways remember nothing; or it
//! names its session, and this gateway remembers where that is, for a while and for so many. Who
//! invents a token or another's session's name gains nothing: it only says where a request would
//! like to go, and caches are apart by their salt.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use troupe_runtime::id::{EndpointId, GroupId};

use super::Query;

/// How a session's endpoint is known.
#[derive(Debug)]
pub(crate) enum Session {
    /// By `x-session-token`.
    Token,
    /// By `x-session-id`, from what is remembered.
    Id {
        /// For how long it is remembered after the last request.
        keep: Duration,
        /// Between times of forgetting.
        sweep: Duration,
        /// What is.
        bound: Mutex<Bound>,
    },
}

/// Where sessions are.
#[derive(Debug, Default)]
pub(crate) struct Bound {
    sessions: BTreeMap<String, (At, Duration)>,
    swept: Duration,
}

/// An endpoint by its name, whatever its incarnation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct At {
    group: GroupId,
    dp: u32,
}

/// Sessions that are remembered: a name of at most 1 KiB and an endpoint each, so some 60 MiB at
/// the very worst. Beyond that new ones are placed as if they had no name.
const MOST: usize = 50_000;

// === impl Session ===

impl Session {
    /// One that remembers.
    pub(crate) fn by_id(keep: Duration, sweep: Duration) -> Self {
        Self::Id { keep, sweep, bound: Mutex::default() }
    }

    /// Where the request's session is.
    pub(crate) fn at(&self, query: &Query<'_>) -> Option<At> {
        match self {
            Self::Token => At::read(query.hints.session_token.as_deref()?),
            Self::Id { keep, bound, .. } => {
                let id = query.hints.session_id.as_deref()?;
                let bound = bound.lock().unwrap_or_else(PoisonError::into_inner);
                let (at, used) = bound.sessions.get(id)?;
                (query.now.saturating_sub(*used) <= *keep).then(|| at.clone())
            }
        }
    }

    /// It is there from now on.
    pub(crate) fn bind(&self, query: &Query<'_>, endpoint: &EndpointId) {
        let (Self::Id { keep, sweep, bound }, Some(id)) = (self, &query.hints.session_id) else {
            return;
        };
        let mut bound = bound.lock().unwrap_or_else(PoisonError::into_inner);
        let now = query.now;
        // Not also when there is no room: a flood of names would then be paid for by everybody.
        if now.saturating_sub(bound.swept) >= *sweep {
            bound.sessions.retain(|_, (_, used)| now.saturating_sub(*used) <= *keep);
            bound.swept = now;
        }
        if bound.sessions.len() < MOST || bound.sessions.contains_key(id) {
            bound.sessions.insert(id.clone(), (At::of(endpoint), now));
        }
    }
}

// === impl At ===

impl At {
    fn of(endpoint: &EndpointId) -> Self {
        Self { group: endpoint.group.clone(), dp: endpoint.dp }
    }

    /// Whether it is this one.
    pub(crate) fn is(&self, endpoint: &EndpointId) -> bool {
        self.dp == endpoint.dp && self.group == endpoint.group
    }

    /// What a token says; nothing if it is not one of ours.
    fn read(token: &str) -> Option<Self> {
        let name = String::from_utf8(base64::decode(token)?).ok()?;
        let mut parts = name.split('/');
        let (namespace, service) = (parts.next()?.to_owned(), parts.next()?.to_owned());
        let index = parts.next()?.parse().ok()?;
        let dp = parts.next().map_or(Some(0), |dp| dp.parse().ok())?;
        Some(Self { group: GroupId { namespace, service, index }, dp })
    }
}

/// An endpoint as sessions and clients name it: `namespace/service/index`, and its data-parallel
/// rank unless that is 0. A later incarnation has the same name.
pub(crate) fn name_of(endpoint: &EndpointId) -> String {
    let group = &endpoint.group;
    let name = format!("{}/{}/{}", group.namespace, group.service, group.index);
    if endpoint.dp == 0 { name } else { format!("{name}/{}", endpoint.dp) }
}

/// The token with which a client comes back to an endpoint.
pub(crate) fn token_of(endpoint: &EndpointId) -> String {
    base64::encode(name_of(endpoint).as_bytes())
}

/// RFC 4648's alphabet with padding, as llm-d's tokens have it: a token is 40 bytes of text, which
/// needs no library.
mod base64 {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    pub(super) fn encode(bytes: &[u8]) -> String {
        let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
        for three in bytes.chunks(3) {
            let at = |index: usize| u32::from(three.get(index).copied().unwrap_or_default());
            let bits = at(0) << 16 | at(1) << 8 | at(2);
            for place in 0..4 {
                let digit = ALPHABET[(bits >> (18 - 6 * place)) as usize & 63];
                text.push(if place <= three.len() { char::from(digit) } else { '=' });
            }
        }
        text
    }

    pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
        let digits = text.trim_end_matches('=').bytes();
        let (mut bits, mut held, mut bytes) = (0_u32, 0, Vec::new());
        for digit in digits {
            let value = ALPHABET.iter().position(|one| *one == digit)?;
            bits = bits << 6 | value as u32;
            held += 6;
            if held >= 8 {
                held -= 8;
                bytes.push((bits >> held) as u8);
                bits &= (1 << held) - 1;
            }
        }
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ingress::hints::Hints,
        placement::endpoint::tests::{info, query},
    };

    #[test]
    fn a_token_leads_back_and_nonsense_leads_nowhere() {
        let endpoint = info("a", 3).endpoint;
        let token = token_of(&endpoint);
        assert_eq!(token, "ZGVmYXVsdC9zLzM=");
        for (token, there) in [(token.as_str(), true), ("bm9ib2R5", false), ("?", false)] {
            let hints = Hints { session_token: Some(token.to_owned()), ..Hints::NONE };
            let query = Query { hints: &hints, ..query("a") };
            let at = Session::Token.at(&query);
            assert_eq!(at.is_some_and(|at| at.is(&endpoint)), there, "{token}");
        }
    }

    #[test]
    fn base64_is_the_usual_one() {
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64::encode(bytes.as_bytes()), text);
            assert_eq!(base64::decode(text).as_deref(), Some(bytes.as_bytes()));
        }
    }

    #[test]
    fn a_session_is_remembered_for_a_while_after_its_last_request() {
        let session = Session::by_id(Duration::from_secs(300), Duration::from_secs(10));
        let hints = Hints { session_id: Some("s".into()), ..Hints::NONE };
        let at = |seconds| Query { hints: &hints, now: Duration::from_secs(seconds), ..query("a") };
        let endpoint = info("a", 1).endpoint;
        assert_eq!(session.at(&at(0)), None);
        session.bind(&at(1), &endpoint);
        assert!(session.at(&at(301)).is_some_and(|found| found.is(&endpoint)));
        assert_eq!(session.at(&at(302)), None);
        session.bind(&query("a"), &endpoint);
        let remembered = || {
            let Session::Id { bound, .. } = &session else { panic!("it remembers") };
            bound.lock().expect("nobody has it").sessions.len()
        };
        assert_eq!(remembered(), 1, "no id, no session");
        let other = Hints { session_id: Some("t".into()), ..Hints::NONE };
        session.bind(&Query { hints: &other, ..at(400) }, &endpoint);
        assert_eq!(remembered(), 1, "the first one is forgotten by then");
    }
}
