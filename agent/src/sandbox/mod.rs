//! The pod as a whole: its name, network, kernel parameters, clock and scratch disk.

pub mod cpus;
pub mod disk;
mod files;
pub mod huge_pages;
mod machine_id;
pub mod memory;
mod network;
pub mod partition;
pub mod queues;
mod sysctl;
pub mod volumes;

use std::fs::File;
use std::os::fd::AsFd;

use husk_proto::agent::{ConfigureSandboxRequest, ConfigureSandboxResponse};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};

pub use self::files::{give_files, provided};
use crate::error::{Context, Error, Result};
use crate::sys;

/// The most random bytes taken at once.
const MAX_ENTROPY: usize = 4096;

/// The latest time of day that a host may give: the year 2262's beginning, where `time_nanos` nearly ends.
const LATEST_NANOS: i64 = 9_214_646_400_000_000_000;

/// What the pod has been given, once it has been given it.
#[derive(Default)]
pub struct Sandbox {
    configured: tokio::sync::Mutex<Option<Configured>>,
}

struct Configured {
    /// The request, without what is new in each.
    as_asked: ConfigureSandboxRequest,
    answer: ConfigureSandboxResponse,
}

impl Sandbox {
    /// Configures the guest. Each step can be repeated, so that a call which failed may be made again.
    pub async fn configure(&self, request: ConfigureSandboxRequest) -> Result<ConfigureSandboxResponse> {
        let mut configured = self.configured.lock().await;
        let identity = identity(&request);
        if let Some(done) = &*configured {
            return match done.as_asked == identity {
                true => Ok(done.answer.clone()),
                false => {
                    Err(Error::State("the sandbox has been configured already, with other values".into()))
                }
            };
        }
        check_hostname(&request.hostname)?;
        // First of all: whatever is random from here on is this guest's alone, though it may be a clone.
        add_entropy(&request.entropy)?;
        set_clock(request.time_nanos)?;
        let machine_id = machine_id::renew()?;
        nix::unistd::sethostname(&request.hostname)
            .context(|| format!("setting the hostname {:?}", request.hostname))?;
        network::configure(&request.interfaces, &request.routes).await?;
        for (name, value) in sysctl::DEFAULTS {
            sysctl::set(name, value)?;
        }
        for (name, value) in &request.sysctls {
            sysctl::set(name, value)?;
        }
        files::write(&request)?;
        disk::mount_scratch(&request.scratch_serial).await?;
        let answer = ConfigureSandboxResponse { machine_id };
        *configured = Some(Configured { as_asked: identity, answer: answer.clone() });
        Ok(answer)
    }

    /// An error unless the sandbox has been configured.
    pub async fn ready(&self) -> Result<()> {
        match *self.configured.lock().await {
            Some(_) => Ok(()),
            None => Err(Error::State("the sandbox has not been configured yet (ConfigureSandbox)".into())),
        }
    }
}

/// A repeated call carries the same values, save for those that are new each time.
fn identity(request: &ConfigureSandboxRequest) -> ConfigureSandboxRequest {
    ConfigureSandboxRequest { time_nanos: 0, entropy: Vec::new(), ..request.clone() }
}

/// The name becomes a line of `/etc/hosts`.
fn check_hostname(name: &str) -> Result<()> {
    let fine = (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    if fine {
        Ok(())
    } else {
        Err(Error::Invalid(format!("hostname {name:?} must be 1 to 64 of [A-Za-z0-9._-]")))
    }
}

fn set_clock(nanos: i64) -> Result<()> {
    if nanos == 0 {
        return Ok(());
    }
    if !(0..LATEST_NANOS).contains(&nanos) {
        return Err(Error::Invalid(format!("time_nanos {nanos} is not a time of day between 1970 and 2262")));
    }
    let time = TimeSpec::new(nanos / 1_000_000_000, nanos % 1_000_000_000);
    clock_settime(ClockId::CLOCK_REALTIME, time).context(|| "setting the clock")
}

fn add_entropy(bytes: &[u8]) -> Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    if bytes.len() > MAX_ENTROPY {
        return Err(Error::Invalid(format!("{} bytes of entropy are more than {MAX_ENTROPY}", bytes.len())));
    }
    let random = File::options().write(true).open("/dev/urandom").context(|| "opening /dev/urandom")?;
    sys::add_entropy(random.as_fd(), bytes).context(|| "crediting entropy")?;
    sys::reseed_random(random.as_fd()).context(|| "reseeding the kernel's random numbers")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostnames() {
        for good in ["a", "web-0", "a.b.c", &"h".repeat(64)] {
            check_hostname(good).unwrap();
        }
        for bad in ["", "a b", "a\nb", "ä", "a/b", &"h".repeat(65)] {
            assert!(check_hostname(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_repetition_is_known_by_what_stays() {
        let first = ConfigureSandboxRequest {
            hostname: "h".into(),
            time_nanos: 1,
            entropy: vec![1],
            ..Default::default()
        };
        let again = ConfigureSandboxRequest { time_nanos: 2, entropy: vec![2], ..first.clone() };
        assert_eq!(identity(&first), identity(&again));
        let other = ConfigureSandboxRequest { hostname: "i".into(), ..first.clone() };
        assert_ne!(identity(&first), identity(&other));
    }

    #[test]
    fn impossible_times_and_too_much_entropy_are_refused() {
        assert!(matches!(set_clock(-1), Err(Error::Invalid(_))));
        assert!(matches!(set_clock(i64::MAX), Err(Error::Invalid(_))));
        assert!(matches!(add_entropy(&[0; MAX_ENTROPY + 1]), Err(Error::Invalid(_))));
    }
}
