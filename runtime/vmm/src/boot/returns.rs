//! Return thunks. Where a CPU can be misled at a return (retbleed, SRSO, ITS), Linux leaves each function by a jump to a
//! thunk; everywhere else it begins its boot by making a plain return of each such jump, some thirty thousand one by one
//! (`apply_returns` in arch/x86/kernel/alternative.c). Where the host's CPU is none of these, the kernel is put into memory
//! with plain returns, and without the call that would make them: the same bytes at the same places, sooner.
//!
//! The kernel's own table says where they are: the section `.return_sites`, for each jump its distance from the entry. It is
//! believed only as far as what it leads to is such a jump, all of them to one place; a kernel of which anything else is true
//! stays as it is.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use vm_memory::{
    ByteValued, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, VolatileMemory, VolatileSlice,
};

const SECTION: &[u8] = b".return_sites\0";
/// `jmp rel32`, and `ret` with as many `int3` as make the same length of it. Nothing runs while they are exchanged.
const JUMP: u8 = 0xe9;
const JUMP_BYTES: usize = 5;
const RETURN: u8 = 0xc3;
const FILLER: [u8; JUMP_BYTES - 1] = [0xcc; JUMP_BYTES - 1];
/// A `nop` of five bytes, in the place of the call.
const NOTHING: [u8; JUMP_BYTES] = [0x0f, 0x1f, 0x44, 0x00, 0x00];
/// `mov $imm32, %rsi`, `mov $imm32, %rdi`, `call rel32`: how the kernel hands its table's end and start over.
const SECOND_ARGUMENT: [u8; 3] = [0x48, 0xc7, 0xc6];
const FIRST_ARGUMENT: [u8; 3] = [0x48, 0xc7, 0xc7];
const CALL: u8 = 0xe8;
/// Bounds of what a kernel's headers may make the monitor read.
const MAX_HEADERS: u16 = 1024;
const MAX_NAMES: u64 = 1 << 20;
/// ELF's names for the headers' values (elf(5)).
const PT_LOAD: u32 = 1;
const PF_X: u32 = 1;

/// Gives the kernel that was put into memory plain returns, and answers whether it did: this kernel may not be known to do so
/// itself, and then nothing is written.
///
/// # Errors
/// What reading the file says, and when it is no whole ELF file.
pub fn make_plain(memory: &GuestMemoryMmap, kernel: &File) -> io::Result<bool> {
    let elf = Elf::read(kernel)?;
    let Some((start, end)) = elf.section(SECTION)? else { return Ok(false) };
    let parts = elf.loaded(memory);
    Ok(Table::of(&parts, start, end).and_then(|table| table.make_plain(call(&parts, start, end)?)).is_some())
}

/// A part of the kernel as it lies in memory: the address by which the kernel knows it, its bytes, whether they are executed.
struct Part<'a> {
    address: u64,
    bytes: VolatileSlice<'a>,
    executed: bool,
}

impl Part<'_> {
    fn load<const SIZE: usize>(&self, offset: usize) -> Option<[u8; SIZE]>
    where
        [u8; SIZE]: ByteValued,
    {
        Some(self.bytes.get_ref(offset).ok()?.load())
    }

    fn store<const SIZE: usize>(&self, offset: usize, value: [u8; SIZE]) -> Option<()>
    where
        [u8; SIZE]: ByteValued,
    {
        self.bytes.get_ref(offset).ok()?.store(value);
        Some(())
    }
}

/// Where something is: in which part, and how far from its start.
type Place<'p, 'a> = (&'p Part<'a>, usize);

/// The kernel's table of jumps to the thunk.
struct Table<'p, 'a> {
    parts: &'p [Part<'a>],
    start: u64,
    end: u64,
    entries: Place<'p, 'a>,
    number: usize,
    thunk: u64,
}

