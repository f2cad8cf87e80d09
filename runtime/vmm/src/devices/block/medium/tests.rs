use super::*;

fn file(content: &[u8]) -> OwnedFd {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(content, 0).unwrap();
    file.into()
}

fn extent(fd: usize, offset: u64, length: u64) -> Extent {
    Extent { fd, offset, length }
}

fn read(medium: &Medium, start: u64, bytes: usize) -> Vec<u8> {
    let mut buffer = vec![0xee; bytes];
    {
        let whole = VolatileSlice::from(&mut buffer[..]);
        medium.read(start, bytes, |at, bytes| vec![whole.subslice(at, bytes).unwrap()]).unwrap();
    }
    buffer
}

#[test]
fn extents_become_one_disk_and_zeroes_follow_a_file() {
    let files = vec![file(&[1; 1024]), file(&[2; 700])];
    let extents = [extent(1, 512, 1024), extent(0, 0, 512), extent(0, 512, 512)];
    let medium = Medium::new(true, &extents, files).unwrap();
    assert_eq!(medium.sectors(), 4);
    let mut whole = vec![2; 700 - 512];
    whole.resize(1024, 0);
    whole.resize(2048, 1);
    assert_eq!(read(&medium, 0, 2048), whole);
    assert_eq!(read(&medium, 512, 1024), whole[512..1536]);
    let mut quick = vec![0xee; 2048];
    let slice = VolatileSlice::from(&mut quick[..]);
    let done = medium.read_at_once(0, 2048, |at, bytes| vec![slice.subslice(at, bytes).unwrap()]);
    // As far as the file system of the test's files can tell.
    assert_eq!(quick[..done], whole[..done]);
    assert!(quick[done..].iter().all(|byte| *byte == 0xee), "{done} of 2048 bytes");
    assert!(medium.contains(1536, 512) && !medium.contains(1536, 513) && !medium.contains(u64::MAX, 2));
}

#[test]
fn writes_go_to_the_right_file() {
    let files = vec![file(&[0; 1024]), file(&[0; 512])];
    let copies: Vec<File> = files.iter().map(|file| file.try_clone().unwrap().into()).collect();
    let medium = Medium::new(false, &[extent(0, 512, 512), extent(1, 0, 1024)], files).unwrap();
    let mut data = vec![5; 1024];
    let whole = VolatileSlice::from(&mut data[..]);
    medium.write(256, 1024, |at, bytes| vec![whole.subslice(at, bytes).unwrap()]).unwrap();
    medium.flush().unwrap();
    let content = |file: &File| {
        let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    };
    assert_eq!(content(&copies[0]), [vec![0; 768], vec![5; 256]].concat());
    assert_eq!(content(&copies[1]), vec![5; 768]);
    medium.zero(512, 512, false).unwrap();
    medium.zero(256, 256, true).unwrap();
    assert_eq!(read(&medium, 0, 1536), [vec![0; 1024], vec![5; 256], vec![0; 256]].concat());
    medium.discard(0, 1536).unwrap();
}

#[test]
fn bad_media_are_refused() {
    let new = |extents: &[Extent]| Medium::new(true, extents, vec![file(&[0; 512])]).unwrap_err();
    assert!(matches!(new(&[]), MediumError::Empty));
    assert!(matches!(new(&[extent(1, 0, 512)]), MediumError::NoSuchFd { .. }));
    for (offset, length) in
        [(1, 512), (0, 100), (0, 0), (u64::MAX - 511, 512), (0, (i64::MAX as u64) - 511 + 512)]
    {
        assert!(matches!(new(&[extent(0, offset, length)]), MediumError::Range { .. }), "{offset} {length}");
    }
    let half = extent(0, 0, 1 << 62);
    assert!(matches!(new(&[half.clone(), half.clone()]), MediumError::Range { extent: 1, .. }));
    let (pipe, _other) = std::io::pipe().unwrap();
    let error = Medium::new(true, &[extent(0, 0, 512)], vec![pipe.into()]).unwrap_err();
    assert!(matches!(error, MediumError::Kind(0)));
    let named = tempfile::NamedTempFile::new().unwrap();
    let error = Medium::new(false, &[extent(0, 0, 512)], vec![File::open(named.path()).unwrap().into()]);
    assert!(matches!(error.unwrap_err(), MediumError::Mode { fd: 0, .. }));
}
