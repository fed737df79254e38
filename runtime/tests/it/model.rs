//! Models without weights, read from real and golden folders: configs in both styles, tokenizers
//! against recorded ids, streams against whole decoding, chat templates against transformers.

#![allow(clippy::unwrap_used, reason = "tests may stop at the first surprise")]

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use proptest::{prelude::*, test_runner::TestRunner};
use serde_json::Value;
use troupe_runtime::model::{
    card::ModelCard,
    config::{Activation, Architecture, AttentionSpan, Encoder, ModelConfig, RopeScaling},
    detokenize::Detokenizer,
    pooling::{Pooling, PoolingKind, SentenceFiles},
    source::{ModelAccess, ModelFiles, ModelSource},
    template::{ChatInput, ChatTemplates, TemplateError},
    tokenizer::{SpecialTokens, Tokenizer},
    tokenizer_config::TokenizerConfig,
};

use crate::golden;

// === Configs and cards ===

#[test]
fn both_config_styles_give_the_same_model() {
    let mut seen = 0;
    for folder in folders("models") {
        let newer = folder.join("config.transformers5.json");
        if !newer.is_file() || !is_known(&folder) {
            continue;
        }
        let classic = ModelConfig::load(&folder.join("config.json")).unwrap();
        assert_eq!(classic, ModelConfig::load(&newer).unwrap(), "{}", folder.display());
        seen += 1;
    }
    assert!(seen >= 3, "{seen} models");
}

#[test]
fn an_unknown_architecture_is_refused_by_name() {
    let text = br#"{"architectures": ["MambaForCausalLM"], "model_type": "mamba"}"#;
    let error = ModelConfig::parse(Path::new("config.json"), text).unwrap_err().to_string();
    assert!(error.contains("MambaForCausalLM") && error.contains("Qwen3ForCausalLM"), "{error}");
}

#[test]
fn cards_load_with_all_their_parts() {
    let mut digests = Vec::new();
    for folder in folders("models").into_iter().filter(|folder| is_known(folder)) {
        let card = load(&folder);
        // What reads and does not write has no end, and says how its states are pooled.
        let reads = card.config.encoder.is_some();
        assert_eq!(card.stop_ids.is_empty(), reads, "{}", folder.display());
        let scores = card.config.encoder.is_some_and(|encoder| encoder.classifier.is_some());
        assert_eq!(card.sentences.is_some(), reads && !scores, "{}", folder.display());
        let digest = ModelFiles::find(&card.files.folder).unwrap().model_digest().unwrap();
        let again = ModelFiles::find(&folder).unwrap().model_digest().unwrap();
        assert_eq!(digest, again);
        digests.push(digest);
    }
    let count = digests.len();
    digests.sort();
    digests.dedup();
    assert_eq!(count, digests.len(), "two models have one digest");
    assert!(count >= 3, "{count} models");
}

