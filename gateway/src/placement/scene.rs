//! The candidates of one decision, as columns: what one plug-in looks at lies side by side, so that
//! a thousand endpoints are looked at in microseconds, and a plug-in is called once and not once
//! for each.
//!
//! Two corrections are made here, once for all plug-ins. Requests that this gateway has sent and
//! the leader has not told of yet count as waiting there. And what was told long ago is believed
//! less: it is drawn towards the mean of all, so that an endpoint that went silent is neither
//! sought nor shunned for what it said last.

use std::{collections::BTreeMap, time::Duration};

use troupe_runtime::wire::status::EndpointInfo;

use super::{Affinity, Candidate, Duty, latency::Predicted};

/// A number that every candidate has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// Requests of this gateway that are there.
    ActiveRequests,
    /// Tokens of those requests that are not computed yet.
    InFlightTokens,
    /// Share of its KV blocks that is in use, 0 to 1.
    KvUsed,
    /// Tokens of the prompt's beginning that its cache holds.
    Matched,
    /// Sequences in steps.
    Running,
    /// Sequences that wait for room.
    Waiting,
}

/// What a candidate is, beside its numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row<'a> {
    pub(crate) info: &'a EndpointInfo,
    pub(crate) labels: &'a BTreeMap<String, String>,
    duty: Duty,
    /// How it and the request's adapter are to each other.
    pub(crate) adapter: Affinity,
    has_place: bool,
    /// Its own among all that this gateway has known.
    pub(crate) number: u32,
    /// Tokens whose KV comes to it from others in a second; 0 if none came yet.
    pub(crate) fetch_rate: u32,
    /// Its place among all candidates of the decision, also where others were dropped.
    pub(crate) at: usize,
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scene<'a> {
    rows: Vec<Row<'a>>,
    /// One column after the other, each as long as all candidates there were.
    columns: Vec<f32>,
    /// How many there were.
    candidates: usize,
    /// How far what the leader said is believed, 0 to 1; empty if all of it is.
    belief: Vec<f32>,
    duties: Duties,
    /// Whether no cache has anything of the prompt.
    is_unknown: bool,
    /// What is expected of each; empty if nobody asked for it or nothing is known.
    predicted: Vec<Predicted>,
    /// Who answers, where a helper for it is looked for.
    peer: Option<Peer<'a>>,
}

/// One that is filled, candidate after candidate.
#[derive(Debug)]
pub(crate) struct Filling<'a> {
    scene: Scene<'a>,
    /// All bits of how much of the prompt they have.
    matched: u32,
}

/// How many of them do what; counted once, because every decision asks about it several times.
#[derive(Clone, Copy, Debug, Default)]
struct Duties {
    decode: usize,
    prefill: usize,
    both: usize,
}

#[derive(Clone, Copy, Debug)]
struct Peer<'a> {
    row: Row<'a>,
    numbers: [f32; SIGNALS],
    predicted: Option<Predicted>,
}

/// The signals of the enumeration.
const SIGNALS: usize = 6;
/// Leaders tell their load at least once a second; twice that is no silence.
const FRESH: Duration = Duration::from_secs(2);
/// After which half of the belief is gone.
const HALF_LIFE: Duration = Duration::from_secs(2);

// === impl Scene ===

impl<'a> Scene<'a> {
    /// Of these candidates.
    pub(crate) fn of(candidates: impl ExactSizeIterator<Item = Candidate<'a>>) -> Self {
        let mut filling = Filling::of(candidates.len());
        candidates.for_each(|candidate| filling.push(&candidate));
        filling.settled()
    }

    /// Draws what is not believed towards the mean of what is.
    fn settle(&mut self) {
        let sure: f32 = self.belief.iter().sum();
        if sure <= 0.0 {
            return;
        }
        for signal in [Signal::KvUsed, Signal::Running, Signal::Waiting] {
            let from = signal as usize * self.candidates;
            let column = &mut self.columns[from..from + self.rows.len()];
            let told = column.iter().zip(&self.belief);
            let mean = told.map(|(number, belief)| number * belief).sum::<f32>() / sure;
            for (number, belief) in column.iter_mut().zip(&self.belief) {
                *number = mean + belief * (*number - mean);
            }
        }
    }

    /// How many are left.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Who they are.
    pub(crate) fn rows(&self) -> &[Row<'a>] {
        &self.rows
    }

    /// One number of each.
    pub(crate) fn column(&self, signal: Signal) -> &[f32] {
        let from = signal as usize * self.candidates;
        &self.columns[from..from + self.rows.len()]
    }

    /// Whether no cache has anything of the prompt.
    pub(crate) fn is_cold(&self) -> bool {
        // Who has something of it may have been dropped since.
        self.is_unknown || self.column(Signal::Matched).iter().all(|matched| *matched <= 0.0)
    }

    /// Whether all of them answer requests as a rule.
    pub(crate) fn all_decode(&self) -> bool {
        self.duties.decode == self.rows.len()
    }

