//! The answers that are made of vectors: the vectors themselves, scores of pairs, an order of
//! documents.
//!
//! A leader sends a text's vector whole and of whatever length it is. What a client gets of it is
//! cut first and divided by its length then, as models whose vectors may be cut were trained for.

use base64::{Engine, prelude::BASE64_STANDARD};

use super::{
    shape::{Head, Shape, json},
    stream::Delta,
};
use crate::openai::{
    common::Usage,
    embeddings::{EmbeddingData, EmbeddingResponse, EncodingFormat, Vector},
    score::{DocumentText, RerankResponse, RerankResult, ScoreData, ScoreResponse},
};

/// What is made of a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Finishing {
    /// Whether it is divided by its length.
    pub(crate) normalize: bool,
    /// Elements that are left.
    pub(crate) size: usize,
}

/// The answer of `/v1/embeddings`.
pub(crate) struct EmbeddingShape {
    pub(crate) head: Head,
    pub(crate) finishing: Finishing,
    pub(crate) format: EncodingFormat,
}

/// Where scores come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scoring {
    /// Of the texts, the first so many are compared with the others, each with its own or one with
    /// all.
    Cosines(usize),
    /// Each text is a pair, and the model has scored it.
    Model,
}

/// The answer of `/score`.
pub(crate) struct ScoreShape {
    pub(crate) head: Head,
    pub(crate) scoring: Scoring,
}

/// The answer of `/rerank`.
pub(crate) struct RerankShape {
    pub(crate) head: Head,
    pub(crate) scoring: Scoring,
    pub(crate) documents: Vec<String>,
    pub(crate) top: usize,
}

impl Finishing {
    fn of(self, mut vector: Vec<f32>) -> Vec<f32> {
        vector.truncate(self.size);
        let length = dot(&vector, &vector).sqrt();
        // A vector of zeros has no direction and stays what it is.
        if self.normalize && length > 0.0 {
            vector.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
        }
        vector
    }
}

impl Scoring {
    fn of(self, texts: &[Delta]) -> Vec<f32> {
        match self {
            Self::Cosines(firsts) => {
                let (firsts, others) = texts.split_at(firsts);
                let pairs = firsts.iter().cycle().zip(others);
                pairs.map(|(first, other)| cosine(&first.embedding, &other.embedding)).collect()
            }
            // A leader that sends none has been refused by then.
            Self::Model => {
                texts.iter().map(|pair| pair.embedding.first().copied().unwrap_or(0.0)).collect()
            }
        }
    }
}

impl Shape for EmbeddingShape {
    fn events(&mut self, _: u32, _: Delta, _: Option<Usage>) -> Vec<Vec<u8>> {
        // There is no stream of vectors.
        Vec::new()
    }

    fn usage_event(&self, _: Usage) -> Vec<u8> {
        Vec::new()
    }

    fn whole(&mut self, texts: Vec<Delta>, usage: Usage) -> Vec<u8> {
        let Head { id, created, model } = self.head.clone();
        let data = (0..).zip(texts).map(|(index, text)| {
            let vector = self.finishing.of(text.embedding);
            let embedding = match self.format {
                EncodingFormat::Float => Vector::Float(vector),
                EncodingFormat::Base64 => {
                    let bytes: Vec<u8> = vector.into_iter().flat_map(f32::to_le_bytes).collect();
                    Vector::Base64(BASE64_STANDARD.encode(bytes))
                }
            };
            EmbeddingData { index, object: "embedding", embedding }
        });
        let data = data.collect();
        json(&EmbeddingResponse { id, object: "list", created, model, data, usage })
    }
}

impl Shape for ScoreShape {
    fn events(&mut self, _: u32, _: Delta, _: Option<Usage>) -> Vec<Vec<u8>> {
        Vec::new()
    }

    fn usage_event(&self, _: Usage) -> Vec<u8> {
        Vec::new()
    }

    fn whole(&mut self, texts: Vec<Delta>, usage: Usage) -> Vec<u8> {
        let Head { id, created, model } = self.head.clone();
        let scores = (0..).zip(self.scoring.of(&texts));
        let data = scores.map(|(index, score)| ScoreData { index, object: "score", score });
        let data = data.collect();
        json(&ScoreResponse { id, object: "list", created, model, data, usage })
    }
}

impl Shape for RerankShape {
    fn events(&mut self, _: u32, _: Delta, _: Option<Usage>) -> Vec<Vec<u8>> {
        Vec::new()
    }

    fn usage_event(&self, _: Usage) -> Vec<u8> {
        Vec::new()
    }

    fn whole(&mut self, texts: Vec<Delta>, usage: Usage) -> Vec<u8> {
        let Head { id, model, .. } = self.head.clone();
        let documents = std::mem::take(&mut self.documents).into_iter();
        let scored = (0..).zip(documents.zip(self.scoring.of(&texts)));
        let results = scored.map(|(index, (text, relevance_score))| RerankResult {
            index,
            document: DocumentText { text },
            relevance_score,
        });
        let mut results: Vec<_> = results.collect();
        // Of equals the one that stood first stays first.
        results.sort_by(|a, b| b.relevance_score.total_cmp(&a.relevance_score));
        results.truncate(self.top);
        json(&RerankResponse { id, model, usage, results })
    }
}

/// The cosine of the angle between two vectors; 0 where one of them has no direction.
fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let lengths = (dot(a, a) * dot(b, b)).sqrt();
    if lengths > 0.0 { (dot(a, b) / lengths) as f32 } else { 0.0 }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_is_cut_before_it_is_made_one_long() {
        let vector = || vec![3.0, 4.0, 12.0];
        let of = |normalize, size| Finishing { normalize, size }.of(vector());
        assert_eq!(of(false, 3), vector());
        assert_eq!(of(false, 2), [3.0, 4.0]);
        assert_eq!(of(true, 2), [0.6, 0.8]);
        assert_eq!(Finishing { normalize: true, size: 2 }.of(vec![0.0; 2]), [0.0, 0.0]);
    }

    #[test]
    fn cosines_are_of_directions() {
        assert_eq!(cosine(&[1.0, 0.0], &[7.0, 0.0]), 1.0);
        assert_eq!(cosine(&[1.0, 0.0], &[0.0, 2.0]), 0.0);
        assert_eq!(cosine(&[2.0, 0.0], &[-3.0, 0.0]), -1.0);
        assert_eq!(cosine(&[0.0, 0.0], &[1.0, 0.0]), 0.0);
    }
}
