//! The two native decoders on bytes and tokens chosen to be awkward, and the window on a tokenizer
//! of neither family.

use serde_json::json;

use super::{sentencepiece::Rules, *};
use crate::model::tokenizer_config::TokenizerConfig;

/// Feeds all tokens one by one; `finish` ends the stream.
fn byte_level(tokens: &[&str]) -> Vec<String> {
    let mut state = ByteLevel::default();
    let mut pieces: Vec<String> = tokens.iter().map(|token| state.push(token)).collect();
    pieces.push(state.finish());
    pieces
}

fn sentencepiece(tokens: &[&str]) -> Vec<String> {
    let decoder = json!({"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]});
    let mut state = Sentencepiece::new(&Rules::of(&decoder).unwrap());
    let mut pieces: Vec<String> =
        tokens.iter().map(|token| state.push((*token).to_owned())).collect();
    pieces.push(state.finish());
    pieces
}

#[test]
fn bytes_are_held_until_they_are_a_character() {
    // `â`, `Ĥ` and `¬` stand for the bytes E2 82 AC of the euro sign.
    assert_eq!(byte_level(&["aâ", "Ĥ", "¬Ġb"]), ["a", "", "€ b", ""]);
    assert_eq!(byte_level(&["aâĤ"]), ["a", "\u{FFFD}"]);
    assert_eq!(byte_level(&["âĤ", "a"]), ["", "\u{FFFD}a", ""]);
    assert_eq!(byte_level(&["Ĥ", "ÿÿ"]), ["\u{FFFD}", "\u{FFFD}\u{FFFD}", ""]);
    // A character that stands for no byte makes the whole token plain text.
    assert_eq!(byte_level(&["<｜end｜>", "Ċ"]), ["<｜end｜>", "\n", ""]);
}

#[test]
fn every_byte_has_its_character() {
    let table = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet();
    let mut bytes: Vec<u8> = table
        .iter()
        .flat_map(|character| byte_level::token_bytes(&character.to_string()))
        .collect();
    bytes.sort_unstable();
    assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
}

#[test]
fn a_run_of_byte_tokens_is_certain_when_it_ends() {
    assert_eq!(sentencepiece(&["▁a", "▁b"]), ["a", " b", ""]);
    assert_eq!(sentencepiece(&["▁", "▁b"]), ["", " b", ""]);
    assert_eq!(sentencepiece(&["<0xC3>", "<0xA9>", "x"]), ["", "", "éx", ""]);
    assert_eq!(sentencepiece(&["<0xC3>", "<0xA9>"]), ["", "", "é"]);
    assert_eq!(sentencepiece(&["<0xC3>", "<0xA9>", "<0xC3>", "x"])[3], "\u{FFFD}".repeat(3) + "x");
    assert_eq!(sentencepiece(&["<0x20>", "<0x20>", "▁"]), ["", "", "  ", ""]);
}

#[test]
fn decoders_of_other_shapes_are_not_taken_for_sentencepiece() {
    let part = |name: &str| json!({"type": name});
    let orders = [
        vec![part("Fuse"), part("ByteFallback")],
        vec![part("ByteFallback"), part("Metaspace")],
        vec![part("ByteFallback")],
        vec![json!({"type": "Replace", "pattern": {"Regex": "a"}, "content": ""}), part("Fuse")],
    ];
    for decoders in orders {
        assert_eq!(Rules::of(&json!({"type": "Sequence", "decoders": decoders})), None);
    }
}

fn words() -> Arc<Tokenizer> {
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "added_tokens": [
            {"id": 0, "content": "[END]", "single_word": false, "lstrip": false, "rstrip": false,
             "normalized": false, "special": true},
        ],
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": false},
        "model": {"type": "WordPiece", "unk_token": "[END]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100,
                  "vocab": {"[END]": 0, "play": 1, "##ing": 2, "now": 3}},
    });
    let bytes = serde_json::to_vec(&file).unwrap();
    let path = std::path::Path::new("tokenizer.json");
    Arc::new(Tokenizer::parse(path, &bytes, &TokenizerConfig::default()).unwrap())
}

#[test]
fn any_other_decoder_goes_through_the_window() {
    let tokenizer = words();
    assert_eq!(*tokenizer.decoding(), Decoding::Other);
    let mut stream = Detokenizer::new(tokenizer.clone(), SpecialTokens::Exclude);
    let pieces: Vec<_> = [1, 2, 0, 3, 1, 9].iter().map(|id| stream.push(*id).text).collect();
    assert_eq!(pieces, ["play", "ing", "", " now", " play", ""]);
    assert_eq!(stream.finish(), Piece { text: String::new(), offset: 16 });
    let mut rest = Detokenizer::continuing(tokenizer, SpecialTokens::Exclude, &[1]);
    assert_eq!(rest.push(3), Piece { text: " now".to_owned(), offset: 0 });
}

#[test]
fn a_prompt_that_ends_in_a_byte_token_is_not_repeated() {
    let decoder = json!({"decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]});
    let mut state = Sentencepiece::new(&Rules::of(&decoder).unwrap());
    for token in ["<0x0A>", "<0xC3>"] {
        state.push(token.to_owned());
    }
    state.forget();
    state.push("<0xA9>".to_owned());
    assert_eq!(state.push("x".to_owned()), "éx");
}

#[test]
fn a_tokenizer_of_another_model_is_refused() {
    let config = |vocab_size: usize, eos: u32| {
        let text = format!(
            r#"{{"architectures": ["LlamaForCausalLM"], "hidden_size": 8, "intermediate_size": 8,
            "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": {vocab_size},
            "max_position_embeddings": 8, "eos_token_id": {eos}}}"#
        );
        let file = std::path::Path::new("config.json");
        crate::model::config::ModelConfig::parse(file, text.as_bytes()).unwrap()
    };
    let tokenizer = words();
    assert!(tokenizer.check_fits(&config(16, 0)).is_ok());
    let error = tokenizer.check_fits(&config(3, 0)).unwrap_err().to_string();
    assert!(error.contains("4 tokens") && error.contains("`vocab_size` is 3"), "{error}");
    let error = tokenizer.check_fits(&config(16, 9)).unwrap_err().to_string();
    assert!(error.contains("`eos_token_id` is 9"), "{error}");
}
