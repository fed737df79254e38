//! What sampling is asked for a step, and what its answers come to.
//!
//! A sequence without drafts asks for one token. One with drafts asks for the token at each of
//! their positions and at the one behind the last, every one with its own history and its own
//! random number, as if the drafts before it were right. The answers are taken while each equals
//! the draft at its position, and one more. So tokens are the very same with and without drafts,
//! sampled as well as greedy: speculation changes how many steps they take and nothing else.

use troupe_gpu::executor::{LogitRows, SampleRequest, Sampled, StepBatch};
use troupe_runtime::{
    id::SequenceId,
    wire::step::{Outcome, SampledTokens, SequenceResult, Span, StepPlan},
};

use super::{
    mirror::{Mirror, Mirrored},
    tokens::SampledAt,
};

/// A sequence's part of a batch that has logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asked {
    sequence: SequenceId,
    span: Span,
    rows: (usize, usize),
}

impl Mirror {
    /// What the last stage's sampling needs for the batch that [`Mirror::apply`] made of this plan,
    /// in batch order; a sequence with `k` drafts has `k + 1` entries.
    pub fn requests(&self, plan: &StepPlan, batch: &StepBatch) -> Vec<SampleRequest<'_>> {
        let mut requests = Vec::with_capacity(batch.sequences.len());
        for asked in asked(plan, batch) {
            let Some(sequence) = self.sequences.get(&asked.sequence) else { continue };
            let known = sequence.tokens.len() - sequence.drafts;
            if sequence.drafts == 0 {
                requests.push(request(sequence, &asked, known, asked.rows));
                continue;
            }
            let own = (0..=sequence.drafts)
                .map(|draft| request(sequence, &asked, known + draft, (asked.rows.0 + draft, 1)));
            requests.extend(own);
        }
        requests
    }

    /// Sampling's answers as the leader is told them, and the tokens in them as the first stage is.
    pub fn outcomes(
        requests: &[SampleRequest<'_>],
        sampled: Vec<Sampled>,
    ) -> (Vec<SequenceResult>, Vec<SampledAt>) {
        let mut results: Vec<SequenceResult> = Vec::with_capacity(requests.len());
        let mut told = Vec::with_capacity(requests.len());
        let mut answers = requests.iter().zip(sampled).peekable();
        while let Some((request, answer)) = answers.next() {
            let sequence = request.sequence;
            let mut outcome = outcome(answer);
            let mut at = request.tokens.len();
            // The further requests of the same sequence hold the draft that this answer must equal.
            while let Some((next, answer)) = answers.next_if(|(next, _)| next.sequence == sequence)
            {
                if let Outcome::Tokens(tokens) = &mut outcome
                    && tokens.tokens.last() == next.tokens.last()
                    && next.tokens.len() == at + 1
                {
                    at = next.tokens.len();
                    match self::outcome(answer) {
                        Outcome::Tokens(more) => {
                            tokens.tokens.extend(more.tokens);
                            tokens.logprobs.extend(more.logprobs);
                        }
                        // The tokens before it stand; the next step fails at the same place.
                        _ => at = usize::MAX,
                    }
                }
            }
            if let Outcome::Tokens(tokens) = &outcome {
                // A position is below the model's context, which is a u32.
                let first = request.tokens.len() as u32;
                let positions = (first..).zip(&tokens.tokens);
                told.extend(positions.map(|(position, &token)| SampledAt {
                    sequence,
                    position,
                    token,
                }));
            }
            results.push(SequenceResult { sequence, outcome });
        }
        (results, told)
    }
}

fn request<'a>(
    sequence: &'a Mirrored,
    asked: &Asked,
    history: usize,
    rows: (usize, usize),
) -> SampleRequest<'a> {
    SampleRequest {
        sequence: asked.sequence,
        rows,
        sample: asked.span.sample,
        tokens: sequence.tokens.get(..history).unwrap_or(&sequence.tokens),
        prompt_len: sequence.prompt_len as usize,
        computed: asked.span.computed as usize,
        options: &sequence.options,
        seed: sequence.seed,
        choice: sequence.choice,
        mask: None,
    }
}

/// The batch's sequences that have logits, each with its rows of the logits.
fn asked<'a>(plan: &'a StepPlan, batch: &'a StepBatch) -> impl Iterator<Item = Asked> + use<'a> {
    let mut next = 0;
    plan.spans().zip(&batch.sequences).filter_map(move |((sequence, span), entry)| {
        let count = match entry.logits {
            LogitRows::None => return None,
            LogitRows::Last => 1,
            LogitRows::Tail(rows) => rows as usize,
            LogitRows::All => entry.count as usize,
        };
        let rows = (next, count);
        next += count;
        Some(Asked { sequence, span, rows })
    })
}

fn outcome(sampled: Sampled) -> Outcome {
    if let Some(why) = sampled.failed {
        return Outcome::Failed(why);
    }
    if let Some(vector) = sampled.embedding {
        return Outcome::Embedding(vector);
    }
    let Some(token) = sampled.token else {
        return Outcome::PromptLogprobs(sampled.prompt_logprobs);
    };
    Outcome::Tokens(SampledTokens {
        tokens: [token].as_slice().into(),
        logprobs: sampled.logprobs.into_iter().collect(),
        prompt_logprobs: sampled.prompt_logprobs,
    })
}

#[cfg(test)]
mod tests {
    use troupe_runtime::wire::generate::SamplingOptions;

    use super::*;

    fn answers(tokens: &[u32]) -> Vec<Sampled> {
        let sampled = |&token| Sampled { token: Some(token), ..Sampled::default() };
        tokens.iter().map(sampled).collect()
    }

    /// A sequence of tokens 1 and 2 with drafts 3, 4, and what its three positions sampled.
    fn verified(sampled: &[u32]) -> (Vec<u32>, Vec<u32>) {
        let options = SamplingOptions::default();
        let tokens = [1, 2, 3, 4];
        let request = |history: usize| SampleRequest {
            sequence: SequenceId(1),
            rows: (history - 2, 1),
            sample: true,
            tokens: &tokens[..history],
            prompt_len: 1,
            computed: 1,
            options: &options,
            seed: 0,
            choice: 0,
            mask: None,
        };
        let requests: Vec<_> = (2..=4).map(request).collect();
        let (results, told) = Mirror::outcomes(&requests, answers(sampled));
        let [SequenceResult { outcome: Outcome::Tokens(tokens), .. }] = results.as_slice() else {
            panic!("{results:?}")
        };
        (tokens.tokens.to_vec(), told.iter().map(|told| told.position).collect())
    }

    #[test]
    fn drafts_are_taken_while_they_equal_what_is_sampled() {
        assert_eq!(verified(&[3, 4, 9]), (vec![3, 4, 9], vec![2, 3, 4]));
        assert_eq!(verified(&[3, 7, 9]), (vec![3, 7], vec![2, 3]));
        assert_eq!(verified(&[8, 4, 9]), (vec![8], vec![2]));
    }
}
