//! Which devices a container may use: in cgroup v2 a BPF program that the kernel asks at every open and mknod.
//!
//! The container library could do it only with a C library of its own for BPF (libbpf-sys), so the program,
//! a chain of comparisons, is written here.

use std::os::fd::AsFd;
use std::path::Path;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use crate::error::{Context, Error, Result};
use crate::sys;

/// The most rules; a program has at most 4096 instructions, and a rule takes up to eight.
const MAX_RULES: usize = 256;

/// `BPF_DEVCG_ACC_*`.
const MKNOD: u32 = 1;
const READ: u32 = 2;
const WRITE: u32 = 4;
const ALL: u32 = MKNOD | READ | WRITE;

/// `BPF_DEVCG_DEV_*`.
const BLOCK: u32 = 1;
const CHARACTER: u32 = 2;

/// One rule; `None` is any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rule {
    allow: bool,
    kind: Option<u32>,
    major: Option<u32>,
    minor: Option<u32>,
    access: u32,
}

/// What every container has (OCI runtime spec, "Default Devices"), and device nodes that open nothing.
fn defaults() -> impl Iterator<Item = Rule> {
    let character = |major: u32, minor: Option<u32>| Rule {
        allow: true,
        kind: Some(CHARACTER),
        major: Some(major),
        minor,
        access: ALL,
    };
    // null, zero, full, random, urandom; tty, console, ptmx; and every pseudo terminal.
    let memory = [3, 5, 7, 8, 9].into_iter().map(move |minor| character(1, Some(minor)));
    let terminals = [0, 1, 2].into_iter().map(move |minor| character(5, Some(minor)));
    let nodes = [BLOCK, CHARACTER].into_iter().map(|kind| Rule {
        allow: true,
        kind: Some(kind),
        major: None,
        minor: None,
        access: MKNOD,
    });
    nodes.chain(memory).chain(terminals).chain([character(136, None)])
}

/// Restricts the cgroup at `path` to what the rules of its OCI spec and the default devices allow.
pub fn restrict(path: &Path, rules: &[LinuxDeviceCgroup]) -> Result<()> {
    if rules.len() > MAX_RULES {
        return Err(Error::Invalid(format!(
            "the OCI spec has {} device rules, more than {MAX_RULES}",
            rules.len()
        )));
    }
    let rules = rules.iter().map(parse).chain(defaults().map(Ok)).collect::<Result<Vec<_>>>()?;
    let program = sys::load_device_program(&assemble(&rules)).context(|| "loading the device rules")?;
    let cgroup = std::fs::File::open(path).context(|| format!("opening {}", path.display()))?;
    sys::attach_device_program(cgroup.as_fd(), program.as_fd())
        .context(|| format!("attaching the device rules to {}", path.display()))
}

fn parse(rule: &LinuxDeviceCgroup) -> Result<Rule> {
    let invalid = |what: &str| Error::Invalid(format!("device rule {rule:?}: {what}"));
    let kind = match rule.typ() {
        None | Some(LinuxDeviceType::A) => None,
        Some(LinuxDeviceType::B) => Some(BLOCK),
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some(CHARACTER),
        Some(LinuxDeviceType::P) => return Err(invalid("a FIFO is not a device")),
    };
    // Negative is any, as in the OCI spec's own examples.
    let number = |n: Option<i64>| match n {
        Some(n) if n >= 0 => u32::try_from(n).map(Some).map_err(|_| invalid("the number is too large")),
        _ => Ok(None),
    };
    let mut access = 0;
    for letter in rule.access().as_deref().unwrap_or("rwm").chars() {
        access |= match letter {
            'r' => READ,
            'w' => WRITE,
            'm' => MKNOD,
            _ => return Err(invalid("access is made of r, w and m")),
        };
    }
    Ok(Rule { allow: rule.allow(), kind, major: number(rule.major())?, minor: number(rule.minor())?, access })
}

/// A `struct bpf_insn` (linux/bpf.h) as the number it is in memory.
fn instruction(code: u8, to: u8, from: u8, offset: i16, value: u32) -> u64 {
    u64::from(code) | u64::from(to | from << 4) << 8 | u64::from(offset as u16) << 16 | u64::from(value) << 32
}

const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xbc;
const MOVE_VALUE: u8 = 0xb4;
const AND_VALUE: u8 = 0x54;
const SHIFT_RIGHT_VALUE: u8 = 0x74;
const JUMP_EQUAL_VALUE: u8 = 0x16;
const JUMP_NOT_EQUAL: u8 = 0x5e;
const JUMP_NOT_EQUAL_VALUE: u8 = 0x56;
const EXIT: u8 = 0x95;

/// The registers: result, context, and what the context (`struct bpf_cgroup_dev_ctx`) says.
const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;

