//! The files that the pod's containers see in their `/etc`.

use std::fs;
use std::io;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use husk_proto::agent::ConfigureSandboxRequest;

use crate::error::{Context, Error, Result};
use crate::owner::Owner;
use crate::paths;

/// The longest resolv.conf, in bytes.
const MAX_RESOLV_CONF: usize = 64 << 10;

const RESOLV_CONF: &str = "resolv.conf";
const HOSTNAME: &str = "hostname";
const HOSTS: &str = "hosts";

/// Writes the files.
pub fn write(request: &ConfigureSandboxRequest) -> Result<()> {
    if request.resolv_conf.len() > MAX_RESOLV_CONF {
        return Err(Error::Invalid(format!(
            "a resolv.conf of {} bytes is too long",
            request.resolv_conf.len()
        )));
    }
    let put = |name: &str, text: &str| {
        let path = Path::new(paths::ETC).join(name);
        fs::write(&path, text).context(|| format!("writing {}", path.display()))
    };
    if !request.resolv_conf.is_empty() {
        put(RESOLV_CONF, &request.resolv_conf)?;
    }
    put(HOSTNAME, &format!("{}\n", request.hostname))?;
    put(HOSTS, &hosts(request))
}

fn hosts(request: &ConfigureSandboxRequest) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n\
         ff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    let addresses = request.interfaces.iter().flat_map(|interface| &interface.addresses);
    for address in addresses.filter_map(|cidr| cidr.split_once('/').map(|(address, _)| address)) {
        text.push_str(&format!("{address}\t{}\n", request.hostname));
    }
    text
}

/// Gives the files to the root of the pod's user namespace, whose containers are to be able to write them.
pub fn give_files(owner: &Owner) -> Result<()> {
    for name in [RESOLV_CONF, HOSTNAME, HOSTS] {
        let path = Path::new(paths::ETC).join(name);
        match chown(&path, Some(owner.uid), Some(owner.gid)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(e).context(|| format!("giving {} to the pod's root", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The file behind a bind mount's source in the protocol's form (`husk:hosts`). A volume that the guest makes keeps
/// its name until it is made.
pub fn provided(source: &str) -> Result<PathBuf> {
    if source.starts_with(husk_proto::GUEST_VOLUME_SOURCE) {
        return Ok(source.into());
    }
    if let Some(place) = source.strip_prefix(husk_proto::VOLUME_SOURCE) {
        return super::volumes::place(place);
    }
    let name = match source.strip_prefix("husk:") {
        Some(name @ (RESOLV_CONF | HOSTNAME | HOSTS)) => name,
        _ => {
            return Err(Error::Invalid(format!(
                "bind mount of {source:?}: only husk:resolv.conf, husk:hostname, husk:hosts, husk:volume/… and \
                 husk:guest-volume/… are there"
            )));
        }
    };
    Ok(Path::new(paths::ETC).join(name))
}

#[cfg(test)]
mod tests {
    use husk_proto::agent::Interface;

    use super::*;

    #[test]
    fn hosts_name_the_pod() {
        let request = ConfigureSandboxRequest {
            hostname: "web-0".into(),
            interfaces: vec![Interface {
                addresses: vec!["10.1.2.3/24".into(), "fd00::3/64".into()],
                ..Interface::default()
            }],
            ..ConfigureSandboxRequest::default()
        };
        let text = hosts(&request);
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with("10.1.2.3\tweb-0\nfd00::3\tweb-0\n"));
    }

    #[test]
    fn only_the_agents_own_files_are_provided() {
        assert_eq!(provided("husk:hosts").unwrap(), Path::new("/run/husk/etc/hosts"));
        for source in ["/etc/hosts", "husk:", "husk:../x", "husk:shadow", "husk:volume/../1", ""] {
            assert!(matches!(provided(source), Err(Error::Invalid(_))), "{source:?}");
        }
    }
}
