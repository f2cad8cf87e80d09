//! The allocator.

/// Has all threads allocate from one heap, that of the process. To be called before there is another thread.
///
/// glibc gives threads heaps of their own, and opens `/proc/sys/vm/overcommit_memory` when it makes such a heap smaller:
/// no thread may open anything once it is confined. What threads allocate is little, and so is one heap's waste.
pub fn use_one_heap() {
    // SAFETY: it changes a setting of the allocator, which takes its own lock for that.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}
