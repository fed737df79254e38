//! What a member of etcd answers when it does not do what was asked, and what that means.
//!
//! etcd tells its reasons in the message of a gRPC status; the few that decide something are
//! recognised here and nowhere else.

use std::{error::Error, io, time::Duration};

use etcd_client as etcd;

use crate::discovery::RegistryError;

/// Why one member did not do what was asked.
#[derive(Debug)]
pub(super) enum Failure {
    /// No answer in the time that it had.
    Silent(Duration),
    /// The client's or the member's answer.
    Told(etcd::Error),
    /// An answer that cannot be.
    Odd(String),
}

/// gRPC's status codes that decide something; etcd-client does not name them.
mod code {
    pub(super) const CANCELLED: i32 = 1;
    pub(super) const UNKNOWN: i32 = 2;
    pub(super) const DEADLINE_EXCEEDED: i32 = 4;
    pub(super) const UNAVAILABLE: i32 = 14;
}

impl From<etcd::Error> for Failure {
    fn from(error: etcd::Error) -> Self {
        Self::Told(error)
    }
}

impl Failure {
    /// The request cannot have had an effect: nothing was sent, or it was refused for want of a
    /// leader before it was proposed.
    pub(super) fn surely_not_done(&self) -> bool {
        let Self::Told(error) = self else {
            return false;
        };
        self.is_no_leader()
            || causes(error).filter_map(|cause| cause.downcast_ref::<io::Error>()).any(|error| {
                use io::ErrorKind as Kind;
                matches!(
                    error.kind(),
                    Kind::ConnectionRefused | Kind::HostUnreachable | Kind::NetworkUnreachable
                )
            })
    }

    /// It is this member's trouble, not the request's.
    pub(super) fn another_may_answer(&self) -> bool {
        match self {
            Self::Silent(_) | Self::Odd(_) => true,
            Self::Told(etcd::Error::GRpcStatus(status)) => {
                let code = i32::from(status.code());
                // Unknown is what a broken connection looks like, when etcd itself said nothing.
                let broken = code == code::UNKNOWN && !status.message().starts_with("etcdserver");
                let trouble = [code::CANCELLED, code::DEADLINE_EXCEEDED, code::UNAVAILABLE];
                broken || trouble.contains(&code)
            }
            Self::Told(error) => matches!(
                error,
                etcd::Error::TransportError(_)
                    | etcd::Error::IoError(_)
                    | etcd::Error::WatchError(_)
                    | etcd::Error::EndpointError(_)
            ),
        }
    }

    /// The connection ended under the request: a new one may work at once.
    pub(super) fn is_broken_connection(&self) -> bool {
        matches!(self, Self::Told(_)) && self.another_may_answer() && !self.surely_not_done()
    }

    pub(super) fn is_lease_not_found(&self) -> bool {
        matches!(self, Self::Told(etcd::Error::LeaseKeepAliveError(_)))
            || self.says("requested lease not found")
    }

    fn is_no_leader(&self) -> bool {
        self.says("no leader")
    }

    fn is_out_of_space(&self) -> bool {
        self.says("database space exceeded")
    }

    fn says(&self, words: &str) -> bool {
        match self {
            Self::Told(etcd::Error::GRpcStatus(status)) => status.message().contains(words),
            _ => false,
        }
    }

    /// In words for an operator: the innermost cause, which is what can be acted on.
    pub(super) fn why(&self) -> String {
        match self {
            Self::Silent(patience) => format!("no answer in {:.1} s", patience.as_secs_f64()),
            Self::Odd(what) => what.clone(),
            Self::Told(error) => {
                let innermost = causes(error).last().map(ToString::to_string);
                match (error, innermost) {
                    (etcd::Error::GRpcStatus(status), Some(cause)) if status.source().is_some() => {
                        cause
                    }
                    (etcd::Error::GRpcStatus(status), _) => status.message().to_owned(),
                    (error, _) => error.to_string(),
                }
            }
        }
    }
}

/// The failures of all members that were tried, as one error.
pub(super) fn registry_error(endpoints: &str, failures: Vec<(String, Failure)>) -> RegistryError {
    let endpoints = endpoints.to_owned();
    let told: Vec<String> = failures
        .iter()
        .map(|(endpoint, failure)| format!("{endpoint}: {}", failure.why()))
        .collect();
    let told = told.join("; ");
    if failures.iter().any(|(_, failure)| failure.is_out_of_space()) {
        let why = "its database is full (NOSPACE alarm): compact and defragment it with etcdctl, \
                   then run `etcdctl alarm disarm`, or raise its --quota-backend-bytes";
        return RegistryError::ReadOnly { endpoints, why: why.into() };
    }
    if failures.iter().any(|(_, failure)| failure.is_no_leader()) {
        let why = format!("it has no leader, start a majority of its members again ({told})");
        return RegistryError::ReadOnly { endpoints, why };
    }
    match failures.last() {
        Some((_, failure)) if !failure.another_may_answer() => {
            RegistryError::Refused(failure.why())
        }
        _ => RegistryError::Unreachable { endpoints, why: told },
    }
}

/// An error's causes, outermost first. `etcd::Error` does not name its own source.
fn causes<'a>(error: &'a etcd::Error) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    let first: Option<&'a (dyn Error + 'static)> = match error {
        etcd::Error::GRpcStatus(status) => Some(status),
        etcd::Error::TransportError(error) => Some(error),
        etcd::Error::IoError(error) => Some(error),
        _ => None,
    };
    std::iter::successors(first, |&error| error.source())
}
