//! One contract, held by every carrier with 2, 3 and 4 ranks.

use std::{thread, time::Duration};

use troupe_runtime::{id::StepId, transport::bulk::bulk_pair};

use super::{
    Alone, BulkCollective, Collective, LocalCollective,
    bulk::{DEPTH, Peer},
};
use crate::error::DeviceError;

type Group = Vec<Box<dyn Collective>>;
type Make = fn(usize, Duration) -> Group;

const CARRIERS: [(&str, Make); 2] = [("local", local), ("bulk", bulk)];
/// Far longer than any wait of a test that passes.
const AMPLE: Duration = Duration::from_secs(60);

fn local(ranks: usize, deadline: Duration) -> Group {
    let group = LocalCollective::group(ranks, deadline);
    group.into_iter().map(|rank| Box::new(rank) as Box<dyn Collective>).collect()
}

fn bulk(ranks: usize, deadline: Duration) -> Group {
    let mut senders: Vec<Vec<_>> = (0..ranks).map(|_| Vec::new()).collect();
    let mut receivers: Vec<Vec<_>> = (0..ranks).map(|_| Vec::new()).collect();
    for (from, senders) in senders.iter_mut().enumerate() {
        for (to, receivers) in receivers.iter_mut().enumerate() {
            let pair = (from != to).then(|| bulk_pair(DEPTH));
            let (sender, receiver) = pair.unzip();
            senders.push(sender);
            receivers.push(receiver);
        }
    }
    let ranks = senders.into_iter().zip(receivers).enumerate();
    let rank = |(rank, (senders, receivers)): (usize, (Vec<_>, Vec<_>))| {
        let peers = senders.into_iter().zip(receivers);
        let peers = peers.map(|(sender, receiver)| {
            Option::zip(sender, receiver).map(|(sender, receiver)| Peer { sender, receiver })
        });
        Box::new(BulkCollective::new(rank, peers.collect(), deadline).unwrap()) as Box<_>
    };
    ranks.map(rank).collect()
}

/// Runs `each` on every rank, a thread for each, for every carrier and number of ranks.
fn on_all<T: Send>(each: impl Fn(&mut dyn Collective) -> T + Sync, check: impl Fn(&str, Vec<T>)) {
    for (name, make) in CARRIERS {
        for ranks in [2, 3, 4] {
            let results = thread::scope(|scope| {
                let spawn = |mut rank: Box<dyn Collective>| {
                    let each = &each;
                    scope.spawn(move || each(rank.as_mut()))
                };
                let threads: Vec<_> = make(ranks, AMPLE).into_iter().map(spawn).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            check(&format!("{name} with {ranks} ranks"), results);
        }
    }
}

/// Numbers whose sum depends on the order of addition.
fn part(rank: usize, element: usize) -> f32 {
    let mixed = (rank * 7919 + element * 104_729 + 12_345) % 10_007;
    (mixed as f32 - 5_000.0) * 10_f32.powi((mixed % 7) as i32 - 3)
}

#[test]
fn sums_are_in_rank_order_whatever_the_size() {
    // Below and above the size where messages take another way, odd ones among them; the same
    // elements appear in all of them.
    const SIZES: [usize; 5] = [1, 5, 64, 16_384, 50_001];
    on_all(
        |rank| {
            let own = rank.rank();
            SIZES.map(|size| {
                let mut values: Vec<_> = (0..size).map(|element| part(own, element)).collect();
                rank.all_reduce(&mut values).unwrap();
                (values, rank.ranks())
            })
        },
        |name, results| {
            for (values, ranks) in results.into_iter().flatten() {
                for (element, value) in values.iter().enumerate() {
                    let sum = (1..ranks).fold(part(0, element), |sum, r| sum + part(r, element));
                    assert_eq!(value.to_bits(), sum.to_bits(), "{name}, element {element}");
                }
            }
        },
    );
}

#[test]
fn the_same_rows_in_another_batch_have_the_same_bits() {
    const WIDTH: usize = 2_000;
    let rows = |rank: usize, rows: &[usize]| -> Vec<f32> {
        let values = |&row: &usize| (0..WIDTH).map(move |at| part(rank, row * WIDTH + at));
        rows.iter().flat_map(values).collect()
    };
    on_all(
        |rank| {
            let mut alone = rows(rank.rank(), &[3]);
            rank.all_reduce(&mut alone).unwrap();
            let mut among = rows(rank.rank(), &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
            rank.all_reduce(&mut among).unwrap();
            (alone, among[3 * WIDTH..4 * WIDTH].to_vec())
        },
        |name, results| {
            for (alone, among) in &results {
                assert!(alone.iter().zip(among).all(|(a, b)| a.to_bits() == b.to_bits()), "{name}");
                assert_eq!(alone, &results[0].0, "{name}: all ranks alike");
            }
        },
    );
}

#[test]
fn gather_broadcast_and_barrier() {
    on_all(
        |rank| {
            let own = rank.rank();
            let mut gathered = vec![9.0];
            for step in 1..4 {
                rank.begin_step(StepId(step));
                rank.gather(&vec![own as f32; own + 1], &mut gathered).unwrap();
                rank.barrier().unwrap();
                let mut bytes = vec![own as u8; own + 2];
                rank.broadcast(&mut bytes).unwrap();
                assert_eq!(bytes, [0, 0]);
            }
            gathered
        },
        |name, results| {
            let ranks = results.len();
            let expected: Vec<_> = (0..ranks).flat_map(|r| vec![r as f32; r + 1]).collect();
            assert_eq!(results[0], expected, "{name}");
            assert!(results[1..].iter().all(Vec::is_empty), "{name}");
        },
    );
}

#[test]
fn the_death_of_a_rank_fails_the_others() {
    on_all(
        |rank| {
            let own = rank.rank();
            rank.barrier().unwrap();
            if own == 1 {
                return None;
            }
            // The handle of rank 1 is dropped as its thread ends; nobody may hang or succeed.
            let mut values = vec![own as f32; 40_000];
            Some(rank.all_reduce(&mut values))
        },
        |name, results| {
            for (rank, result) in results.into_iter().enumerate() {
                match result {
                    None => assert_eq!(rank, 1),
                    Some(result) => {
                        assert!(matches!(result, Err(DeviceError::Collective(_))), "{name}");
                    }
                }
            }
        },
    );
}

#[test]
fn a_rank_that_never_comes_is_an_error_after_the_deadline() {
    for (name, make) in CARRIERS {
        let mut group = make(2, Duration::from_millis(20));
        let result = group[0].all_reduce(&mut [1.0]);
        assert!(matches!(result, Err(DeviceError::Collective(_))), "{name}: {result:?}");
    }
}

#[test]
fn ranks_in_different_steps_do_not_mix() {
    on_all(
        |rank| {
            rank.begin_step(StepId(10 + rank.rank() as u64));
            rank.all_reduce(&mut [1.0])
        },
        |name, results| {
            for result in results {
                assert!(matches!(result, Err(DeviceError::Collective(_))), "{name}: {result:?}");
            }
        },
    );
}

#[test]
fn one_rank_needs_nobody() {
    let mut values = [1.5];
    Alone.all_reduce(&mut values).unwrap();
    let mut gathered = Vec::new();
    Alone.gather(&values, &mut gathered).unwrap();
    assert_eq!(gathered, [1.5]);
}
