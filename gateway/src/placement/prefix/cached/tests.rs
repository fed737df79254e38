//! What is told and what is guessed of one endpoint, and which of them counts.

use std::time::Duration;

use troupe_runtime::id::Digest;

use super::*;

fn parameters() -> Parameters {
    let (key, model) = ([0; 32], Digest::default());
    Parameters { key, model, kv_dtype: "float32".into(), block_size: 16 }
}

fn batch(removed: &[u128], stored: &[u128]) -> CacheBatch {
    let (removed, stored) = (removed.to_vec(), stored.to_vec());
    CacheBatch { removed, stored, ..CacheBatch::default() }
}

const HOUR: Duration = Duration::from_secs(3600);

struct Endpoint {
    prefixes: Arc<Prefixes>,
    cached: Cached,
}

impl Endpoint {
    fn new() -> Self {
        let prefixes = Arc::new(Prefixes::default());
        let cached = Cached::new(Arc::clone(&prefixes), &parameters());
        Self { prefixes, cached }
    }

    fn run(&self, hashes: &[u128]) -> u32 {
        self.cached.run(&self.prefixes.index.runs(hashes))
    }
}

#[test]
fn what_was_sent_counts_until_the_leader_has_told_of_it_or_its_time_is_over() {
    let endpoint = Endpoint::new();
    endpoint.cached.told();
    assert_eq!(endpoint.run(&[1, 2, 3]), 0);
    endpoint.cached.sent(Duration::ZERO, &[1, 2, 3]);
    assert_eq!(endpoint.run(&[1, 2, 3]), 3);
    assert_eq!(endpoint.cached.apply(&batch(&[], &[1, 2])), 2);
    endpoint.cached.forget(Duration::from_secs(6));
    assert_eq!(endpoint.run(&[1, 2, 3]), 2, "the third never came");
    assert_eq!(endpoint.cached.apply(&batch(&[2], &[])), 1);
    assert_eq!(endpoint.run(&[1, 2, 3]), 1);
}

#[test]
fn where_nobody_tells_what_was_sent_counts_as_long_as_there_is_room() {
    let endpoint = Endpoint::new();
    endpoint.cached.sent(Duration::ZERO, &[1, 2, 3]);
    endpoint.cached.forget(HOUR);
    assert_eq!(endpoint.run(&[1, 2, 3]), 3);
    for number in 1..20_u128 {
        let prompt: Vec<u128> = (0..2_000).map(|at| number * 10_000 + at).collect();
        endpoint.cached.sent(HOUR, &prompt);
    }
    assert_eq!(endpoint.run(&[1, 2, 3]), 0);
    assert!(endpoint.prefixes.index.blocks() <= 31_250);
}

#[test]
fn all_told_anew_replaces_what_was_told_when_it_is_whole() {
    let endpoint = Endpoint::new();
    endpoint.cached.told();
    endpoint.cached.apply(&batch(&[], &[1, 2, 3]));
    endpoint.cached.sent(Duration::ZERO, &[7, 8]);
    endpoint.cached.begin();
    endpoint.cached.fill(&[1, 7]);
    assert_eq!((endpoint.run(&[1, 2, 3]), endpoint.run(&[7, 8])), (3, 2), "it is not whole yet");
    assert_eq!(endpoint.cached.finish(), 2);
    assert_eq!((endpoint.run(&[1, 2, 3]), endpoint.run(&[7, 8])), (1, 2));
    endpoint.cached.forget(Duration::from_secs(6));
    assert_eq!(endpoint.run(&[7, 8]), 1, "told of, and only believed");
    let all = CacheBatch { cleared: true, ..batch(&[], &[4, 5]) };
    assert_eq!(endpoint.cached.apply(&all), 2);
    assert_eq!((endpoint.run(&[1]), endpoint.run(&[4, 5])), (0, 2));
    endpoint.cached.distrust();
    assert_eq!(endpoint.run(&[4, 5]), 0);
}

#[test]
fn what_a_leader_repeats_is_counted_once_and_who_is_gone_holds_nothing() {
    let endpoint = Endpoint::new();
    let other = Cached::new(Arc::clone(&endpoint.prefixes), &parameters());
    assert_eq!(other.naming(), endpoint.cached.naming());
    for _ in 0..3 {
        assert_eq!(endpoint.cached.apply(&batch(&[9], &[1, 2])), 2);
        assert_eq!(other.apply(&batch(&[], &[1])), 1);
    }
    let runs = endpoint.prefixes.index.runs(&[1, 2]);
    assert_eq!((endpoint.cached.run(&runs), other.run(&runs)), (2, 1));
    drop(other);
    let newcomer = Cached::new(Arc::clone(&endpoint.prefixes), &parameters());
    let runs = endpoint.prefixes.index.runs(&[1, 2]);
    assert_eq!((endpoint.cached.run(&runs), newcomer.run(&runs)), (2, 0));
}
