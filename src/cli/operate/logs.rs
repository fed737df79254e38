//! `troupe logs GROUP|SERVICE`: what members said.

use clap::Args;
use troupe_actors::operate::Resource;
use troupe_runtime::wire::operate::{Logs, OperateDown, OperateUp, Selection};

use super::reach::Reach;
use crate::{
    cli::{Failure, print},
    client::operate::{columns::at, session::Session, target::one},
};

/// Show what the members of a group, or of all groups of a service, said.
#[derive(Args, Debug)]
pub(crate) struct LogsCommand {
    /// A group as SERVICE-INDEX, or a service; KIND/NAME tells them apart.
    #[arg(value_name = "GROUP|SERVICE")]
    of: String,
    /// Go on as they speak.
    #[arg(short, long)]
    follow: bool,
    /// Only the last so many lines of each; -1 for all.
    #[arg(long, value_name = "N", default_value_t = -1, allow_negative_numbers = true,
          value_parser = clap::value_parser!(i64).range(-1..=i64::from(u32::MAX)))]
    tail: i64,
    /// Only this member's of each group; the leader is 0.
    #[arg(long, visible_alias = "container", short_alias = 'c', value_name = "N")]
    member: Option<u32>,
    /// Whether lines begin with the member's name [default: if there are several].
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    prefix: Option<bool>,
    #[command(flatten)]
    reach: Reach,
}

impl LogsCommand {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let name = match self.of.contains('/') {
            false => self.of.clone(),
            true => {
                let target =
                    one(&self.of).map_err(|error| Failure::told(format!("error: {error}")))?;
                match (target.resource, target.name) {
                    (Resource::SERVICE | Resource::Group, Some(name)) => name,
                    (resource, _) => {
                        return Err(Failure::told(format!(
                            "error: a {} has no logs: services and groups have",
                            resource.singular()
                        )));
                    }
                }
            }
        };
        let session = self.reach.session().await?;
        let prefix = match self.prefix {
            Some(prefix) => prefix,
            None => self.members(&session, &name).await? > 1,
        };
        let logs = Logs {
            namespace: self.reach.namespace().to_owned(),
            name,
            member: self.member,
            tail: u32::try_from(self.tail).ok(),
            follow: self.follow,
        };
        let mut answers = session.ask(&OperateUp::Logs(logs)).await?;
        while let Some(answer) = answers.wait().await? {
            let OperateDown::Log(log) = answer else { continue };
            for line in log.lines {
                match prefix {
                    true => print(&format!("[{}] {line}\n", log.member)),
                    false => print(&format!("{line}\n")),
                }
            }
        }
        Ok(())
    }

    /// How many members will speak.
    async fn members(&self, session: &Session, name: &str) -> Result<usize, Failure> {
        let groups = session
            .objects(Selection {
                kind: Resource::Group.kind().into(),
                namespace: Some(self.reach.namespace().to_owned()),
                ..Selection::default()
            })
            .await?;
        let of = groups.iter().filter(|group| {
            at(group, "/metadata/name") == name || at(group, "/spec/service") == name
        });
        let sizes = of.map(|group| match self.member {
            Some(_) => 1,
            None => group
                .pointer("/status/members")
                .and_then(serde_json::Value::as_array)
                .map_or(0, Vec::len),
        });
        Ok(sizes.sum())
    }
}
