//! Who may come in and who may no longer: join tokens are made and revoked, identities revoked,
//! hosts forgotten.

use troupe_runtime::{
    discovery::{
        Entry, Step, SwapError,
        directory::{self, RevokedRecord, TokenRecord},
    },
    transport::PeerIdentity,
    wire::operate::{Changed, NewToken, ObjectName, Outcome, Reason, Refusal, Revoke, Run},
};

use super::{
    change::About,
    desk::{OperateDesk, Stop, bad, unavailable},
    resource::Resource,
    view,
};
use crate::host::{
    join,
    revoked::{self, Known, Meant, NobodyMeant},
    tokens::Tokens,
};

impl OperateDesk {
    pub(super) async fn create_token(
        &self,
        new: &NewToken,
        run: Run,
        by: &PeerIdentity,
    ) -> Result<Changed, Stop> {
        let pin = self.pin.ok_or_else(|| {
            let message = "this cluster is one process, which nobody joins; `troupe up --etcd \
                           URLS` forms one of several hosts";
            Refusal::new(Reason::MethodNotAllowed, message)
        })?;
        check(new)?;
        let tokens = Tokens::new(self.registry.clone(), self.keys.clone());
        let (name, document) = match run {
            Run::Dry => (String::new(), String::new()),
            Run::Real => {
                let now = self.now();
                let made = tokens.create(new, pin, &by.to_string(), now).await;
                let (token, record) = made.map_err(|error| busy(&error))?;
                let mut document = view::token(&record, 1);
                document["status"]["token"] = token.to_string().into();
                let doors = join::control_hosts(&*self.registry, &self.keys).await?;
                document["status"]["control"] = doors.into();
                (token.id, document.to_string())
            }
        };
        let object = ObjectName::new(Resource::Token.kind(), "", name);
        Ok(Changed { object, outcome: Outcome::Created, document, warnings: Vec::new() })
    }

    pub(super) async fn revoke_token(&self, name: &str, run: Run) -> Result<Changed, Stop> {
        let now = self.now();
        let key = self.keys.token(name);
        let decide = |entry: Option<&Entry>| {
            let stored = entry
                .and_then(|entry| directory::from_bytes::<TokenRecord>(&key, &entry.value).ok());
            let Some(mut record) = stored else {
                return Err(About { resource: Resource::Token, name }.not_found());
            };
            if record.revoked.is_some() {
                return Ok(Step::Done((Outcome::Unchanged, record)));
            }
            record.revoked = Some(now);
            Ok(Step::Put(directory::to_bytes(record.clone()), (Outcome::Deleted, record)))
        };
        let (outcome, record) = self.swap(&key, run, decide).await?;
        let object = ObjectName::new(Resource::Token.kind(), "", name);
        let document = view::token(&record, 0).to_string();
        Ok(Changed { object, outcome, document, warnings: Vec::new() })
    }

    /// Lets a host in no more. What runs there ends, as its process reads of it.
    pub(super) async fn revoke(
        &self,
        revoke: &Revoke,
        run: Run,
        by: &PeerIdentity,
    ) -> Result<Changed, Stop> {
        let known = Known::read(&*self.registry, &self.keys).await?;
        let Meant { id, name, control } =
            known.find(&revoke.whom).map_err(|why| nobody(&revoke.whom, why))?;
        if id == by.node {
            return Err(bad(format!(
                "{name} is where the context was made that this is asked with, and both would be \
                 let in no more: ask with another host's, --context DIR"
            ))
            .into());
        }
        let reason = match revoke.reason.as_str() {
            "" => "by an operator".to_owned(),
            reason => reason.to_owned(),
        };
        let object = ObjectName::new(Resource::Node.kind(), "", name.clone());
        let was = view::one(&self.contents(Resource::Node).await?, &object);
        let record = RevokedRecord { id, name: name.clone(), reason, at: self.now() };
        let new = match run {
            Run::Real => revoked::revoke(&*self.registry, &self.keys, record).await?,
            Run::Dry => self.registry.get(&self.keys.revoked(id)).await?.is_none(),
        };
        let mut warnings = Vec::new();
        if control && new {
            warnings.push(format!(
                "{name} was a control host: it has the cluster's CA key, with which whoever has \
                 its disk can make new identities. If that matters, form the cluster anew"
            ));
        }
        Ok(Changed {
            object,
            outcome: if new { Outcome::Deleted } else { Outcome::Unchanged },
            // Of one that is off nothing is known.
            document: was.map(|node| node.to_string()).unwrap_or_default(),
            warnings,
        })
    }

    fn now(&self) -> u64 {
        self.clock.now().unix_millis / 1000
    }
}

fn check(new: &NewToken) -> Result<(), Refusal> {
    if !(1..=MAX_USES).contains(&new.uses) {
        return Err(bad(format!("a token lets 1 to {MAX_USES} hosts in, not {}", new.uses)));
    }
    if !(1..=MAX_TTL).contains(&new.ttl) {
        return Err(bad(
            "a token is good for 1 s to 30 days: make a new one when it is over".into()
        ));
    }
    Ok(())
}

fn nobody(whom: &str, why: NobodyMeant) -> Refusal {
    match why {
        NobodyMeant::Unknown => About { resource: Resource::Node, name: whom }.not_found(),
        NobodyMeant::Several(ids) => {
            let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
            bad(format!(
                "there were several hosts named {whom}, of which none is here now; name the one \
                 that is meant by its id: {}",
                ids.join(", ")
            ))
        }
    }
}

fn busy(error: &SwapError) -> Refusal {
    match error {
        SwapError::Registry(error) => unavailable(error),
        SwapError::Busy(_) => Refusal::new(Reason::Conflict, error.to_string()),
    }
}

/// Uses stand in the token's record, which must not grow beyond what a store takes.
const MAX_USES: u32 = 1000;
/// A token is for the hosts that somebody is about to join.
const MAX_TTL: u64 = 30 * 24 * 3600;
