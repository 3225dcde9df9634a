//! Where members of Go's structures are, by version: from the debug information of real amd64 builds of each.
//!
//! A version that is not in the table is not read: offsets are no matter for guessing.

/// Offsets in bytes, for one minor version.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Layout {
    /// `m.curg`.
    pub curg: u64,
    /// `g.goid`.
    pub goid: u64,
    /// `g.parentGoid`, since 1.21.
    pub parent: Option<u64>,
    /// `g.startpc`.
    pub startpc: u64,
    /// `hchan.recvq.first`.
    pub recvq: u64,
    /// `sudog.c`.
    pub sudog_c: u64,
    /// `p.goidcache`; `goidcacheend` follows.
    pub goidcache: (u64, u64),
    /// How far below the base of its stack the writer of an HTTP/1 connection keeps the channel of the answer.
    pub reply_channel: u64,
    /// The data word of `http.Request.ctx`.
    pub context: u64,
    /// `http.conn.curReq`: a pointer to the `response`.
    pub current: u64,
    /// How the compiler calls the functions that goroutines start with.
    pub names: Names,
}

/// The first functions of goroutines.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Names {
    /// Writes the requests of an HTTP/1 client connection.
    pub writer: &'static str,
    /// Reads the answers.
    pub reader: &'static str,
    /// Serves an HTTP/1 connection.
    pub server: &'static str,
    /// Reads one byte while a handler is at work.
    pub background: &'static str,
}

/// `g.stack.hi`, in all versions.
pub(super) const STACK_HI: u64 = 8;
/// `g.m`.
pub(super) const M: u64 = 48;
/// `hchan.dataqsiz` and `.elemsize` (two bytes).
pub(super) const DATAQSIZ: u64 = 8;
/// See [`DATAQSIZ`].
pub(super) const ELEMSIZE: u64 = 24;

/// How far below the base of its stack the goroutine of a server's connection keeps the `http.conn`.
pub(super) const SERVED: u64 = 72;
/// `http.response.req`; the first member is the `conn`.
pub(super) const REQUEST: u64 = 8;
/// The data word of the first member of every context that is derived from another: its parent, an interface.
pub(super) const DERIVED_FROM: u64 = 8;

const OLD: Names = Names {
    writer: "net/http.(*Transport).dialConn.func6",
    reader: "net/http.(*Transport).dialConn.func5",
    server: "net/http.(*Server).Serve.func3",
    background: "net/http.(*connReader).startBackgroundRead.func2",
};
const NEW: Names = Names {
    writer: "net/http.(*Transport).dialConn.gowrap3",
    reader: "net/http.(*Transport).dialConn.gowrap2",
    server: "net/http.(*Server).Serve.gowrap3",
    background: "net/http.(*connReader).startBackgroundRead.gowrap2",
};

const V19: Layout = Layout {
    curg: 192,
    goid: 152,
    parent: None,
    startpc: 312,
    recvq: 56,
    sudog_c: 80,
    goidcache: (384, 392),
    reply_channel: 128,
    context: 240,
    current: 120,
    names: OLD,
};
const V21: Layout = Layout { parent: Some(272), startpc: 296, current: 112, ..V19 };
const V22: Layout = Layout { reply_channel: 96, names: NEW, ..V21 };
const V23: Layout = Layout {
    goid: 160,
    parent: Some(280),
    startpc: 304,
    recvq: 64,
    goidcache: (376, 384),
    context: 256,
    ..V22
};
const V25: Layout = Layout { curg: 184, goid: 152, parent: Some(272), startpc: 296, ..V23 };
const V26: Layout = Layout { parent: Some(280), startpc: 304, sudog_c: 88, goidcache: (384, 392), ..V25 };

/// The layout of Go 1.`minor`.
pub(super) fn of_minor(minor: u32) -> Option<Layout> {
    Some(match minor {
        19 => V19,
        21 => V21,
        22 => V22,
        23 | 24 => V23,
        25 => V25,
        26 | 27 => V26,
        _ => return None,
    })
}

/// The 24 of `1.24.3`, `1.24rc1`, `1.24-X:foo`.
pub(super) fn minor(version: &str) -> Option<u32> {
    let rest = version.strip_prefix("1.")?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest.get(..digits)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_unknown_ones_have_no_layout() {
        assert_eq!(
            (minor("1.24.3"), minor("1.19"), minor("1.27rc1"), minor("2.0")),
            (Some(24), Some(19), Some(27), None)
        );
        assert_eq!(of_minor(20), None);
        assert_eq!(of_minor(99), None);
        assert_eq!(of_minor(24).map(|l| l.goid), Some(160));
    }
}
