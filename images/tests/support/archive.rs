//! Archives as no honest tool writes them.

/// An archive of entries given as (name, type, link target or contents), written as they are.
pub fn archive(entries: &[(&str, u8, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, kind, body) in entries {
        let is_link = matches!(kind, b'1' | b'2');
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::new(*kind));
        header.set_mode(if *kind == b'5' { 0o755 } else { 0o644 });
        header.set_size(if is_link { 0 } else { body.len() as u64 });
        header.set_mtime(1);
        let fields = header.as_old_mut();
        fields.name[..name.len()].copy_from_slice(name.as_bytes());
        if is_link {
            fields.linkname[..body.len()].copy_from_slice(body);
        }
        header.set_cksum();
        out.extend_from_slice(header.as_bytes());
        if !is_link {
            out.extend_from_slice(body);
            out.resize(out.len().next_multiple_of(512), 0);
        }
    }
    out.resize(out.len() + 1024, 0);
    out
}

/// One PAX record.
pub fn pax(key: &str, value: &str) -> Vec<u8> {
    let body = key.len() + value.len() + 3;
    let length = (1..).find(|n| body + n.to_string().len() == *n).unwrap();
    format!("{length} {key}={value}\n").into_bytes()
}

/// Makes the checksum of the archive's first header right.
pub fn seal(archive: &mut [u8]) {
    archive[148..156].fill(b' ');
    let sum: u32 = archive[..512].iter().map(|byte| u32::from(*byte)).sum();
    archive[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}
