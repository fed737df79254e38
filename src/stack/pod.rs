//! What a pod of LeaderWorkerSet is told about its group, and where that is on the network.
//!
//! Three variables are all there is: the name of the first pod, how many there are, and which one
//! this is. The name may not resolve yet when the pod starts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use troupe_runtime::id::NodeId;
use uuid::Uuid;

/// A pod's place in its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pod {
    /// The first pod's name.
    pub(crate) leader: String,
    /// Pods of the group.
    pub(crate) size: u32,
    /// This one among them; the first is 0.
    pub(crate) index: u32,
}

impl Pod {
    /// From the environment; `None` outside of a group, and in a group of one, which needs nobody.
    pub(crate) fn of(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, String> {
        let [leader, size, index] = [LEADER, SIZE, INDEX].map(&variable);
        if leader.is_none() && size.is_none() && index.is_none() {
            return Ok(None);
        }
        let number = |name: &str, text: Option<String>| match text.as_deref().map(str::parse) {
            Some(Ok(number)) => Ok::<u32, _>(number),
            Some(Err(_)) => {
                Err(format!("{name} must be a number, is `{}`", text.unwrap_or_default()))
            }
            None => Err(missing(name)),
        };
        let (size, index) = (number(SIZE, size)?, number(INDEX, index)?);
        if index >= size {
            return Err(format!("{INDEX} must be below {SIZE}, which is {size}, is {index}"));
        }
        let leader = leader.ok_or_else(|| missing(LEADER))?;
        Ok((size > 1).then_some(Self { leader, size, index }))
    }

    /// The identity of this pod's node: in the order of their indices, which is the one in which
    /// equal hosts are given ranks, so that the first pod leads.
    pub(crate) fn node(&self) -> NodeId {
        NodeId(Uuid::from_u128(u128::from(self.index) + 1))
    }

    /// Where the first pod is, if its name resolves now.
    pub(crate) async fn find_leader(&self, port: u16) -> Result<SocketAddr, String> {
        let found = tokio::net::lookup_host((self.leader.as_str(), port)).await;
        let mut found = found.map_err(|error| format!("{}: {error}", self.leader))?;
        found.next().ok_or_else(|| format!("{} has no address", self.leader))
    }
}

/// The address that this host has towards another: nothing is sent to find out.
pub(crate) fn address_towards(peer: SocketAddr) -> std::io::Result<IpAddr> {
    let any: IpAddr = match peer {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(peer)?;
    Ok(socket.local_addr()?.ip())
}

fn missing(name: &str) -> String {
    format!("{name} is not set: {LEADER}, {SIZE} and {INDEX} are set together, or none of them")
}

const LEADER: &str = "LWS_LEADER_ADDRESS";
const SIZE: &str = "LWS_GROUP_SIZE";
const INDEX: &str = "LWS_WORKER_INDEX";

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Option<Pod>, String> {
        Pod::of(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_three_variables_make_a_pod() {
        let pod = of(&[(LEADER, "llama-0.llama.default"), (SIZE, "2"), (INDEX, "1")]);
        let leader = "llama-0.llama.default".to_owned();
        assert_eq!(pod, Ok(Some(Pod { leader, size: 2, index: 1 })));
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&[(LEADER, "llama-0"), (SIZE, "1"), (INDEX, "0")]), Ok(None));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (variables, word) in [
            (&[(LEADER, "a"), (SIZE, "2")][..], INDEX),
            (&[(SIZE, "2"), (INDEX, "1")], LEADER),
            (&[(LEADER, "a"), (SIZE, "two"), (INDEX, "1")], "`two`"),
            (&[(LEADER, "a"), (SIZE, "2"), (INDEX, "2")], "below"),
        ] {
            let error = of(variables).expect_err("it does not fit");
            assert!(error.contains(word), "{error} does not say {word}");
        }
    }

    #[test]
    fn pods_are_in_the_order_of_their_indices() {
        let pod = |index| Pod { leader: "a".into(), size: 300, index };
        assert!((0..299).all(|index| pod(index).node() < pod(index + 1).node()));
    }
}
