use super::*;

fn class(boot_mib: u32) -> Class {
    Class { handler: "husk".into(), max_vcpus: 1, boot_mib, hotplug_mib: 128, block_slots: 2, nets: 0 }
}

/// Templates in a directory of their own, for guest files that are there.
fn templates(dir: &Path, enabled: bool) -> Templates {
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
    Templates::new(&config)
}

fn put(place: &Path) {
    std::fs::create_dir_all(place).unwrap();
    files(place).iter().for_each(|file| std::fs::write(file, "x").unwrap());
}

#[test]
fn a_template_is_found_by_its_class_until_it_is_discarded() {
    let dir = tempfile::tempdir().unwrap();
    let templates = templates(dir.path(), true);
    assert!(templates.find(&class(256)).is_none());
    put(&templates.place(&class(256)).unwrap());
    let found = templates.find(&class(256)).unwrap();
    assert!(found.verify && templates.find(&class(128)).is_none());
    templates.trust(&found);
    assert!(!templates.find(&class(256)).unwrap().verify);
    templates.discard(&found);
    assert!(templates.find(&class(256)).is_none());
    put(&templates.place(&class(256)).unwrap());
    assert!(templates.find(&class(256)).unwrap().verify, "what was trusted is gone");
    // Of another kernel.
    std::fs::write(dir.path().join("kernel"), "another").unwrap();
    assert!(templates.find(&class(256)).is_none());
}

#[test]
fn a_part_of_a_template_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let templates = templates(dir.path(), true);
    let place = templates.place(&class(256)).unwrap();
    put(&place);
    std::fs::remove_file(&files(&place)[1]).unwrap();
    assert!(templates.find(&class(256)).is_none());
}

#[tokio::test]
async fn what_is_of_no_use_is_swept() {
    let dir = tempfile::tempdir().unwrap();
    let templates = templates(dir.path(), true);
    let place = templates.place(&class(256)).unwrap();
    let (half, other) = (place.with_extension(HALF_MADE), templates.root.join("0123456789abcdef/class"));
    for place in [&place, &half, &other] {
        put(place);
    }
    std::fs::create_dir_all(templates.run.join("class")).unwrap();
    templates.sweep().await;
    assert!(place.is_dir() && !half.exists() && !other.parent().unwrap().exists());
    assert!(!templates.run.join("class").exists());
    // Switched off, none is kept.
    let off = self::templates(dir.path(), false);
    assert!(off.find(&class(256)).is_none());
    off.sweep().await;
    assert!(!place.exists());
}
