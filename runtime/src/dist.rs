//! What operators are given, the README and `runtime/dist`, agrees with the code.

use std::path::Path;

use crate::config::{CgroupDriver, Config, HANDLER};
use crate::sandbox::HOST_MIB;

const README: &str = include_str!("../../README.md");
const GUIDE: &str = include_str!("../dist/README.md");
const RUNTIME_CLASS: &str = include_str!("../dist/runtimeclass.yaml");
const KUBELET: &str = include_str!("../dist/kubelet.yaml");
const CRICTL: &str = include_str!("../dist/crictl.yaml");

/// The value behind a key of a YAML file in which the key is used once.
fn value<'a>(yaml: &'a str, key: &str) -> &'a str {
    let mut values = yaml.lines().filter_map(|line| line.trim().strip_prefix(key)?.strip_prefix(": "));
    let value = values.next().unwrap_or_else(|| panic!("no {key}"));
    assert_eq!(values.next(), None, "{key} is there twice");
    value
}

/// The blocks of TOML in a text.
fn blocks(text: &str) -> impl Iterator<Item = &str> {
    text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next())
}

#[test]
fn the_configuration_that_is_shown_is_the_default() {
    let defaults = Config::default();
    let text = blocks(README).find(|block| block.starts_with("socket = ")).expect("the whole configuration");
    let mut shown: Config = toml::from_str(text).unwrap();
    // Shown without their directory, which is husk's own.
    assert_eq!(shown.vm.vmm, Path::new("husk-vmm"));
    assert_eq!(shown.registry.converter, Path::new("husk-convert"));
    shown.vm.vmm.clone_from(&defaults.vm.vmm);
    shown.registry.converter.clone_from(&defaults.registry.converter);
    // An example of what is empty.
    assert!(!std::mem::take(&mut shown.registry.mirrors).is_empty());
    assert_eq!(shown, defaults);
    let handlers = blocks(README).find(|block| block.starts_with("[handlers.")).expect("handlers");
    for block in blocks(GUIDE).chain([handlers]) {
        toml::from_str::<Config>(block).unwrap();
    }
}

#[test]
fn kubelet_and_crictl_find_the_endpoint() {
    let config = Config::default();
    let endpoint = format!("unix://{}", config.socket.display());
    assert_eq!(value(KUBELET, "containerRuntimeEndpoint"), endpoint);
    assert_eq!(value(CRICTL, "runtime-endpoint"), endpoint);
    assert_eq!(value(CRICTL, "image-endpoint"), endpoint);
    assert_eq!(config.cgroup.driver, CgroupDriver::Cgroupfs);
    assert_eq!(value(KUBELET, "cgroupDriver"), "cgroupfs");
    let minutes: u64 = value(KUBELET, "runtimeRequestTimeout").strip_suffix('m').unwrap().parse().unwrap();
    assert!(minutes * 60 > config.vm.boot_timeout_secs);
}

#[test]
fn the_runtime_class_has_the_handler_and_the_overhead_of_the_code() {
    assert_eq!(value(RUNTIME_CLASS, "handler"), HANDLER);
    let overhead = Config::default().vm.memory_overhead_mib + HOST_MIB;
    assert_eq!(value(RUNTIME_CLASS, "memory"), format!("{overhead}Mi"));
}