impl<'p, 'a> Table<'p, 'a> {
    /// The table between `start` and `end`. Its first jump says where the thunk is.
    fn of(parts: &'p [Part<'a>], start: u64, end: u64) -> Option<Self> {
        let length = usize::try_from(end.checked_sub(start)?).ok()?;
        let entries = find(parts, start, length)?;
        let table = Self { parts, start, end, entries, number: length / 4, thunk: 0 };
        let (address, (part, offset)) = (table.number > 0).then(|| table.site(0))??;
        let relative = i32::from_le_bytes(part.load(offset + 1)?);
        let thunk = address.checked_add(JUMP_BYTES as u64)?.checked_add_signed(relative.into())?;
        Some(Self { thunk, ..table })
    }

    /// The address and place of a jump.
    fn site(&self, index: usize) -> Option<(u64, Place<'p, 'a>)> {
        let (part, first) = self.entries;
        let distance = i32::from_le_bytes(part.load(first + 4 * index)?);
        let entry = self.start.checked_add(4 * index as u64)?;
        let address = entry.checked_add_signed(distance.into())?;
        // What is written must not change the table.
        let outside = address >= self.end || address.checked_add(JUMP_BYTES as u64)? <= self.start;
        outside.then_some((address, find(self.parts, address, JUMP_BYTES)?))
    }

    /// How far it is to the thunk from behind a jump at that address, as the jump says it.
    fn relative(&self, address: u64) -> [u8; 4] {
        (self.thunk.wrapping_sub(address.wrapping_add(JUMP_BYTES as u64)) as i32).to_le_bytes()
    }

    /// Makes a return of each jump, and nothing of the call; or leaves all as it is when one is no such jump.
    fn make_plain(&self, (part, offset): Place<'p, 'a>) -> Option<()> {
        for index in 0..self.number {
            if self.make_one_plain(index).is_none() {
                // They have been such jumps.
                (0..index).try_for_each(|index| {
                    let (address, (part, offset)) = self.site(index)?;
                    part.store(offset, [JUMP])?;
                    part.store(offset + 1, self.relative(address))
                })?;
                return None;
            }
        }
        part.store(offset, [NOTHING[0]])?;
        part.store(offset + 1, [NOTHING[1], NOTHING[2], NOTHING[3], NOTHING[4]])
    }

    fn make_one_plain(&self, index: usize) -> Option<()> {
        let (address, (part, offset)) = self.site(index)?;
        let is_one = part.executed
            && part.load(offset)? == [JUMP]
            && part.load(offset + 1)? == self.relative(address)
            // Farther away than a jump reaches, it would not be the thunk.
            && self.thunk.abs_diff(address) < 1 << 31;
        is_one.then(|| part.store(offset, [RETURN]).and_then(|()| part.store(offset + 1, FILLER)))?
    }
}

/// The one call with the table's start and end.
fn call<'p, 'a>(parts: &'p [Part<'a>], start: u64, end: u64) -> Option<Place<'p, 'a>> {
    // The instructions sign-extend what they are given.
    let immediate = |address: u64| (address as i32).to_le_bytes();
    let mut wanted = SECOND_ARGUMENT.to_vec();
    wanted.extend(immediate(end));
    wanted.extend(FIRST_ARGUMENT);
    wanted.extend(immediate(start));
    wanted.push(CALL);
    // It is called once, early: by code that is thrown away with the table itself, and so in its part.
    let (part, _) = find(parts, start, 0)?;
    let mut bytes = vec![0; part.bytes.len()];
    part.bytes.read_slice(&mut bytes, 0).ok()?;
    let mut found = memchr::memmem::find_iter(&bytes, &wanted);
    let at = found.next()? + wanted.len() - 1;
    let one = found.next().is_none() && part.executed && at + JUMP_BYTES <= bytes.len();
    one.then_some((part, at))
}

/// The part with these addresses, and how far from its start they are.
fn find<'p, 'a>(parts: &'p [Part<'a>], address: u64, length: usize) -> Option<Place<'p, 'a>> {
    parts.iter().find_map(|part| {
        let offset = usize::try_from(address.checked_sub(part.address)?).ok()?;
        (offset.checked_add(length)? <= part.bytes.len()).then_some((part, offset))
    })
}

type Program = [u8; 56];
type Section = [u8; 64];

/// The headers of an ELF file of 64 bits (elf(5)), as far as they are needed here.
struct Elf<'f> {
    file: &'f File,
    programs: Vec<Program>,
    sections: Vec<Section>,
    /// The index of the section with the sections' names.
    names: u16,
}

