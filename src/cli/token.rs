//! `troupe token` and `troupe revoke`: who may come into the cluster, and who may no longer.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::Value;
use troupe_actors::operate::Resource;
use troupe_runtime::{
    clock::{approximately, from_rfc3339},
    wire::{
        join::TokenKind,
        operate::{Change, NewToken, ObjectName, Outcome, Revoke, Selection},
    },
};

use super::{
    Failure,
    operate::{DryRun, Reach, Tally, change, patience},
    print, say,
};
use crate::client::operate::{
    columns::at,
    now,
    print::{self, Format, Look},
    session::parse,
    table::Titles,
};

/// Make, show and revoke join tokens, by which hosts come into the cluster.
#[derive(Args, Debug)]
pub(crate) struct Token {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a token, and print what to run on the host that is to join.
    Create(Create),
    /// Show the tokens that still let somebody in.
    List(List),
    /// Let nobody in by these tokens any more. Who has joined stays.
    Revoke(RevokeToken),
}

#[derive(Args, Debug)]
struct Create {
    /// What joins by it: a node, or a control host (controller, gateway, node and the CA's key).
    #[arg(long, value_enum, default_value = "node")]
    kind: Kind,
    /// For how long it is good.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = patience)]
    ttl: Duration,
    /// How many hosts may join by it.
    #[arg(long, value_name = "N", default_value_t = 1)]
    uses: u32,
    /// Who joins by it becomes an operator too, and can ask of the cluster what you can.
    #[arg(long)]
    operator: bool,
    /// What is printed: the command to run, the token alone, or the object.
    #[arg(short, long, value_enum, default_value = "command")]
    output: Output,
    #[command(flatten)]
    reach: Reach,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    Node,
    Control,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    Command,
    Token,
    Name,
    Json,
    Yaml,
}

#[derive(Args, Debug)]
struct List {
    /// Those too by which nobody can join any more.
    #[arg(long)]
    all: bool,
    /// wide, yaml, json or name [default: a table].
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<Format>,
    /// Without the line of titles.
    #[arg(long)]
    no_headers: bool,
    #[command(flatten)]
    reach: Reach,
}

#[derive(Args, Debug)]
struct RevokeToken {
    /// The tokens' ids: the part between the second and the third dot.
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
    #[command(flatten)]
    dry_run: DryRun,
    #[command(flatten)]
    reach: Reach,
}

/// Take hosts out of the cluster: their certificates are believed no more, and what runs there
/// ends.
#[derive(Args, Debug)]
pub(crate) struct RevokeCommand {
    /// The hosts' names, or identities' ids; a host may be off.
    #[arg(value_name = "NODE", required = true)]
    whom: Vec<String>,
    /// Why, for whoever asks later.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    #[command(flatten)]
    dry_run: DryRun,
    #[command(flatten)]
    reach: Reach,
}

// === impl Token ===

impl Token {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        match self.verb {
            Verb::Create(create) => create.run().await,
            Verb::List(list) => list.run().await,
            Verb::Revoke(revoke) => revoke.run().await,
        }
    }
}

impl Create {
    async fn run(self) -> Result<(), Failure> {
        let session = self.reach.session().await?;
        let new = NewToken {
            kind: match self.kind {
                Kind::Node => TokenKind::Node,
                Kind::Control => TokenKind::Control,
            },
            ttl: self.ttl.as_secs(),
            uses: self.uses,
            operator: self.operator,
        };
        let made = change(&session, Change::Token(new), DryRun::default()).await?;
        let document = parse(&made.document)?;
        let token = at(&document, "/status/token");
        print(&match self.output {
            Output::Command => format!("{}\n", command(&document, &token)),
            Output::Token => format!("{token}\n"),
            Output::Name => format!("{}\n", Resource::Token.slash(&made.object.name)),
            Output::Json => print::document(Format::Json, &document),
            Output::Yaml => print::document(Format::Yaml, &document),
        });
        if matches!(self.output, Output::Command) {
            let hosts = match self.uses {
                1 => "one host".to_owned(),
                uses => format!("{uses} hosts"),
            };
            say(&format!("It lets {hosts} in within {}.", approximately(self.ttl)));
        }
        Ok(())
    }
}

