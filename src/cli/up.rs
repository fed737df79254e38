//! `troupe up`: a stack on this host. Without etcd all of it lives in this process and serves one
//! service; with etcd it is a part of a cluster.

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::Args;
use troupe_actors::controller::desired::{Desired, launch};
use troupe_runtime::{
    spec::{EngineFlags, Services},
    transport::DOOR_PORT,
};

use super::{
    Failure,
    args::{ClusterArgs, HostArgs, HttpArgs},
    control::{ControlHost, Role},
    say, serve,
};
use crate::{demo, stack::cache_dir};

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
    /// For how long certificates that this host makes are believed; they renew by themselves
    /// [default: 2160h].
    #[arg(long, value_name = "TIME", value_parser = super::token::lasting)]
    certificate_lifetime: Option<Duration>,
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    http: HttpArgs,
    #[command(flatten)]
    host: HostArgs,
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
            let sides = Desired::sides(&spec, None).map_err(Failure::usage)?;
            let [side] = <[Desired; 1]>::try_from(sides).map_err(|_| {
                Failure::usage(
                    "spec.prefill: prefill and decode are apart in a cluster only; give --etcd \
                     URLS to form one",
                )
            })?;
            launches.push(side.launch);
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
        let dir = self.cluster.take_data_dir()?;
        let invites = !dir.has_authority();
        let mut authority = dir.authority(&self.cluster.cluster)?;
        if let Some(lifetime) = self.certificate_lifetime {
            authority = authority.lasting(lifetime);
        }
        let host = ControlHost {
            dir: &dir,
            authority: Arc::new(authority),
            etcd: &self.cluster.etcd,
            listen: self.cluster.door(DOOR_PORT),
            roles: &self.roles,
            http: &self.http,
            host: &self.host,
            services,
            invites,
        };
        host.run(logging).await
    }
}

fn demo_launch() -> Result<troupe_runtime::discovery::directory::Launch, Failure> {
    let folder = demo::folder(&cache_dir()).map_err(|error| Failure::run(error.to_string()))?;
    let uri = folder.display().to_string();
    Ok(launch(uri, demo::NAME.into(), EngineFlags::default()))
}