impl<'f> Elf<'f> {
    fn read(file: &'f File) -> io::Result<Self> {
        let mut head = [0; 64];
        file.read_exact_at(&mut head, 0)?;
        let programs = table(file, long(&head, 32), short(&head, 56))?;
        let sections = table(file, long(&head, 40), short(&head, 60))?;
        Ok(Self { file, programs, sections, names: short(&head, 62) })
    }

    /// The first and the last address, and one, of the section of that name.
    fn section(&self, name: &[u8]) -> io::Result<Option<(u64, u64)>> {
        let Some(names) = self.sections.get(usize::from(self.names)) else { return Ok(None) };
        let (offset, length) = (long(names, 24), long(names, 32));
        if length > MAX_NAMES {
            return Err(io::Error::other(format!("its sections have {length} bytes of names")));
        }
        let mut text = vec![0; length as usize];
        self.file.read_exact_at(&mut text, offset)?;
        let of_that_name =
            |section: &&Section| text.get(int(*section, 0) as usize..).is_some_and(|n| n.starts_with(name));
        Ok(self.sections.iter().find(of_that_name).and_then(|section| {
            let (address, length) = (long(section, 16), long(section, 32));
            Some((address, address.checked_add(length)?))
        }))
    }

    /// What of the file is in memory, where the kernel expects it.
    fn loaded<'m>(&self, memory: &'m GuestMemoryMmap) -> Vec<Part<'m>> {
        let loaded = self.programs.iter().filter(|program| int(*program, 0) == PT_LOAD);
        let part = |program: &Program| {
            let (address, place, length) = (long(program, 16), long(program, 24), long(program, 32));
            let bytes = memory.get_slice(GuestAddress(place), usize::try_from(length).ok()?).ok()?;
            Some(Part { address, bytes, executed: int(program, 4) & PF_X != 0 })
        };
        loaded.filter_map(part).collect()
    }
}

fn table<const SIZE: usize>(file: &File, offset: u64, number: u16) -> io::Result<Vec<[u8; SIZE]>> {
    if number > MAX_HEADERS {
        return Err(io::Error::other(format!("it has {number} headers of a kind, more than {MAX_HEADERS}")));
    }
    let mut bytes = vec![0; SIZE * usize::from(number)];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes.as_chunks().0.to_vec())
}