#[test]
fn features_of_single_models_are_read() {
    let config = |name| golden::model(name).map(|folder| load(&folder).config);
    if let Some(config) = config("tiny-llama-rope3") {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position: 64,
        };
        assert_eq!((config.rope.theta, config.rope.scaling), (500_000.0, scaling));
        assert_eq!((config.head_dim, config.hidden_size), (32, 128));
    }
    if let Some(config) = config("tiny-mistral") {
        let groups = config.kv_groups();
        assert_eq!(groups.len(), 1);
        assert_eq!(groups[0].span, AttentionSpan::Window(24));
        assert_eq!(groups[0].layers, [0, 1, 2, 3]);
    }
    if let Some(config) = config("tiny-qwen2") {
        assert!(config.qkv_bias && !config.output_bias && !config.qk_norm);
        assert_eq!(config.kv_groups()[0].span, AttentionSpan::Full);
    }
    if let Some(folder) = golden::model("tiny-bert") {
        let bert = load(&folder);
        assert_eq!(bert.config.encoder, Some(Encoder { token_types: 2, classifier: None }));
        assert_eq!(bert.config.kv_groups()[0].span, AttentionSpan::Both);
        assert_eq!((bert.config.activation, bert.config.rotary_dim), (Activation::Gelu, 0));
        let pooling = Pooling { kind: PoolingKind::Mean, normalize: true };
        assert_eq!(bert.sentences, Some(SentenceFiles { pooling, max_tokens: Some(128) }));
    }
    let gemma = config("tiny-gemma2").expect("every set has tiny-gemma2");
    let spans: Vec<_> = gemma.kv_groups().iter().map(|group| group.span).collect();
    assert_eq!(spans, [AttentionSpan::Window(16), AttentionSpan::Full]);
    assert_eq!((gemma.attention_cap, gemma.logit_cap), (Some(5.0), Some(12.0)));
    assert_eq!(
        (gemma.activation, gemma.attention_scale),
        (Activation::GeluTanh, 24f64.sqrt().recip())
    );
    assert!(gemma.norms_from_one && gemma.embedding_scale == Some(96f64.sqrt()));
    if let Some(config) = config("tiny-gemma3") {
        let (full, window) = (config.rope.clone(), config.window_rope.clone().unwrap());
        assert_eq!((full.theta, full.scaling), (1e6, RopeScaling::Linear { factor: 4.0 }));
        assert_eq!((window.theta, window.scaling), (1e4, RopeScaling::None));
        assert_eq!(config.kv_groups()[1].layers, [5]);
    }
    if let Some(config) = config("tiny-qwen3-moe") {
        let experts = config.experts.unwrap();
        assert_eq!((experts.layers, experts.count), (vec![true, false, true, true], 16));
    }
    let deepseek = config("tiny-deepseek-v2").expect("every set has tiny-deepseek-v2");
    let (latent, experts) = (deepseek.latent.unwrap(), deepseek.experts.as_ref().unwrap());
    assert_eq!((latent.query_rank, latent.width(), deepseek.head_dim), (Some(32), 40, 32));
    assert_eq!((experts.routing.groups, experts.routing.scale), (4, 1.5));
    assert_eq!((deepseek.kv_elements(), experts.shared_intermediate_size), (40, 64));
    let chat = config("tiny-chat").expect("every set has tiny-chat");
    assert!(chat.qk_norm && !chat.qkv_bias && chat.tie_word_embeddings);
}

// === Tokenizers ===

#[test]
fn tokenizers_agree_with_the_recorded_ids() {
    let mut texts = 0;
    for folder in [folders("models"), folders("tokenizers")].concat() {
        let Some(golden) = json(&folder.join("tokenizer_golden.json")) else {
            continue;
        };
        let tokenizer = tokenizer(&folder);
        let list = golden.as_object().unwrap().values().find_map(Value::as_array).unwrap();
        for case in list {
            let text = case["text"].as_str().unwrap();
            let context = format!("{}: {text:?}", folder.display());
            let ids = ids(&case["ids"]);
            assert_eq!(tokenizer.encode(text, SpecialTokens::Include).unwrap(), ids, "{context}");
            let plain = tokenizer.encode(text, SpecialTokens::Exclude).unwrap();
            assert_eq!(plain, self::ids(&case["ids_no_special"]), "{context}");
            let decoded = tokenizer.decode(&plain, SpecialTokens::Include).unwrap();
            assert_eq!(decoded, case["decoded"].as_str().unwrap(), "{context}");
            if let Some(expected) = case["decoded_skip_special"].as_str() {
                let decoded = tokenizer.decode(&plain, SpecialTokens::Exclude).unwrap();
                assert_eq!(decoded, expected, "{context}");
            }
            assert_eq!(stream(&tokenizer, &plain, SpecialTokens::Include), case["decoded"]);
            texts += 1;
        }
    }
    assert!(texts > 50, "{texts} texts");
}

