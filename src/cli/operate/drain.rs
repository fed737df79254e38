//! `troupe cordon`, `uncordon` and `drain`: hosts that nothing new is planned on, and hosts that
//! are to be empty.

use std::{collections::BTreeSet, time::Duration};

use clap::Args;
use tokio::time::timeout;
use troupe_actors::operate::Resource;
use troupe_runtime::wire::operate::{
    self as wire, Change, OperateDown, OperateUp, Planning, Selection,
};

use super::reach::{DryRun, Reach, Tally, change, report};
use crate::{
    cli::{Failure, print},
    client::operate::{
        columns::at,
        session::{Session, parse},
    },
};

/// Plan nothing new on hosts.
#[derive(Args, Debug)]
pub(crate) struct Cordon {
    #[command(flatten)]
    hosts: Hosts,
}

/// Plan on hosts again.
#[derive(Args, Debug)]
pub(crate) struct Uncordon {
    #[command(flatten)]
    hosts: Hosts,
}

/// Plan nothing new on hosts and move away what is there, without losing a request.
#[derive(Args, Debug)]
pub(crate) struct Drain {
    #[command(flatten)]
    hosts: Hosts,
    /// The most time that a group has for what it has begun.
    #[arg(long, value_name = "TIME", default_value = "60s",
          value_parser = super::rollout::patience)]
    grace_period: Duration,
    /// How long to wait until the hosts are empty; 0 is for ever.
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = super::rollout::patience)]
    timeout: Duration,
    /// Taken as kubectl's flag is: there is nothing here that it could spare.
    #[arg(long, hide = true)]
    ignore_daemonsets: bool,
    /// Taken as kubectl's flag is: no data is kept on a host for a group.
    #[arg(long, hide = true)]
    delete_emptydir_data: bool,
    /// Taken as kubectl's flag is: every group has a controller.
    #[arg(long, hide = true)]
    force: bool,
}

#[derive(Args, Debug)]
struct Hosts {
    /// The hosts' names.
    #[arg(value_name = "NODE", required = true)]
    nodes: Vec<String>,
    #[command(flatten)]
    dry_run: DryRun,
    #[command(flatten)]
    reach: Reach,
}

impl Cordon {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let session = self.hosts.reach.session().await?;
        self.hosts.plan(&session, Planning::Cordoned, ["cordoned", "already cordoned"]).await
    }
}

impl Uncordon {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let session = self.hosts.reach.session().await?;
        self.hosts.plan(&session, Planning::Open, ["uncordoned", "already uncordoned"]).await
    }
}

impl Drain {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        // kubectl's habits are taken; nothing here depends on them.
        let _ = (self.ignore_daemonsets, self.delete_emptydir_data, self.force);
        let session = self.hosts.reach.session().await?;
        let seconds = u32::try_from(self.grace_period.as_secs()).unwrap_or(u32::MAX);
        let plan = Planning::Drained(seconds);
        self.hosts.plan(&session, plan, ["cordoned", "already cordoned"]).await?;
        if !self.hosts.dry_run.suffix().is_empty() {
            return Ok(());
        }
        let mut tally = Tally::new();
        for node in &self.hosts.nodes {
            let wait = until_empty(&session, node);
            tally.add(match self.timeout.is_zero() {
                true => wait.await,
                false => timeout(self.timeout, wait).await.unwrap_or_else(|_| {
                    Err(Failure::told(format!(
                        "error: unable to drain node \"{node}\" in {} s: it is drained further; \
                         look with `troupe describe node {node}`",
                        self.timeout.as_secs()
                    )))
                }),
            });
        }
        tally.end()
    }
}

impl Hosts {
    async fn plan(
        &self,
        session: &Session,
        to: Planning,
        [done, else_say]: [&str; 2],
    ) -> Result<(), Failure> {
        let mut tally = Tally::new();
        for node in &self.nodes {
            let cordon = wire::Cordon { node: node.clone(), to };
            let changed = change(session, Change::Cordon(cordon), self.dry_run).await;
            tally.add(changed.map(|changed| report(&changed, done, else_say, self.dry_run)));
        }
        tally.end()
    }
}

/// Says which members leave a host, until none is left.
async fn until_empty(session: &Session, node: &str) -> Result<(), Failure> {
    let selection = Selection {
        kind: Resource::Node.kind().into(),
        name: Some(node.to_owned()),
        ..Selection::default()
    };
    let mut answers = session.ask(&OperateUp::Watch(selection)).await?;
    let mut before: Option<BTreeSet<String>> = None;
    loop {
        let now = match answers.wait().await? {
            Some(OperateDown::Object(document)) => members(&parse(&document)?),
            // The host itself is gone, and with it all that was there.
            Some(OperateDown::Gone(_)) => BTreeSet::new(),
            Some(_) => continue,
            None => return Err(Failure::told("error: the control host is ending")),
        };
        let known = before.get_or_insert_default();
        for member in now.difference(known) {
            print(&format!("evicting member {member}\n"));
        }
        for member in known.difference(&now) {
            print(&format!("member/{member} evicted\n"));
        }
        if now.is_empty() {
            print(&format!("node/{node} drained\n"));
            return Ok(());
        }
        *known = now;
    }
}

/// The members that live on a host.
fn members(node: &serde_json::Value) -> BTreeSet<String> {
    let members = node.pointer("/status/members").and_then(serde_json::Value::as_array);
    let members = members.into_iter().flatten();
    members
        .filter(|member| at(member, "/state") != "Exited")
        .map(|member| format!("{}/{}", at(member, "/namespace"), at(member, "/name")))
        .collect()
}
