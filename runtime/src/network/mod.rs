//! Pod networking on the host: a network namespace for each pod, CNI in it, and a tap beside each of the
//! pod's interfaces, tied to it by traffic control both ways, so that the guest takes the interface's place.
//!
//! Every step leaves a record first (see [`cni::cache`]), so that [`PodNetwork::teardown`] undoes whatever
//! was done, after a restart of the daemon too.

mod cni;
mod counters;
mod error;
mod facts;
mod netns;
mod tap;
mod tc;
#[cfg(test)]
mod tests;
mod types;

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

pub use counters::InterfaceCounters;
pub use error::NetworkError;
pub use types::{
    Dns, GuestInterface, GuestRoute, NetworkConfig, PodNetworkRequest, PodNetworkSetup, PortMapping, Protocol,
};

use husk_failpoint::reach;

use cni::{Attachment, cache};
use facts::Facts;
use tap::Tap;

/// The name that CNI is asked to give to a pod's interface.
const POD_INTERFACE: &str = "eth0";

/// The most interfaces of a pod that are handed to its guest.
const MAX_INTERFACES: usize = 16;

/// A network that is being made: there is a namespace, and taps in it that are not tied to anything.
#[derive(Debug)]
pub struct Begun {
    record: cache::Record,
    taps: Vec<Tap>,
    queues: u8,
}

impl Begun {
    /// The queues of each interface that there will be, as far as that can be known: of so many as the last pod had.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn copy_taps(&self) -> std::io::Result<Vec<Vec<OwnedFd>>> {
        self.taps.iter().map(|tap| tap.queues.iter().map(OwnedFd::try_clone).collect()).collect()
    }
}

/// Makes and unmakes the networks of pods.
#[derive(Clone, Debug)]
pub struct PodNetwork {
    config: NetworkConfig,
    cni: cni::Cni,
    cache: cache::Cache,
    /// How many interfaces the last pod had: so many will the next have.
    interfaces: Arc<AtomicUsize>,
}

impl PodNetwork {
    /// Nothing is read or made before the first use: the CNI configuration may come later than the daemon.
    pub fn new(config: NetworkConfig) -> Self {
        let cni = cni::Cni::new(config.bin_dirs.clone(), config.timeout);
        let cache = cache::Cache::new(config.cache_dir.clone());
        Self { config, cni, cache, interfaces: Arc::new(AtomicUsize::new(1)) }
    }

    /// Whether there is a usable CNI configuration, with all the plugins that it names.
    ///
    /// # Errors
    /// What is missing or wrong; fit for the message of the CRI's `NetworkReady` condition.
    pub fn status(&self) -> Result<(), NetworkError> {
        let list = cni::config::load_first(&self.config.conf_dir)?;
        self.cni.check_plugins(&list)
    }

    /// The file of the CNI configuration, and where each plugin is that it names.
    ///
    /// # Errors
    /// Without a usable configuration.
    pub fn plugins(&self) -> Result<(PathBuf, Vec<Result<PathBuf, NetworkError>>), NetworkError> {
        let list = cni::config::load_first(&self.config.conf_dir)?;
        let found = self.cni.find_plugins(&list);
        Ok((list.source, found))
    }

    /// Sandboxes that have a record: what is set up, or was not torn down to the end.
    ///
    /// # Errors
    /// When the cache directory cannot be read.
    pub fn known(&self) -> Result<Vec<String>, NetworkError> {
        self.cache.list()
    }

