//! The way to a call's rules, as a search tree.
//!
//! seccompiler tests one call after the other. When a filter is installed, the kernel has it judge every call that there
//! is (its cache of calls that are always allowed), on each thread anew: with lists of some thirty calls that is most of
//! a thread's start. Here a few comparisons lead to a short list of its making.

use seccompiler::{BackendError, BpfProgram, sock_filter};

use super::Rules;

/// The most calls of a list.
const CALLS: usize = 4;

/// `if A >= k`, with bytes of jumps forward (linux/bpf_common.h: BPF_JMP | BPF_JGE | BPF_K).
const IF_NOT_LESS: u16 = 0x35;
/// A jump forward by `k` instructions (BPF_JMP | BPF_JA).
const JUMP: u16 = 0x05;

/// A filter of `rules`, for parts of which `linear` makes one that tests call by call: each with the same beginning,
/// which does not depend on the rules.
///
/// # Errors
/// Those of `linear`.
pub(super) fn program(
    rules: &Rules,
    linear: &dyn Fn(Rules) -> Result<BpfProgram, BackendError>,
) -> Result<BpfProgram, BackendError> {
    let nothing = linear(Rules::new())?;
    // The test for the architecture and, in the place of the one answer to all, the load of the call's number.
    let beginning = nothing.len();
    let mut calls: Vec<_> = rules.clone().into_iter().collect();
    let (mut program, mut lists) = (nothing, Vec::new());
    while let Some((first, _)) = calls.first() {
        let first = *first;
        let rest = calls.split_off(calls.len().min(CALLS));
        let mut list = linear(std::mem::replace(&mut calls, rest).into_iter().collect())?;
        let body = list.split_off(beginning);
        program = list;
        lists.push((first, body));
    }
    search(&lists, &mut program);
    Ok(program)
}

/// Appends the lists, each of which answers to all, with what leads to the one that a call belongs to: the last whose
/// first call is no greater.
fn search(lists: &[(i64, BpfProgram)], program: &mut BpfProgram) {
    let (low, high) = lists.split_at(lists.len() / 2);
    match (low, high) {
        ([], [(_, list), ..]) => program.extend_from_slice(list),
        (_, [(first, _), ..]) => {
            program.push(sock_filter { code: IF_NOT_LESS, jt: 0, jf: 1, k: *first as u32 });
            let jump = program.len();
            program.push(sock_filter { code: JUMP, jt: 0, jf: 0, k: 0 });
            search(low, program);
            program[jump].k = (program.len() - jump - 1) as u32;
            search(high, program);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use seccompiler::{
        SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
        TargetArch,
    };

    use super::*;

    const X86_64: u32 = 0xc000_003e;
    const X32: u32 = 0x4000_0000;

    fn linear(rules: Rules) -> Result<BpfProgram, BackendError> {
        SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, TargetArch::x86_64)?
            .try_into()
    }

    /// What a program answers, and in how many steps (linux/seccomp.h: struct seccomp_data).
    fn judge(program: &BpfProgram, arch: u32, call: u32, argument: u32) -> (u32, usize) {
        let (mut at, mut a, mut steps) = (0, 0, 0);
        loop {
            let step = &program[at];
            (at, steps) = (at + 1, steps + 1);
            let test = match step.code {
                0x20 => {
                    a = match step.k {
                        0 => call,
                        4 => arch,
                        16 => argument,
                        _ => 0,
                    };
                    continue;
                }
                0x54 => {
                    a &= step.k;
                    continue;
                }
                0x05 => {
                    at += step.k as usize;
                    continue;
                }
                0x06 => return (step.k, steps),
                0x15 => a == step.k,
                0x25 => a > step.k,
                0x35 => a >= step.k,
                other => panic!("{other:#x}"),
            };
            at += usize::from(if test { step.jt } else { step.jf });
        }
    }

    #[test]
    fn answers_are_those_of_the_linear_filter_in_fewer_steps() {
        let is = |value| {
            let one = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value).unwrap();
            SeccompRule::new(vec![one]).unwrap()
        };
        let condition = |call| match call % 3 {
            0 => vec![is(1), is(7)],
            _ => Vec::new(),
        };
        for count in 0..40 {
            let rules: Rules = (0..count).map(|call| (call * call % 331, condition(call))).collect();
            let programs = [linear(rules.clone()).unwrap(), program(&rules, &linear).unwrap()];
            let mut steps = [0, 0];
            for arch in [X86_64, 0x4000_0003] {
                for call in (0..500).chain([X32, X32 + 1, u32::MAX]) {
                    for argument in [0, 1, 7] {
                        let [one, other] = [0, 1].map(|n| judge(&programs[n], arch, call, argument));
                        assert_eq!(one.0, other.0, "{count} rules: call {call} of {arch:#x} ({argument})");
                        steps = [steps[0] + one.1, steps[1] + other.1];
                    }
                }
            }
            assert!(count < 30 || steps[1] * 2 < steps[0], "{count} rules: {steps:?}");
        }
    }
}
