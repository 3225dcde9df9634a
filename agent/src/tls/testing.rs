//! What the tests and fuzz bodies of this station share: moments and pieces made of nothing.

use crate::identity::{Moment, Monotonic, ProcessKey, ThreadId};
#[cfg(test)]
use crate::stream::{Content, Piece};

pub(super) fn moment(time: u64) -> Moment {
    Moment {
        time: Monotonic(time),
        process: ProcessKey { pid: 1, exec: 1, started: 1 },
        thread: ThreadId(1),
        nonblocking: false,
        in_epoll: false,
        evidence: None,
    }
}

#[cfg(test)]
pub(super) fn piece<'a>(offset: u64, content: Content<'a>, moment: &'a Moment) -> Piece<'a> {
    Piece { offset, content, starts_call: true, ends_call: false, moment }
}