/// The program: the last rule that matches decides, and none means no.
fn assemble(rules: &[Rule]) -> Vec<u64> {
    let mut program = vec![
        instruction(LOAD_WORD, KIND, CONTEXT, 0, 0),
        instruction(MOVE, ACCESS, KIND, 0, 0),
        instruction(AND_VALUE, KIND, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT_VALUE, ACCESS, 0, 0, 16),
        instruction(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        instruction(LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    for rule in rules.iter().rev() {
        // Tests of which each skips the rest of the rule, when it fails.
        let mut tests: Vec<(Vec<u64>, u8, u8, u8, u32)> = Vec::new();
        for (register, wanted) in [(KIND, rule.kind), (MAJOR, rule.major), (MINOR, rule.minor)] {
            if let Some(wanted) = wanted {
                tests.push((Vec::new(), JUMP_NOT_EQUAL_VALUE, register, 0, wanted));
            }
        }
        if rule.access != ALL {
            let mask = vec![
                instruction(MOVE, SCRATCH, ACCESS, 0, 0),
                instruction(AND_VALUE, SCRATCH, 0, 0, rule.access),
            ];
            tests.push(if rule.allow {
                // All that is asked for must be allowed.
                (mask, JUMP_NOT_EQUAL, SCRATCH, ACCESS, 0)
            } else {
                // Any of it being denied is enough.
                (mask, JUMP_EQUAL_VALUE, SCRATCH, 0, 0)
            });
        }
        let decides_all = tests.is_empty();
        let mut rest: usize = 2 + tests.iter().map(|(before, ..)| before.len() + 1).sum::<usize>();
        for (before, jump, register, other, value) in tests {
            rest -= before.len() + 1;
            program.extend(before);
            program.push(instruction(jump, register, other, rest as i16, value));
        }
        program.push(instruction(MOVE_VALUE, RESULT, 0, 0, rule.allow.into()));
        program.push(instruction(EXIT, 0, 0, 0, 0));
        if decides_all {
            // Nothing after it is ever reached, and the kernel refuses a program with such a part.
            return program;
        }
    }
    program.push(instruction(MOVE_VALUE, RESULT, 0, 0, 0));
    program.push(instruction(EXIT, 0, 0, 0, 0));
    program
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Runs a program as the kernel would.
    fn ask(program: &[u64], kind: u32, major: u32, minor: u32, access: u32) -> bool {
        let context = [access << 16 | kind, major, minor];
        let mut registers = [0u32; 8];
        let mut next = 0;
        loop {
            let word = program[next];
            next += 1;
            let (to, from) = ((word >> 8 & 15) as usize, (word >> 12 & 15) as usize);
            let (offset, value) = ((word >> 16) as u16 as usize, (word >> 32) as u32);
            match word as u8 {
                LOAD_WORD => registers[to] = context[offset / 4],
                MOVE => registers[to] = registers[from],
                MOVE_VALUE => registers[to] = value,
                AND_VALUE => registers[to] &= value,
                SHIFT_RIGHT_VALUE => registers[to] >>= value,
                JUMP_EQUAL_VALUE if registers[to] == value => next += offset,
                JUMP_NOT_EQUAL if registers[to] != registers[from] => next += offset,
                JUMP_NOT_EQUAL_VALUE if registers[to] != value => next += offset,
                EXIT => return registers[0] == 1,
                _ => {}
            }
        }
    }

    fn program(rules: Value) -> Vec<u64> {
        let rules: Vec<LinuxDeviceCgroup> = serde_json::from_value(rules).unwrap();
        assemble(&rules.iter().map(|rule| parse(rule).unwrap()).chain(defaults()).collect::<Vec<_>>())
    }

    #[test]
    fn default_devices_and_nothing_else() {
        let program = program(json!([{"allow": false, "access": "rwm"}]));
        assert!(ask(&program, CHARACTER, 1, 3, READ | WRITE));
        assert!(ask(&program, CHARACTER, 136, 77, READ));
        assert!(ask(&program, CHARACTER, 5, 2, WRITE));
        assert!(ask(&program, BLOCK, 254, 0, MKNOD));
        assert!(!ask(&program, BLOCK, 254, 0, READ));
        assert!(!ask(&program, BLOCK, 254, 0, READ | MKNOD));
        assert!(!ask(&program, CHARACTER, 1, 1, READ));
        assert!(!ask(&program, BLOCK, 1, 3, READ));
    }

    #[test]
    fn the_last_rule_that_matches_decides() {
        let program = program(json!([
            {"allow": true, "access": "rwm"},
            {"allow": false, "type": "c", "major": 10, "minor": 200, "access": "w"},
            {"allow": false, "type": "b", "major": 254, "minor": -1, "access": "rwm"},
            {"allow": true, "type": "b", "major": 254, "minor": 16, "access": "r"},
        ]));
        assert!(ask(&program, CHARACTER, 10, 229, READ | WRITE));
        assert!(ask(&program, CHARACTER, 10, 200, READ));
        assert!(!ask(&program, CHARACTER, 10, 200, READ | WRITE));
        assert!(!ask(&program, BLOCK, 254, 0, READ));
        assert!(ask(&program, BLOCK, 254, 16, READ));
        assert!(!ask(&program, BLOCK, 254, 16, READ | WRITE));
    }

    #[test]
    fn a_rule_for_everything_ends_the_program() {
        for allow in [false, true] {
            let rules = json!([{"allow": false, "type": "c", "major": 1}, {"allow": allow, "access": "rwm"}]);
            let rules: Vec<LinuxDeviceCgroup> = serde_json::from_value(rules).unwrap();
            let rules: Vec<Rule> = rules.iter().map(|rule| parse(rule).unwrap()).collect();
            let program = assemble(&rules);
            assert_eq!(program.iter().filter(|word| **word as u8 == EXIT).count(), 1);
            assert_eq!(ask(&program, CHARACTER, 1, 1, READ), allow);
        }
    }

    #[test]
    fn wrong_rules_are_refused() {
        for rule in
            [json!({"allow": true, "access": "x"}), json!({"allow": true, "type": "c", "major": 1i64 << 40})]
        {
            let rule: LinuxDeviceCgroup = serde_json::from_value(rule).unwrap();
            assert!(parse(&rule).is_err(), "{rule:?}");
        }
    }
}
