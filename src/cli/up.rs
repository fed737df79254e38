//! `troupe up`: a stack on this host. Without etcd all of it lives in this process and serves one
//! service; with etcd it is a part of a cluster.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use troupe_actors::controller::desired::{Desired, launch};
use troupe_runtime::{
    shutdown::shutdown,
    spec::{EngineFlags, Services},
    transport::PeerRole,
};

use super::{
    Failure,
    args::{ClusterArgs, HostArgs, HttpArgs},
    node::Joining,
    say, serve,
};
use crate::{
    demo,
    stack::{
        asked_to_end, cache_dir, declare,
        identity::DataDir,
        membership::Membership,
        operator,
        roles::{self, GatewayPlace},
    },
};

/// Start a stack on this host.
///
/// With no arguments it serves the demo model on port 8000.
#[derive(Args, Debug)]
pub(crate) struct Up {
    /// What this process is.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "ROLES",
          default_values_t = [Role::Controller, Role::Gateway, Role::Node])]
    roles: Vec<Role>,
    /// Services to declare: LLMInferenceService documents, YAML or JSON.
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    http: HttpArgs,
    #[command(flatten)]
    host: HostArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Role {
    Controller,
    Gateway,
    Node,
}

impl Up {
    /// Runs until the process is asked to end; its members log as `logging` says.
    pub(crate) async fn run(self: Box<Self>, logging: Vec<String>) -> Result<(), Failure> {
        let services = self.services()?;
        if self.cluster.etcd.is_empty() {
            self.alone(services, logging).await
        } else {
            self.join(services, logging).await
        }
    }

    fn services(&self) -> Result<Vec<serde_json::Value>, Failure> {
        let Some(file) = &self.file else { return Ok(Vec::new()) };
        let text = std::fs::read_to_string(file)
            .map_err(|error| Failure::usage(format!("{}: {error}", file.display())))?;
        let services = Services::parse(&text)
            .map_err(|error| Failure::usage(format!("{}:\n{error}", file.display())))?;
        for warning in &services.warnings {
            say(&format!("{}: {}: {}", file.display(), warning.path, warning.message));
        }
        Ok(services.services.into_iter().map(|spec| spec.document).collect())
    }

    /// Everything in this process.
    async fn alone(
        self,
        services: Vec<serde_json::Value>,
        logging: Vec<String>,
    ) -> Result<(), Failure> {
        let mut launches = Vec::new();
        for document in services {
            let (spec, _) = troupe_runtime::spec::ServiceSpec::from_document(document)
                .map_err(|error| Failure::usage(error.to_string()))?;
            launches.push(Desired::new(&spec, None).map_err(Failure::usage)?.launch);
        }
        let launch = match (launches.pop(), launches.is_empty()) {
            (Some(launch), true) => launch,
            (None, _) => demo_launch()?,
            (Some(_), false) => {
                return Err(Failure::usage(
                    "one service at a time is served without etcd; give --etcd URLS to form a \
                     cluster",
                ));
            }
        };
        serve::serve(launch, &self.http, logging).await
    }

    /// As a part of a cluster.
    async fn join(
        self,
        services: Vec<serde_json::Value>,
        logging: Vec<String>,
    ) -> Result<(), Failure> {
        let data_dir = self.cluster.data_dir.clone().ok_or_else(|| {
            Failure::usage("--data-dir DIR is needed with --etcd: identities are kept there")
        })?;
        let dir = DataDir::take(&data_dir)?;
        let authority = dir.authority(&self.cluster.cluster)?;
        let (control, _) = dir.identity(PeerRole::Control, &authority)?;
        let membership = Membership::etcd(&self.cluster.etcd, &authority).await?;
        for document in services {
            declare::declare(&membership.registry, &membership.keys, document).await?;
        }
        let (owner, listener) = shutdown();
        let has = |role| self.roles.contains(&role);
        let (link, _threads) = roles::quic(&control, (self.cluster.listen, 0).into())?;
        let controller = match has(Role::Controller) {
            true => Some(roles::controller(&membership, Some(link.clone())).await?),
            false => None,
        };
        let _door = roles::door(&membership, link.clone(), link.clone());
        let (operator, operator_dir) = dir.identity(PeerRole::Operator, &authority)?;
        operator::write(&operator, &operator_dir, &[link.address()])?;
        let mut gateway = match has(Role::Gateway) {
            true => {
                let place = GatewayPlace { id: control.name().node, host: self.cluster.listen };
                let mut config = self.http.config();
                config.data_dir = Some(dir.path().to_owned());
                let gateway =
                    roles::gateway(&membership, config, place, link.clone(), listener).await?;
                say(&format!("gateway on http://{}", gateway.address()));
                Some(gateway)
            }
            false => None,
        };
        let mut node = match has(Role::Node) {
            true => {
                let (cluster, host) = (&self.cluster, &self.host);
                let joining = Joining { cluster, host, dir: &dir, authority: &authority };
                Some(joining.start(&membership, logging).await?)
            }
            false => None,
        };
        say(&format!("operators: troupe get nodes --context {}", operator_dir.display()));
        say(&format!(
            "to add a host: troupe node --etcd {} --listen ADDR --name NAME --data-dir DIR --ca {}",
            self.cluster.etcd.join(","),
            dir.path().join("ca").display()
        ));
        asked_to_end().await;
        say("stopping: requests in flight are finished first");
        owner.begin();
        let drained = async {
            // The gateway first: what it has begun may run on this very host.
            if let Some(gateway) = &mut gateway {
                gateway.wait().await;
            }
            if let Some((node, _)) = &mut node {
                roles::leave(node, self.host.drain_timeout).await;
            }
        };
        tokio::select! {
            () = drained => {}
            () = asked_to_end() => say("stopping at once"),
        }
        drop((node, controller));
        let _ = membership.lease.revoke().await;
        Ok(())
    }
}

fn demo_launch() -> Result<troupe_runtime::discovery::directory::Launch, Failure> {
    let folder = demo::folder(&cache_dir()).map_err(|error| Failure::run(error.to_string()))?;
    let uri = folder.display().to_string();
    Ok(launch(uri, demo::NAME.into(), EngineFlags::default()))
}
