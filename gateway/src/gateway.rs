//! Starting a gateway, and holding on to it.

use std::{io, net::SocketAddr, sync::Arc};

use tokio::{
    net::{TcpListener, TcpSocket},
    task::JoinSet,
};
use troupe_runtime::{
    discovery::{Lease, Registry, keys::Keys},
    id::NodeId,
    shutdown::Shutdown,
    transport::Link,
};

use crate::{
    config::GatewayConfig,
    epp,
    foreign::keeper,
    holding::{declared, desk},
    placement::{follower, services},
    rules, server,
    state::Gateway,
};

/// Why a gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// Another process has the port.
    #[error("port {port} on {ip} is in use; stop who has it, or choose another with {flag}")]
    PortInUse {
        /// The address.
        ip: std::net::IpAddr,
        /// The port.
        port: u16,
        /// The flag that says it.
        flag: &'static str,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
}

/// A running gateway. Dropping it ends it at once; to end it in order, begin the shutdown that it
/// was given and [`GatewayHandle::wait`].
#[derive(Debug)]
pub struct GatewayHandle {
    address: SocketAddr,
    picker_address: Option<SocketAddr>,
    tasks: JoinSet<()>,
}

/// Where a gateway finds its cluster, and who it is there.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Its way to the leaders.
    pub link: Arc<dyn Link>,
    /// The store.
    pub registry: Arc<dyn Registry>,
    /// The cluster's keys.
    pub keys: Keys,
    /// Under which it tells what it waits for.
    pub lease: Arc<dyn Lease>,
    /// Its identity.
    pub id: NodeId,
}

/// Starts a gateway: it listens when this returns, and is healthy once an endpoint is ready.
///
/// To be called within a runtime. It is no `async` function on purpose: what such a function does,
/// and all that it starts, is compiled in the crate that awaits it, and no faster than that is
/// meant to be.
///
/// # Errors
/// [`GatewayError`] if it cannot listen.
pub fn serve(
    config: GatewayConfig,
    surroundings: Surroundings,
    shutdown: Shutdown,
) -> Result<GatewayHandle, GatewayError> {
    let (listener, address) = listen(config.listen, "--port")?;
    let picker = config.picker_listen.map(|at| listen(at, "--grpc-port")).transpose()?;
    let Surroundings { link, registry, keys, lease, id } = surroundings;
    let data_dir = config.data_dir.clone();
    let gateway = Arc::new(Gateway::new(config));
    let (directory, holding) = (Arc::clone(&gateway.directory), Arc::clone(&gateway.holding));
    let (catalog, flow) = (Arc::clone(&holding.catalog), Arc::clone(&gateway.flow));
    let (book, foreign) = (Arc::clone(&gateway.book), Arc::clone(&gateway.foreign));
    let (models, deaths) = (Arc::clone(&gateway.models), Arc::clone(&gateway.deaths));
    let endpoints = follower::Follower::new(directory, link, models, deaths, data_dir.clone());
    let declared =
        rules::follower::run((book, Arc::clone(&foreign)), registry.clone(), keys.clone());
    let placed = services::run(catalog.changes(), Arc::clone(&gateway.directory));
    let services = declared::Follower::new(catalog, keys.clone(), data_dir);
    let deaths = Arc::clone(&gateway.deaths).run(registry.clone(), keys.clone());
    let mut tasks = JoinSet::new();
    tracing::info!(%address, "gateway listens");
    let picker_address = picker.as_ref().map(|(_, address)| *address);
    if let Some((listener, own)) = picker {
        tracing::info!(address = %own, "the endpoint picker's service listens");
        let gateway = Arc::clone(&gateway);
        tasks.spawn(epp::server::run(listener, gateway, address, shutdown.clone()));
    }
    tasks.spawn(async move {
        // These live as long as requests may need an endpoint, and not longer.
        tokio::select! {
            () = server::run(listener, gateway, shutdown) => {}
            never = endpoints.run(registry.clone(), keys.clone()) => match never {},
            never = services.run(registry.clone()) => match never {},
            never = placed => match never {},
            never = keeper::run(foreign) => match never {},
            never = flow.run() => match never {},
            never = declared => match never {},
            never = deaths => match never {},
            never = desk::run(holding, lease, keys, id) => match never {},
        }
    });
    Ok(GatewayHandle { address, picker_address, tasks })
}

/// Connections that may wait to be accepted: a second's worth of them at a busy moment.
const BACKLOG: u32 = 4096;

/// What the kernel keeps for a client that does not read; without a bound it grows to several MiB
/// per connection. Connections have it from the socket that accepts them.
const SEND_BUFFER_BYTES: u32 = 256 << 10;

fn listen(
    listen: SocketAddr,
    flag: &'static str,
) -> Result<(TcpListener, SocketAddr), GatewayError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => {
            GatewayError::PortInUse { ip: listen.ip(), port: listen.port(), flag }
        }
        _ => GatewayError::Listen { address: listen, source },
    };
    let listener = bind(listen).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A gateway that is started again need not wait for its old connections' ends.
    socket.set_reuseaddr(true)?;
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

// === impl GatewayHandle ===

impl GatewayHandle {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where proxies ask it who answers a request, if they may.
    pub fn picker_address(&self) -> Option<SocketAddr> {
        self.picker_address
    }

    /// Returns when it has ended.
    pub async fn wait(&mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}
