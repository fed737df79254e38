//! How far layers look back, and the KV groups that follow from it.
//!
//! A KV group is the layers of one KV shape: their blocks are allocated, freed and found again
//! together, through one block table per sequence. A plain model has one group; a model whose
//! layers alternate between whole context and a window has two; a window group frees the blocks
//! that left its window.

/// How far back a layer's queries look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AttentionSpan {
    /// Every position of the text, later ones too.
    Both,
    /// Every earlier position.
    Full,
    /// The last so many positions, the query's own included: position i sees i - W + 1 ..= i.
    Window(u32),
}

/// Layers that share block tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvGroup {
    /// Their indices in the model, ascending.
    pub layers: Vec<usize>,
    /// How far they look back, and so which blocks must be kept.
    pub span: AttentionSpan,
}

/// Sorts layers into groups, ordered by each group's first layer.
pub(super) fn kv_groups(attention: &[AttentionSpan]) -> Vec<KvGroup> {
    let mut groups: Vec<KvGroup> = Vec::new();
    for (layer, &span) in attention.iter().enumerate() {
        match groups.iter_mut().find(|group| group.span == span) {
            Some(group) => group.layers.push(layer),
            None => groups.push(KvGroup { layers: vec![layer], span }),
        }
    }
    groups
}
