//! Placement among endpoints that the caller plays, at times that the caller says: for simulators.
//!
//! Everything here is what a gateway runs (the table, the index of prefixes, plug-ins, what is
//! learned from answers) but for what carries it: nobody is connected, and no clock is read. So
//! the same calls give the same decisions.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::Instant;
use troupe_runtime::{
    id::{NodeId, RequestId},
    prefix::Parameters,
    transport::{Class, Connection, Conversation, LinkError, PeerIdentity, PeerRole, Stream},
    wire::{
        cache::CacheBatch,
        status::{EndpointInfo, Load},
    },
};

use super::{
    Query,
    config::PickerConfig,
    directory::Directory,
    endpoint::Endpoint,
    prefix::namings::{Hashes, Naming},
    underway::Underway,
};
use crate::ingress::hints::Hints;

/// See the file. Endpoints are known by their places in the list that it was made of.
#[derive(Debug)]
pub struct Rehearsal {
    directory: Arc<Directory>,
    endpoints: Vec<Arc<Endpoint>>,
    model: String,
    parameters: Parameters,
    naming: Option<Naming>,
    hints: Hints,
}

/// A prompt, as far as placement looks at it.
#[derive(Clone, Copy, Debug)]
pub struct Rehearsed<'a> {
    /// Of the request; among equals it decides.
    pub request: RequestId,
    /// Tokens of the prompt.
    pub tokens: u32,
    /// Most tokens of the answer.
    pub max_tokens: u32,
    /// The names of the prompt's full blocks, by [`Parameters::of`] an endpoint.
    pub hashes: &'a Arc<[u128]>,
}

/// A request where it was placed: counted there until it is dropped.
pub struct Sent {
    /// Where.
    pub endpoint: usize,
    underway: Underway,
    born: Instant,
}

/// At the other end of a rehearsal's connections.
#[derive(Debug)]
struct Nobody(PeerIdentity);

// === impl Rehearsal ===

impl Rehearsal {
    /// Among these endpoints, which serve one model, have one block size and are in the order of
    /// their ids; placed as a configuration says or by default. They tell what they have cached.
    pub fn new(endpoints: Vec<EndpointInfo>, picker: Option<&PickerConfig>) -> Option<Self> {
        let placer = picker.map(|picker| Arc::clone(&picker.placer));
        let directory = Directory::new(placer).with_peer_fetch(false);
        let first = endpoints.first()?;
        let (model, parameters) = (first.model_names.first()?.clone(), Parameters::of(first));
        let connection: Arc<dyn Connection> = Arc::new(Nobody(PeerIdentity {
            cluster: "rehearsal".into(),
            role: PeerRole::Node,
            node: NodeId(uuid::Uuid::nil()),
        }));
        let enter = |info| {
            let (connection, prefixes) = (Arc::clone(&connection), directory.prefixes());
            let (labels, address) = (BTreeMap::new(), String::new());
            let endpoint = Endpoint::new(info, None, labels, address, connection, prefixes);
            endpoint.cached.told();
            let endpoint = Arc::new(endpoint);
            directory.enter(Arc::clone(&endpoint));
            endpoint
        };
        let endpoints: Vec<_> = endpoints.into_iter().map(enter).collect();
        let naming = endpoints.first().map(|endpoint| endpoint.cached.naming());
        let (directory, hints) = (Arc::new(directory), Hints::default());
        Some(Self { directory, endpoints, model, parameters, naming, hints })
    }

    /// A leader says how busy it is.
    pub fn set_load(&self, now: Duration, endpoint: usize, load: Load) {
        self.endpoints[endpoint].set_load(now, load);
    }

    /// A leader tells which blocks came and went.
    pub fn tell(&self, endpoint: usize, batch: &CacheBatch) {
        self.endpoints[endpoint].cached.apply(batch);
    }

    /// A leader tells all that it holds.
    pub fn tell_all(&self, endpoint: usize, held: &[u128]) {
        let cached = &self.endpoints[endpoint].cached;
        cached.begin();
        cached.fill(held);
        cached.finish();
    }

    /// What was sent long ago and never told of is not believed any more: a gateway looks twice a
    /// second.
    pub fn forget(&self, now: Duration) {
        self.endpoints.iter().for_each(|endpoint| endpoint.cached.forget(now));
    }

    /// Where a request goes, and that it is on its way there. None if nobody can take it.
    pub fn place(&self, now: Duration, prompt: Rehearsed<'_>) -> Option<Sent> {
        let hashes = match self.naming {
            Some(naming) => Hashes::of(naming, &self.parameters, Arc::clone(prompt.hashes)),
            None => Hashes::NONE,
        };
        let placed = self.directory.place(&Query {
            model: &self.model,
            tokenizer: self.endpoints.first()?.info.fingerprint.tokenizer,
            exclude: &BTreeSet::new(),
            goes_on: None,
            name: "rehearsal",
            request: prompt.request,
            tokens: prompt.tokens,
            hashes: &hashes,
            scope: None,
            at_once: false,
            hints: &self.hints,
            now,
        })?;
        placed.endpoint.cached.sent(now, prompt.hashes);
        let (born, id) = (self.directory.born(), &placed.endpoint.info.endpoint);
        let endpoint = self.endpoints.binary_search_by(|known| known.info.endpoint.cmp(id)).ok()?;
        let begun = born + now;
        let underway = Underway::begin(&self.directory, &placed, 1, prompt.max_tokens, begun);
        Some(Sent { endpoint, underway, born })
    }
}

