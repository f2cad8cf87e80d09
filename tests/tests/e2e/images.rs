//! Images out of a real registry, whole or not at all.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use husk_proto::cri;
use husk_tests::{BUSYBOX, Bed, Registry, container, expect_code, image, pod, step};
use tonic::Code;

async fn remove(bed: &Bed, name: &str) {
    let request = cri::RemoveImageRequest { image: Some(image(name)) };
    bed.client.images().remove_image(request).await.expect("RemoveImage");
}

async fn used_bytes(bed: &Bed) -> u64 {
    let info =
        bed.client.images().image_fs_info(cri::ImageFsInfoRequest::default()).await.expect("ImageFsInfo");
    let filesystem = info.into_inner().image_filesystems.into_iter().next().expect("a file system");
    assert!(filesystem.timestamp > 0 && filesystem.inodes_used.is_some());
    filesystem.used_bytes.expect("its use").value
}

/// By tag and by digest; seen in the list; gone when removed, its bytes too.
pub async fn pull_list_remove(bed: Arc<Bed>) {
    const NGINX: &str = "docker.io/husk/nginx:latest";
    remove(&bed, NGINX).await;
    let before = used_bytes(&bed).await;
    let reference = bed.client.pull(NGINX).await.expect("PullImage");
    let status = bed.client.image(NGINX).await.expect("ImageStatus of what was pulled");
    assert_eq!(status.repo_tags, [NGINX]);
    assert_eq!(status.repo_digests.len(), 1);
    let by_digest = status.repo_digests[0].clone();
    assert!(by_digest.starts_with("docker.io/husk/nginx@sha256:"), "{by_digest}");
    assert!(status.size > 1_000_000, "{} bytes", status.size);
    assert!(used_bytes(&bed).await > before + 1_000_000);
    for name in
        [reference.as_str(), status.id.as_str(), by_digest.as_str(), "husk/nginx", "husk/nginx:latest"]
    {
        assert_eq!(bed.client.image(name).await.map(|image| image.id), Some(status.id.clone()), "by {name}");
    }

    step("the list, whole and filtered");
    let list = async |filter: Option<cri::ImageFilter>| {
        let answer =
            bed.client.images().list_images(cri::ListImagesRequest { filter }).await.expect("ListImages");
        answer.into_inner().images
    };
    let all = list(None).await;
    assert!(all.iter().any(|image| image.id == status.id));
    assert!(all.iter().any(|image| image.repo_tags == [BUSYBOX]));
    let only = list(Some(cri::ImageFilter { image: Some(image(NGINX)) })).await;
    assert_eq!(only.iter().map(|image| image.id.as_str()).collect::<Vec<_>>(), [status.id.as_str()]);

    step("removed, twice");
    remove(&bed, NGINX).await;
    remove(&bed, NGINX).await;
    assert!(bed.client.image(NGINX).await.is_none() && bed.client.image(&status.id).await.is_none());
    let after = used_bytes(&bed).await;
    assert!(after < before + 100_000, "{before} bytes before, {after} after");

    step("by digest");
    bed.client.pull(&by_digest).await.expect("PullImage by digest");
    let again = bed.client.image(&by_digest).await.expect("ImageStatus by digest");
    assert_eq!((again.id, again.repo_tags), (status.id.clone(), Vec::new()));
    remove(&bed, &status.id).await;
    assert!(bed.client.image(&by_digest).await.is_none());
}

/// Of an index, the node's own platform; the image's user in its status.
pub async fn platform_of_an_index(bed: Arc<Bed>) {
    const USER: &str = "docker.io/husk/user:latest";
    bed.client.pull(USER).await.expect("PullImage");
    let status = bed.client.image(USER).await.expect("ImageStatus");
    assert_eq!((status.username.as_str(), status.uid), ("app", None));
    let pod = bed.pod(pod("platform")).await;
    let mut config = container("platform", "echo runs");
    config.image = Some(image(USER));
    let (container, _) = pod.complete(config).await;
    assert_eq!(container.text(), "runs\n");
    let status = container.status().await;
    assert_eq!(status.image.map(|image| image.image), Some(USER.to_owned()));
    assert!(!status.image_ref.is_empty() && !status.image_id.is_empty());
}

