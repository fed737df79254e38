//! `troupe top`: how busy hosts and services are, measured for a second.

use clap::{Args, Subcommand};
use serde_json::Value;
use troupe_runtime::wire::operate::{Busy, OperateUp};

use super::reach::Reach;
use crate::{
    cli::{Failure, print, say},
    client::operate::{
        columns::at,
        table::{Table, Titles},
    },
};

/// Show how busy hosts and services are.
#[derive(Args, Debug)]
pub(crate) struct Top {
    #[command(subcommand)]
    whose: Whose,
}

#[derive(Debug, Subcommand)]
enum Whose {
    /// Hosts: devices in use, and what the groups with a member there are at.
    #[command(visible_alias = "node", alias = "no")]
    Nodes(Show),
    /// Services: sequences, KV blocks, tokens per second.
    #[command(visible_alias = "service", alias = "llmisvc", alias = "llminferenceservices")]
    Services(ShowServices),
}

#[derive(Args, Debug)]
struct Show {
    /// Without the line of titles.
    #[arg(long)]
    no_headers: bool,
    #[command(flatten)]
    reach: Reach,
}

#[derive(Args, Debug)]
struct ShowServices {
    /// Those of all namespaces.
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    #[command(flatten)]
    show: Show,
}

impl Top {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        match self.whose {
            Whose::Nodes(show) => show.ask(Busy::Nodes, false).await,
            Whose::Services(services) => {
                let all = services.all_namespaces;
                let namespace = (!all).then(|| services.show.reach.namespace().to_owned());
                services.show.ask(Busy::Services(namespace), all).await
            }
        }
    }
}

impl Show {
    async fn ask(&self, whose: Busy, namespaces: bool) -> Result<(), Failure> {
        let hosts = whose == Busy::Nodes;
        let session = self.reach.session().await?;
        let metrics = session.documents(&OperateUp::Top(whose)).await?;
        if metrics.is_empty() {
            say("No resources found");
            return Ok(());
        }
        let titles = if self.no_headers { Titles::Hidden } else { Titles::Shown };
        print(&table(&metrics, hosts, namespaces).print(titles));
        Ok(())
    }
}

fn table(metrics: &[Value], hosts: bool, namespaces: bool) -> Table {
    let first = [(namespaces, "NAMESPACE"), (true, "NAME"), (hosts, "DEVICES")];
    let first = first.into_iter().filter_map(|(shown, title)| shown.then_some(title));
    let rest = ["GROUPS", "RUNNING", "WAITING", "KV%", "TOKENS/S"];
    let mut table = Table::new(first.chain(rest));
    for one in metrics {
        let number = |pointer: &str| one.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
        let namespace = namespaces.then(|| at(one, "/metadata/namespace"));
        let devices = || format!("{}/{}", number("/devices/used"), number("/devices/count"));
        let (answered, silent) = (number("/groups/answered"), number("/groups/silent"));
        let groups = match silent {
            0 => answered.to_string(),
            silent => format!("{answered} ({silent} silent)"),
        };
        let blocks = match number("/blocks/total") {
            0 => String::new(),
            total => format!("{}%", number("/blocks/used") * 100 / total),
        };
        let rate = one.pointer("/tokensPerSecond").and_then(Value::as_f64).unwrap_or_default();
        let cells = [
            groups,
            at(one, "/sequences/running"),
            at(one, "/sequences/waiting"),
            blocks,
            format!("{rate:.0}"),
        ];
        let before = namespace.into_iter().chain([at(one, "/metadata/name")]);
        table.add(before.chain(hosts.then(devices)).chain(cells));
    }
    table
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn hosts_and_services_have_a_table_each() {
        let busy = json!({
            "metadata": {"name": "x", "namespace": "prod"},
            "devices": {"used": 1, "count": 2},
            "groups": {"answered": 2, "silent": 1},
            "sequences": {"running": 12, "waiting": 3},
            "blocks": {"used": 50, "total": 200},
            "tokensPerSecond": 812.4,
        });
        let idle = json!({"metadata": {"name": "y", "namespace": "prod"}});
        let text = "\
NAMESPACE   NAME   GROUPS         RUNNING   WAITING   KV%      TOKENS/S
prod        x      2 (1 silent)   12        3         25%      812
prod        y      0              <none>    <none>    <none>   0
";
        assert_eq!(table(&[busy.clone(), idle], false, true).print(Titles::Shown), text);
        let text = "\
NAME   DEVICES   GROUPS         RUNNING   WAITING   KV%   TOKENS/S
x      1/2       2 (1 silent)   12        3         25%   812
";
        assert_eq!(table(&[busy], true, false).print(Titles::Shown), text);
    }
}
