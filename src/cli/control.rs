//! A control host of a cluster, as `troupe up --etcd` makes the first one and `troupe join` every
//! further one: controller, gateway and node, or some of them, behind one door where operators and
//! newcomers knock.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use clap::ValueEnum;

use troupe_actors::{
    host::{
        Desks,
        join::{JoinDesk, Registrar, RenewDesk},
        tokens::Tokens,
    },
    node::logs::Shelf,
    operate::OperateDesk,
};
use troupe_runtime::{
    clock::approximately,
    discovery::directory::{self, ControlRecord, TokenKind},
    shutdown::{Shutdown, shutdown},
    transport::{
        PeerAddr, PeerIdentity, PeerRole,
        tls::{ClusterAuthority, Guests, Identity},
    },
    wire::{self, operate::NewToken},
};

use super::{
    Failure,
    args::{HostArgs, HttpArgs},
    node::Offered,
    say, say_picker,
};
use crate::stack::{
    asked_to_end, colleagues, declare, hub,
    identity::DataDir,
    inventory::Offer,
    listen::{Place, are_loopback},
    membership::Membership,
    operator,
    presence::Presence,
    roles::{self, GatewayPlace},
    upkeep::{Kept, Source, Store, Upkeep},
};

/// What a process of a control host is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Role {
    Controller,
    Gateway,
    Node,
}

/// A control host.
pub(super) struct ControlHost<'a> {
    pub(super) dir: &'a DataDir,
    pub(super) authority: Arc<ClusterAuthority>,
    pub(super) etcd: &'a [String],
    pub(super) listen: SocketAddr,
    pub(super) roles: &'a [Role],
    pub(super) http: &'a HttpArgs,
    pub(super) host: &'a HostArgs,
    /// Services to declare.
    pub(super) services: Vec<serde_json::Value>,
    /// Whether it prints how to add a host, with a token.
    pub(super) invites: bool,
}