/// Every kind of entry and of whiteout, in layers of every compression, as the guest sees it.
pub async fn layers_are_whole(bed: Arc<Bed>) {
    const LAYERS: &str = "docker.io/husk/layers:latest";
    bed.client.pull(LAYERS).await.expect("PullImage");
    let pod = bed.pod(pod("layers")).await;
    let run = async |line: &str, user: Option<i64>| {
        let mut config = container("layers", line);
        config.image = Some(image(LAYERS));
        let linux = config.linux.get_or_insert_default();
        linux.security_context.get_or_insert_default().run_as_user =
            user.map(|value| cri::Int64Value { value });
        let (container, status) = pod.complete(config).await;
        assert_eq!(status.exit_code, 0, "{line}: {}", container.text());
        container.text()
    };

    step("names, kinds, modes, owners, sizes, links, times");
    let shown =
        run("cd /l; find . | while read -r f; do stat -c '%n|%F|%a|%u:%g|%s|%h|%Y' \"$f\"; done", None).await;
    let mut found: BTreeMap<&str, &str> =
        shown.lines().filter_map(|line| line.strip_prefix("./").unwrap_or(line).split_once('|')).collect();
    let long = "n".repeat(200);
    // GNU's names of the kinds, as busybox has them. Directories' sizes and links are the file system's.
    for (name, expected) in [
        ("plain", "regular file|640|1000:100|6|3|1000000000"),
        ("hard", "regular file|640|1000:100|6|3|1000000000"),
        ("hard-to-lower", "regular file|640|1000:100|6|3|1000000000"),
        ("empty", "regular empty file|0|0:0|0|1|1704067200"),
        ("gone", "regular file|644|0:0|5|1|1704067200"),
        ("replaced", "regular file|600|0:0|4|1|1704067200"),
        ("tree/b", "regular file|644|0:0|2|1|1704067200"),
        ("tree/c", "regular file|644|0:0|2|1|1704067200"),
        ("opaque/new", "regular file|644|0:0|5|1|1704067200"),
        ("was-directory", "regular file|644|0:0|11|1|1704067200"),
        ("was-file/inside", "regular file|644|0:0|16|1|1704067200"),
        ("link", "symbolic link|777|0:0|5|1|1"),
        ("absolute", "symbolic link|777|0:0|8|1|1704067200"),
        ("dangling", "symbolic link|777|0:0|7|1|1704067200"),
        ("pipe", "fifo|622|0:0|0|1|1704067200"),
        ("device", "character special file|666|0:0|0|1|1704067200"),
        (long.as_str(), "regular file|644|0:0|12|1|1704067200"),
        ("\u{e5}\u{df} \u{65e5}", "regular file|644|0:0|24|1|1704067200"),
        ("attributes", "regular file|644|0:0|2|1|1704067200"),
        ("nanoseconds", "regular empty file|644|0:0|0|1|1234567890"),
        ("big", "regular file|644|0:0|2097152|1|1704067200"),
    ] {
        assert_eq!(found.remove(name), Some(expected), "{name}");
    }
    for (name, mode, owner) in [
        (".", "711", "7:8"),
        ("tree", "755", "0:0"),
        ("opaque", "755", "0:0"),
        ("was-file", "755", "0:0"),
        ("sticky", "3777", "0:100"),
    ] {
        let line = found.remove(name).unwrap_or_else(|| panic!("{name} is not there"));
        assert!(line.starts_with(&format!("directory|{mode}|{owner}|")), "{name}: {line}");
    }
    assert!(found.remove("setuid").is_some_and(|line| line.starts_with("regular file|4755|0:0|")));
    assert!(found.remove("capable").is_some_and(|line| line.starts_with("regular file|755|0:0|")));
    assert!(found.is_empty(), "whiteouts left these, or their own names: {found:?}");

    step("contents and link targets");
    let text = run(
        "cd /l; cat plain hard hard-to-lower gone replaced tree/b was-directory was-file/inside; for l in link absolute dangling; do readlink $l; done; cat link; sha256sum <big",
        None,
    )
    .await;
    let expected =
        "plain\nplain\nplain\nback\nnew\nb\na file now\na directory now\nplain\n/l/plain\nnowhere\nplain\n";
    let text = text.strip_prefix(expected).unwrap_or_else(|| panic!("{text}"));
    // Of 8192 times the bytes 0 to 255.
    assert_eq!(
        text.split(' ').next(),
        Some("91d3beb88a9b2f778a6c44a1c53b63d3c79931845a9aef84b3fb414610bd1938")
    );

    step("attributes, file capabilities, setuid");
    assert!(run("getfattr -n user.note --only-values /l/attributes", None).await.contains("kept"));
    // busybox itself gives up what a setuid bit brings, so that bit is seen by its mode above, and here that the
    // root is not mounted without it.
    let text = run(
        "cd /tmp; ln -s /l/capable grep; ./grep CapEff /proc/self/status; grep ' / ' /proc/mounts | grep -c nosuid; true",
        Some(1000),
    )
    .await;
    assert_eq!(text, "CapEff:\t0000000000002000\n0\n");
}

