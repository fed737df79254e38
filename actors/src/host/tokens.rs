//! Join tokens in the store. A token is used by compare-and-swap, so that one for one host lets one
//! in, even when two control hosts are asked at the same moment.

use std::sync::Arc;

use troupe_runtime::{
    discovery::{
        Entry, Registry, RegistryError, Step, SwapError,
        directory::{self, TokenRecord},
        keys::Keys,
        swap,
    },
    transport::tls::{JoinToken, Pin},
    wire::operate::NewToken,
};

use super::admission::{Admission, Newcomer, admit};

/// The join tokens of a cluster.
#[derive(Clone, Debug)]
pub struct Tokens {
    registry: Arc<dyn Registry>,
    keys: Keys,
}

/// Why somebody did not get in.
#[derive(Debug)]
pub enum NotAdmitted {
    /// It is not to.
    Refused(String),
    /// It is not known whether it is to.
    Store(SwapError),
}

// === impl Tokens ===

impl Tokens {
    /// Those in this store.
    pub fn new(registry: Arc<dyn Registry>, keys: Keys) -> Self {
        Self { registry, keys }
    }

    /// Makes one, and clears away those that nobody used in their time. The secret is in the answer
    /// and nowhere else. `now` is in seconds since 1970.
    ///
    /// # Errors
    /// [`SwapError`].
    pub async fn create(
        &self,
        new: &NewToken,
        pin: Pin,
        by: &str,
        now: u64,
    ) -> Result<(JoinToken, TokenRecord), SwapError> {
        let token = JoinToken::generate(pin);
        let record = TokenRecord {
            id: token.id.clone(),
            kind: new.kind,
            hash: JoinToken::hash(&token.secret),
            operator: new.operator,
            created: now,
            created_by: by.to_owned(),
            expires: now.saturating_add(new.ttl),
            uses: new.uses,
            used: Vec::new(),
            revoked: None,
        };
        let put = |entry: Option<&Entry>| match entry {
            None => Ok(Step::Put(directory::to_bytes(record.clone()), ())),
            Some(entry) => Err(SwapError::Busy(entry.key.clone())),
        };
        swap(&*self.registry, &self.keys, &self.keys.token(&token.id), put).await??;
        self.clear(now).await;
        Ok((token, record))
    }

    /// All that there are.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn list(&self) -> Result<Vec<TokenRecord>, RegistryError> {
        let entries = self.registry.list(&self.keys.tokens()).await?;
        Ok(entries.iter().filter_map(read).collect())
    }

    /// Lets a newcomer in by its token, once. `now_ms` is in milliseconds since 1970.
    ///
    /// # Errors
    /// [`NotAdmitted`].
    pub async fn admit(&self, newcomer: &Newcomer, now_ms: u64) -> Result<Admission, NotAdmitted> {
        let decide = |entry: Option<&Entry>| {
            let admission = admit(entry.and_then(read).as_ref(), newcomer, now_ms)?;
            Ok(match &admission.record {
                Some(record) => Step::Put(directory::to_bytes(record.clone()), admission),
                None => Step::Done(admission),
            })
        };
        let key = self.keys.token(&newcomer.token);
        let decided = swap(&*self.registry, &self.keys, &key, decide).await;
        decided.map_err(NotAdmitted::Store)?.map_err(NotAdmitted::Refused)
    }

    /// What was used stays: it says which hosts there were, so that one can be revoked that is off.
    async fn clear(&self, now: u64) {
        let Ok(all) = self.list().await else { return };
        for old in all.into_iter().filter(|old| old.used.is_empty() && old.is_over(now)) {
            let remove = |entry: Option<&Entry>| {
                let unused = entry.and_then(read).is_some_and(|now| now.used.is_empty());
                Ok::<_, ()>(if unused { Step::Remove(()) } else { Step::Done(()) })
            };
            let key = self.keys.token(&old.id);
            if let Err(error) = swap(&*self.registry, &self.keys, &key, remove).await {
                tracing::debug!(token = old.id, %error, "an old token stays");
            }
        }
    }
}

fn read(entry: &Entry) -> Option<TokenRecord> {
    directory::from_bytes(&entry.key, &entry.value)
        .inspect_err(|error| tracing::warn!(key = entry.key, %error, "a join token is left out"))
        .ok()
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;
    use troupe_runtime::{
        discovery::embedded::EmbeddedRegistry,
        id::{Digest, NodeId},
        transport::tls::ClusterAuthority,
        wire::{
            self,
            join::{JoinPart, TokenKind},
        },
    };
    use uuid::Uuid;

    use super::*;

    fn tokens() -> (Tokens, Pin) {
        let authority = ClusterAuthority::create("test").expect("a CA");
        let registry = Arc::new(EmbeddedRegistry::new());
        (Tokens::new(registry, Keys::new("test")), authority.pin())
    }

    fn new(uses: u32, ttl: u64) -> NewToken {
        NewToken { kind: TokenKind::Node, ttl, uses, operator: false }
    }

    fn newcomer(token: &JoinToken, key: u8) -> Newcomer {
        Newcomer {
            token: token.id.clone(),
            secret: JoinToken::hash(&token.secret),
            part: JoinPart::Host,
            name: format!("host-{key}"),
            key: Digest::of(&[key]),
            former: None,
            fresh: NodeId(Uuid::from_u128(key.into())),
            wire: wire::VERSION,
            now_ms: 1_000_000,
        }
    }

    #[tokio::test]
    async fn of_many_who_come_at_once_as_many_get_in_as_the_token_says() {
        let (tokens, pin) = tokens();
        for uses in [1, 2] {
            let (token, _) = tokens.create(&new(uses, 60), pin, "me", 1000).await.expect("made");
            let mut asked = JoinSet::new();
            for key in 0..4 {
                let (tokens, newcomer) = (tokens.clone(), newcomer(&token, key));
                asked.spawn(async move { tokens.admit(&newcomer, 1_000_000).await });
            }
            let answers = asked.join_all().await;
            let admitted = answers.iter().filter(|answer| answer.is_ok()).count();
            assert_eq!(admitted, uses as usize);
            let refused = answers.iter().filter(|a| matches!(a, Err(NotAdmitted::Refused(_))));
            assert_eq!(refused.count(), 4 - uses as usize);
        }
    }

    #[tokio::test]
    async fn what_nobody_used_is_cleared_away_and_what_was_used_stays() {
        let (tokens, pin) = tokens();
        let (used, _) = tokens.create(&new(1, 60), pin, "me", 1000).await.expect("made");
        tokens.admit(&newcomer(&used, 1), 1_000_000).await.expect("let in");
        let (idle, _) = tokens.create(&new(1, 60), pin, "me", 1000).await.expect("made");
        let (fresh, _) = tokens.create(&new(1, 60), pin, "me", 2000).await.expect("made");
        let mut left: Vec<String> =
            tokens.list().await.expect("a list").into_iter().map(|token| token.id).collect();
        let mut expected = vec![used.id, fresh.id];
        left.sort();
        expected.sort();
        assert_eq!(left, expected, "{} is gone", idle.id);
    }
}
