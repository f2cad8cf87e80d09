use super::*;

fn class(boot_mib: u32) -> Class {
    let trust = Trust { handler: "husk".into(), namespace: None };
    Class { trust, max_vcpus: 1, boot_mib, hotplug_mib: 128, block_slots: 2, nets: 0, net_queues: 1 }
}

/// Templates in a directory of their own, for guest files that are there.
fn templates(dir: &Path, enabled: bool) -> (Templates, Config) {
    let file = |name: &str| {
        let path = dir.join(name);
        std::fs::write(&path, name).unwrap();
        path
    };
    let mut config = Config { root: dir.join("root"), run: dir.join("run"), ..Default::default() };
    config.vm.vmm = file("vmm");
    config.vm.kernel = file("kernel");
    config.vm.initramfs = file("initramfs");
    config.vm.templates = enabled;
    (Templates::new(&config, Cgroups::of_host()), config)
}

fn put(place: &Path) {
    std::fs::create_dir_all(place).unwrap();
    files(place).iter().for_each(|file| std::fs::write(file, "x").unwrap());
}

#[test]
fn a_template_is_found_by_its_class_until_it_is_discarded() {
    let dir = tempfile::tempdir().unwrap();
    let (templates, config) = templates(dir.path(), true);
    assert!(templates.find(&class(256), &config.vm).is_none());
    put(&templates.place(&class(256), &config.vm).unwrap());
    let found = templates.find(&class(256), &config.vm).unwrap();
    assert!(found.verify && templates.find(&class(128), &config.vm).is_none());
    assert!(found.written.is_none());
    // This process is no clone.
    templates.learn(&found, std::process::id() as i32);
    assert!(templates.find(&class(256), &config.vm).unwrap().written.is_none());
    let place = templates.place(&class(256), &config.vm).unwrap();
    std::fs::write(written(&place), "x").unwrap();
    assert_eq!(templates.find(&class(256), &config.vm).unwrap().written, Some(written(&place)));
    templates.trust(&found);
    assert!(!templates.find(&class(256), &config.vm).unwrap().verify);
    templates.discard(&found);
    assert!(templates.find(&class(256), &config.vm).is_none());
    put(&templates.place(&class(256), &config.vm).unwrap());
    assert!(templates.find(&class(256), &config.vm).unwrap().verify, "what was trusted is gone");
    // Of another kernel.
    std::fs::write(dir.path().join("kernel"), "another").unwrap();
    assert!(templates.find(&class(256), &config.vm).is_none());
}

#[test]
fn a_part_of_a_template_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let (templates, config) = templates(dir.path(), true);
    let place = templates.place(&class(256), &config.vm).unwrap();
    put(&place);
    std::fs::remove_file(&files(&place)[1]).unwrap();
    assert!(templates.find(&class(256), &config.vm).is_none());
}

#[tokio::test]
async fn what_is_of_no_use_is_swept() {
    let dir = tempfile::tempdir().unwrap();
    let (templates, config) = templates(dir.path(), true);
    let place = templates.place(&class(256), &config.vm).unwrap();
    let (half, other) = (place.with_extension(HALF_MADE), templates.root.join("0123456789abcdef/class"));
    for place in [&place, &half, &other] {
        put(place);
    }
    std::fs::create_dir_all(templates.run.join("class")).unwrap();
    templates.sweep(&config).await;
    assert!(place.is_dir() && !half.exists() && !other.parent().unwrap().exists());
    assert!(!templates.run.join("class").exists());
    // Switched off, none is kept.
    let (off, config) = self::templates(dir.path(), false);
    assert!(off.find(&class(256), &config.vm).is_none());
    off.sweep(&config).await;
    assert!(!place.exists());
}

#[test]
fn the_longest_unused_make_room_but_not_those_that_were_used_lately() {
    let dir = tempfile::tempdir().unwrap();
    let (templates, config) = templates(dir.path(), true);
    let places = [64, 128, 192].map(|mib| templates.place(&class(mib), &config.vm).unwrap());
    let age = |place: &Path, seconds: u64| {
        let then = SystemTime::now() - std::time::Duration::from_secs(seconds);
        std::fs::File::open(place).unwrap().set_modified(then).unwrap();
    };
    for (place, seconds) in places.iter().zip([5000, 7000, 6000]) {
        put(place);
        age(place, seconds);
    }
    let there = || places.each_ref().map(|place| place.is_dir());
    assert!(templates.make_room(3).unwrap());
    assert_eq!(there(), [true; 3]);
    assert!(templates.make_room(2).unwrap());
    assert_eq!(there(), [true, false, true]);
    // A use counts.
    templates.trust(&templates.find(&class(192), &config.vm).unwrap());
    assert!(templates.make_room(1).unwrap());
    assert_eq!(there(), [false, false, true]);
    assert!(!templates.make_room(0).unwrap());
    assert_eq!(there(), [false, false, true]);
}
