//! System calls: lists of those that a thread may make. Any other ends the process (SIGSYS).

mod tree;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

use crate::JailError;

/// What an argument must be like. Arguments are looked at as the 32 bits that the kernel takes them for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Argument {
    /// This value.
    Is(u32),
    /// None of these bits.
    Lacks(u32),
}

/// Calls that are allowed, some with conditions.
#[derive(Clone, Debug, Default)]
pub struct AllowList(BTreeMap<i64, Vec<Vec<(u8, Argument)>>>);

impl AllowList {
    /// Allows calls whatever their arguments.
    #[must_use]
    pub fn allow(mut self, calls: &[c_long]) -> Self {
        self.0.extend(calls.iter().map(|call| (*call, Vec::new())));
        self
    }

    /// Allows a call when its arguments, by number from 0 on, are all as said; to be repeated for alternatives. A call
    /// that is allowed without conditions stays so.
    #[must_use]
    pub fn allow_with(mut self, call: c_long, arguments: &[(u8, Argument)]) -> Self {
        match self.0.get_mut(&call) {
            Some(alternatives) if alternatives.is_empty() => {}
            Some(alternatives) => alternatives.push(arguments.to_vec()),
            None => drop(self.0.insert(call, vec![arguments.to_vec()])),
        }
        self
    }

    /// Allows memory to be mapped and protected, but never to be executed.
    #[must_use]
    pub fn allow_memory(self) -> Self {
        const PROTECTION: u8 = 2;
        let data_alone = [(PROTECTION, Argument::Lacks(libc::PROT_EXEC as u32))];
        self.allow(&[libc::SYS_brk, libc::SYS_munmap, libc::SYS_mremap, libc::SYS_madvise])
            .allow_with(libc::SYS_mmap, &data_alone)
            .allow_with(libc::SYS_mprotect, &data_alone)
    }

    /// Allows the process to signal itself.
    #[must_use]
    pub fn allow_own_signal(self, signal: i32) -> Self {
        let [process, signal] = [std::process::id(), signal as u32].map(Argument::Is);
        self.allow_with(libc::SYS_tgkill, &[(0, process), (2, signal)])
    }

    /// Makes the filter of it.
    ///
    /// # Errors
    /// When the list cannot be expressed: it is too long.
    pub fn compile(self) -> Result<Filter, JailError> {
        let program =
            self.program().map_err(|e| JailError::at("making a seccomp filter")(io::Error::other(e)))?;
        Ok(Filter(Arc::new(program)))
    }

    fn program(self) -> Result<BpfProgram, BackendError> {
        let mut rules = Rules::new();
        for (call, alternatives) in self.0 {
            let alternatives = alternatives.iter().map(|arguments| {
                let conditions = arguments.iter().map(|(number, argument)| {
                    let (operator, value) = match argument {
                        Argument::Is(value) => (SeccompCmpOp::Eq, *value),
                        Argument::Lacks(bits) => (SeccompCmpOp::MaskedEq((*bits).into()), 0),
                    };
                    SeccompCondition::new(*number, SeccompCmpArgLen::Dword, operator, value.into())
                });
                SeccompRule::new(conditions.collect::<Result<_, _>>()?)
            });
            rules.insert(call, alternatives.collect::<Result<_, _>>()?);
        }
        tree::program(&rules, &|rules| {
            SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, TargetArch::x86_64)?
                .try_into()
        })
    }
}

/// What calls must be like, by their numbers.
type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// A filter that ends the process for these calls and allows all others, for a program whose calls are not known.
///
/// # Errors
/// When the list cannot be expressed: it is empty or too long.
pub fn deny(calls: &[c_long]) -> Result<Filter, JailError> {
    let rules = calls.iter().map(|call| (*call, Vec::new())).collect();
    let program =
        SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::KillProcess, TargetArch::x86_64)
            .and_then(BpfProgram::try_from);
    let program = program.map_err(|e| JailError::at("making a seccomp filter")(io::Error::other(e)))?;
    Ok(Filter(Arc::new(program)))
}

/// A filter that is ready to be installed, any number of times.
#[derive(Clone, Debug)]
pub struct Filter(Arc<BpfProgram>);

impl Filter {
    /// Holds the calling thread, and the threads and processes that it starts from now on, to it for good.
    ///
    /// # Errors
    /// What the system says.
    pub fn install(&self) -> Result<(), JailError> {
        apply_filter(&self.0).map_err(|e| JailError::at("installing a seccomp filter")(io::Error::other(e)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The signal that ended a child of this process which was held to `list` and did `work`; 0: it went on to its end.
    fn fate(list: AllowList, work: impl Fn()) -> i32 {
        let filter = list.allow(&[libc::SYS_exit_group]).compile().unwrap();
        crate::sys::tests::in_child(|| {
            filter.install().unwrap();
            work();
        })
    }

    fn getppid() {
        let _ = rustix::process::getppid();
    }

    fn kill_nobody() {
        let _ = rustix::process::test_kill_process(rustix::process::getpid());
    }

    #[test]
    fn what_is_not_on_the_list_ends_the_process() {
        assert_eq!(fate(AllowList::default(), || {}), 0);
        assert_eq!(fate(AllowList::default(), getppid), libc::SIGSYS);
        assert_eq!(fate(AllowList::default().allow(&[libc::SYS_getppid]), getppid), 0);
    }

    #[test]
    fn alternatives_hold_and_no_others() {
        let list = |signals: &[u32]| {
            let list = AllowList::default().allow(&[libc::SYS_getpid]);
            signals
                .iter()
                .fold(list, |list, signal| list.allow_with(libc::SYS_kill, &[(1, Argument::Is(*signal))]))
        };
        assert_eq!(fate(list(&[9, 0]), kill_nobody), 0);
        assert_eq!(fate(list(&[9, 1]), kill_nobody), libc::SIGSYS);
        let lacking = |bits| {
            AllowList::default()
                .allow(&[libc::SYS_getpid])
                .allow_with(libc::SYS_kill, &[(1, Argument::Lacks(bits))])
        };
        assert_eq!(fate(lacking(1), kill_nobody), 0);
        // An unconditional permission is not narrowed by a later condition.
        let wide = AllowList::default().allow(&[libc::SYS_getpid, libc::SYS_kill]);
        assert_eq!(fate(wide.allow_with(libc::SYS_kill, &[(1, Argument::Is(9))]), kill_nobody), 0);
    }

    #[test]
    fn a_denied_call_ends_the_process_and_others_do_not() {
        let fate = |calls: &[c_long]| {
            let filter = deny(calls).unwrap();
            crate::sys::tests::in_child(|| {
                filter.install().unwrap();
                getppid();
            })
        };
        assert_eq!(fate(&[libc::SYS_ptrace, libc::SYS_getppid]), libc::SIGSYS);
        assert_eq!(fate(&[libc::SYS_ptrace]), 0);
    }

    #[test]
    fn memory_is_never_executable() {
        let map = |protection: rustix::mm::ProtFlags| crate::sys::tests::map(protection);
        let data = || map(rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE);
        let code = || map(rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::EXEC);
        assert_eq!(fate(AllowList::default().allow_memory(), data), 0);
        assert_eq!(fate(AllowList::default().allow_memory(), code), libc::SIGSYS);
    }
}