/// What is no reference at all.
pub async fn malformed_references(bed: Arc<Bed>) {
    for name in [
        "husk/UPPER/case",
        "two words",
        "husk/busybox@sha256:12",
        "husk/busybox@md5:d41d8cd98f00b204e9800998ecf8427e",
        "husk/../busybox",
        "husk//busybox",
        "-husk",
        "http://docker.io/husk/busybox",
        "husk/busybox:bad tag",
        "husk/busy\0box",
        "docker.io:port/husk/busybox",
    ] {
        step(format!("{name:?}"));
        let shown = format!("{name:?}");
        expect_code(bed.client.pull(name).await, &[Code::InvalidArgument], &[shown.trim_matches('"')]);
    }
    let long = "x".repeat(5000);
    expect_code(bed.client.pull(&long).await, &[Code::InvalidArgument], &[]);
    expect_code(bed.client.pull("").await, &[Code::InvalidArgument], &["name"]);
}

/// What the registry does not have, and what was never pulled.
pub async fn not_in_the_registry(bed: Arc<Bed>) {
    for name in ["docker.io/husk/nothing:latest", "docker.io/husk/busybox:nothing"] {
        expect_code(bed.client.pull(name).await, &[Code::NotFound], &[name]);
    }
    let digest = format!("docker.io/husk/busybox@sha256:{}", "0".repeat(64));
    expect_code(bed.client.pull(&digest).await, &[Code::NotFound], &[&digest]);

    let pod = bed.pod(pod("unpulled")).await;
    let mut config = container("unpulled", "true");
    config.image = Some(image("docker.io/husk/unpulled:latest"));
    expect_code(pod.try_create(config).await, &[Code::NotFound], &["docker.io/husk/unpulled:latest"]);
    let left = bed.client.containers(cri::ContainerFilter::default()).await;
    assert!(left.is_empty(), "{left:?}");
}

/// Content that is not what its digest says: refused by name, nothing kept, and good again once it is whole.
pub async fn damaged_content(bed: Arc<Bed>) {
    let codes = [Code::DataLoss, Code::FailedPrecondition, Code::Internal];
    let before = used_bytes(&bed).await;
    let layer = |name: &str| Registry::layers(&bed.paths.images(), name).pop().expect("a layer");

    step("a flipped bit");
    let (name, digest) = ("docker.io/husk/corrupt:latest", layer("corrupt"));
    let blob = bed.registry.blob(&digest);
    let whole = fs::read(&blob).expect("read the blob");
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    fs::write(&blob, &flipped).expect("damage the blob");
    expect_code(bed.client.pull(name).await, &codes, &[&digest]);
    assert!(bed.client.image(name).await.is_none());

    step("cut short");
    fs::write(&blob, &whole[..middle]).expect("cut the blob");
    expect_code(bed.client.pull(name).await, &[&codes[..], &[Code::Unavailable]].concat(), &[&digest]);
    assert!(bed.client.image(name).await.is_none());
    let after = used_bytes(&bed).await;
    assert!(after < before + 100_000, "{before} bytes before, {after} after");

    step("mended");
    fs::write(&blob, &whole).expect("mend the blob");
    bed.client.pull(name).await.expect("PullImage after the blob is whole again");
    remove(&bed, name).await;

    step("a blob that is gone");
    let (name, digest) = ("docker.io/husk/missing:latest", layer("missing"));
    let blob = bed.registry.blob(&digest);
    fs::rename(&blob, blob.with_extension("gone")).expect("take the blob away");
    let codes = [Code::NotFound, Code::Unavailable, Code::DataLoss, Code::Internal];
    expect_code(bed.client.pull(name).await, &codes, &[&digest]);
    assert!(bed.client.image(name).await.is_none());

    step("a layer that is not the one of the configuration");
    let name = "docker.io/husk/mislabelled:latest";
    let codes = [Code::DataLoss, Code::FailedPrecondition, Code::Internal, Code::InvalidArgument];
    expect_code(bed.client.pull(name).await, &codes, &[&"0".repeat(64)]);
    assert!(bed.client.image(name).await.is_none());
}

/// Nobody answers: soon told, by name.
pub async fn unreachable_registry(bed: Arc<Bed>) {
    for (name, registry) in [
        ("127.0.0.1:1/husk/busybox:latest", "127.0.0.1:1"),
        ("unreachable.test/husk/busybox:latest", "unreachable.test"),
    ] {
        step(name);
        let begun = Instant::now();
        expect_code(bed.client.pull(name).await, &[Code::Unavailable], &[registry]);
        assert!(begun.elapsed() < Duration::from_secs(60), "it took {:?}", begun.elapsed());
    }
}

/// An image for other machines only.
pub async fn wrong_platform(bed: Arc<Bed>) {
    let name = "docker.io/husk/arm:latest";
    let codes = [Code::FailedPrecondition, Code::InvalidArgument];
    expect_code(bed.client.pull(name).await, &codes, &["amd64", "arm64"]);
    assert!(bed.client.image(name).await.is_none());
}
