//! Volumes that the guest makes.

use husk_proto::agent::*;
use serde_json::json;
use tonic::Code;

use crate::pod::{Pod, refused};
use crate::vm::{IMAGE, ODD_IMAGE};

/// A request for a container with one volume at `/v`.
fn having(pod: &Pod, script: &str, kind: guest_volume::Kind) -> CreateContainerRequest {
    let request = pod.request_with(&["sh", "-c", script], |spec| {
        spec["mounts"].as_array_mut().unwrap().push(json!({"destination": "/v", "type": "bind",
            "source": "husk:guest-volume/0", "options": ["bind", "rprivate", "rw"]}));
    });
    CreateContainerRequest { guest_volumes: vec![GuestVolume { kind: Some(kind) }], ..request }
}

fn image(serial: &str, sub_path: &str) -> guest_volume::Kind {
    guest_volume::Kind::Image(ImageVolume { serial: serial.into(), sub_path: sub_path.into() })
}

pub async fn images(pod: &Pod) {
    for (sub_path, script, expected) in [
        ("", "ls -d /v/bin/busybox", "/v/bin/busybox\n"),
        ("etc", "cat /v/passwd | wc -l; touch /v/new || echo refused", "2\nrefused\n"),
        ("../../..", "ls -d /v/etc/passwd", "/v/etc/passwd\n"),
        ("etc/group", "wc -l </v", "3\n"),
    ] {
        let outcome = pod.run(having(pod, script, image(IMAGE, sub_path))).await;
        assert_eq!(outcome.stdout, expected, "{sub_path}: {}", outcome.stderr);
    }
    // Links to what the agent itself has, and nothing else has.
    for (sub_path, code) in [
        ("up", Code::NotFound),
        // Within the image it leads to itself.
        ("dev", Code::InvalidArgument),
        ("etc/hosts", Code::NotFound),
        ("absent", Code::NotFound),
    ] {
        let request = having(pod, "true", image(ODD_IMAGE, sub_path));
        refused(pod.create(request).await, code, sub_path);
    }
}

pub async fn memory(pod: &Pod) {
    let volume = MemoryVolume {
        name: "/volumes/cache".into(),
        bytes: 1 << 20,
        mode: 0o1750,
        uid: 7,
        gid: 8,
        ..Default::default()
    };
    let kind = || guest_volume::Kind::Memory(volume.clone());
    let script = "stat -c '%a %u:%g' /v; dd if=/dev/zero of=/v/big bs=1M count=2 2>/dev/null || wc -c </v/big; echo x >/v/x";
    let outcome = pod.run(having(pod, script, kind())).await;
    assert_eq!(outcome.stdout, "1750 7:8\n1048576\n");
    let outcome = pod.run(having(pod, "ls /v", kind())).await;
    assert_eq!(outcome.stdout, "big\nx\n");
    let part = MemoryVolume { sub_path: "a/b".into(), sub_path_mode: 0o700, ..volume.clone() };
    let outcome = pod.run(having(pod, "ls -A /v; stat -c %a /v", guest_volume::Kind::Memory(part))).await;
    assert_eq!(outcome.stdout, "700\n");
    let link = pod.run(having(pod, "ln -s /run/husk /v/link && echo made", kind())).await;
    assert_eq!(link.stdout, "made\n");
    let link = MemoryVolume { sub_path: "link/etc".into(), ..volume.clone() };
    let refusal = pod.create(having(pod, "true", guest_volume::Kind::Memory(link))).await;
    assert!(refusal.is_err(), "a link leads out of the volume");
    let other = MemoryVolume { name: "/volumes/other".into(), ..volume.clone() };
    let outcome = pod.run(having(pod, "ls -A /v", guest_volume::Kind::Memory(other))).await;
    assert_eq!(outcome.stdout, "");
}

pub async fn devices(pod: &Pod) {
    let device = |name: &str, access: &str| {
        guest_volume::Kind::Device(DeviceVolume {
            device: Some(device_volume::Device::Guest(name.into())),
            access: access.into(),
            mode: 0o640,
            gid: 9,
            ..Default::default()
        })
    };
    let script = "stat -c '%F %a %u:%g %t:%T' /v; (: <>/v) && echo open";
    let outcome = pod.run(having(pod, script, device("net/tun", "rw"))).await;
    assert_eq!(outcome.stdout, "character special file 640 0:9 a:c8\nopen\n", "{}", outcome.stderr);
    let outcome =
        pod.run(having(pod, "(: </v) && echo read; (: >/v) || echo refused", device("fuse", "r"))).await;
    assert_eq!(outcome.stdout, "read\nrefused\n", "{}", outcome.stderr);
    for (name, access) in [("vda", "r"), ("../dev/vda", "r"), ("fuse", ""), ("fuse", "rx")] {
        refused(pod.create(having(pod, "true", device(name, access))).await, Code::InvalidArgument, "");
    }
}

pub async fn wrong_requests(pod: &Pod) {
    let mut unnamed = having(pod, "true", image(IMAGE, ""));
    unnamed.guest_volumes.clear();
    refused(pod.create(unnamed).await, Code::InvalidArgument, "volume");
    let mut kindless = having(pod, "true", image(IMAGE, ""));
    kindless.guest_volumes = vec![GuestVolume { kind: None }];
    refused(pod.create(kindless).await, Code::InvalidArgument, "kind");
    refused(pod.create(having(pod, "true", image("no-such-disk", ""))).await, Code::NotFound, "no-such-disk");
    refused(pod.create(having(pod, "true", image("../vda", ""))).await, Code::InvalidArgument, "../vda");
    // What was made before the failure is given back, and the image can still be used.
    let mut second_fails = having(pod, "true", image(IMAGE, ""));
    second_fails.guest_volumes.push(GuestVolume { kind: Some(image(IMAGE, "absent")) });
    refused(pod.create(second_fails).await, Code::NotFound, "absent");
    assert_eq!(pod.run(having(pod, "ls /v/etc | wc -l", image(IMAGE, ""))).await.stdout, "2\n");
}
