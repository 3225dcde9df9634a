//! What the kernel side counts, in a per-CPU array: one slot per cause, and the table that names them.
//!
//! Nothing that is lost or left out may be missing here. The sums must balance:
//! bytes moved = captured + each of the `bytes` causes.

/// One counter: its slot in the array.
#[repr(u32)]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[allow(missing_docs)]
pub enum Counter {
    /// Calls on stream sockets that moved bytes.
    Calls,
    BytesMovedSend,
    BytesMovedReceive,
    /// Bytes that went into the ring.
    BytesCaptured,
    /// Bytes that a policy did not want.
    BytesSilent,
    /// Bytes beyond what a policy takes of one call.
    BytesLimit,
    /// Bytes of calls that have no buffer that can be read.
    BytesUnseen,
    /// Bytes whose record found the ring full.
    BytesRingFull,
    /// Bytes on a page that was not there.
    BytesUnreadable,
    /// Bytes of calls whose socket could get no state.
    BytesNoState,
    /// Bytes of processes that were not selected.
    BytesNotSelected,
    /// Bytes of sockets that are not the kernel's own TCP or a unix stream (MPTCP, kTLS, sockmap…).
    BytesForeign,
    /// Bytes in pieces of a vector beyond the last that is looked at.
    BytesVector,
    /// Records that found the ring full.
    RecordsRingFull,
    /// Losses that could not even be noted by connection.
    LossesUnnoted,
    /// Sockets that got no state.
    NoState,
    /// Records written.
    Records,
    /// Calls that met a policy and made no record.
    CallsSilent,
    /// Walks that ended with evidence.
    Walks,
    /// Walks in which a guard or a read failed.
    WalksFailed,
    /// Hits of probed instructions that a walk is for.
    Hits,
    /// Hits of which nothing was read, since another thread's walk was under way on that CPU.
    HitsMissed,
    /// Times that a direction was no longer followed, because a call had too many frames or could not be read.
    FramesLost,
    /// TLS sessions that a probe saw begin.
    TlsSessions,
    /// Secrets that found their map full.
    TlsSecretsFull,
    /// Hits of probes in TLS libraries, of processes whose plaintext is read.
    ClearHits,
    /// Bytes of plaintext in records of such calls.
    ClearCaptured,
    /// Of such calls, by why nothing is told of all they moved, or not where it belongs: no room to note that it began.
    ClearCallsFull,
    /// The session's bytes are not counted: its map is full.
    ClearSessionsFull,
    /// The session or the number of bytes could not be read.
    ClearUnreadable,
    /// The ring was full.
    ClearRingFull,
}

impl Counter {
    /// How many there are.
    pub const COUNT: usize = 31;

    /// All, with the metric and the cause under which they are exported.
    pub const ALL: [(Self, &'static str, Option<&'static str>); Self::COUNT] = [
        (Self::Calls, "spandrel_kernel_calls_total", None),
        (Self::BytesMovedSend, "spandrel_kernel_moved_bytes_total", Some("send")),
        (Self::BytesMovedReceive, "spandrel_kernel_moved_bytes_total", Some("receive")),
        (Self::BytesCaptured, "spandrel_kernel_captured_bytes_total", None),
        (Self::BytesSilent, "spandrel_kernel_left_out_bytes_total", Some("policy")),
        (Self::BytesLimit, "spandrel_kernel_left_out_bytes_total", Some("limit")),
        (Self::BytesUnseen, "spandrel_kernel_left_out_bytes_total", Some("no_buffer")),
        (Self::BytesRingFull, "spandrel_kernel_left_out_bytes_total", Some("ring_full")),
        (Self::BytesUnreadable, "spandrel_kernel_left_out_bytes_total", Some("unreadable")),
        (Self::BytesNoState, "spandrel_kernel_left_out_bytes_total", Some("no_state")),
        (Self::BytesNotSelected, "spandrel_kernel_left_out_bytes_total", Some("not_selected")),
        (Self::BytesForeign, "spandrel_kernel_left_out_bytes_total", Some("foreign_socket")),
        (Self::BytesVector, "spandrel_kernel_left_out_bytes_total", Some("vector")),
        (Self::RecordsRingFull, "spandrel_kernel_lost_records_total", Some("ring_full")),
        (Self::LossesUnnoted, "spandrel_kernel_unnoted_losses_total", None),
        (Self::NoState, "spandrel_kernel_sockets_without_state_total", None),
        (Self::Records, "spandrel_kernel_records_total", None),
        (Self::CallsSilent, "spandrel_kernel_silent_calls_total", None),
        (Self::Walks, "spandrel_kernel_walks_total", Some("evidence")),
        (Self::WalksFailed, "spandrel_kernel_walks_total", Some("failed")),
        (Self::Hits, "spandrel_kernel_probe_hits_total", None),
        (Self::HitsMissed, "spandrel_kernel_probe_hits_missed_total", None),
        (Self::FramesLost, "spandrel_kernel_frames_lost_total", None),
        (Self::TlsSessions, "spandrel_kernel_tls_sessions_total", None),
        (Self::TlsSecretsFull, "spandrel_kernel_tls_secrets_full_total", None),
        (Self::ClearHits, "spandrel_kernel_tls_probe_hits_total", None),
        (Self::ClearCaptured, "spandrel_kernel_tls_clear_bytes_total", None),
        (Self::ClearCallsFull, "spandrel_kernel_tls_clear_calls_lost_total", Some("calls_full")),
        (Self::ClearSessionsFull, "spandrel_kernel_tls_clear_calls_lost_total", Some("sessions_full")),
        (Self::ClearUnreadable, "spandrel_kernel_tls_clear_calls_lost_total", Some("unreadable")),
        (Self::ClearRingFull, "spandrel_kernel_tls_clear_calls_lost_total", Some("ring_full")),
    ];
}

/// Slots of the array that counts bytes of calls without a readable buffer by call number; the last
/// slot takes all numbers beyond.
pub const CALL_NUMBERS: u32 = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_slots() {
        for (slot, (counter, _, _)) in Counter::ALL.iter().enumerate() {
            assert_eq!(*counter as usize, slot);
        }
    }
}
