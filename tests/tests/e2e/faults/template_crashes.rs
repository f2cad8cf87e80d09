//! As [`super::crashes`], of the templates whose clones pods are.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use husk_proto::cri;
use husk_tests::{Bed, Pod, entries, pod, sh, wait_for};
use tonic::Status;

use super::crashes::at_each_point;
use crate::templates::{MAKING, damage, templates, without_then_with};

/// Templates of a daemon, and what is half made of them.
struct Templates<'a>(&'a Bed);

impl Templates<'_> {
    fn below(&self) -> Vec<PathBuf> {
        let builds = self.0.daemon.templates();
        builds.iter().filter(|dir| dir.is_dir()).flat_map(|dir| entries(dir)).collect()
    }

    fn half_made(&self) -> Vec<PathBuf> {
        self.below().into_iter().filter(|dir| dir.extension().is_some()).collect()
    }

    fn whole(&self) -> Vec<PathBuf> {
        templates(self.0)
    }

    /// VMs that are to become some.
    fn in_making(&self) -> Vec<PathBuf> {
        entries(&self.0.daemon.run.join("templates"))
    }

    fn forget(&self) {
        self.below().iter().for_each(|dir| fs::remove_dir_all(dir).expect("remove a template"));
    }

    /// Waits until the whole ones are as wanted and none is being made; an error when the daemon has ended before.
    async fn settled(&self, wanted: impl Fn(&[PathBuf]) -> bool) -> Result<(), Status> {
        wait_for("templates, or the daemon's end", MAKING, || async {
            match self.0.client.runtime().version(cri::VersionRequest::default()).await {
                Err(ended) => Some(Err(ended)),
                Ok(_) => (wanted(&self.whole()) && self.in_making().is_empty()).then_some(Ok(())),
            }
        })
        .await
    }

    /// Nothing is left of one that was being made.
    async fn check_clean(&self) {
        assert!(self.in_making().is_empty() && self.half_made().is_empty(), "{:?}", self.below());
        self.0.clear().await;
        self.0.check_clean().expect("nothing is left of a template's VM");
    }
}

async fn run(bed: &Bed, handler: &str) -> Result<Pod, Status> {
    Pod::try_run(&bed.client, handler, bed.with_logs(pod("first"))).await
}

/// A template that is being made: it is whole and pods are its clones, or nothing of it is left and the next pod's is made.
pub async fn while_a_template_is_made(bed: Arc<Bed>) {
    let all = Templates(&bed);
    let work = async || {
        let _first = run(&bed, "").await?;
        all.settled(|whole| !whole.is_empty()).await
    };
    let settle = async || {
        let whole = !all.whole().is_empty();
        all.check_clean().await;
        if whole {
            let clone = bed.pod(pod("clone")).await;
            assert!(clone.is_clone().await, "{}", bed.daemon.log_tail());
            assert_eq!(clone.output("echo up").await, "up\n");
            clone.remove().await;
        }
        all.forget();
    };
    bed.clear().await;
    all.settled(|_| true).await.expect("the daemon");
    all.forget();
    at_each_point(&bed, 6, &["template"], work, settle).await;
}

/// Templates that go, one for its damage and one for another's sake: pods run all the same, and nothing is left of them.
pub async fn while_templates_go(bed: Arc<Bed>) {
    let all = Templates(&bed);
    // One that was used lately makes no room.
    let age = |template: &Path| {
        let long_ago = SystemTime::now().checked_sub(Duration::from_secs(3600)).expect("a time");
        File::open(template).and_then(|dir| dir.set_modified(long_ago)).expect("age a template");
    };
    let damaged = async || {
        let pod = run(&bed, "").await.expect("RunPodSandbox");
        all.settled(|whole| whole.len() == 1).await.expect("a template");
        pod.remove().await;
        damage(&all.whole()[0]);
    };
    bed.clear().await;
    bed.daemon.restart_with("templates = false\n", "").await;
    bed.daemon.restart_with("max_templates = 1\n", "[handlers.other]\n").await;
    damaged().await;
    // What each kill begins with is a copy: the daemon finds it when it starts.
    let (place, copy) = (all.whole().remove(0), bed.scratch("damaged").join("template"));
    let copied = |from: &Path, to: &Path| {
        sh(&format!("cp -a --sparse=always {} {}", from.display(), to.display()));
    };
    copied(&place, &copy);
    let work = async || {
        let old = all.whole();
        let first = run(&bed, "").await?;
        assert!(!first.is_clone().await);
        all.settled(|whole| whole.len() == 1).await?;
        age(&all.whole()[0]);
        let other = run(&bed, "other").await?;
        assert!(!other.is_clone().await);
        all.settled(|whole| whole.len() == 1 && whole != old).await
    };
    let settle = async || {
        assert!(all.whole().len() <= 1, "{:?}", all.below());
        all.check_clean().await;
        all.forget();
        copied(&copy, &place);
    };
    at_each_point(&bed, 2, &["discarded", "make room"], work, settle).await;
    bed.clear().await;
    without_then_with(&bed, "").await;
}
