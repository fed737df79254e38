//! Sampled tokens on their way from the last stage to the first.
//!
//! A step may be planned while an earlier one still computes the token that it begins with. The
//! rank that samples tells every rank of the first stage directly, one small tensor for each step
//! that samples anything: rows of (sequence's low half, its high half, output position, token). A
//! rank of the first stage knows from the plans which steps those are, takes them in order, and
//! waits only if a plan needs one that is not there yet.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use troupe_gpu::error::DeviceError;
use troupe_runtime::{
    id::{SequenceId, StepId},
    transport::bulk::{BulkReceiver, BulkSender},
    wire::{
        kv::{TensorHeader, WireDtype},
        step::StepPlan,
    },
};

/// One token that a step sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampledAt {
    /// For which sequence.
    pub sequence: SequenceId,
    /// Where it stands among the sequence's tokens, prompt included.
    pub position: u32,
    /// The token.
    pub token: u32,
}

/// Tells the first stage what a step sampled: nothing, if every sequence of it failed, but every
/// step that was to sample tells.
///
/// # Errors
/// [`DeviceError::Collective`] if a rank of the first stage is gone.
pub fn tell(
    senders: &mut [BulkSender],
    step: StepId,
    sampled: &[SampledAt],
) -> Result<(), DeviceError> {
    if senders.is_empty() {
        return Ok(());
    }
    let bytes: Bytes =
        sampled.iter().flat_map(|sampled| words(sampled).map(u32::to_le_bytes)).flatten().collect();
    let header = TensorHeader {
        step,
        index: 0,
        // Bounded by the sequences of a step times a draft's length.
        rows: sampled.len() as u32,
        columns: COLUMNS,
        dtype: WireDtype::U32,
    };
    for sender in senders {
        sender.send(header, bytes.clone()).map_err(|error| {
            DeviceError::Collective(format!("tokens to the first stage: {error}"))
        })?;
    }
    Ok(())
}

/// The first stage's end of a line.
pub struct TokenFeed {
    receiver: BulkReceiver,
    /// Steps that sample and whose tokens have not been taken, in order.
    expected: VecDeque<StepId>,
    steps_in_flight: u64,
}

impl TokenFeed {
    /// The feed of a line, in a group with at most so many steps in flight.
    pub fn new(receiver: BulkReceiver, steps_in_flight: u32) -> Self {
        let expected = VecDeque::new();
        Self { receiver, expected, steps_in_flight: steps_in_flight.into() }
    }

    /// The last step whose tokens have to be there before [`Self::take`] of this plan need not
    /// wait; none if it need not at all.
    pub fn needs(&self, plan: &StepPlan) -> Option<StepId> {
        let through = self.through(plan);
        self.expected.iter().rev().find(|step| **step <= through).copied()
    }

    /// Up to which step tokens are taken for this plan.
    fn through(&self, plan: &StepPlan) -> StepId {
        let needed = plan.running.iter().filter_map(|running| running.placeholder).max();
        // The leader plans a step only when all but so many before it are done.
        let done = StepId(plan.step.0.saturating_sub(self.steps_in_flight));
        needed.unwrap_or(done).max(done)
    }

    /// Takes what the step of this plan needs, and what must be there by now, so that no more ever
    /// wait in the line than there are steps in flight.
    ///
    /// # Errors
    /// [`DeviceError::Collective`] if the last stage is gone or does not sample in time;
    /// [`DeviceError::Contract`] if what it sent makes no sense.
    pub fn take(
        &mut self,
        plan: &StepPlan,
        deadline: Duration,
    ) -> Result<Vec<SampledAt>, DeviceError> {
        let through = self.through(plan);
        let mut sampled = Vec::new();
        while let Some(step) = self.expected.pop_front_if(|step| *step <= through) {
            let (header, bytes) = self
                .receiver
                .receive(step, 0, deadline)
                .map_err(|error| DeviceError::Collective(format!("sampled tokens: {error}")))?;
            sampled.extend(parse(header, &bytes)?);
        }
        if plan.spans().any(|(_, span)| span.sample) {
            self.expected.push_back(plan.step);
        }
        Ok(sampled)
    }
}

fn words(sampled: &SampledAt) -> [u32; COLUMNS as usize] {
    let id = sampled.sequence.0;
    [id as u32, (id >> 32) as u32, sampled.position, sampled.token]
}

fn parse(header: TensorHeader, bytes: &Bytes) -> Result<Vec<SampledAt>, DeviceError> {
    if (header.columns, header.dtype) != (COLUMNS, WireDtype::U32) {
        return Err(DeviceError::Contract(format!("tokens were to come, not {header:?}")));
    }
    let (words, _) = bytes.as_chunks::<4>();
    let words: Vec<u32> = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
    let (rows, _) = words.as_chunks::<{ COLUMNS as usize }>();
    Ok(rows
        .iter()
        .map(|&[low, high, position, token]| SampledAt {
            sequence: SequenceId(u64::from(high) << 32 | u64::from(low)),
            position,
            token,
        })
        .collect())
}

/// Words per token.
const COLUMNS: u32 = 4;

#[cfg(test)]
mod tests {
    use troupe_runtime::{
        transport::bulk::bulk_pair,
        wire::step::{RunningSequence, Span},
    };

    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    fn plan(step: u64, placeholder: Option<u64>, sample: bool) -> StepPlan {
        let running = RunningSequence {
            sequence: SequenceId(1),
            appended: vec![].into(),
            placeholder: placeholder.map(StepId),
            swaps: vec![],
            new_blocks: vec![],
            drafts: vec![].into(),
            span: Span { computed: 0, count: 1, sample },
        };
        StepPlan { step: StepId(step), running: vec![running], ..StepPlan::default() }
    }

    fn token(position: u32) -> SampledAt {
        SampledAt { sequence: SequenceId(7 << 40 | 3), position, token: position + 100 }
    }

    #[test]
    fn tokens_are_taken_when_a_plan_needs_them_and_no_later_than_they_must_be_there() {
        let (mut sender, receiver) = bulk_pair(8);
        let mut feed = TokenFeed::new(receiver, 2);
        assert!(feed.take(&plan(1, None, true), SOON).unwrap().is_empty());
        tell(std::slice::from_mut(&mut sender), StepId(1), &[token(5)]).unwrap();
        assert_eq!(feed.take(&plan(2, Some(1), true), SOON).unwrap(), [token(5)]);
        assert!(feed.take(&plan(3, None, false), SOON).unwrap().is_empty(), "2 is not done");
        assert_eq!(feed.needs(&plan(4, None, true)), Some(StepId(2)));
        tell(std::slice::from_mut(&mut sender), StepId(2), &[token(6)]).unwrap();
        assert_eq!(feed.take(&plan(4, None, true), SOON).unwrap(), [token(6)], "now it is");
    }

    #[test]
    fn a_last_stage_that_is_gone_ends_the_wait() {
        let (sender, receiver) = bulk_pair(8);
        let mut feed = TokenFeed::new(receiver, 2);
        feed.take(&plan(1, None, true), SOON).unwrap();
        drop(sender);
        let error = feed.take(&plan(2, Some(1), true), SOON).expect_err("it is gone");
        assert!(error.to_string().contains("sampled tokens"), "{error}");
    }
}