    /// Whether somebody computes prompts for others; if not `both`, somebody who does not answer.
    pub(crate) fn somebody_helps(&self, both: bool) -> bool {
        let Duties { prefill, both: do_both, .. } = self.duties;
        if both { prefill > 0 } else { prefill > do_both }
    }

    /// Whether somebody only answers.
    pub(crate) fn somebody_only_answers(&self) -> bool {
        self.duties.decode > self.duties.both
    }

    /// What is expected of each; `None` if nothing is.
    pub(crate) fn predicted(&self) -> Option<&[Predicted]> {
        (self.predicted.len() == self.rows.len() && !self.rows.is_empty())
            .then_some(&*self.predicted)
    }

    /// Says what is expected of each.
    pub(crate) fn predict(&mut self, predicted: Vec<Predicted>) {
        self.predicted = predicted;
    }

    /// Who answers, where a helper for it is looked for.
    pub(crate) fn peer(&self) -> Option<&Row<'a>> {
        self.peer.as_ref().map(|peer| &peer.row)
    }

    /// One number of whoever answers.
    pub(crate) fn of_peer(&self, signal: Signal) -> Option<f32> {
        self.peer.as_ref().map(|peer| peer.numbers[signal as usize])
    }

    /// What is expected of whoever answers, without help.
    pub(crate) fn predicted_peer(&self) -> Option<Predicted> {
        self.peer.as_ref()?.predicted
    }

    /// The same, to find a helper for the candidate at a place.
    pub(crate) fn help(&self, at: usize) -> Self {
        let place = self.rows.iter().position(|row| row.at == at);
        let peer = place.map(|row| Peer {
            row: self.rows[row],
            numbers: Signal::ALL.map(|signal| self.column(signal)[row]),
            predicted: self.predicted.get(row).copied(),
        });
        let mut scene = Self { peer, ..self.clone() };
        scene.retain(|row| self.rows[row].at != at);
        scene
    }

    /// Keeps only the candidate at a place among all.
    pub(crate) fn retain_place(&mut self, at: usize) {
        let row = self.rows.iter().position(|row| row.at == at);
        self.retain(|other| Some(other) == row);
    }

    /// Keeps those rows of which `keep` says yes; the others move up.
    pub(crate) fn retain(&mut self, keep: impl Fn(usize) -> bool) {
        let kept: Vec<usize> = (0..self.len()).filter(|row| keep(*row)).collect();
        if kept.len() == self.len() {
            return;
        }
        // Some are left out, so there are candidates.
        self.columns.chunks_exact_mut(self.candidates).for_each(|column| gather(column, &kept));
        gather(&mut self.rows, &kept);
        self.rows.truncate(kept.len());
        if !self.belief.is_empty() {
            gather(&mut self.belief, &kept);
            self.belief.truncate(kept.len());
        }
        if !self.predicted.is_empty() {
            gather(&mut self.predicted, &kept);
            self.predicted.truncate(kept.len());
        }
        self.duties = Duties::default();
        self.rows.iter().for_each(|row| self.duties.count(row.duty));
    }
}

// === impl Filling ===

impl<'a> Filling<'a> {
    /// With room for so many.
    pub(crate) fn of(candidates: usize) -> Self {
        let (rows, columns) = (Vec::with_capacity(candidates), vec![0.0; SIGNALS * candidates]);
        Self { scene: Scene { rows, columns, candidates, ..Scene::default() }, matched: 0 }
    }

    /// The next one; there is room for it.
    // Else a candidate is put together in memory and copied from there in pieces of another size,
    // for which a processor waits longer than for all the rest.
    #[inline(always)]
    pub(crate) fn push(&mut self, candidate: &Candidate<'a>) {
        let Self { scene, matched } = self;
        let at = scene.rows.len();
        if candidate.load_age > FRESH {
            scene.belief.resize(scene.candidates, 1.0);
            scene.belief[at] = believed(candidate.load_age);
        }
        scene.duties.count(candidate.duty);
        *matched |= candidate.matched;
        let mut place = at;
        for number in numbers(candidate) {
            scene.columns[place] = number;
            place += scene.candidates;
        }
        scene.rows.push(Row::of(at, candidate));
    }

    /// The whole of it.
    pub(crate) fn settled(self) -> Scene<'a> {
        let mut scene = Scene { is_unknown: self.matched == 0, ..self.scene };
        scene.settle();
        scene
    }
}

/// `kept` grows, so nothing is overwritten before it is read.
fn gather<T: Copy>(column: &mut [T], kept: &[usize]) {
    for (to, from) in kept.iter().enumerate() {
        column[to] = column[*from];
    }
}

