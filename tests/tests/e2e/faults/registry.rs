//! A registry that stalls, breaks off and lies, before a real one.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use husk_proto::cri;
use husk_tests::{BUSYBOX, Bed, Registry, container, entries, expect_code, image, pod, step, wait_for};
use tonic::{Code, Request};

/// What becomes of the answer for one blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// It stops in the middle.
    Stall,
    /// The connection ends before it begins.
    Cut,
    /// A byte of it is another.
    Lie,
}

/// Passes requests on to a registry, one a connection, and spoils the answers for one blob.
struct Proxy {
    port: u16,
    /// Answers that are stalled, until the client has gone.
    stalled: Arc<AtomicUsize>,
}

impl Proxy {
    fn start(upstream: String, blob: String, fault: Fault) -> Proxy {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listen");
        let port = listener.local_addr().expect("its address").port();
        let stalled = Arc::new(AtomicUsize::new(0));
        let proxy = Proxy { port, stalled: stalled.clone() };
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (upstream, blob, stalled) = (upstream.clone(), blob.clone(), stalled.clone());
                // A client that goes away is no failure.
                std::thread::spawn(move || pass(client, &upstream, &blob, fault, &stalled));
            }
        });
        proxy
    }

    fn reference(&self) -> String {
        format!("127.0.0.1:{}/husk/layers:latest", self.port)
    }
}

fn pass(
    mut client: TcpStream,
    upstream: &str,
    blob: &str,
    fault: Fault,
    stalled: &AtomicUsize,
) -> io::Result<()> {
    let mut request = String::new();
    let mut reader = BufReader::new(client.try_clone()?);
    while !request.ends_with("\r\n\r\n") {
        if reader.read_line(&mut request)? == 0 {
            return Ok(());
        }
    }
    let concerned = request.lines().next().is_some_and(|line| line.contains(blob));
    let mut server = TcpStream::connect(upstream)?;
    server.write_all(request.replacen("\r\n", "\r\nConnection: close\r\n", 1).as_bytes())?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    let body = answer.windows(4).position(|end| end == b"\r\n\r\n").map_or(0, |end| end + 4);
    let middle = body + (answer.len() - body) / 2;
    match fault {
        _ if !concerned => client.write_all(&answer)?,
        Fault::Stall => {
            client.write_all(&answer[..middle])?;
            stalled.fetch_add(1, SeqCst);
            // Ends when the client closes the connection.
            let _ = client.read(&mut [0]);
            stalled.fetch_sub(1, SeqCst);
        }
        Fault::Cut => client.write_all(&answer[..body])?,
        Fault::Lie => {
            answer[middle] ^= 1;
            client.write_all(&answer)?;
        }
    }
    client.shutdown(Shutdown::Both)
}

/// What is below a directory, and how large it is.
fn files(dir: &Path) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    for path in entries(dir) {
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => {
                found.push((path.display().to_string(), fs::metadata(&path).map_or(0, |data| data.len())))
            }
        }
    }
    found.sort();
    found
}

/// Whoever waits for it and gives up, or is told, has nothing left behind; others are served meanwhile.
pub async fn that_misbehaves(bed: Arc<Bed>) {
    const LAYERS: &str = "docker.io/husk/layers:latest";
    let remove = async || {
        let request = cri::RemoveImageRequest { image: Some(image(LAYERS)) };
        bed.client.images().remove_image(request).await.expect("RemoveImage");
    };
    let layers = Registry::layers(&bed.paths.images(), "layers");
    let size = |digest: &String| fs::metadata(bed.registry.blob(digest)).map_or(0, |data| data.len());
    let largest = layers.iter().max_by_key(|digest| size(digest)).expect("a layer").clone();
    let proxy = |fault: Fault| Proxy::start(bed.registry.host(), largest.clone(), fault);
    let content = || {
        let images = bed.daemon.root.join("images");
        ["layers", "images", "tmp"].map(|name| files(&images.join(name)))
    };
    remove().await;
    let before = content();
    let settled = async || {
        wait_for("nothing to be left of the pull", Duration::from_secs(20), || async {
            let [_, _, unfinished] = content();
            unfinished.is_empty().then_some(())
        })
        .await;
        let listed = bed.client.images().list_images(cri::ListImagesRequest::default()).await;
        let images = listed.expect("ListImages").into_inner().images;
        assert!(images.iter().flat_map(|image| &image.repo_digests).all(|name| !name.contains("127.0.0.1")));
    };

    step("one that stalls: the caller's time is over, and others are served meanwhile");
    let stalls = proxy(Fault::Stall);
    let mut request =
        Request::new(cri::PullImageRequest { image: Some(image(&stalls.reference())), ..Default::default() });
    request.set_timeout(Duration::from_secs(12));
    let mut client = bed.client.images();
    let pulling = tokio::spawn(async move { client.pull_image(request).await });
    wait_for("the stall", Duration::from_secs(11), || async {
        (stalls.stalled.load(SeqCst) > 0).then_some(())
    })
    .await;
    bed.client.pull(LAYERS).await.expect("PullImage from the honest one");
    bed.client.pull(BUSYBOX).await.expect("PullImage");
    remove().await;
    expect_code(pulling.await.expect("the call's task"), &[Code::Cancelled, Code::DeadlineExceeded], &[]);
    let gone = || async { (stalls.stalled.load(SeqCst) == 0).then_some(()) };
    wait_for("the connection's end", Duration::from_secs(60), gone).await;
    settled().await;

    step("one that stalls, and a caller who goes away");
    let (mut client, name) = (bed.client.images(), stalls.reference());
    let pulling = tokio::spawn(async move {
        let request = cri::PullImageRequest { image: Some(image(&name)), ..Default::default() };
        client.pull_image(request).await
    });
    wait_for("the stall", Duration::from_secs(60), || async {
        (stalls.stalled.load(SeqCst) > 0).then_some(())
    })
    .await;
    pulling.abort();
    wait_for("the connection's end", Duration::from_secs(60), gone).await;
    settled().await;

    for (fault, codes) in [(Fault::Cut, [Code::Unavailable]), (Fault::Lie, [Code::FailedPrecondition])] {
        step(format!("one with another fault: {fault:?}"));
        let proxy = proxy(fault);
        expect_code(bed.client.pull(&proxy.reference()).await, &codes, &[]);
        settled().await;
    }
    step("what was whole of it is used by the next, and goes with it");
    bed.client.pull(LAYERS).await.expect("PullImage from the honest one");
    remove().await;
    assert_eq!(content(), before);
    let pod = bed.pod(pod("after")).await;
    assert_eq!(pod.start(container("after", "sleep 3600")).await.exec("echo fine").await, "fine\n");
}
