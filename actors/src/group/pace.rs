//! How fast a group's steps go, and so when one of them does not go any more.
//!
//! Two limits, because a step may take long and a rank may not be silent for long. *Silence*: a
//! rank says after every layer that it goes on ([`crate::worker::pulse`]), so one that hangs in a
//! kernel, waits for a rank that does, or is frozen with its process is found within two seconds.
//! What is measured is how long ranks have been silent within steps that went well. *The whole
//! step*: the outer bound, also for what nothing was measured of yet.

use std::{collections::BTreeMap, time::Duration};

use troupe_runtime::{
    id::{Coordinate, StepId},
    wire::group::{Progress, RankPulse},
};

/// How long a step may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepLimits {
    /// A step may always take this long, however fast others were.
    pub step_min: Duration,
    /// Beyond it, this many times the longest step of late, or what its tokens take at the best
    /// speed that was measured, whichever is more: a long prompt is no hang.
    pub step_factor: u32,
    /// What a token may take before anything was measured.
    pub token_unmeasured: Duration,
    /// Ranks may always be silent for so long, once a step was measured.
    pub silence_min: Duration,
    /// Beyond it, this many times the longest silence of late, or what it would be with as many
    /// tokens.
    pub silence_factor: u32,
}

/// The steps in flight, and what others have taken.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    limits: StepLimits,
    steps: BTreeMap<StepId, InFlight>,
    /// What each rank last said.
    signs: BTreeMap<Coordinate, Sign>,
    /// When a step was done last.
    done_at: Duration,
    step: Measured,
    silence: Measured,
}

/// A step that does not go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stuck {
    /// For people: which step, since when, and who is at it.
    pub(super) cause: String,
    /// The rank that the others wait for.
    pub(super) rank: Option<Coordinate>,
}

/// A step that is not done.
#[derive(Clone, Debug)]
struct InFlight {
    sent: Duration,
    tokens: u32,
    through: Vec<Coordinate>,
    /// The longest that a rank was silent in it.
    silence: Duration,
}

/// A sign of life.
#[derive(Clone, Copy, Debug, Default)]
struct Sign {
    beats: u64,
    at: Duration,
}

/// What something has taken in steps that are done.
#[derive(Clone, Copy, Debug, Default)]
struct Measured {
    /// The longest of late, decaying.
    longest: Duration,
    /// The least for each token of a step.
    per_token: Option<Duration>,
}

// === impl StepLimits ===

impl Default for StepLimits {
    fn default() -> Self {
        Self {
            step_min: Duration::from_secs(30),
            step_factor: 20,
            token_unmeasured: Duration::from_millis(500),
            silence_min: Duration::from_millis(1400),
            silence_factor: 4,
        }
    }
}

// === impl Pace ===

impl Pace {
    pub(super) fn new(limits: StepLimits) -> Self {
        Self {
            limits,
            steps: BTreeMap::new(),
            signs: BTreeMap::new(),
            done_at: Duration::ZERO,
            step: Measured::default(),
            silence: Measured::default(),
        }
    }

    /// A step of so many tokens was sent to all.
    pub(super) fn planned(&mut self, now: Duration, step: StepId, tokens: u32) {
        let (sent, through, silence) = (now, Vec::new(), Duration::ZERO);
        self.steps.insert(step, InFlight { sent, tokens, through, silence });
    }

    /// A rank is through a step.
    pub(super) fn progress(&mut self, now: Duration, progress: &Progress) {
        self.signs.entry(progress.rank).or_default().at = now;
        if let Some(step) = self.steps.get_mut(&progress.step) {
            step.through.push(progress.rank);
            step.silence = step.silence.max(Duration::from_micros(progress.silence_us));
        }
    }

    /// A rank lives: whether it goes on is what its number says.
    pub(super) fn pulse(&mut self, now: Duration, pulse: &RankPulse) {
        let sign = self.signs.entry(pulse.rank).or_default();
        if pulse.beats > sign.beats {
            *sign = Sign { beats: pulse.beats, at: now };
        }
    }