    /// Names in the namespaces' directory, one for each sandbox whose namespace exists.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn namespaces(&self) -> Result<Vec<String>, NetworkError> {
        netns::list(&self.config.netns_dir)
    }

    /// The path of a sandbox's network namespace, whether it exists or not.
    pub fn netns_path(&self, sandbox_id: &str) -> PathBuf {
        self.config.netns_dir.join(sandbox_id)
    }

    /// Opens a sandbox's network namespace, for who is to enter it.
    ///
    /// # Errors
    /// When it is not there.
    pub fn open_namespace(&self, sandbox_id: &str) -> Result<OwnedFd, NetworkError> {
        netns::open(&self.netns_path(sandbox_id)).map(OwnedFd::from)
    }

    /// Makes the sandbox's namespace, and taps of `queues` queues in it: a VM can be started beside what follows, which is
    /// [`Self::finish`].
    ///
    /// The taps last as long as their descriptors. When this or that fails, what they did is undone; when a future of theirs
    /// is dropped half-way, [`Self::teardown`] undoes it.
    ///
    /// # Errors
    /// [`NetworkError::AlreadySetUp`] when the sandbox has a record; otherwise what went wrong.
    pub async fn begin(&self, request: &PodNetworkRequest, queues: u8) -> Result<Begun, NetworkError> {
        types::check_request(request)?;
        let list = cni::config::load_first(&self.config.conf_dir)?;
        self.cni.check_plugins(&list)?;
        let attachment = Attachment {
            container_id: request.sandbox_id.clone(),
            netns: self.netns_path(&request.sandbox_id),
            interface: POD_INTERFACE.to_owned(),
            args: cni::pod_args(request),
            port_mappings: request.port_mappings.clone(),
        };
        let record = cache::Record::new(attachment, list);
        self.cache.create(&record)?;
        reach(format_args!("recorded a network that is wanted"));
        let path = record.attachment.netns.clone();
        let interfaces = self.interfaces.load(Ordering::Relaxed);
        let made = async {
            netns::create(&path).await?;
            reach(format_args!("made a network namespace"));
            netns::run(&path, move |netlink| async move {
                facts::bring_up_loopback(&netlink).await?;
                (0..interfaces).map(|number| tap::make(number, queues)).collect()
            })
            .await
        };
        match made.await {
            Ok(taps) => Ok(Begun { record, taps, queues }),
            Err(error) => Err(self.undone(&request.sandbox_id, error).await),
        }
    }

    /// Runs CNI ADD in the namespace, and ties a tap to each of the interfaces: those that there are, and new ones if they are not enough.
    ///
    /// # Errors
    /// What went wrong.
    pub async fn finish(&self, begun: Begun) -> Result<PodNetworkSetup, NetworkError> {
        let id = begun.record.attachment.container_id.clone();
        match self.attach(begun).await {
            Ok(setup) => Ok(setup),
            Err(error) => Err(self.undone(&id, error).await),
        }
    }

    /// Both at once.
    ///
    /// # Errors
    /// What went wrong.
    #[cfg(test)]
    async fn setup(&self, request: &PodNetworkRequest, queues: u8) -> Result<PodNetworkSetup, NetworkError> {
        self.finish(self.begin(request, queues).await?).await
    }

    async fn undone(&self, sandbox_id: &str, error: NetworkError) -> NetworkError {
        if let Err(undo) = self.teardown(sandbox_id).await {
            tracing::warn!(sandbox = sandbox_id, %undo,
                "the network of a sandbox that failed to start is not fully undone; it is tried again on removal");
        }
        error
    }

    async fn attach(&self, begun: Begun) -> Result<PodNetworkSetup, NetworkError> {
        let Begun { mut record, taps, queues } = begun;
        let path = record.attachment.netns.clone();
        let value = self.cni.add(&record.list, &record.attachment).await?;
        let result = cni::result::CniResult::parse(&value, record.list.last_plugin())?;
        reach(format_args!("ran the network plugins' ADD"));
        record.result = Some(value);
        self.cache.update(&record)?;

        let netns = path.clone();
        let (interfaces, routes) = netns::run(&path, move |netlink| async move {
            let facts = facts::read(&netlink).await?;
            if facts.links.is_empty() {
                return Err(NetworkError::NoInterface { netns });
            }
            if facts.links.len() > MAX_INTERFACES {
                return Err(NetworkError::TooManyInterfaces { netns, count: facts.links.len() });
            }
            tie_taps(&netlink, facts, taps, queues).await
        })
        .await?;
        self.interfaces.store(interfaces.len(), Ordering::Relaxed);
        let ips = result.pod_ips().unwrap_or_else(|| addresses_of(&interfaces));
        Ok(PodNetworkSetup { interfaces, routes, ips, dns: result.dns })
    }

    /// Undoes [`Self::begin`] and [`Self::finish`]: CNI DEL as recorded, then the namespace, then the record. A sandbox that is
    /// not known is not an error.
    ///
    /// # Errors
    /// When a plugin's DEL fails: the record stays, so that the next call tries again.
    pub async fn teardown(&self, sandbox_id: &str) -> Result<(), NetworkError> {
        types::check_id(sandbox_id)?;
        let Some(mut record) = self.cache.load(sandbox_id)? else {
            netns::remove(&self.netns_path(sandbox_id)).await?;
            return self.cache.remove(sandbox_id);
        };
        let path = record.attachment.netns.clone();
        if !netns::exists(&path) {
            // The host was restarted, or an earlier teardown was cut short: DEL without a namespace still
            // frees what the plugins hold outside it.
            record.attachment.netns = PathBuf::new();
        }
        self.cni.del(&record.list, &record.attachment, record.result.as_ref()).await?;
        reach(format_args!("ran the network plugins' DEL"));
        netns::remove(&path).await?;
        reach(format_args!("removed a network namespace"));
        self.cache.remove(sandbox_id)
    }

    /// Asks the plugins whether the sandbox's network is still as it was set up (CNI CHECK).
    ///
    /// # Errors
    /// [`NetworkError::NotSetUp`], or the first plugin's complaint.
    pub async fn check(&self, sandbox_id: &str) -> Result<(), NetworkError> {
        types::check_id(sandbox_id)?;
        let not_set_up = || NetworkError::NotSetUp { sandbox_id: sandbox_id.to_owned() };
        let record = self.cache.load(sandbox_id)?.ok_or_else(not_set_up)?;
        let result = record.result.as_ref().ok_or_else(not_set_up)?;
        self.cni.check(&record.list, &record.attachment, result).await
    }

    /// What went over the sandbox's interfaces, the first of them first.
    ///
    /// # Errors
    /// When its namespace is not there.
    pub async fn counters(&self, sandbox_id: &str) -> Result<Vec<InterfaceCounters>, NetworkError> {
        types::check_id(sandbox_id)?;
        let path = self.netns_path(sandbox_id);
        netns::run(&path, |netlink| async move { counters::read(&netlink).await }).await
    }
}

