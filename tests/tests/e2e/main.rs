//! End-to-end tests: a real daemon, real VMs, a real registry, real CNI plugins. They run in the test bed, one
//! after the other on one node; after each, no pod and nothing of any pod may be left.
#![forbid(unsafe_code)]

mod bad_input;
mod crictl;
mod disks;
mod exec;
mod faults;
mod handlers;
mod images;
mod isolation;
mod life;
mod logs;
mod network;
mod node;
mod process;
mod templates;
mod user_namespaces;
mod volume_kinds;
mod volumes;
mod watchdog;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use husk_tests::{Bed, step};
use libtest_mimic::{Arguments, Failed, Trial};
use tokio::runtime::Runtime;
use watchdog::Watchdog;

/// No test may take longer.
const LIMIT: Duration = Duration::from_secs(420);

type Work = Pin<Box<dyn Future<Output = ()>>>;
type Test = fn(Arc<Bed>) -> Work;

/// What all tests share. The node is started for the first of them.
struct Shared {
    runtime: Runtime,
    bed: Mutex<Option<Arc<Bed>>>,
    /// How many failed tests may still be run once more.
    second_chances: AtomicUsize,
}

/// Emulated KVM loses a guest now and then, about one in a hundred: that many tests of a run may fail once
/// there. On real KVM none may.
fn second_chances() -> usize {
    if std::env::var_os("HUSK_TESTBED_EMULATED").is_some() { 3 } else { 0 }
}

impl Shared {
    fn bed(&self) -> Arc<Bed> {
        let mut bed = self.bed.lock().unwrap_or_else(PoisonError::into_inner);
        bed.get_or_insert_with(|| Arc::new(self.runtime.block_on(Bed::start(None)))).clone()
    }

    fn run(&self, name: &str, test: Test) -> Result<(), Failed> {
        let outcome = self.run_once(name, test);
        let left = |chances: usize| chances.checked_sub(1);
        if outcome.is_err() && self.second_chances.fetch_update(Relaxed, Relaxed, left).is_ok() {
            step(format!("== {name} once more: emulated KVM may have lost a guest"));
            return self.run_once(name, test);
        }
        outcome
    }

    fn run_once(&self, name: &str, test: Test) -> Result<(), Failed> {
        step(format!("== {name}"));
        let bed = self.bed();
        let _watchdog = Watchdog::watch(name, 2 * LIMIT + Duration::from_secs(60));
        let mut faults = Vec::new();
        let mut attempt = |what: &str, work: Work| {
            let limited = async { tokio::time::timeout(LIMIT, work).await };
            match catch_unwind(AssertUnwindSafe(|| self.runtime.block_on(limited))) {
                Ok(Ok(())) => {}
                Ok(Err(_)) => faults.push(format!("{what} took longer than {} s", LIMIT.as_secs())),
                Err(panic) => faults.push(format!("{what}: {}", text(panic.as_ref()))),
            }
        };
        attempt("the test", test(bed.clone()));
        let clearing = bed.clone();
        attempt("removing its pods", Box::pin(async move { clearing.clear().await }));
        if let Err(left) = bed.check_clean() {
            faults.push(left);
        }
        if faults.is_empty() {
            return Ok(());
        }
        println!("{}\n-- the end of the daemon's log:\n{}\n--", faults.join("\n"), bed.daemon.log_tail());
        // What it has left behind, or changed of the daemon, is no other test's matter.
        *self.bed.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Err(faults.join("\n").into())
    }
}

fn text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without a text").to_owned()
}

fn trial(shared: &Arc<Shared>, name: &'static str, test: Test) -> Trial {
    let shared = Arc::clone(shared);
    Trial::test(name, move || shared.run(name, test))
}

