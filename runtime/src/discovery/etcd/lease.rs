//! Renewing a lease at etcd, and looking whether its keys are still there.
//!
//! A renewal stream stands between renewals for one reason: that it breaks says that the member was
//! away, and a store that was away may have come back as it was an hour ago, with the lease and
//! without the keys that were put under it since. So each new stream is a reason to look.

use etcd_client as etcd;

use super::{EtcdStore, Member, Repeatable, error::Failure};
use crate::discovery::{
    Incarnation, RegistryError,
    store::{Held, Hold, LeaseId, Released, Renewed},
};

/// A stream of renewals at one member.
#[derive(Default)]
pub(in crate::discovery) struct EtcdRenewal {
    stream: Option<Stream>,
    revision: i64,
}

/// Another ttl for a lease, over the stream that stands or a new one.
pub(super) async fn renew(
    store: &EtcdStore,
    renewal: &mut EtcdRenewal,
    lease: LeaseId,
) -> Result<Renewed, RegistryError> {
    if let Some(stream) = renewal.stream.take() {
        match tokio::time::timeout(store.shared.request_timeout, once_more(stream)).await {
            Ok(Ok(kept)) => {
                let Some((stream, revision)) = kept else {
                    return Ok(Renewed::Lost);
                };
                let went_back = revision < renewal.revision;
                *renewal = EtcdRenewal { stream: Some(stream), revision };
                return Ok(if went_back { Renewed::Rewound } else { Renewed::Kept });
            }
            Ok(Err(failure)) => tracing::debug!(why = failure.why(), "renew a lease"),
            Err(_) => tracing::debug!(why = "no answer", "renew a lease"),
        }
    }
    let opened = store
        .request(Repeatable::Yes, async |member: Member| {
            match member.client.lease_client().keep_alive(lease).await.map_err(Failure::from) {
                Ok(stream) => Ok(Some(stream)),
                Err(failure) if failure.is_lease_not_found() => Ok(None),
                Err(failure) => Err(failure),
            }
        })
        .await?;
    let Some(stream) = opened else {
        return Ok(Renewed::Lost);
    };
    renewal.stream = Some(stream);
    Ok(Renewed::Suspect)
}

/// Looks at a key and writes it only if it is not as it should be, so that an etcd that was away
/// for a moment is not answered with a write per key. May be repeated.
pub(super) async fn ensure(
    member: &Member,
    lease: LeaseId,
    hold: &Hold,
    life: &Incarnation,
) -> Result<Held, Failure> {
    let Hold { key, value, by } = hold;
    for _ in 0..RACES {
        let looks = [key, &life.key].map(|key| etcd::TxnOp::get(key.as_str(), None));
        let answer = member.kv().txn(etcd::Txn::new().and_then(looks)).await?;
        let found = answer.op_responses();
        let found: Vec<_> = found.iter().map(first_entry).collect();
        let [found, incarnation] = found.as_slice() else {
            return Err(Failure::Odd(format!("{} answers to two reads", found.len())));
        };
        if incarnation.is_none_or(|kv| kv.value() != life.value) {
            return Ok(Held::OtherLife);
        }
        if found.is_some_and(|kv| kv.lease() == lease && kv.value() == value) {
            return Ok(Held::Ours);
        }
        if by.yields(found.map(etcd::KeyValue::value), value) {
            return Ok(Held::Theirs);
        }
        let seen = found.map_or(0, etcd::KeyValue::mod_revision);
        let unchanged = etcd::Compare::mod_revision(key.as_str(), etcd::CompareOp::Equal, seen);
        let options = etcd::PutOptions::new().with_lease(lease);
        let put = etcd::TxnOp::put(key.as_str(), value.as_slice(), Some(options));
        let txn = etcd::Txn::new().when([unchanged, same_life(life)]).and_then([put]);
        match member.kv().txn(txn).await.map_err(Failure::from) {
            Ok(done) if done.succeeded() => return Ok(Held::Ours),
            Ok(_) => {}
            Err(failure) if failure.is_lease_not_found() => return Ok(Held::NoLease),
            Err(failure) => return Err(failure),
        }
    }
    Err(Failure::Odd(format!("{key} is written by others all the time, though it has one writer")))
}

/// Removes a key if it is under this lease. May be repeated.
pub(super) async fn release(
    member: &Member,
    lease: LeaseId,
    key: &str,
    life: &Incarnation,
) -> Result<Released, Failure> {
    let under = etcd::Compare::lease(key, etcd::CompareOp::Equal, lease);
    let txn = etcd::Txn::new()
        .when([under, same_life(life)])
        .and_then([etcd::TxnOp::delete(key, None)])
        .or_else([etcd::TxnOp::get(life.key.as_str(), None)]);
    let answer = member.kv().txn(txn).await?;
    let found = answer.op_responses();
    let same = || found.first().and_then(first_entry).is_some_and(|kv| kv.value() == life.value);
    Ok(if answer.succeeded() || same() { Released::Done } else { Released::OtherLife })
}

fn same_life(life: &Incarnation) -> etcd::Compare {
    super::comparison(life.compare())
}

/// What a read within a transaction found.
fn first_entry(answer: &etcd::TxnOpResponse) -> Option<&etcd::KeyValue> {
    match answer {
        etcd::TxnOpResponse::Get(found) => found.kvs().first(),
        _ => None,
    }
}

/// How often another may write a key between our look and our write.
const RACES: usize = 5;

type Stream = (etcd::LeaseKeeper, etcd::LeaseKeepAliveStream);

/// One renewal over a standing stream: the stream again and the store's revision, or `None` if the
/// lease is lost.
async fn once_more((mut keeper, mut stream): Stream) -> Result<Option<(Stream, i64)>, Failure> {
    keeper.keep_alive().await?;
    let answer = stream.message().await?;
    let answer = answer.ok_or_else(|| Failure::Odd("it ended the renewals".into()))?;
    if answer.ttl() <= 0 {
        return Ok(None);
    }
    let revision = answer.header().map_or(0, etcd::ResponseHeader::revision);
    Ok(Some(((keeper, stream), revision)))
}
