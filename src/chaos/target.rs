//! What an operator names, and where the cluster says that it listens.

use std::{fmt, net::SocketAddr, str::FromStr};

use serde_json::Value;
use troupe_actors::operate::Resource;
use troupe_runtime::{transport::PeerAddr, wire::operate::Selection};

use super::process::{Process, Reached};
use crate::{
    cli::Failure,
    client::operate::{columns::at, session::Session},
};

/// What something is done to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A member of a group, by the group's name.
    Member(String, u32),
    /// A member of whichever group answers the stream.
    Stream(u32),
    /// A host's own process.
    Node(String),
    /// A gateway.
    Gateway(String),
    /// The control host that the context reaches.
    Controller,
}

/// What was found under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// It, with the host that it is on.
    pub(crate) what: String,
    /// Which one, if it is a member.
    pub(crate) member: Option<Member>,
    /// Its process.
    pub(crate) process: Process,
}

/// One incarnation of a member, and the host that runs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    name: String,
    epoch: String,
    node: String,
}

// === impl Target ===

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, name) = match text.split_once('/') {
            None if text == "controller" => return Ok(Self::Controller),
            Some((kind, name)) if !kind.is_empty() && !name.is_empty() => (kind, name),
            _ => return Err(FORMS.into()),
        };
        let member = name.parse::<u32>();
        match (kind, member) {
            ("node", _) => Ok(Self::Node(name.into())),
            ("gateway", _) => Ok(Self::Gateway(name.into())),
            ("stream", Ok(member)) => Ok(Self::Stream(member)),
            (group, Ok(member)) => Ok(Self::Member(group.into(), member)),
            (_, Err(_)) => Err(FORMS.into()),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Member(group, member) => write!(f, "{group}/{member}"),
            Self::Stream(member) => write!(f, "stream/{member}"),
            Self::Node(name) => write!(f, "node/{name}"),
            Self::Gateway(name) => write!(f, "gateway/{name}"),
            Self::Controller => f.write_str("controller"),
        }
    }
}

impl Target {
    /// Its process, which has to be one of this host.
    pub(crate) async fn find(&self, session: &Session, namespace: &str) -> Result<Found, Failure> {
        let get = async |resource: Resource, name: &str| {
            let namespace = resource.namespaced().then(|| namespace.to_owned());
            let kind = resource.kind().into();
            let name = Some(name.to_owned());
            let found = session.objects(Selection { kind, namespace, name, ..<_>::default() });
            let found = found.await?.into_iter().next();
            found.ok_or_else(|| Failure::told(format!("error: {self} is not there")))
        };
        match self {
            Self::Member(group, member) => {
                let group_now = get(Resource::Group, group).await?;
                self.member(&group_now, group, *member)
            }
            Self::Stream(_) => {
                Err(Failure::usage("stream/N is of the stream that --at-token N opens"))
            }
            Self::Node(name) => {
                let node = get(Resource::Node, name).await?;
                let address = at(&node, "/status/address");
                self.here(format!("node/{name}"), None, quic(&address), Reached::Udp, name)
            }
            Self::Gateway(name) => {
                let gateway = get(Resource::Gateway, name).await?;
                let url = at(&gateway, "/status/url");
                let address = url.strip_prefix("http://").and_then(|rest| rest.parse().ok());
                self.here(format!("gateway/{name}"), None, address, Reached::Tcp, "its host")
            }
            Self::Controller => {
                let address = quic(&session.server().to_string());
                self.here("controller".into(), None, address, Reached::Udp, "a control host")
            }
        }
    }

    fn member(&self, group: &Value, name: &str, member: u32) -> Result<Found, Failure> {
        let Some(shown) = group.pointer(&format!("/status/members/{member}")) else {
            return Err(Failure::told(format!("error: group {name} has no member {member}")));
        };
        let node = at(shown, "/node");
        let what = format!("member {name}/{member} on {node}");
        let epoch = at(group, "/spec/epoch");
        let of = Member { name: at(shown, "/name"), epoch, node: node.clone() };
        let address = quic(&at(shown, "/address"));
        if address.is_none() {
            let state = at(shown, "/state");
            let why = format!("error: {what} is {state} and does not listen yet");
            return Err(Failure::told(why));
        }
        self.here(what, Some(of), address, Reached::Udp, &node)
    }

    fn here(
        &self,
        what: String,
        member: Option<Member>,
        address: Option<SocketAddr>,
        reached: Reached,
        host: &str,
    ) -> Result<Found, Failure> {
        let nowhere = || format!("error: {self}: the cluster does not say where it listens");
        let address = address.ok_or_else(|| Failure::told(nowhere()))?;
        let process = Process::listening(address, reached).map_err(|why| {
            Failure::told(format!("error: {self}: {why}; run this on {host}, as its user or root"))
        })?;
        Ok(Found { what, member, process })
    }
}

// === impl Found ===

impl Found {
    /// How its host says that it ended, which only a member's does.
    pub(crate) async fn cause(&self, session: &Session) -> Option<String> {
        let Member { name, epoch, node } = self.member.as_ref()?;
        let kind = Resource::Node.kind().into();
        let of = Selection { kind, name: Some(node.clone()), ..Selection::default() };
        let nodes = session.objects(of).await.ok()?;
        let members = nodes.first()?.pointer("/status/members")?.as_array()?;
        let is_it =
            |member: &&Value| at(member, "/name") == *name && at(member, "/epoch") == *epoch;
        let cause = at(members.iter().find(is_it)?, "/cause");
        (!cause.is_empty()).then_some(cause)
    }
}

/// An address as the cluster writes it.
fn quic(text: &str) -> Option<SocketAddr> {
    match text.parse() {
        Ok(PeerAddr::Quic(address)) => Some(address),
        _ => None,
    }
}

const FORMS: &str = "must be GROUP/MEMBER, node/NAME, gateway/NAME, stream/MEMBER or controller";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_target_is_read_and_written() {
        for text in ["demo-0/1", "stream/0", "node/a", "node/7", "gateway/x-y", "controller"] {
            let target: Target = text.parse().expect(text);
            assert_eq!(target.to_string(), text);
        }
        assert_eq!("demo-0/1".parse(), Ok(Target::Member("demo-0".into(), 1)));
        for wrong in ["", "demo-0", "demo-0/", "/1", "demo-0/x", "stream/x", "a/b/1"] {
            wrong.parse::<Target>().expect_err(wrong);
        }
    }
}