/// The tests of modules, or of modules in a folder, by their paths.
macro_rules! trials {
    ($shared:expr; @ [] $module:ident: $($name:ident),+) => {
        vec![$(trial(&$shared, concat!(stringify!($module), "::", stringify!($name)), |bed| Box::pin($module::$name(bed)))),+]
    };
    ($shared:expr; @ [$folder:ident] $module:ident: $($name:ident),+) => {
        vec![$(trial(
            &$shared,
            concat!(stringify!($folder), "::", stringify!($module), "::", stringify!($name)),
            |bed| Box::pin($folder::$module::$name(bed)),
        )),+]
    };
    ($shared:expr; $($([$folder:ident])? $module:ident: $($name:ident),+;)+) => {
        [$(trials![$shared; @ [$($folder)?] $module: $($name),+]),+].into_iter().flatten().collect()
    };
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // They share one host: what is left on it must be of one test alone.
    arguments.test_threads = Some(1);
    let runtime = Runtime::new().expect("start the async runtime");
    let shared = Arc::new(Shared { runtime, bed: Mutex::new(None), second_chances: second_chances().into() });
    let trials: Vec<Trial> = trials![shared;
        crictl: whole_life;
        process: image_configuration, request_overrides_image, users_and_groups, read_only_root, exit_codes_and_reasons,
            command_not_in_image, out_of_memory, stop_signal_and_timeout, isolation, shared_processes, real_time, seccomp, limits_and_figures;
        exec: output_and_exit_codes, timeout_kills, only_where_a_container_runs;
        logs: ten_megabytes_arrive_whole, long_lines_and_both_streams, rotation, no_log_asked_for;
        network: containers_share_localhost, pods_reach_each_other_and_the_host, nginx_and_host_port,
            names_and_resolver, much_data_between_pods;
        life: filters, idempotence, unknown_ids, same_name_twice, stopped_pod, attempts;
        images: pull_list_remove, platform_of_an_index, layers_are_whole, malformed_references, not_in_the_registry,
            damaged_content, unreachable_registry, wrong_platform;
        disks: container_disk, partitions, from_files, debian;
        bad_input: incomplete_requests, host_namespaces, log_paths, oversize_request, checkpoints,
            what_is_not_served;
        [faults] parts: plugin_fails_to_add, plugin_fails_to_delete, plugin_hangs, no_network_configured, no_kvm, vmm_killed, volume_server_killed;
        isolation: doors, monitors, a_call_that_is_not_allowed, users_run_out, volume_servers, conversion_workers;
        [faults] restart: pod_goes_on, vmm_dies_meanwhile;
        [faults] crashes: while_a_pod_starts, while_a_pod_is_removed, while_a_container_starts, while_a_container_ends,
            while_an_image_comes_and_goes;
        [faults] more_crashes: while_volumes_come_and_go, while_resources_change, while_a_command_runs, while_streams_are_open,
            while_a_port_is_connected;
        [faults] template_crashes: while_a_template_is_made, while_templates_go;
        [faults] limits: open_files, processes, memory;
        [faults] read_only: store;
        [faults] registry: that_misbehaves;
        [faults] upgrade: other_build_takes_over;
        handlers: tuned, network_queues;
        [faults] hostile_agent: harms_nobody;
        [faults] host: damaged_store, full_disk, full_log_disk, caller_goes_away, clock_jumps;
        templates: clones_differ, clone_of_own_size, small_sizes, who_shares;
        volumes: seen_from_both_sides, read_only, propagation, malformed_requests, after_a_restart, share_is_sealed, removed_on_the_host;
        volume_kinds: images, memory, block_device, read_only_device, other_devices;
        [node] cgroups: where_kubelet_says, by_default, figures, found_after_a_restart, both_versions, none_usable, driver_is_told, bad_parents,
            memory_of_the_host;
        [node] streaming: commands, large_output, half_closed_input, terminal, many_at_once, killed_client, attached_output,
            attached_input, attached_terminal, forwarded_ports, refused_port, urls, wrong_requests, idle_streams;
        [node] events: whole_life, accidents, slow_listener, daemon_ends, by_crictl;
        [node] lists: as_the_unary_calls;
        [node] limits: of_a_pod, of_containers, free_memory_goes_back;
        [node] metrics: under_load, hung_guest;
        user_namespaces: ids, processes, volumes, refused;
        [node] command_line: run_passes_output_and_code, run_on_the_network, run_refuses, check_of_a_fit_host,
            check_names_what_is_missing, check_hints, serve_refuses;
        [node] observe: metrics, traces, collector_away, json_lines;
        [node] operator: looks_at_a_pod, says_what_is_not_there;
        [node] churn: four_pods_at_a_time;
    ];
    let conclusion = libtest_mimic::run(&arguments, trials);
    // The node ends here: leaving main by exit() would leave it running.
    drop(shared);
    conclusion.exit_code()
}
