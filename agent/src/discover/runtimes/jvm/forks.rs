//! Threads of a ForkJoinPool: which task one runs, from two places on its stack.
//!
//! ```text
//!   base ─ WorkQueue ─ … ─ task (the loop that took it) ─ … ─ task (the frame of its `doExec`) ─ … ─ the call
//! ```
//! The outer frames of these threads keep what earlier tasks left there. So a task is one that two frames agree about at the moment of the
//! call, where these frames are is taken for known once several looks agreed, and no other task of a request that waits may be met
//! anywhere on the stack: a thread that joins one task helps with others meanwhile. Pure.
//!
//! It must never take the first task that it meets for the one that runs.

use super::classes::Kind;

/// What is on a stack, from its base inwards: how far below the base, the object, what it is.
pub type Met = (u64, u64, Kind);

/// The two depths at which the task lies that this thread runs, if these are the objects on its stack: the outermost task,
/// twice, with no other in between.
pub fn pair(stack: &[Met]) -> Option<(u64, u64)> {
    let mut tasks = stack.iter().filter(|(_, _, kind)| *kind == Kind::Task);
    let (&(outer, object, _), &(inner, again, _)) = (tasks.next()?, tasks.next()?);
    (object == again).then_some((outer, inner))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(stack: &[(u64, u64, Kind)], expected: Option<(u64, u64)>) {
        assert_eq!(pair(stack), expected);
    }

    #[test]
    fn a_task_is_what_two_frames_agree_about() {
        use Kind::{ForkJoin, Task};
        check(&[(56, 1, ForkJoin), (64, 7, Task), (72, 1, ForkJoin), (80, 7, Task)], Some((64, 80)));
        check(&[(56, 1, ForkJoin), (64, 8, Task), (72, 7, Task), (80, 7, Task)], None);
        check(&[(56, 1, ForkJoin), (64, 7, Task)], None);
    }
}
