//! `troupe certify`: certificates for a group of pods, where no control host makes them.

use std::path::PathBuf;

use clap::Args;
use troupe_runtime::{
    id::NodeId,
    transport::{PeerRole, tls::ClusterAuthority},
};
use uuid::Uuid;

use super::{Failure, say};
use crate::stack::identity;

/// Make certificates for pods that form a group without etcd.
///
/// DIR/ca gets a CA, unless it has one; DIR/identity a certificate of it, good for 90 days, that
/// all pods of a group share. Give DIR/identity to the pods as a secret and keep DIR/ca to
/// yourself.
#[derive(Args, Debug)]
pub(crate) struct Certify {
    /// Where to.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Name of the cluster: lower-case letters, digits and dashes.
    #[arg(long, default_value = "troupe", value_name = "NAME")]
    cluster: String,
}

impl Certify {
    /// Writes the files.
    pub(crate) fn run(self) -> Result<(), Failure> {
        let (ca, to) = (self.dir.join("ca"), self.dir.join("identity"));
        for folder in [&ca, &to] {
            std::fs::create_dir_all(folder)
                .map_err(|error| Failure::usage(format!("{}: {error}", folder.display())))?;
        }
        let authority = if ca.join("ca.pem").exists() {
            identity::authority_at(&ca, &self.cluster)?
        } else {
            let made = ClusterAuthority::create(&self.cluster).map_err(|e| Failure::of(&e))?;
            made.save(&ca).map_err(|error| Failure::of(&error))?;
            made
        };
        let made = authority.issue(PeerRole::Node, NodeId(Uuid::now_v7()));
        let made = made.map_err(|error| Failure::of(&error))?;
        made.save(&to).map_err(|error| Failure::of(&error))?;
        say(&format!(
            "{} is good for 90 days. On Kubernetes:\n\n  \
             kubectl create secret generic troupe-identity --from-file={}\n",
            to.display(),
            to.display()
        ));
        Ok(())
    }
}