impl ControlHost<'_> {
    /// Runs until the process is asked to end, or is not to be here any more.
    pub(super) async fn run(mut self, logging: Vec<String>) -> Result<(), Failure> {
        let (control, control_dir) = self.identity(PeerRole::Control)?;
        let (operator, operator_dir) = self.identity(PeerRole::Operator)?;
        let (node, node_dir) = self.identity(PeerRole::Node)?;
        let me = control.name().clone();
        let membership = Membership::etcd(self.etcd, &control).await?;
        membership.check_in(me.node, self.dir.path()).await?;
        for document in std::mem::take(&mut self.services) {
            declare::declare(&membership.registry, &membership.keys, document).await?;
        }
        let (owner, listener) = shutdown();
        let mut place = Place::take(&control, self.listen, Guests::Newcomers)?;
        let controller = match self.has(Role::Controller) {
            true => {
                let office = membership.office().await?;
                let link = Some(place.link());
                Some((roles::controller(&membership, office.clone(), link).await?, office))
            }
            false => None,
        };
        let shelf = Shelf::new(self.dir.path());
        let offer = match self.has(Role::Node) {
            true => self.host.offer()?,
            false => Offer::cpu(0),
        };
        place.open(self.desks(&membership, &place, &offer));
        let _presence = self.register(&membership, &me, &place, listener.clone()).await?;
        operator::write(&operator, &operator_dir, &[place.address()])?;
        let kept = |identity, dir: &PathBuf, link| Kept { identity, dir: dir.clone(), link };
        let identities = vec![
            kept(control, &control_dir, Some(place.quic())),
            kept(operator, &operator_dir, None),
            kept(node, &node_dir, None),
        ];
        let source = Source::Here(self.authority.clone());
        let mut upkeep = Upkeep::start(&membership, place.quic(), me.node, &source, identities);
        upkeep.and(colleagues::follow(Store::of(&membership), operator_dir.clone()));
        let mut gateway = match self.has(Role::Gateway) {
            true => {
                let at = GatewayPlace { id: me.node, host: self.listen.ip() };
                let mut config = self.http.config()?;
                config.data_dir = Some(self.dir.path().to_owned());
                let gateway =
                    roles::gateway(&membership, config, at, place.link(), listener).await?;
                say_picker(gateway.picker_address());
                say(&format!("gateway on http://{}", gateway.address()));
                Some(gateway)
            }
            false => None,
        };
        let mut node = match self.has(Role::Node) {
            true => {
                let offered = Offered {
                    host: self.host,
                    devices: offer,
                    data_dir: self.dir.path(),
                    identity_dir: node_dir,
                    place: &place,
                    shelf,
                    away: upkeep.away(),
                };
                let name = PeerIdentity { role: PeerRole::Node, ..me.clone() };
                Some(offered.start(&membership, &name, self.listen, logging).await?)
            }
            false => None,
        };
        say(&format!("operators: troupe get nodes --context {}", operator_dir.display()));
        self.say_how_to_join(&membership, &me, &place.address()).await?;
        let ended = tokio::select! {
            () = asked_to_end() => Ok(()),
            revoked = upkeep.revoked() => Err(revoked),
        };
        if ended.is_ok() {
            say("stopping: requests in flight are finished first");
            owner.begin();
            let drained = async {
                // The gateway first: what it has begun may run on this very host.
                if let Some(gateway) = &mut gateway {
                    gateway.wait().await;
                }
                if let Some(node) = &mut node {
                    roles::leave(node, self.host.drain_timeout).await;
                }
            };
            tokio::select! {
                () = drained => {}
                () = asked_to_end() => say("stopping at once"),
            }
        }
        drop(node);
        if let Some((controller, office)) = controller {
            drop(controller);
            // Whoever follows takes over at once, and not when the lease runs out.
            let _ = office.revoke().await;
        }
        let _ = membership.lease.revoke().await;
        ended
    }

    fn has(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    fn identity(&self, role: PeerRole) -> Result<(Identity, PathBuf), Failure> {
        self.dir.identity(role, &self.authority)
    }

    /// Who answers what at its door.
    fn desks(&self, membership: &Membership, place: &Place, offer: &Offer) -> Desks {
        let (registry, keys) = (membership.registry.clone(), membership.keys.clone());
        let operate = OperateDesk::new(registry.clone(), keys.clone(), place.link());
        let operate = operate.with_hub(hub()).admitting(self.authority.pin());
        let registrar = Registrar {
            authority: self.authority.clone(),
            registry,
            keys,
            etcd: self.etcd.to_vec(),
            address: place.address().to_string(),
        };
        let preflight = roles::preflight_desk(membership, place.link(), place.address());
        Desks {
            operate: Some(Arc::new(operate)),
            join: Some(Arc::new(JoinDesk(registrar.clone()))),
            renew: Some(Arc::new(RenewDesk(registrar))),
            host: Some(Arc::new(roles::host_desk(self.dir.path(), offer, place.link()))),
            preflight: Some(Arc::new(preflight)),
            guest: None,
        }
    }

    /// Says that it is there, for as long as it is.
    async fn register(
        &self,
        membership: &Membership,
        me: &PeerIdentity,
        place: &Place,
        ending: Shutdown,
    ) -> Result<Presence, Failure> {
        let record = ControlRecord {
            id: me.node,
            name: self.host.name(),
            address: place.address().to_string(),
            version: env!("CARGO_PKG_VERSION").into(),
            wire: wire::VERSION,
        };
        let key = membership.keys.control(me.node);
        Presence::put(&membership.lease, key, directory::to_bytes(record), ending).await
    }

    /// Once, where the cluster was just formed: a secret does not belong in every start's log.
    async fn say_how_to_join(
        &self,
        membership: &Membership,
        me: &PeerIdentity,
        door: &PeerAddr,
    ) -> Result<(), Failure> {
        if !self.invites {
            say("to add a host: `troupe token create` prints what to run there");
            return Ok(());
        }
        let tokens = Tokens::new(membership.registry.clone(), membership.keys.clone());
        let new =
            NewToken { kind: TokenKind::Node, ttl: INVITATION.as_secs(), uses: 1, operator: true };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let made = tokens.create(&new, self.authority.pin(), &me.to_string(), now.as_secs()).await;
        let (token, _) = made.map_err(|error| Failure::run(error.to_string()))?;
        let door = door.to_string();
        let door = door.trim_start_matches("quic://");
        say(&format!(
            "to add a host, run there within {}:\n\n  troupe join {door} --token {token}\n\n\
             `troupe token create` makes more tokens",
            approximately(INVITATION)
        ));
        if self.listen.ip().is_loopback() {
            say(&format!(
                "only this host reaches {}: --listen ADDR says where others do",
                self.listen.ip()
            ));
        } else if are_loopback(self.etcd) {
            say(&format!(
                "only this host reaches etcd at {}: --etcd has to say where others do",
                self.etcd.join(",")
            ));
        }
        Ok(())
    }
}

/// For how long the first token is good.
const INVITATION: Duration = Duration::from_secs(2 * 3600);
