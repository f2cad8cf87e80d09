//! Memory for guests that no file is behind.

use std::io;

use vm_memory::MmapRegion;
use vm_memory::mmap::MmapRegionError;

/// Bytes of a huge page of x86-64.
pub const HUGE_PAGE: usize = 2 << 20;

const ACCESS: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// Maps `bytes` bytes of memory that begin at a multiple of [`HUGE_PAGE`], zeroes all of them. Pages come as they are
/// touched: huge ones where the host has them (transparent_hugepage/enabled), or with `reserved` nothing but huge ones,
/// which the host has set aside (hugetlbfs) and which are reserved here, so that none is missing when it is touched.
///
/// The mapping stays until the process ends.
///
/// # Errors
/// What `mmap` says.
pub fn map_anonymous(bytes: usize, reserved: bool) -> Result<MmapRegion, MmapRegionError> {
    if reserved {
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB | libc::MAP_HUGE_2MB;
        return MmapRegion::build(None, bytes, ACCESS, flags);
    }
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let length = bytes.checked_add(HUGE_PAGE).ok_or(MmapRegionError::InvalidOffsetLength)?;
    // SAFETY: a new mapping at an address of the kernel's choice, which changes no memory that there was.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), length, ACCESS, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(MmapRegionError::Mmap(io::Error::last_os_error()));
    }
    // All of it, so that mappings side by side stay one to the kernel, which counts them.
    // SAFETY: the range is the mapping made above, and the advice changes nothing about its content.
    unsafe { libc::madvise(start, length, libc::MADV_HUGEPAGE) };
    // Linux has aligned large mappings by itself since 6.7 alone, and what is left over at either end costs nothing.
    let skip = (start as usize).wrapping_neg() % HUGE_PAGE;
    let aligned = start.cast::<u8>().wrapping_add(skip);
    // SAFETY: `aligned` and `bytes` are within the mapping made above, whose pages begin there, and which nobody else
    // knows of and nothing unmaps.
    unsafe { MmapRegion::build_raw(aligned, bytes, ACCESS, flags) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_begins_where_a_huge_page_can() {
        for bytes in [4096, HUGE_PAGE, HUGE_PAGE + 4096, 64 << 20] {
            let region = map_anonymous(bytes, false).unwrap();
            assert_eq!((region.as_ptr() as usize % HUGE_PAGE, region.size()), (0, bytes));
        }
        assert!(map_anonymous(usize::MAX, false).is_err());
    }
}
