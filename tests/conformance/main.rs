//! `husk-conformance [FOCUS]`: runs critest, the CRI's conformance suite, against a node of husk and compares what
//! came of each spec with the list in `outcomes.txt`, in both directions. With FOCUS, a regular expression for
//! specs' names, only those are run and nothing is compared; with `benchmark`, only critest's benchmarks. It runs in
//! the test bed (`make conformance`).
#![forbid(unsafe_code)]

mod outcomes;
mod report;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use husk_tests::{Bed, step};
use tokio::runtime::Runtime;

use outcomes::Expected;
use report::{Outcome, Report};

/// What critest's benchmarks do. A few times of each are enough, as it is only whether they pass that counts here;
/// husk's own benchmarks measure. Times are seconds that an operation may take.
const BENCHMARKS: &str = r#"
containersNumber: 3
containersNumberParallel: 3
containerBenchmarkTimeoutSeconds: 120
podsNumber: 3
podsNumberParallel: 3
podBenchmarkTimeoutSeconds: 120
imagesNumber: 3
imageBenchmarkTimeoutSeconds: 120
imagePullingBenchmarkImage: gcr.io/k8s-staging-cri-tools/test-image-1:latest
imageListingBenchmarkImages: ["gcr.io/k8s-staging-cri-tools/test-image-2:latest"]
podContainerStartBenchmarkTimeoutSeconds: 120
"#;

/// As a focus: critest's benchmarks alone.
const BENCHMARK: &str = "benchmark";
const BENCHMARK_FLAG: &str = "-benchmark";

/// Under emulation a guest is lost now and then: a spec may be tried so often.
const EMULATED_ATTEMPTS: u32 = 2;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let focus = arguments.next();
    assert!(arguments.next().is_none(), "usage: husk-conformance [FOCUS]");
    let runtime = Runtime::new().expect("start the async runtime");
    let bed = runtime.block_on(Bed::start(Some(&["busybox"])));
    push(&bed);
    let begun = Instant::now();
    let report = match focus.as_deref() {
        Some(BENCHMARK) => critest(&bed, &[BENCHMARK_FLAG]),
        Some(focus) => critest(&bed, &["-ginkgo.v", "-ginkgo.focus", focus]),
        None => {
            let mut report = critest(&bed, &["-ginkgo.v"]);
            // "Instead of validation tests", which skip them.
            report.fill_in(critest(&bed, &[BENCHMARK_FLAG]));
            report
        }
    };
    let took = begun.elapsed();
    runtime.block_on(bed.clear());
    let clean = bed.check_clean();
    println!("\n{}", report.summary(took));
    let mut good = true;
    if let Err(left) = clean {
        println!("left behind: {left}");
        good = false;
    }
    if focus.is_none() {
        for difference in Expected::of_the_list().differences(&report) {
            println!("{difference}");
            good = false;
        }
    }
    println!("{}", if good { "as expected" } else { "NOT as expected" });
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Every image of the layout, by its reference without the registry.
fn push(bed: &Bed) {
    let layout = bed.paths.conformance_images();
    let index = fs::read(layout.join("index.json")).expect("the images' index: run `make conformance`");
    let index: serde_json::Value = serde_json::from_slice(&index).expect("an index is JSON");
    for image in index["manifests"].as_array().expect("an index has manifests") {
        let name = image["annotations"]["org.opencontainers.image.ref.name"].as_str().expect("a reference");
        bed.registry.push(&layout, name, name);
    }
}

fn critest(bed: &Bed, arguments: &[&str]) -> Report {
    let dir = bed.scratch("critest");
    let (file, benchmarks) = (dir.join("report.json"), dir.join("benchmarks.yaml"));
    fs::write(&benchmarks, BENCHMARKS).expect("write the benchmarks' parameters");
    let endpoint = bed.daemon.endpoint();
    let mut command = Command::new(bed.paths.tool("critest"));
    command
        .args(["-runtime-endpoint", &endpoint, "-image-endpoint", &endpoint])
        .args(["-ginkgo.no-color", "-ginkgo.timeout", "3h"])
        .args(["-benchmarking-params-file", &benchmarks.display().to_string()])
        .args(["-ginkgo.json-report", &file.display().to_string()])
        .stdin(Stdio::null());
    if std::env::var_os("HUSK_TESTBED_EMULATED").is_some() {
        command.args(["-ginkgo.flake-attempts", &EMULATED_ATTEMPTS.to_string()]);
    }
    command.args(arguments);
    step(format!("critest begins {}", arguments.join(" ")));
    let status = command.status().expect("start critest");
    step(format!("critest ended: {status}"));
    Report::read(&file).unwrap_or_else(|e| {
        panic!("{e}\n-- the end of the daemon's log:\n{}", bed.daemon.log_tail());
    })
}

/// What came of the specs, by their names.
type Specs = BTreeMap<String, Outcome>;

/// The list of exceptions.
const LIST: &str = include_str!("outcomes.txt");

/// Where it is, for messages.
fn list_path() -> &'static Path {
    Path::new("tests/conformance/outcomes.txt")
}
