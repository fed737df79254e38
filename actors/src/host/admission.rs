//! Whether a newcomer is let in, and as whom. Pure: from its token's record, what it says of
//! itself, and the time.
//!
//! The same key asking again by the same token is no second use: the answer to the first may have
//! been lost. What was wrong is said so that the person at the other end knows what to do, except
//! that a wrong id and a wrong secret are the same to whoever guesses.

use std::time::Duration;

use troupe_runtime::{
    clock::approximately,
    discovery::directory::{TokenKind, TokenRecord, TokenUse},
    id::{Digest, NodeId},
    transport::PeerRole,
    wire::{self, join::JoinPart},
};

/// What a newcomer says of itself, and what is known of it.
#[derive(Clone, Debug)]
pub struct Newcomer {
    /// Its token's id.
    pub token: String,
    /// Digest of its token's secret.
    pub secret: Digest,
    /// What it wants to be.
    pub part: JoinPart,
    /// Its name, for people.
    pub name: String,
    /// Digest of its key.
    pub key: Digest,
    /// The id that it has had so far, as a certificate of its key proves.
    pub former: Option<NodeId>,
    /// The id that it gets if it had none.
    pub fresh: NodeId,
    /// The newest version of the wire that it speaks.
    pub wire: u32,
    /// Its clock, in milliseconds since 1970.
    pub now_ms: u64,
}

/// A newcomer that is let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// As whom.
    pub id: NodeId,
    /// As what.
    pub role: PeerRole,
    /// Whether it becomes an operator too.
    pub operator: bool,
    /// The token's record with this use in it; none if it stands there already.
    pub record: Option<TokenRecord>,
}

/// Decides about a newcomer by the record of its token; `now_ms` is the time of day, in
/// milliseconds since 1970.
///
/// # Errors
/// Why it is not let in, and what would help.
pub fn admit(
    record: Option<&TokenRecord>,
    newcomer: &Newcomer,
    now_ms: u64,
) -> Result<Admission, String> {
    let now = now_ms / 1000;
    let known = record.filter(|record| record.hash == newcomer.secret);
    let Some(record) = known else {
        return Err(format!(
            "there is no such join token ({}): it was mistyped, or the store lost it. {ANOTHER}",
            newcomer.token
        ));
    };
    let id = &record.id;
    if let Some(revoked) = record.revoked {
        return Err(format!("the join token {id} was revoked {}. {ANOTHER}", ago(revoked, now)));
    }
    if record.expires <= now {
        return Err(format!("the join token {id} expired {}. {ANOTHER}", ago(record.expires, now)));
    }
    check_clock(newcomer.now_ms, now_ms)?;
    check_wire(newcomer.wire)?;
    check_name(&newcomer.name)?;
    let role = match (newcomer.part, record.kind) {
        (JoinPart::Gateway, _) => PeerRole::Gateway,
        (JoinPart::Host, TokenKind::Node) => PeerRole::Node,
        (JoinPart::Host, TokenKind::Control) => PeerRole::Control,
    };
    let operator = record.operator;
    if let Some(again) = record.used.iter().find(|used| used.key == newcomer.key) {
        return Ok(Admission { id: again.id, role, operator, record: None });
    }
    if record.used.len() >= record.uses as usize {
        return Err(used_up(record, now));
    }
    let admitted = newcomer.former.unwrap_or(newcomer.fresh);
    let mut record = record.clone();
    record.used.push(TokenUse {
        id: admitted,
        name: newcomer.name.clone(),
        key: newcomer.key,
        at: now,
    });
    Ok(Admission { id: admitted, role, operator, record: Some(record) })
}

/// A clock that is wrong believes no certificate, or believes it too long.
fn check_clock(theirs: u64, ours: u64) -> Result<(), String> {
    let apart = Duration::from_millis(theirs.abs_diff(ours));
    if apart <= CLOCKS_APART {
        return Ok(());
    }
    let which = if theirs < ours { "behind" } else { "ahead of" };
    Err(format!(
        "this host's clock is {} {which} the control host's, at most {} are possible: set it \
         (chrony or systemd-timesyncd keep it right), or the control host's if that one is wrong",
        approximately(apart),
        approximately(CLOCKS_APART),
    ))
}

/// Each version of the wire is spoken by its own and by the next binary.
fn check_wire(theirs: u32) -> Result<(), String> {
    let ours = wire::VERSION;
    if theirs.abs_diff(ours) <= 1 {
        return Ok(());
    }
    let older = if theirs < ours { "this host" } else { "the cluster" };
    Err(format!(
        "this host's troupe speaks version {theirs} of the wire, the control host's version \
         {ours}: they may be one apart. Upgrade {older} first, one version at a time"
    ))
}

/// Names are keys of the store, and words of a table.
fn check_name(name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if !name.is_empty() && name.len() <= MAX_NAME && name.chars().all(plain) {
        return Ok(());
    }
    Err(format!(
        "a host cannot be named `{}`: give it a --name of at most {MAX_NAME} letters, digits, \
         `-`, `_` and `.`",
        name.escape_default()
    ))
}

fn used_up(record: &TokenRecord, now: u64) -> String {
    let by = |used: &TokenUse| format!("{} {}", used.name, ago(used.at, now));
    let by: Vec<String> = record.used.iter().rev().take(SHOWN).map(by).collect();
    let more = if record.used.len() > SHOWN { " and others before" } else { "" };
    format!(
        "the join token {} has been used by {}{more}, which is all that it allows. {ANOTHER}",
        record.id,
        by.join(", "),
    )
}

fn ago(then: u64, now: u64) -> String {
    format!("{} ago", approximately(Duration::from_secs(now.saturating_sub(then))))
}

/// What helps.
const ANOTHER: &str = "`troupe token create` on a control host makes another";
/// Certificates are valid an hour before they are made; a token's end and what logs say should not
/// be off by more than a person notices.
const CLOCKS_APART: Duration = Duration::from_secs(300);
/// A DNS label or a little more.
const MAX_NAME: usize = 128;
/// Uses that a refusal names.
const SHOWN: usize = 3;

#[cfg(test)]
mod tests;
