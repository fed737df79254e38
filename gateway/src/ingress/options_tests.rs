//! Defaults and their order; ranges are tested through HTTP.

use super::*;

fn asked(text: &str) -> Sampling {
    serde_json::from_str(text).expect("good JSON")
}

fn options(text: &str, defaults: &GenerationConfig) -> Result<SamplingOptions, ApiError> {
    sampling(
        &asked(text),
        ModelSide { defaults, vocab_size: 100, max_logprobs: 20, eos_token_ids: &[7] },
    )
}

#[test]
fn the_request_wins_over_the_model_over_the_default() {
    let none = GenerationConfig::default();
    let advice = GenerationConfig {
        temperature: Some(0.6),
        top_p: Some(0.95),
        top_k: Some(20),
        min_p: Some(0.1),
        repetition_penalty: Some(1.1),
        ..none.clone()
    };
    let plain = options("{}", &none).unwrap();
    assert_eq!((plain.temperature, plain.top_p, plain.top_k, plain.min_p), (1.0, 1.0, 0, 0.0));
    let advised = options("{}", &advice).unwrap();
    assert_eq!((advised.temperature, advised.top_p, advised.top_k), (0.6, 0.95, 20));
    assert_eq!((advised.min_p, advised.repetition_penalty), (0.1, 1.1));
    let said = options(r#"{"temperature": 0.3, "top_k": 0, "top_p": null}"#, &advice).unwrap();
    assert_eq!((said.temperature, said.top_k, said.top_p), (0.3, 0, 0.95));
    assert_eq!(said.eos_token_ids, [7]);
}

#[test]
fn nearly_greedy_is_greedy() {
    let none = GenerationConfig::default();
    assert_eq!(options(r#"{"temperature": 1e-6}"#, &none).unwrap().temperature, 0.0);
    assert_eq!(options(r#"{"top_k": -1}"#, &none).unwrap().top_k, 0);
    assert_eq!(options(r#"{"top_k": 99999999999}"#, &none).unwrap().top_k, 0);
    assert!(options(r#"{"repetition_penalty": 1e300}"#, &none).is_err());
    assert!(options(r#"{"repetition_penalty": 1e-300}"#, &none).is_err());
}

#[test]
fn output_is_as_long_as_asked_allowed_and_possible() {
    let length = |asked, default, room, cap| max_tokens(asked, default, room, (100, cap));
    assert_eq!(length(None, Some(16), 90, None), Ok(16));
    assert_eq!(length(None, None, 90, None), Ok(90));
    assert_eq!(length(Some(95), Some(16), 90, None), Ok(90));
    assert_eq!(length(Some(50), Some(16), 90, Some(20)), Ok(20));
    assert!(length(Some(0), None, 90, None).is_err());
    assert!(length(Some(101), None, 90, None).is_err());
}

#[test]
fn several_choices_need_chance() {
    assert_eq!(choices(&asked(r#"{"n": 3}"#), 0.5), Ok(3));
    assert_eq!(choices(&asked("{}"), 0.0), Ok(1));
    assert!(choices(&asked(r#"{"n": 3}"#), 0.0).is_err());
}