fn short(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

fn int(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// Where the kernel's code is, by its own reckoning and in memory, and where its table is in it.
    const BASE: u64 = 0xffff_ffff_8100_0000;
    const PLACE: u64 = 0x10_0000;
    const TABLE: usize = 0x800;
    const THUNK: usize = 0x700;
    const CODE: usize = 0x1000;
    const SITES: [usize; 3] = [0x10, 0x100, 0x6fb];
    const CALLED: usize = 0x400;

    /// A kernel's code: three jumps to the thunk, the table that lists them, and the call for it.
    fn code() -> Vec<u8> {
        let mut code = vec![0x90; CODE];
        let relative = |from: usize, to: usize| (to as i32 - from as i32).to_le_bytes();
        for (index, site) in SITES.into_iter().enumerate() {
            code[site] = JUMP;
            code[site + 1..site + 5].copy_from_slice(&relative(site + 5, THUNK));
            let entry = TABLE + 4 * index;
            code[entry..entry + 4].copy_from_slice(&relative(entry, site));
        }
        let mut call = SECOND_ARGUMENT.to_vec();
        call.extend(((BASE as usize + TABLE + 4 * SITES.len()) as i32).to_le_bytes());
        call.extend(FIRST_ARGUMENT);
        call.extend(((BASE as usize + TABLE) as i32).to_le_bytes());
        call.extend([CALL, 1, 2, 3, 4]);
        code[CALLED - 14..CALLED + 5].copy_from_slice(&call);
        code
    }

    /// The headers of a file with that code and that many entries in the table, and with flags for its one segment.
    fn headers(entries: usize, flags: u32) -> Vec<u8> {
        let (programs, sections, names) = (64_u64, 120_u64, 248_u64);
        let mut file = vec![0; 300];
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"\x7fELF");
        put(32, &programs.to_le_bytes());
        put(40, &sections.to_le_bytes());
        put(56, &1_u16.to_le_bytes());
        put(60, &2_u16.to_le_bytes());
        put(64, &PT_LOAD.to_le_bytes());
        put(68, &flags.to_le_bytes());
        put(80, &BASE.to_le_bytes());
        put(88, &PLACE.to_le_bytes());
        put(96, &(CODE as u64).to_le_bytes());
        // The names' section is the first; the table is called by the name at its byte 1.
        put(144, &names.to_le_bytes());
        put(152, &20_u64.to_le_bytes());
        put(184, &1_u32.to_le_bytes());
        put(200, &(BASE + TABLE as u64).to_le_bytes());
        put(216, &(4 * entries as u64).to_le_bytes());
        put(249, SECTION);
        file
    }

    fn after(code: &[u8], headers: &[u8]) -> (io::Result<bool>, Vec<u8>) {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x20_0000)]).unwrap();
        memory.write_slice(code, GuestAddress(PLACE)).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(headers).unwrap();
        let made = make_plain(&memory, &file);
        let mut now = vec![0; CODE];
        memory.read_slice(&mut now, GuestAddress(PLACE)).unwrap();
        (made, now)
    }

    #[test]
    fn jumps_to_the_thunk_are_returns_and_the_call_for_them_is_gone() {
        let (made, now) = after(&code(), &headers(3, PF_X));
        assert!(made.unwrap());
        let mut expected = code();
        for site in SITES {
            expected[site] = RETURN;
            expected[site + 1..site + 5].copy_from_slice(&FILLER);
        }
        expected[CALLED..CALLED + 5].copy_from_slice(&NOTHING);
        assert!(now == expected);
    }

    #[test]
    fn a_kernel_that_is_not_as_expected_stays_as_it_is() {
        let changed = |at: usize, byte: u8| {
            let mut code = code();
            code[at] = byte;
            code
        };
        let twice = {
            let mut code = code();
            let call = code[CALLED - 14..CALLED + 5].to_vec();
            code[0x500..0x500 + call.len()].copy_from_slice(&call);
            code
        };
        let cases = [
            ("no jump", changed(SITES[1], 0x90), headers(3, PF_X)),
            ("at last no jump", changed(SITES[2], 0x90), headers(3, PF_X)),
            ("a jump elsewhere", changed(SITES[1] + 1, 0), headers(3, PF_X)),
            ("at first a jump elsewhere", changed(SITES[0] + 1, 0), headers(3, PF_X)),
            ("an entry that leads to the table", changed(TABLE + 5, 0xff), headers(3, PF_X)),
            ("an entry that leads out of the kernel", changed(TABLE + 3, 0x7f), headers(3, PF_X)),
            ("no call", changed(CALLED, 0xe9), headers(3, PF_X)),
            ("two calls", twice, headers(3, PF_X)),
            ("no code", code(), headers(3, 0)),
            ("no entries", code(), headers(0, PF_X)),
            ("a table that leads out of the kernel", code(), headers(usize::MAX / 16, PF_X)),
            ("another length than the call says", code(), headers(2, PF_X)),
        ];
        for (what, code, headers) in cases {
            let (made, now) = after(&code, &headers);
            assert!(made.is_ok_and(|made| !made), "{what}");
            assert!(now == code, "{what}");
        }
    }

    #[test]
    fn headers_are_not_believed() {
        let with = |at: usize, bytes: &[u8]| {
            let mut headers = headers(3, PF_X);
            headers[at..at + bytes.len()].copy_from_slice(bytes);
            headers
        };
        let refused = [
            with(60, &u16::MAX.to_le_bytes()),
            with(40, &u64::MAX.to_le_bytes()),
            with(152, &u64::MAX.to_le_bytes()),
            with(144, &u64::MAX.to_le_bytes()),
            b"\x7fELF".to_vec(),
        ];
        for headers in refused {
            let (made, now) = after(&code(), &headers);
            assert!(made.is_err());
            assert!(now == code());
        }
        // A name beyond the names, a segment beyond memory or with a length that no memory has.
        for headers in [
            with(184, &u32::MAX.to_le_bytes()),
            with(62, &9_u16.to_le_bytes()),
            with(88, &0x1f_f800_u64.to_le_bytes()),
            with(96, &u64::MAX.to_le_bytes()),
            with(200, &u64::MAX.to_le_bytes()),
        ] {
            let (made, now) = after(&code(), &headers);
            assert!(made.is_ok_and(|made| !made));
            assert!(now == code());
        }
    }
}
