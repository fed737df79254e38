//! How a checkpoint prefixes its names: files of a whole model say `model.layers.0...`, files of
//! the bare decoder say `layers.0...`. The head is `lm_head.weight` in both. An encoder's begin
//! with nothing or with its family's name.
//!
//! Model files speak of names without the prefix; it is found out once per checkpoint.

use super::checkpoint::Checkpoint;

/// What stands before the decoder's names in a checkpoint.
pub fn prefix(checkpoint: &Checkpoint) -> &'static str {
    PREFIXES
        .into_iter()
        .find(|prefix| embedding_of(checkpoint, prefix).is_some())
        // Nothing fits: errors will name tensors in the usual style.
        .unwrap_or(PREFIXES[0])
}

/// The full name of the token embedding, which every model has.
pub fn embedding(checkpoint: &Checkpoint) -> String {
    let prefix = prefix(checkpoint);
    full_name(prefix, embedding_of(checkpoint, prefix).unwrap_or(EMBEDDING))
}

/// What the embedding is called behind a prefix, if it is there.
fn embedding_of(checkpoint: &Checkpoint, prefix: &str) -> Option<&'static str> {
    let is_there = |name: &&str| checkpoint.contains(&format!("{prefix}{name}"));
    [EMBEDDING, WORDS].into_iter().find(is_there)
}

/// The name of a tensor as the checkpoint has it.
pub fn full_name(prefix: &str, name: &str) -> String {
    match OUTSIDE.iter().any(|begin| name.starts_with(begin)) {
        true => name.to_owned(),
        false => format!("{prefix}{name}"),
    }
}

/// A decoder's token embedding.
pub const EMBEDDING: &str = "embed_tokens.weight";
/// An encoder's.
pub const WORDS: &str = "embeddings.word_embeddings.weight";
/// The output head, which stands outside the decoder.
pub const HEAD: &str = "lm_head.weight";
/// What the names of the head's tensors begin with, quantized or not, and of a classifier's.
const OUTSIDE: [&str; 2] = ["lm_head.", "classifier."];
const PREFIXES: [&str; 3] = ["model.", "", "bert."];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_has_no_prefix() {
        assert_eq!(full_name("model.", "norm.weight"), "model.norm.weight");
        assert_eq!(full_name("", "norm.weight"), "norm.weight");
        assert_eq!(full_name("model.", HEAD), HEAD);
    }
}