    /// A step is done.
    pub(super) fn done(&mut self, now: Duration, step: StepId) {
        let Some(step) = self.steps.remove(&step) else { return };
        self.done_at = now;
        self.step.note(now.saturating_sub(step.sent), step.tokens);
        // The last to be through may be heard of after the result; the others have said it.
        if !step.through.is_empty() {
            self.silence.note(step.silence, step.tokens);
        }
    }

    /// The step that does not go on, if one does not; `ranks` are all of the group.
    pub(super) fn stuck<'a>(
        &self,
        now: Duration,
        ranks: impl Iterator<Item = &'a Coordinate>,
    ) -> Option<Stuck> {
        let late = |step: &InFlight| now.saturating_sub(step.sent) > self.limit(step.tokens);
        let ranks: Vec<Coordinate> = ranks.copied().collect();
        if let Some((step, late)) = self.steps.iter().find(|(_, step)| late(step)) {
            let what = format!("is not done within {:?}", self.limit(late.tokens));
            return Some(self.told(*step, &late.waiting(&ranks), &what));
        }
        // Those behind it wait for it.
        let (step, first) = self.steps.first_key_value()?;
        let waiting = first.waiting(&ranks);
        let signs = waiting.iter().filter_map(|rank| self.signs.get(rank)).map(|sign| sign.at);
        let heard = signs.max()?.max(first.sent).max(self.done_at);
        let silent = now.saturating_sub(heard);
        let limit = self.silence_limit(first.tokens)?;
        let what = format!("makes no progress for {limit:?}");
        (silent > limit).then(|| self.told(*step, &waiting, &what))
    }

    /// Who is still at a step: of the first stage that is not through it, whoever is behind. The
    /// stages after it have nothing to do yet, and its other ranks wait for that one.
    fn told(&self, step: StepId, waiting: &[Coordinate], what: &str) -> Stuck {
        let beats = |rank: &Coordinate| self.signs.get(rank).map_or(0, |sign| sign.beats);
        let stage = waiting.iter().map(|rank| rank.stage).min();
        let stage = waiting.iter().filter(|rank| Some(rank.stage) == stage);
        let least = stage.clone().map(beats).min();
        let behind: Vec<_> = stage.filter(|rank| Some(beats(rank)) == least).collect();
        let names: Vec<_> = behind.iter().map(ToString::to_string).collect();
        Stuck {
            cause: format!("step {step} {what}, still at it: {names:?}"),
            rank: behind.first().map(|rank| **rank),
        }
    }

    /// How long a step of so many tokens may take.
    fn limit(&self, tokens: u32) -> Duration {
        let StepLimits { step_min, step_factor, token_unmeasured, .. } = self.limits;
        let measured = self.step.limit(tokens, step_factor);
        step_min.max(measured.unwrap_or(token_unmeasured * tokens))
    }

    /// How long ranks may be silent in a step of so many tokens, if that is known.
    fn silence_limit(&self, tokens: u32) -> Option<Duration> {
        let StepLimits { silence_min, silence_factor, .. } = self.limits;
        Some(silence_min.max(self.silence.limit(tokens, silence_factor)?))
    }
}

// === impl InFlight ===

impl InFlight {
    fn waiting(&self, ranks: &[Coordinate]) -> Vec<Coordinate> {
        ranks.iter().filter(|rank| !self.through.contains(rank)).copied().collect()
    }
}

// === impl Measured ===

impl Measured {
    fn note(&mut self, took: Duration, tokens: u32) {
        let per_token = took / tokens.max(1);
        self.per_token = Some(self.per_token.map_or(per_token, |least| least.min(per_token)));
        // Forgets a slow step by half within some forty faster ones.
        self.longest = took.max(self.longest - self.longest / 64);
    }

    fn limit(&self, tokens: u32, factor: u32) -> Option<Duration> {
        let by_tokens = self.per_token? * tokens * factor;
        Some(by_tokens.max(self.longest * factor))
    }
}