/// Puts a tap beside every link, and describes the links for the guest.
async fn tie_taps(
    netlink: &rtnetlink::Handle,
    facts: Facts,
    taps: Vec<Tap>,
    queues: u8,
) -> Result<(Vec<GuestInterface>, Vec<GuestRoute>), NetworkError> {
    let mut interfaces = Vec::with_capacity(facts.links.len());
    let mut taps = taps.into_iter();
    for (number, link) in facts.links.into_iter().enumerate() {
        let tap = match taps.next() {
            Some(tap) => tap,
            None => tap::make(number, queues)?,
        };
        tap.bring_up(netlink, link.mtu).await?;
        tc::tie(netlink, link.index, tap.index).await?;
        interfaces.push(GuestInterface {
            name: link.name,
            mac: link.mac,
            mtu: link.mtu,
            addresses: link.addresses,
            taps: tap.queues,
        });
    }
    Ok((interfaces, facts.routes))
}

/// The interfaces' addresses without their prefixes, for a CNI result that tells none.
fn addresses_of(interfaces: &[GuestInterface]) -> Vec<IpAddr> {
    let addresses = interfaces.iter().flat_map(|interface| &interface.addresses);
    addresses.filter_map(|cidr| cidr.split('/').next()?.parse().ok()).collect()
}

/// Makes a directory of the daemon's own, closed to others.
fn private_dir(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}