#[inline(always)]
fn numbers(candidate: &Candidate<'_>) -> [f32; SIGNALS] {
    let load = &candidate.load;
    let unseen = candidate.in_flight.saturating_sub(load.running.saturating_add(load.waiting));
    let kv = load.blocks_used as f32 / load.blocks_total.max(1) as f32;
    [
        candidate.in_flight as f32,
        // Signed, which processors convert in one step.
        i64::try_from(candidate.uncached_in_flight).unwrap_or(i64::MAX) as f32,
        kv.min(1.0),
        candidate.matched as f32,
        load.running as f32,
        load.waiting.saturating_add(unseen) as f32,
    ]
}

fn believed(age: Duration) -> f32 {
    if age <= FRESH {
        return 1.0;
    }
    let over = age - FRESH;
    0.5_f32.powf(over.as_secs_f32() / HALF_LIFE.as_secs_f32())
}

// === impl Duties ===

impl Duties {
    fn count(&mut self, Duty { decodes, prefills }: Duty) {
        self.decode += usize::from(decodes);
        self.prefill += usize::from(prefills);
        self.both += usize::from(decodes && prefills);
    }
}

// === impl Row ===

impl<'a> Row<'a> {
    #[inline(always)]
    fn of(at: usize, candidate: &Candidate<'a>) -> Self {
        let Candidate { info, number, labels, duty, adapter, has_place, .. } = *candidate;
        let fetch_rate = candidate.load.fetch_rate;
        Self { info, labels, duty, adapter, has_place, number, fetch_rate, at }
    }

    /// A label of it.
    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key).map(String::as_str)
    }

    /// Whether it answers requests as a rule.
    pub(crate) fn decodes(&self) -> bool {
        self.duty.decodes
    }

    /// Whether it computes prompts for others.
    pub(crate) fn prefills(&self) -> bool {
        self.duty.prefills
    }

    /// Whether one more request would begin there at once, as far as is known.
    pub(crate) fn has_place(&self) -> bool {
        self.has_place
    }
}

// === impl Signal ===

impl Signal {
    /// In their order.
    const ALL: [Self; SIGNALS] = [
        Self::ActiveRequests,
        Self::InFlightTokens,
        Self::KvUsed,
        Self::Matched,
        Self::Running,
        Self::Waiting,
    ];

    /// By the names that llm-d's metrics and vLLM's have.
    pub(crate) const NAMES: [(&'static str, Self); 8] = [
        ("active-requests", Self::ActiveRequests),
        ("inflight-tokens", Self::InFlightTokens),
        ("kv-cache-utilization", Self::KvUsed),
        ("kv_cache_usage_perc", Self::KvUsed),
        ("running-requests", Self::Running),
        ("num_requests_running", Self::Running),
        ("waiting-queue", Self::Waiting),
        ("num_requests_waiting", Self::Waiting),
    ];
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::{
        Busy,
        endpoint::tests::{candidate, info},
    };

    fn load(running: u32, waiting: u32) -> Busy {
        Busy { running, waiting, blocks_used: 1, blocks_total: 4, fetch_rate: 0 }
    }

    #[test]
    fn what_the_leader_has_not_told_of_yet_waits_there() {
        let info = info("a", 0);
        let scene = |in_flight| {
            let one = Candidate { load: load(3, 1), in_flight, ..candidate(&info) };
            Scene::of([one].into_iter()).column(Signal::Waiting)[0]
        };
        assert_eq!(scene(0), 1.0);
        assert_eq!(scene(4), 1.0, "the leader knows of them");
        assert_eq!(scene(6), 3.0, "two are on their way");
    }

    #[test]
    fn old_words_are_drawn_towards_the_mean_and_fresh_ones_are_not() {
        let infos = [info("a", 0), info("a", 1)];
        let scene = |age| {
            let told = [(load(8, 4), age), (load(0, 0), Duration::ZERO)];
            let candidates = infos.iter().zip(told).map(|(info, (load, load_age))| Candidate {
                load,
                load_age,
                ..candidate(info)
            });
            Scene::of(candidates)
        };
        assert_eq!(scene(FRESH).column(Signal::Running), [8.0, 0.0]);
        let stale = scene(FRESH + HALF_LIFE);
        let running = stale.column(Signal::Running)[0];
        assert!(running < 8.0 && running > 0.0, "{running}");
        let gone = scene(Duration::from_secs(3600)).column(Signal::Running)[0];
        assert!(gone < 0.01, "nothing is left of it: {gone}");
    }

    #[test]
    fn whoever_is_kept_keeps_his_numbers() {
        let infos: Vec<_> = (0..5).map(|index| info("a", index)).collect();
        let candidates = infos.iter().enumerate().map(|(at, info)| Candidate {
            load: load(at as u32, 0),
            matched: at as u32 * 10,
            ..candidate(info)
        });
        let mut scene = Scene::of(candidates);
        scene.retain(|row| row % 2 == 1);
        assert_eq!(scene.len(), 2);
        assert_eq!(scene.column(Signal::Running), [1.0, 3.0]);
        assert_eq!(scene.column(Signal::Matched), [10.0, 30.0]);
        assert_eq!(scene.rows()[1].at, 3);
    }
}
