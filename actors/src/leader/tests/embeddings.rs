//! Engines that make vectors of texts: each text in one step, one chunk without tokens, and nothing
//! planned behind it.

use super::*;

fn embedding_engine(whole_prompts: bool) -> Engine {
    let embeds = Embeds { size: 2, normalize: true, dimensions: None, scores: false };
    let mut settings = EngineSettings { embeds: Some(embeds), ..settings() };
    settings.limits.whole_prompts = whole_prompts;
    settings.limits.prefix_caching = !whole_prompts;
    Engine::new(settings, &[100])
}

fn text(number: u128, length: u32) -> Box<Generate> {
    let prompt = (0..length).collect();
    let output = OutputKind::Embedding;
    Box::new(Generate { prompt, output, ..generate(number, SamplingOptions::default()) })
}

/// What a step brings if the vector of each text is its length.
fn vectors(plan: &StepPlan) -> StepResult {
    let texts = plan.spans().filter(|(_, span)| span.sample).map(|(sequence, span)| {
        let length = (span.computed + span.count) as f32;
        SequenceResult { sequence, outcome: Outcome::Embedding(vec![length, 0.5]) }
    });
    let outcomes = texts.collect();
    StepResult { epoch: plan.epoch, step: plan.step, outcomes, compute_us: 1 }
}

#[test]
fn a_text_is_one_chunk_with_its_vector() {
    for whole in [true, false] {
        let mut engine = embedding_engine(whole);
        let first = engine.handle(NOW, EngineEvent::Submit(text(1, 40)));
        let [plan] = &plans(&first)[..] else { panic!("one step: {first:?}") };
        assert_eq!(plan.tokens(), 40);
        // What comes meanwhile is in the next step, and the text is in no further one.
        let second = engine.handle(NOW, EngineEvent::Submit(text(2, 64)));
        let [next] = &plans(&second)[..] else { panic!("one step: {second:?}") };
        assert_eq!((next.new.len(), next.running.len()), (1, 0));
        let effects = engine.handle(NOW, EngineEvent::Result(vectors(plan)));
        let chunks: Vec<_> = effects
            .iter()
            .filter_map(|effect| match effect {
                EngineEffect::Send(_, GenerateDown::Chunk(chunk)) => Some(chunk),
                _ => None,
            })
            .collect();
        let [chunk] = &chunks[..] else { panic!("one chunk: {effects:?}") };
        assert_eq!((chunk.embedding.as_slice(), chunk.position), ([40.0, 0.5].as_slice(), 0));
        let finish = chunk.finish.as_ref().expect("it is all");
        assert!(chunk.tokens.is_empty() && finish.reason == FinishReason::Stop);
        assert_eq!((finish.usage.prompt_tokens, finish.usage.completion_tokens), (40, 0));
        // A text may be as long as the context: no token follows.
        let effects = engine.handle(NOW, EngineEvent::Result(vectors(next)));
        assert!(effects.iter().any(|effect| matches!(effect, EngineEffect::Close(_))));
        engine.check_integrity().expect("the books add up");
        assert_eq!(engine.open_requests(), 0);
    }
}

#[test]
fn what_the_model_is_not_run_for_is_refused() {
    let refused = |engine: &mut Engine, generate: Box<Generate>| {
        let effects = engine.handle(NOW, EngineEvent::Submit(generate));
        let refused = effects.into_iter().find_map(|effect| match effect {
            EngineEffect::Send(_, GenerateDown::Refused(error)) => Some(error),
            _ => None,
        });
        refused.expect("it is refused")
    };
    let error = refused(&mut engine(100), text(1, 3));
    assert_eq!(error.kind, ErrorKind::BadRequest);
    assert!(error.message.contains("does not support Embeddings API"), "{error:?}");
    let mut embedding = embedding_engine(true);
    let error = refused(&mut embedding, Box::new(generate(1, most(1))));
    assert!(error.message.contains("does not support generation"), "{error:?}");
    let error = refused(&mut embedding, text(2, 65));
    assert!(error.message.contains("maximum context length is 64"), "{error:?}");
    assert_eq!(embedding.open_requests(), 0);
}
