//! Compare-and-swap on one key: look, decide, write if nobody else did meanwhile; else look again.

use super::{Compare, Entry, Op, Registry, RegistryError, Txn, keys::Keys};

/// What a look at a key decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<T> {
    /// Nothing is to be written.
    Done(T),
    /// This is, unless the key changed meanwhile.
    Put(Vec<u8>, T),
    /// The key is to go.
    Remove(T),
}

/// Why nothing was decided.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SwapError {
    /// The store does not answer.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The key was another one whenever it was looked at.
    #[error("{0} is changed by others all the time; try again")]
    Busy(String),
}

// === impl Step ===

impl<T> Step<T> {
    /// The same without a write: what would come of it.
    #[must_use]
    pub fn dry(self) -> Self {
        match self {
            Self::Done(result) | Self::Put(_, result) | Self::Remove(result) => Self::Done(result),
        }
    }
}

/// Decides about a key by what is there, as often as others change it before the decision is
/// written. What `decide` refuses is given back at once.
///
/// # Errors
/// [`SwapError`]. After an error of the store it is unknown whether the write happened, as with any
/// network.
pub async fn swap<T, E>(
    registry: &dyn Registry,
    keys: &Keys,
    key: &str,
    decide: impl Fn(Option<&Entry>) -> Result<Step<T>, E> + Send,
) -> Result<Result<T, E>, SwapError> {
    for _ in 0..RACES {
        let life = registry.incarnation(&keys.incarnation()).await?;
        let entry = registry.get(key).await?;
        let (op, result) = match decide(entry.as_ref()) {
            Err(refused) => return Ok(Err(refused)),
            Ok(Step::Done(result)) => return Ok(Ok(result)),
            Ok(Step::Put(value, result)) => (Op::Put(key.to_owned(), value), result),
            Ok(Step::Remove(result)) => (Op::Delete(key.to_owned()), result),
        };
        let unchanged = match entry {
            Some(entry) => Compare::Version(entry.key, entry.version),
            None => Compare::Absent(key.to_owned()),
        };
        let txn = Txn { compare: vec![life.compare(), unchanged], then: vec![op] };
        if registry.commit(txn).await? {
            return Ok(Ok(result));
        }
        // Changed by another at the same time, or in another life of the store.
    }
    Err(SwapError::Busy(key.to_owned()))
}

/// How often others may change a key between our look and our write.
const RACES: usize = 5;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::discovery::embedded::EmbeddedRegistry;

    #[tokio::test]
    async fn of_many_who_count_at_once_none_is_lost() {
        let (registry, keys) = (Arc::new(EmbeddedRegistry::new()), Keys::new("test"));
        let count = |entry: Option<&Entry>| {
            let before = entry.map_or(0, |entry| entry.value[0]);
            Ok::<_, ()>(Step::Put(vec![before + 1], before))
        };
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..RACES {
            let (registry, keys) = (registry.clone(), keys.clone());
            tasks.spawn(async move { swap(&*registry, &keys, "n", count).await });
        }
        let mut seen: Vec<u8> =
            tasks.join_all().await.into_iter().map(|done| done.unwrap().unwrap()).collect();
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2, 3, 4]);
    }

    #[tokio::test]
    async fn a_refusal_and_a_dry_run_write_nothing() {
        let (registry, keys) = (EmbeddedRegistry::new(), Keys::new("test"));
        let refused = swap(&registry, &keys, "n", |_| Err::<Step<()>, _>("no")).await.unwrap();
        assert_eq!(refused, Err("no"));
        let dry = |_: Option<&Entry>| Ok::<_, ()>(Step::Put(vec![1], 7).dry());
        assert_eq!(swap(&registry, &keys, "n", dry).await.unwrap(), Ok(7));
        assert_eq!(registry.get("n").await.unwrap(), None);
    }
}