/// What is to be run on the host that joins.
fn command(document: &Value, token: &str) -> String {
    let doors = document.pointer("/status/control").and_then(Value::as_array);
    let first = doors.and_then(|doors| doors.first()).and_then(Value::as_str);
    let door = first.map_or("ADDR", |door| door.trim_start_matches("quic://"));
    format!("troupe join {door} --token {token}")
}

impl List {
    async fn run(self) -> Result<(), Failure> {
        let session = self.reach.session().await?;
        let kind = Resource::Token.kind().to_owned();
        let mut tokens = session.objects(Selection { kind, ..Selection::default() }).await?;
        tokens.retain(|token| self.all || is_open(token, now()));
        match self.output.unwrap_or_default() {
            format @ (Format::Yaml | Format::Json) => {
                print(&print::document(format, &print::list(tokens)));
            }
            Format::Name => {
                tokens.iter().for_each(|token| print(&format!("{}\n", print::name(token))));
            }
            format @ (Format::Table | Format::Wide) => {
                if tokens.is_empty() {
                    say("No join tokens found.");
                    return Ok(());
                }
                let look = Look { wide: format == Format::Wide, ..Look::default() };
                let titles = if self.no_headers { Titles::Hidden } else { Titles::Shown };
                print(&print::table(Resource::Token, &tokens, look, now()).print(titles));
            }
        }
        Ok(())
    }
}

/// Whether somebody can still join by a token, at a time in seconds since 1970.
fn is_open(token: &Value, now: u64) -> bool {
    let used = token.pointer("/status/used").and_then(Value::as_array).map_or(0, Vec::len);
    let uses = token.pointer("/spec/uses").and_then(Value::as_u64).unwrap_or_default();
    let expires = from_rfc3339(&at(token, "/spec/expires")).unwrap_or_default();
    token.pointer("/status/revoked").is_none() && (used as u64) < uses && expires > now
}

impl RevokeToken {
    async fn run(self) -> Result<(), Failure> {
        let session = self.reach.session().await?;
        let mut tally = Tally::new();
        for id in self.ids {
            let object = ObjectName::new(Resource::Token.kind(), "", id);
            let revoked = change(&session, Change::Delete(object), self.dry_run).await;
            tally.add(revoked.map(|changed| told(Resource::Token, &changed, self.dry_run)));
        }
        tally.end()
    }
}

impl RevokeCommand {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let session = self.reach.session().await?;
        let mut tally = Tally::new();
        for whom in self.whom {
            let revoke = Revoke { whom, reason: self.reason.clone() };
            let revoked = change(&session, Change::Revoke(revoke), self.dry_run).await;
            tally.add(revoked.map(|changed| told(Resource::Node, &changed, self.dry_run)));
        }
        tally.end()
    }
}

fn told(resource: Resource, changed: &troupe_runtime::wire::operate::Changed, dry_run: DryRun) {
    let already = if changed.outcome == Outcome::Unchanged { "already " } else { "" };
    let slash = resource.slash(&changed.object.name);
    print(&format!("{slash} {already}revoked{}\n", dry_run.suffix()));
}

/// How long certificates are believed: long enough to be renewed in time.
pub(super) fn lasting(text: &str) -> Result<Duration, String> {
    let lasting = patience(text)?;
    if lasting >= SHORTEST_LIFE {
        return Ok(lasting);
    }
    Err(format!("must be {} s at least", SHORTEST_LIFE.as_secs()))
}

/// A third of it is what a control host may be away for.
const SHORTEST_LIFE: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_token_is_open_until_it_is_used_up_revoked_or_late() {
        let token = |used: usize, revoked: bool| {
            let mut token = json!({
                "spec": {"uses": 2, "expires": "1970-01-01T01:00:00Z"},
                "status": {"used": vec![1; used]},
            });
            if revoked {
                token["status"]["revoked"] = json!("1970-01-01T00:00:00Z");
            }
            token
        };
        assert!(is_open(&token(1, false), 3599));
        assert!(!is_open(&token(2, false), 3599));
        assert!(!is_open(&token(0, true), 3599));
        assert!(!is_open(&token(0, false), 3600));
    }
}