#[test]
fn streams_equal_whole_decoding_for_any_tokens() {
    let folders = [folders("models"), folders("tokenizers")].concat();
    let tokenizers: Vec<_> = folders
        .iter()
        .filter(|folder| folder.join("tokenizer_golden.json").is_file())
        .map(|folder| tokenizer(folder))
        .collect();
    assert!(!tokenizers.is_empty());
    let index = any::<prop::sample::Index>();
    // Byte tokens and their like stand at the front of every vocabulary, so half of the ids do too.
    let id = (any::<prop::sample::Index>(), any::<bool>());
    let ids = prop::collection::vec(id, 0..64);
    let strategy = (index, ids, any::<bool>(), any::<prop::sample::Index>());
    let mut runner = TestRunner::new(ProptestConfig { cases: 2000, ..ProptestConfig::default() });
    runner
        .run(&strategy, |(which, ids, hide, split)| {
            let tokenizer = which.get(&tokenizers);
            let size = |is_low| {
                if is_low { 520 } else { tokenizer.vocab_size() + 3 }
            };
            let ids: Vec<u32> = ids.iter().map(|(id, low)| id.index(size(*low)) as u32).collect();
            let special = if hide { SpecialTokens::Exclude } else { SpecialTokens::Include };
            let whole = tokenizer.decode(&ids, special).unwrap();
            prop_assert_eq!(stream(tokenizer, &ids, special), whole.as_str());
            // A stream that continues a prompt ends as the whole does, whatever of the text around
            // the border counts as the prompt's.
            let (prompt, output) = ids.split_at(split.index(ids.len() + 1));
            let mut rest = Detokenizer::continuing(tokenizer.clone(), special, prompt);
            let mut text: String = output.iter().map(|id| rest.push(*id).text).collect();
            text.push_str(&rest.finish().text);
            let tail: String = text.chars().skip(4).collect();
            let is_tail = whole.ends_with(&tail) || whole.contains('\u{FFFD}');
            prop_assert!(is_tail, "{:?} does not end with {:?}", whole, tail);
            Ok(())
        })
        .unwrap();
}

#[test]
fn pairs_become_the_recorded_ids() {
    // Only the committed set has it.
    let Some(folder) = golden::model("tiny-bert-cross") else { return };
    let golden = golden::json("models/tiny-bert-cross/golden.json").unwrap();
    let tokenizer = tokenizer(&folder);
    for pair in golden["pairs"].as_array().unwrap() {
        let texts = (pair["text_1"].as_str().unwrap(), pair["text_2"].as_str().unwrap());
        let found = tokenizer.encode_pair(texts, SpecialTokens::Include).unwrap();
        assert_eq!(found, ids(&pair["ids"]), "{texts:?}");
    }
}

#[test]
fn pieces_say_where_they_begin_and_never_split_a_character() {
    // An encoder's tokens need not spell what it reads.
    let writes = |folder: &PathBuf| {
        let config = ModelConfig::load(&folder.join("config.json"));
        is_known(folder) && config.is_ok_and(|config| config.encoder.is_none())
    };
    for folder in folders("models").into_iter().filter(writes) {
        let tokenizer = tokenizer(&folder);
        let ids = tokenizer.encode("naïve 🙂 日本", SpecialTokens::Exclude).unwrap();
        let mut stream = Detokenizer::new(tokenizer, SpecialTokens::Include);
        let mut text = String::new();
        for id in ids {
            let piece = stream.push(id);
            assert_eq!(piece.offset, text.chars().count());
            text.push_str(&piece.text);
        }
        text.push_str(&stream.finish().text);
        assert_eq!(text, "naïve 🙂 日本", "{}", folder.display());
    }
}

// === Templates ===

