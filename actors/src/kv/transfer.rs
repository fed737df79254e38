//! Which rank sends which part of the KV to which rank of another group.
//!
//! The two groups may be divided in different ways. Both describe each rank's share as the whole
//! model has it, so what one rank owes another is what their shares have in common, layer by layer
//! and head by head. Heads that several senders hold have one that sends them, the first; heads
//! that several receivers hold are sent to each. What cannot be converted, or is not all there, is
//! said so before anything is computed.

use troupe_runtime::{
    id::Coordinate,
    wire::transfer::{KvRoute, KvShare, RankPlace, Run},
};

/// Every route of a transfer from ranks that hold `from` to ranks that hold `to`.
///
/// # Errors
/// What does not fit, for people.
pub fn routes(
    from: &[(Coordinate, Vec<KvShare>)],
    to: &[RankPlace],
) -> Result<Vec<KvRoute>, String> {
    let mut routes = Vec::new();
    for place in to {
        for share in &place.shares {
            let before = routes.len();
            add(from, place, share, &mut routes)?;
            let size = |layers: Run, heads: Run| u64::from(layers.len()) * u64::from(heads.len());
            let sent = routes.get(before..).unwrap_or_default();
            let sent: u64 = sent.iter().map(|route| size(route.layers, route.heads)).sum();
            if sent != size(share.layers, share.heads) {
                let KvShare { group, layers, heads, .. } = share;
                return Err(format!(
                    "nobody here has all of KV group {group}, layers {} to {}, heads {} to {}",
                    layers.first, layers.end, heads.first, heads.end
                ));
            }
        }
    }
    if routes.is_empty() {
        return Err("no rank is named that wants anything".into());
    }
    Ok(routes)
}

/// The routes to one share of one rank.
fn add(
    from: &[(Coordinate, Vec<KvShare>)],
    place: &RankPlace,
    share: &KvShare,
    routes: &mut Vec<KvRoute>,
) -> Result<(), String> {
    // Per stage, up to which head it is provided for: ranks come in order, and their heads do.
    let mut provided: Option<(u32, u32)> = None;
    for (rank, shares) in from {
        for own in shares.iter().filter(|own| own.group == share.group) {
            if (own.form, own.dtype, own.block_size) != (share.form, share.dtype, share.block_size)
            {
                return Err(format!(
                    "KV of {:?} {:?} in blocks of {} cannot become {:?} {:?} in blocks of {}",
                    own.form, own.dtype, own.block_size, share.form, share.dtype, share.block_size
                ));
            }
            let layers = own.layers.meet(share.layers);
            let until =
                provided.filter(|(stage, _)| *stage == rank.stage).map_or(0, |(_, end)| end);
            let mut heads = own.heads.meet(share.heads);
            heads.first = heads.first.max(until);
            if layers.is_empty() || heads.is_empty() {
                continue;
            }
            provided = Some((rank.stage, heads.end));
            routes.push(KvRoute {
                from: *rank,
                to: place.rank,
                address: place.address.clone(),
                group: share.group,
                layers,
                heads,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use troupe_runtime::wire::{kv::WireDtype, transfer::KvForm};

    use super::*;

    const LAYERS: u32 = 5;
    const HEADS: u32 = 2;

    /// The ranks of a group of so many tensor ranks and stages.
    fn group(tensor: u32, pipeline: u32) -> Vec<RankPlace> {
        let cut = |at: u32, of: u32, size: u32| {
            let start = |at: u32| at * (size / of) + at.min(size % of);
            Run::new(start(at), start(at + 1))
        };
        let alike = (tensor / HEADS).max(1);
        let ranks = (0..pipeline).flat_map(|stage| (0..tensor).map(move |tp| (stage, tp)));
        let place = |(stage, tp)| RankPlace {
            rank: Coordinate { dp: 0, stage, tp },
            address: format!("{stage}.{tp}"),
            shares: vec![KvShare {
                group: 0,
                layers: cut(stage, pipeline, LAYERS),
                heads: cut(tp / alike, tensor / alike, HEADS),
                form: KvForm::Heads(8),
                dtype: WireDtype::F32,
                block_size: 16,
            }],
        };
        ranks.map(place).collect()
    }

    fn senders(group: &[RankPlace]) -> Vec<(Coordinate, Vec<KvShare>)> {
        group.iter().map(|place| (place.rank, place.shares.clone())).collect()
    }

    #[test]
    fn whatever_the_divisions_every_rank_gets_each_layer_and_head_once() {
        let sizes = [(1, 1), (2, 1), (4, 1), (1, 2), (1, 3), (2, 2), (4, 2), (1, 5)];
        for (from, to) in sizes.iter().flat_map(|from| sizes.iter().map(move |to| (from, to))) {
            let (senders, receivers) = (senders(&group(from.0, from.1)), group(to.0, to.1));
            let routes = routes(&senders, &receivers).unwrap();
            for place in &receivers {
                let share = &place.shares[0];
                let mut got = Vec::new();
                for route in routes.iter().filter(|route| route.to == place.rank) {
                    assert_eq!(route.address, place.address);
                    let sender = senders.iter().find(|(rank, _)| *rank == route.from).unwrap();
                    assert!(sender.1[0].layers.holds(route.layers), "{from:?} {to:?}");
                    assert!(sender.1[0].heads.holds(route.heads), "{from:?} {to:?}");
                    for layer in route.layers.first..route.layers.end {
                        got.extend((route.heads.first..route.heads.end).map(|head| (layer, head)));
                    }
                }
                got.sort_unstable();
                let layers = share.layers.first..share.layers.end;
                let all: Vec<_> = layers
                    .flat_map(|layer| {
                        (share.heads.first..share.heads.end).map(move |head| (layer, head))
                    })
                    .collect();
                assert_eq!(got, all, "{from:?} {to:?} at {}", place.rank);
            }
        }
    }

    #[test]
    fn heads_that_several_hold_are_sent_by_one() {
        let routes = routes(&senders(&group(4, 1)), &group(1, 1)).unwrap();
        let from: Vec<_> = routes.iter().map(|route| route.from.tp).collect();
        assert_eq!(from, [0, 2]);
    }

    #[test]
    fn what_cannot_be_converted_or_is_not_all_there_is_refused() {
        let whole = || senders(&group(1, 1));
        let with = |change: fn(&mut KvShare)| {
            let mut other = group(1, 1);
            change(&mut other[0].shares[0]);
            routes(&whole(), &other).unwrap_err()
        };
        assert!(with(|share| share.block_size = 8).contains("blocks of 8"));
        assert!(with(|share| share.dtype = WireDtype::Bf16).contains("Bf16"));
        assert!(with(|share| share.form = KvForm::Latent(16)).contains("Latent"));
        assert!(with(|share| share.layers.end = 6).contains("nobody here"));
        assert!(with(|share| share.heads.end = u32::MAX).contains("nobody here"));
        assert!(with(|share| share.group = 1).contains("KV group 1"));
        assert!(routes(&whole(), &[]).is_err());
        let half = &senders(&group(2, 1))[..1];
        assert!(routes(half, &group(1, 1)).unwrap_err().contains("heads 0 to 2"));
    }
}
