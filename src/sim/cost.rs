//! How long a device takes for a step: a sum of what the step has.
//!
//! A step reads the weights whatever is in it, computes its prompts' tokens, does a little for
//! every sequence that decodes, and reads the KV of everything that is looked back at.

use std::time::Duration;

use troupe_runtime::wire::step::StepPlan;

/// Prices in microseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct CostModel {
    /// Of every step.
    pub(crate) base_us: f64,
    /// Of each token of a prompt.
    pub(crate) prefill_token_us: f64,
    /// Of each sequence that decodes.
    pub(crate) sequence_us: f64,
    /// Of each token that a sequence of the step looks back at.
    pub(crate) context_token_us: f64,
}

// === impl CostModel ===

impl CostModel {
    /// How long a step takes.
    pub(super) fn of(&self, plan: &StepPlan) -> Duration {
        let starting = plan.new.iter().map(|new| new.span);
        let starting = starting.chain(plan.resumed.iter().map(|resumed| resumed.span));
        let (mut prefill, mut decodes, mut context) = (0_u64, 0_u64, 0_u64);
        for span in starting {
            prefill += u64::from(span.count);
            context += u64::from(span.computed);
        }
        for span in plan.running.iter().map(|running| running.span) {
            // The last token of a prompt, where it is alone in its step, costs as much.
            match span.count {
                1 => decodes += 1,
                count => prefill += u64::from(count),
            }
            context += u64::from(span.computed);
        }
        let micros = self.base_us
            + self.prefill_token_us * prefill as f64
            + self.sequence_us * decodes as f64
            + self.context_token_us * context as f64;
        Duration::from_nanos((micros * 1e3) as u64)
    }
}

#[cfg(test)]
mod tests {
    use troupe_runtime::{
        id::SequenceId,
        wire::step::{ResumedSequence, RunningSequence, Span},
    };

    use super::*;

    #[test]
    fn prompts_decodes_and_what_is_looked_back_at_are_paid() {
        let span = |computed, count| Span { computed, count, sample: true };
        let running = |computed, count| RunningSequence {
            sequence: SequenceId(1),
            appended: [].into_iter().collect(),
            placeholder: None,
            swaps: Vec::new(),
            new_blocks: Vec::new(),
            drafts: [].into_iter().collect(),
            span: span(computed, count),
        };
        let resumed = ResumedSequence {
            sequence: SequenceId(2),
            appended: Vec::new(),
            block_tables: Vec::new(),
            span: span(100, 50),
        };
        let plan = StepPlan {
            running: vec![running(1000, 1), running(2000, 1), running(300, 200)],
            resumed: vec![resumed],
            ..StepPlan::default()
        };
        let cost = CostModel {
            base_us: 4000.0,
            prefill_token_us: 20.0,
            sequence_us: 30.0,
            context_token_us: 0.5,
        };
        let micros = 4000.0 + 20.0 * 250.0 + 30.0 * 2.0 + 0.5 * 3400.0;
        assert_eq!(cost.of(&plan), Duration::from_micros(micros as u64));
    }
}
