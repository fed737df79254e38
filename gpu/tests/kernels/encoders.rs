//! A model that reads texts whole, on the CUDA device: its own operations and its pooled vectors.

use troupe_gpu::dtype::Dtype;
use troupe_runtime::model::pooling::PoolingKind;

use crate::{
    golden,
    models::On,
    ranks::{Layout, embed},
};

const MODEL: &str = "tiny-bert";

/// The golden texts, as many as share a step: ids, and vectors of length 1.
fn texts() -> (Vec<Vec<u32>>, Vec<Vec<f64>>) {
    let golden = golden::json(&format!("models/{MODEL}/golden.json")).unwrap();
    let texts = golden["sentences"].as_array().unwrap().iter().take(3);
    let text = |text: &serde_json::Value| -> (Vec<u32>, Vec<f64>) {
        let read = |name: &str| serde_json::from_value(text[name].clone()).unwrap();
        let ids: Vec<f64> = read("ids");
        (ids.into_iter().map(|id| id as u32).collect(), read("embedding"))
    };
    texts.map(text).unzip()
}

fn check_vectors(on: On) {
    if on.is_missing() {
        return;
    }
    if golden::model(MODEL).is_none() {
        return crate::skip::skipped("tiny-bert is only in the full set of golden models");
    }
    let (ids, golden) = texts();
    let layout =
        Layout { dtype: Some(Dtype::F32), pooling: Some(PoolingKind::Mean), ..Layout::SINGLE };
    let mut ranks = on.load(MODEL, layout, Dtype::F32);
    let texts: Vec<_> = ids.iter().map(Vec::as_slice).collect();
    let together = embed(&mut ranks, &texts);
    for ((ids, golden), vector) in ids.iter().zip(golden).zip(&together) {
        let alone = embed(&mut ranks, &[ids]);
        assert_eq!(&alone[0], vector, "a text depends on those beside it");
        let dot: f64 = vector.iter().zip(&golden).map(|(a, b)| f64::from(*a) * b).sum();
        let length: f64 = vector.iter().map(|a| f64::from(*a).powi(2)).sum();
        let cosine = dot / length.sqrt();
        assert!(cosine > 0.999_999, "{cosine} of {} tokens", ids.len());
    }
}

#[test]
fn vectors_are_golden() {
    check_vectors(On::Shim);
}

#[test]
fn vectors_of_a_device_are_golden() {
    check_vectors(On::Device);
}
