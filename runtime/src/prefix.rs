//! The chained hash of a prompt's KV blocks: gateway and leader compute the same.
//!
//! A full block's hash covers its parent's hash and its tokens, so equal hashes mean equal
//! prefixes; the first block's parent is a seed made of everything else that the KV depends on
//! ([`Scope`]). It is BLAKE3, keyed and cut to 128 bits, and not a fast hash, because a salt
//! separates tenants: who could make two prefixes collide could read another's cache.
//!
//! The gateway hashes a prompt once for all endpoints of equal [`Parameters`], and a leader takes
//! its hashes for its own if both begin at the same [`Chain::seed`].

use crate::{id::Digest, wire::status::EndpointInfo};

/// Whose hashes are equal for equal prompts: endpoints of the same parameters name blocks alike.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Parameters {
    /// Keys the hashes.
    pub key: [u8; 32],
    /// The model.
    pub model: Digest,
    /// Type of the KV cache.
    pub kv_dtype: String,
    /// Tokens per block.
    pub block_size: u32,
}

impl Parameters {
    /// Those of an endpoint of ours.
    pub fn of(info: &EndpointInfo) -> Self {
        let model = info.fingerprint.model;
        let (kv_dtype, block_size) = (info.fingerprint.kv_dtype.clone(), info.block_size);
        Self { key: key_of(model), model, kv_dtype, block_size }
    }

    /// Where the hashes of a request's blocks begin.
    pub fn chain(&self, adapter: Option<Digest>, salt: Option<&str>) -> Chain {
        let scope = Scope { model: self.model, kv_dtype: &self.kv_dtype, adapter, salt };
        Chain::new(&self.key, &scope)
    }

    /// Equal for equal parameters: what two sides compare.
    pub fn digest(&self) -> Digest {
        let mut bytes = self.chain(None, None).seed().to_le_bytes().to_vec();
        bytes.extend(self.block_size.to_le_bytes());
        Digest::of(&bytes)
    }
}

/// What the KV of equal tokens still depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope<'a> {
    /// The model.
    pub model: Digest,
    /// Type of the KV cache.
    pub kv_dtype: &'a str,
    /// LoRA adapter: its files, because a name may come to stand for others.
    pub adapter: Option<Digest>,
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
    Chain::new(key, scope).hash(tokens, block_size)
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

    /// The same chain after blocks of which the last has this hash.
    pub fn after(self, last: u128) -> Self {
        Self { parent: last, ..self }
    }

    /// What is hashed before the first block: equal for whoever hashes equal prompts alike.
    pub fn seed(&self) -> u128 {
        self.parent
    }

    /// The hashes of all full blocks of these tokens.
    pub fn hash(mut self, tokens: &[u32], block_size: usize) -> Vec<u128> {
        tokens.chunks_exact(block_size.max(1)).map(|block| self.push(block)).collect()
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
        // Many tokens at a time: each update of the hasher costs about as much as it hashes.
        let mut bytes = [0; 4 * TOKENS_AT_A_TIME];
        for tokens in tokens.chunks(TOKENS_AT_A_TIME) {
            for (at, token) in bytes.chunks_exact_mut(4).zip(tokens) {
                at.copy_from_slice(&token.to_le_bytes());
            }
            hasher.update(&bytes[..4 * tokens.len()]);
        }
        cut(&hasher)
    }
}

/// As many as a block mostly has.
const TOKENS_AT_A_TIME: usize = 64;

/// The key for the hashes of one model's blocks.
pub fn key_of(model: Digest) -> [u8; 32] {
    blake3::derive_key("troupe 2026-11 prefix hash of a model's KV blocks", &model.0)
}

fn seed(key: &[u8; 32], scope: &Scope<'_>) -> u128 {
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(&scope.model.0);
    // Each part with its length, so that no two scopes read the same.
    let mut part = |bytes: Option<&[u8]>| {
        hasher.update(&bytes.map_or(u64::MAX, |bytes| bytes.len() as u64).to_le_bytes());
        hasher.update(bytes.unwrap_or_default());
    };
    part(Some(scope.kv_dtype.as_bytes()));
    part(scope.adapter.as_ref().map(|digest| &digest.0[..]));
    part(scope.salt.map(str::as_bytes));
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
        let adapted = Scope { adapter: Some(Digest([2; 32])), ..scope() };
        let scopes = [scope(), salted, adapted, Scope { kv_dtype: "int8", ..scope() }];
        let mut hashes: Vec<_> =
            scopes.iter().map(|scope| block_hashes(&KEY, scope, &tokens, 16)[0]).collect();
        hashes.push(block_hashes(&[8; 32], &scope(), &tokens, 16)[0]);
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), 5);
    }
}
