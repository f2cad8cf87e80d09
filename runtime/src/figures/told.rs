//! What a guest tells of a container, which may be any, made into what a host can pass on.

use husk_proto::agent::{Pressure, PressureShare, StatsResponse};

/// The largest answer that is read, bytes: many times that of an agent of husk's own. Empty parts of a message take more
/// room in memory than on the wire.
pub const MAX_ANSWER: usize = 64 << 10;

/// The most devices of a guest that are believed.
const MAX_DEVICES: usize = 64;

/// The longest name of a device that is believed, bytes.
const MAX_NAME: usize = 32;

/// The answer with no more devices than a guest has, with names that devices have, and percentages that are some.
pub fn believed(mut told: StatsResponse) -> StatsResponse {
    told.devices.truncate(MAX_DEVICES);
    told.devices.shrink_to_fit();
    let devices = told.devices.iter_mut().map(|device| &mut device.name);
    let layers = told.writable_filesystem.iter_mut().map(|layer| &mut layer.device);
    for name in devices.chain(layers) {
        if !is_name(name) {
            *name = String::new();
        }
    }
    for pressure in [&mut told.cpu_pressure, &mut told.memory_pressure, &mut told.io_pressure] {
        pressure.iter_mut().for_each(bound);
    }
    told
}

fn is_name(name: &str) -> bool {
    name.len() <= MAX_NAME && name.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn bound(pressure: &mut Pressure) {
    for PressureShare { avg10, avg60, avg300, .. } in pressure.some.iter_mut().chain(&mut pressure.full) {
        for average in [avg10, avg60, avg300] {
            // What is no number must be none in JSON made of this.
            *average = if average.is_nan() { 0.0 } else { average.clamp(0.0, 100.0) };
        }
    }
}

#[cfg(test)]
mod tests {
    use husk_proto::agent::{DeviceUsage, FileSystem};

    use super::*;

    #[test]
    fn what_an_agent_says_is_left_as_it_is() {
        let share = PressureShare { total_nanos: 9, avg10: 0.5, avg60: 99.9, avg300: 100.0 };
        let told = StatsResponse {
            cpu_usage_nanos: u64::MAX,
            devices: vec![
                DeviceUsage { name: "vda".into(), reads: u64::MAX, ..Default::default() };
                MAX_DEVICES
            ],
            io_pressure: Some(Pressure { some: Some(share), full: None }),
            writable_filesystem: Some(FileSystem { device: "vdb1".into(), ..Default::default() }),
            ..Default::default()
        };
        assert_eq!(believed(told.clone()), told);
    }

    #[test]
    fn lists_names_and_shares_are_bounded() {
        let share = |average: f64| {
            Some(PressureShare { total_nanos: u64::MAX, avg10: average, avg60: average, avg300: average })
        };
        for name in ["n".repeat(33), "v\0".into(), "../sda".into(), "\u{1b}[2J".into(), "v\u{202e}".into()] {
            let device = DeviceUsage { name: name.clone(), ..Default::default() };
            let told = believed(StatsResponse {
                devices: vec![device; 100_000],
                writable_filesystem: Some(FileSystem { device: name, ..Default::default() }),
                cpu_pressure: Some(Pressure { some: share(f64::NAN), full: share(f64::INFINITY) }),
                memory_pressure: Some(Pressure { some: share(-1.0), full: share(f64::NEG_INFINITY) }),
                io_pressure: Some(Pressure { some: share(1e300), full: None }),
                ..Default::default()
            });
            assert!(told.devices.len() == MAX_DEVICES && told.devices.capacity() < 2 * MAX_DEVICES);
            assert!(told.devices.iter().all(|device| device.name.is_empty()));
            assert_eq!(told.writable_filesystem.map(|layer| layer.device).as_deref(), Some(""));
            let averages = |pressure: Option<Pressure>| {
                let Pressure { some, full } = pressure.unwrap();
                (some.unwrap().avg10, full.unwrap_or_default().avg300)
            };
            assert_eq!(averages(told.cpu_pressure), (0.0, 100.0));
            assert_eq!(averages(told.memory_pressure), (0.0, 0.0));
            assert_eq!(averages(told.io_pressure), (100.0, 0.0));
        }
    }
}