#[test]
fn chat_templates_render_as_transformers_renders_them() {
    let Some(cases) = golden::json("tokenizers/chat_templates/cases.json") else {
        return;
    };
    let folder = golden::dir().join("tokenizers/chat_templates");
    let mut wrong = Vec::new();
    for description in cases["templates"].as_array().unwrap() {
        let name = description["name"].as_str().unwrap();
        let file = folder.join(description["file"].as_str().unwrap());
        let token = |field: &'static str| {
            (field, description[field].as_str().unwrap_or_default().to_owned())
        };
        let config = TokenizerConfig {
            special_tokens: vec![token("bos_token"), token("eos_token")],
            ..TokenizerConfig::default()
        };
        let templates = ChatTemplates::load(Some(&file), &config).unwrap().unwrap();
        let results = cases["results"].as_array().unwrap();
        for result in results.iter().filter(|result| result["template"] == name) {
            let case = result["case"].as_str().unwrap();
            let rendered = render(&templates, &cases["cases"][case], result);
            if let Some(problem) = problem(&rendered, result) {
                wrong.push(format!("{name} / {case}: {problem}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}\n{} are wrong", wrong.join("\n\n"), wrong.len());
}

#[test]
fn golden_chats_become_their_prompts_and_answers() {
    let folder = golden::model("tiny-chat").expect("every set has tiny-chat");
    let golden = json(&folder.join("golden_chat.json")).unwrap();
    let card = load(&folder);
    let templates = card.templates.unwrap();
    for chat in golden["chats"].as_array().unwrap() {
        let input = ChatInput {
            messages: &chat["messages"],
            tools: Some(&chat["tools"]).filter(|tools| !tools.is_null()),
            documents: None,
            add_generation_prompt: true,
            kwargs: chat["chat_template_kwargs"].as_object(),
            now_unix_s: 0,
        };
        let prompt = templates.render(&input).unwrap();
        assert_eq!(prompt, chat["prompt"].as_str().unwrap(), "{}", chat["id"]);
        let prompt_ids = card.tokenizer.encode(&prompt, SpecialTokens::Exclude).unwrap();
        assert_eq!(prompt_ids, ids(&chat["prompt_ids"]), "{}", chat["id"]);
        let answer = ids(&chat["completion_ids"]);
        let Some((last, _)) = answer.split_last() else { panic!("no answer in {}", chat["id"]) };
        assert!(card.stop_ids.contains(last), "{}", chat["id"]);
        let text = stream(&card.tokenizer, &answer, SpecialTokens::Exclude);
        assert_eq!(text, chat["completion_text"].as_str().unwrap(), "{}", chat["id"]);
    }
}

// === Helpers ===

fn render(
    templates: &ChatTemplates,
    case: &Value,
    result: &Value,
) -> Result<String, TemplateError> {
    templates.render(&ChatInput {
        messages: &case["messages"],
        tools: Some(&case["tools"]).filter(|tools| !tools.is_null()),
        documents: None,
        add_generation_prompt: result["add_generation_prompt"].as_bool().unwrap(),
        kwargs: case["kwargs"].as_object(),
        now_unix_s: NOW_UNIX_S,
    })
}

/// What a rendering should have been and was not. Where Python failed in the middle of a template,
/// other engines may differ, so nothing is asked then.
fn problem(rendered: &Result<String, TemplateError>, expected: &Value) -> Option<String> {
    match (rendered, expected["rendered"].as_str(), expected["raised"].as_str()) {
        (Ok(text), Some(wanted), _) if text == wanted => None,
        (Err(TemplateError::Raised(text)), _, Some(wanted)) if text == wanted => None,
        (_, None, None) => None,
        (got, wanted, raised) => Some(format!("got {got:?}\nwanted {:?}", wanted.or(raised))),
    }
}

fn folders(kind: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(golden::dir().join(kind)) else {
        return Vec::new();
    };
    let mut folders: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|folder| folder.join("tokenizer.json").is_file())
        .collect();
    folders.sort();
    folders
}

fn is_known(folder: &Path) -> bool {
    let Some(config) = json(&folder.join("config.json")) else {
        return false;
    };
    let known = Architecture::TABLE.map(|(_, class, _)| class);
    known.iter().any(|name| config["architectures"][0] == *name)
}

fn load(folder: &Path) -> ModelCard {
    let cache = ModelAccess::offline("nowhere");
    let source = ModelSource::resolve(folder.to_str().unwrap(), &cache).unwrap();
    ModelCard::load(&source).unwrap()
}

fn tokenizer(folder: &Path) -> Arc<Tokenizer> {
    let config = Some(folder.join("tokenizer_config.json")).filter(|file| file.is_file());
    let config = TokenizerConfig::load(config.as_deref(), None).unwrap();
    Arc::new(Tokenizer::load(&folder.join("tokenizer.json"), &config).unwrap())
}

fn stream(tokenizer: &Arc<Tokenizer>, ids: &[u32], special: SpecialTokens) -> String {
    let mut stream = Detokenizer::new(tokenizer.clone(), special);
    let mut text: String = ids.iter().map(|id| stream.push(*id).text).collect();
    text.push_str(&stream.finish().text);
    text
}

fn json(file: &Path) -> Option<Value> {
    Some(serde_json::from_str(&std::fs::read_to_string(file).ok()?).unwrap())
}

fn ids(list: &Value) -> Vec<u32> {
    list.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// 2025-06-30T12:00:00, at which the recorded renderings froze the clock.
const NOW_UNIX_S: i64 = 1_751_284_800;