// === impl Sent ===

impl Sent {
    /// So many tokens of its answer came.
    pub fn tokens(&mut self, now: Duration, count: usize) {
        self.underway.tokens(self.born + now, count);
    }
}

impl fmt::Debug for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sent({})", self.endpoint)
    }
}

// === impl Nobody ===

#[async_trait]
impl Connection for Nobody {
    fn peer(&self) -> &PeerIdentity {
        &self.0
    }

    fn class(&self) -> Class {
        Class::Control
    }

    async fn open(&self, _: Conversation, _: Duration) -> Result<Stream, LinkError> {
        Err(LinkError::Ended)
    }

    async fn accept(&self) -> Result<(Conversation, Stream), LinkError> {
        Err(LinkError::Ended)
    }

    async fn closed(&self) -> LinkError {
        LinkError::Ended
    }

    fn close(&self, _: &str) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::endpoint::tests::info;

    const SECOND: Duration = Duration::from_secs(1);

    fn prompt(number: u128, hashes: &Arc<[u128]>) -> Rehearsed<'_> {
        let request = RequestId(uuid::Uuid::from_u128(number));
        Rehearsed { request, tokens: 64, max_tokens: 8, hashes }
    }

    #[test]
    fn a_prompt_goes_where_its_blocks_are_and_the_time_is_the_callers() {
        let rehearsal = Rehearsal::new((0..4).map(|at| info("m", at)).collect(), None);
        let rehearsal = rehearsal.expect("there are endpoints");
        let hashes: Arc<[u128]> = [1, 2, 3, 4].into();
        let batch = CacheBatch { stored: hashes.to_vec(), ..CacheBatch::default() };
        rehearsal.tell(2, &batch);
        for number in 0..8 {
            let sent = rehearsal.place(number as u32 * SECOND, prompt(number, &hashes));
            assert_eq!(sent.expect("somebody is there").endpoint, 2);
        }
        // It is as full as can be, and the others have nothing to do.
        for endpoint in 0..4 {
            let busy = if endpoint == 2 { 64 } else { 0 };
            let (waiting, blocks_used, blocks_total) = (busy, busy, 64);
            let load = Load { waiting, blocks_used, blocks_total, ..Load::default() };
            rehearsal.set_load(8 * SECOND, endpoint, load);
        }
        let sent = rehearsal.place(8 * SECOND, prompt(9, &hashes)).expect("somebody is there");
        assert_ne!(sent.endpoint, 2);
    }

    #[test]
    fn a_place_is_taken_when_a_request_is_sent_and_free_when_it_is_over() {
        let rehearsal = Rehearsal::new(vec![info("m", 0)], None).expect("there is an endpoint");
        let endpoint = &rehearsal.endpoints[0];
        let has_place = || endpoint.candidate(endpoint.known(), 0, 0).has_place;
        let hashes: Arc<[u128]> = [1].into();
        let most = u128::from(info("m", 0).max_num_seqs);
        let send = |number| rehearsal.place(SECOND, prompt(number, &hashes));
        let mut sent: Vec<_> = (1..most).map(send).collect();
        assert!(has_place());
        sent.push(send(most));
        assert!(!has_place(), "the leader has told of none of them yet");
        let running = |running| Load { running, ..Load::default() };
        rehearsal.set_load(SECOND, 0, running(most as u32));
        sent.pop();
        assert!(has_place(), "nor of the end of one");
        let later = SECOND + Duration::from_millis(100);
        rehearsal.set_load(later, 0, running(most as u32));
        assert!(has_place(), "nor now");
        for at in 2..4 {
            rehearsal.set_load(at * SECOND, 0, running(most as u32));
        }
        assert!(!has_place(), "it is another gateway's");
    }

    #[test]
    fn what_was_sent_is_believed_until_its_time_is_over() {
        let rehearsal = Rehearsal::new((0..4).map(|at| info("m", at)).collect(), None);
        let rehearsal = rehearsal.expect("there are endpoints");
        let hashes: Arc<[u128]> = [1, 2, 3, 4].into();
        let first = rehearsal.place(SECOND, prompt(1, &hashes)).expect("somebody is there");
        let at = first.endpoint;
        drop(first);
        for number in 2..10 {
            let sent = rehearsal.place(2 * SECOND, prompt(number, &hashes));
            assert_eq!(sent.expect("somebody is there").endpoint, at);
        }
        let later = |number: u128| {
            let now = 60 * SECOND * number as u32;
            rehearsal.forget(now);
            rehearsal.place(now, prompt(number, &hashes)).map(|sent| sent.endpoint)
        };
        let places: BTreeSet<usize> = (10..40).filter_map(later).collect();
        assert!(places.len() > 1, "nothing draws it anywhere: {places:?}");
    }
}
