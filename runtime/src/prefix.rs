//! The chained hash of a prompt's KV blocks: gateway and leader compute the same.
//!
//! A full block's hash covers its parent's hash and its tokens, so equal hashes mean equal
//! prefixes; the first block's parent is a seed made of everything else that the KV depends on
//! ([`Scope`]). It is BLAKE3, keyed and cut to 128 bits, and not a fast hash, because a salt
//! separates tenants: who could make two prefixes collide could read another's cache.

use crate::id::Digest;

/// What the KV of equal tokens still depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope<'a> {
    /// The model.
    pub model: Digest,
    /// Type of the KV cache.
    pub kv_dtype: &'a str,
    /// LoRA adapter.
    pub adapter: Option<&'a str>,
    /// Separates one tenant's or request's blocks from others'.
    pub salt: Option<&'a str>,
}

/// Hashes of a prompt's full blocks, in order; a last, partly filled block has none.
pub fn block_hashes(
    key: &[u8; 32],
    scope: &Scope<'_>,
    tokens: &[u32],
    block_size: usize,
) -> Vec<u128> {
    let mut chain = Chain::new(key, scope);
    tokens.chunks_exact(block_size.max(1)).map(|block| chain.push(block)).collect()
}

/// The hash of a sequence that grows: give it block after block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    key: [u8; 32],
    parent: u128,
}

impl Chain {
    /// The chain of an empty sequence.
    pub fn new(key: &[u8; 32], scope: &Scope<'_>) -> Self {
        Self { key: *key, parent: seed(key, scope) }
    }

    /// The hash of the next full block; what follows is chained to it.
    pub fn push(&mut self, block: &[u32]) -> u128 {
        self.parent = self.peek(block);
        self.parent
    }

    /// The hash that these tokens would have as the next block. Fewer tokens than a block's give
    /// the hash of a partly filled one, which equals no full block's.
    pub fn peek(&self, tokens: &[u32]) -> u128 {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&self.parent.to_le_bytes());
        for token in tokens {
            hasher.update(&token.to_le_bytes());
        }
        cut(&hasher)
    }
}

/// The key for the hashes of one model's blocks.
pub fn key_of(model: Digest) -> [u8; 32] {
    blake3::derive_key("troupe 2026-11 prefix hash of a model's KV blocks", &model.0)
}

fn seed(key: &[u8; 32], scope: &Scope<'_>) -> u128 {
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(&scope.model.0);
    // Each part with its length, so that no two scopes read the same.
    let mut part = |text: Option<&str>| {
        hasher.update(&text.map_or(u64::MAX, |text| text.len() as u64).to_le_bytes());
        hasher.update(text.unwrap_or_default().as_bytes());
    };
    part(Some(scope.kv_dtype));
    part(scope.adapter);
    part(scope.salt);
    cut(&hasher)
}

fn cut(hasher: &blake3::Hasher) -> u128 {
    let mut bytes = [0; 16];
    hasher.finalize_xof().fill(&mut bytes);
    u128::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 32] = [7; 32];

    fn scope() -> Scope<'static> {
        Scope { model: Digest([1; 32]), kv_dtype: "float32", adapter: None, salt: None }
    }

    #[test]
    fn equal_prefixes_have_equal_hashes_and_only_they() {
        let tokens: Vec<u32> = (0..50).collect();
        let mut other = tokens.clone();
        other[20] = 999;
        let (a, b) =
            (block_hashes(&KEY, &scope(), &tokens, 16), block_hashes(&KEY, &scope(), &other, 16));
        assert_eq!(a.len(), 3, "the last two tokens fill no block");
        assert_eq!(a[0], b[0]);
        assert!(a[1] != b[1] && a[2] != b[2], "a change shows in every later block");
    }

    #[test]
    fn whatever_the_kv_depends_on_separates() {
        let tokens: Vec<u32> = (0..16).collect();
        let salted = Scope { salt: Some("a"), ..scope() };
        let adapted = Scope { adapter: Some("a"), ..scope() };
        let scopes = [scope(), salted, adapted, Scope { kv_dtype: "int8", ..scope() }];
        let mut hashes: Vec<_> =
            scopes.iter().map(|scope| block_hashes(&KEY, scope, &tokens, 16)[0]).collect();
        hashes.push(block_hashes(&[8; 32], &scope(), &tokens, 16)[0]);
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), 5);
    }
}
