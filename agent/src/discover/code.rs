//! Machine code of others: where a function returns.
//!
//! A probe must stand on the first byte of an instruction, or it destroys the program; so instructions are decoded from
//! the function's entry on, along every way that can be proved, and nothing is searched for by its bytes. Calls are
//! taken to return. A jump out of the function is followed (its returns are this function's, too); a conditional branch
//! out of it is not: compilers put what nearly never happens there.
//!
//! It must never report an address that was not reached in this way, or look at more than [`MAX_INSTRUCTIONS`].

use std::collections::BTreeSet;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Mnemonic};

/// A `ret`, with its bytes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Return {
    /// Its address, as the file has it.
    pub address: u64,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// The returns of the function at `entry`, `size` bytes long. `read` gives bytes of the file at an address.
pub fn returns(
    entry: u64,
    size: u64,
    read: &dyn Fn(u64, usize) -> Option<Vec<u8>>,
) -> Result<Vec<Return>, &'static str> {
    // Where to go on, and the function that this belongs to.
    let mut ways = vec![(entry, entry..entry.saturating_add(size.clamp(1, MAX_FUNCTION)))];
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    let mut left = MAX_INSTRUCTIONS;
    while let Some((start, function)) = ways.pop() {
        let mut at = start;
        while seen.insert(at) {
            left = left.checked_sub(1).ok_or("the function is too long")?;
            // An instruction has at most 15 bytes; at the end of a section fewer are left.
            let bytes =
                (1..=15).rev().find_map(|length| read(at, length)).ok_or("its code is not in the file")?;
            let instruction = Decoder::with_ip(64, &bytes, at, DecoderOptions::NONE).decode();
            if instruction.is_invalid() {
                return Err("its code cannot be decoded");
            }
            let next = instruction.next_ip();
            let target = instruction.near_branch_target();
            match instruction.flow_control() {
                FlowControl::Next | FlowControl::Call | FlowControl::IndirectCall => {
                    // Padding and the start of another function: the call before did not return.
                    if instruction.mnemonic() == Mnemonic::Endbr64 && at != start {
                        break;
                    }
                    at = next;
                }
                FlowControl::Return => {
                    let bytes = bytes.get(..instruction.len()).unwrap_or_default().to_vec();
                    found.push(Return { address: at, bytes });
                    break;
                }
                FlowControl::UnconditionalBranch if function.contains(&target) => at = target,
                FlowControl::UnconditionalBranch => {
                    // It leaves for another function, whose length is not known.
                    ways.push((target, target..target.saturating_add(TAIL)));
                    break;
                }
                FlowControl::ConditionalBranch => {
                    if function.contains(&target) {
                        ways.push((target, function.clone()));
                    }
                    at = next;
                }
                FlowControl::IndirectBranch => return Err("it leaves by a jump to where a register says"),
                FlowControl::Interrupt | FlowControl::XbeginXabortXend | FlowControl::Exception => break,
            }
        }
    }
    found.sort_by_key(|at| at.address);
    match found.len() {
        0 => Err("it has no return"),
        1..=MAX_RETURNS => Ok(found),
        _ => Err("it has too many returns"),
    }
}

/// The longest function that is followed.
const MAX_FUNCTION: u64 = 4096;
/// Instructions that are decoded.
const MAX_INSTRUCTIONS: usize = 2000;
/// How far the branches of a function of unknown length are followed.
const TAIL: u64 = 256;
/// Returns beyond which something else was followed.
const MAX_RETURNS: usize = 16;

/// Fuzz body: no code makes the search panic, go on for ever, or report what is no return.
pub fn fuzz_returns(data: &[u8]) {
    let read = |address: u64, length: usize| {
        let at = usize::try_from(address.checked_sub(0x1000)?).ok()?;
        data.get(at..at.checked_add(length)?).map(<[u8]>::to_vec)
    };
    for found in returns(0x1000, data.len() as u64, &read).unwrap_or_default() {
        assert!(!found.bytes.is_empty());
        assert_eq!(read(found.address, found.bytes.len()).as_deref(), Some(found.bytes.as_slice()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(code: &[u8], size: u64, want: &[u64]) {
        let read = |address: u64, length: usize| {
            let at = usize::try_from(address.checked_sub(0x1000)?).ok()?;
            code.get(at..at.checked_add(length)?).map(<[u8]>::to_vec)
        };
        let found = returns(0x1000, size, &read)
            .map(|all| all.iter().map(|at| at.address - 0x1000).collect::<Vec<_>>());
        assert_eq!(found.as_deref().unwrap_or_default(), want, "{found:?}");
    }

    #[test]
    fn a_return_is_found_behind_a_branch_and_not_inside_an_instruction() {
        // test eax, eax; je +6; mov eax, 0xc3c3; ret; xor eax, eax; ret
        check(&[0x85, 0xc0, 0x74, 0x06, 0xb8, 0xc3, 0xc3, 0, 0, 0xc3, 0x31, 0xc0, 0xc3], 13, &[9, 10 + 2]);
    }

    #[test]
    fn a_jump_out_of_the_function_is_followed_and_a_branch_out_of_it_is_not() {
        // je +0x10 (out); jmp +3 (out); int3 x3; nop; ret; ... at 0x12: ret
        let mut code = vec![0x74, 0x10, 0xe9, 3, 0, 0, 0, 0xcc, 0xcc, 0xcc, 0x90, 0xc3];
        code.resize(0x12, 0xcc);
        code.push(0xc3);
        check(&code, 7, &[11]);
    }

    #[test]
    fn what_is_not_code_gives_nothing() {
        check(&[0x06, 0x07], 2, &[]);
        check(&[0xff, 0xe0], 2, &[]);
        check(&[], 2, &[]);
        check(&[0xeb, 0xfe], 2, &[]);
    }
}
