//! Where in its stream a byte stands: TCP sequence numbers as positions, and the name of a connection
//! that both of its ends can compute.
//!
//! Pure arithmetic modulo 2³², used by the kernel side (which needs a position to obey a policy) and
//! by the agent (which needs offsets). It must never guess: what a snapshot cannot prove is an `Option`.

/// `RCV_SHUTDOWN` of include/net/sock.h: the peer's FIN was received.
pub const RCV_SHUTDOWN: u8 = 1;
/// `SEND_SHUTDOWN` of include/net/sock.h.
pub const SEND_SHUTDOWN: u8 = 2;
/// Of a socket's flags (`enum sock_flags`, include/net/sock.h) the one that `tcp_fin` (net/ipv4/tcp_input.c) sets together with
/// `RCV_SHUTDOWN`. A reset (`tcp_done`, net/ipv4/tcp.c) and a `shutdown(SHUT_RD)` of this end set `RCV_SHUTDOWN` alone: then no
/// FIN has a number in the stream.
pub const SOCK_DONE: u64 = 1 << 1;

/// The members of `struct tcp_sock` (include/linux/tcp.h) that place bytes, as one call's end saw them.
/// The hook does not hold the socket's lock, so two members may belong to different instants.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Tcp {
    /// The sequence number after the last byte that was written into the socket.
    pub write_seq: u32,
    /// The first byte that the peer has not acknowledged.
    pub snd_una: u32,
    /// The sequence number after the last byte that was read out of the socket.
    pub copied_seq: u32,
    /// The next byte expected from the peer.
    pub rcv_nxt: u32,
    /// RFC 4898 tcpEStatsAppHCThruOctetsAcked; counts the SYN at the end that connected actively.
    pub bytes_acked: u64,
    /// RFC 4898 tcpEStatsAppHCThruOctetsReceived.
    pub bytes_received: u64,
}

impl Tcp {
    /// The position of the first of `sent` bytes that a call has just written.
    pub const fn sent_at(&self, sent: u32) -> u32 {
        self.write_seq.wrapping_sub(sent)
    }

    /// The position of the first of `received` bytes that a call has just read.
    ///
    /// A read that returns data and also takes the FIN off the queue advances `copied_seq` by one more
    /// (`tcp_recvmsg_locked`, net/ipv4/tcp.c: `found_fin_ok`), which is told by everything having been
    /// read after `RCV_SHUTDOWN`.
    pub const fn received_at(&self, received: u32, shutdown: u8) -> u32 {
        let fin = self.fin_read(shutdown) && received > 0;
        self.copied_seq.wrapping_sub(received).wrapping_sub(fin as u32)
    }

    /// The position after the last byte of data that was read: `copied_seq` without the FIN.
    pub const fn received_end(&self, shutdown: u8) -> u32 {
        self.copied_seq.wrapping_sub(self.fin_read(shutdown) as u32)
    }

    const fn fin_read(&self, shutdown: u8) -> bool {
        shutdown & RCV_SHUTDOWN != 0 && self.copied_seq == self.rcv_nxt
    }

    /// The sequence number of the first data byte this end sends, if it connected passively; one more
    /// if it connected actively, because `bytes_acked` then counts the SYN.
    pub const fn first_sent_if_passive(&self) -> u32 {
        self.snd_una.wrapping_sub(self.bytes_acked as u32)
    }

    /// The sequence number of the first data byte that the peer sends.
    pub const fn first_received(&self) -> u32 {
        self.rcv_nxt.wrapping_sub(self.bytes_received as u32)
    }
}

/// `value` extended to 64 bits: the number congruent to it modulo 2³² that is nearest to `near`; none if
/// that is negative, since nothing lies before byte 0 of a stream.
pub const fn extend(value: u32, near: u64) -> Option<u64> {
    let step = value.wrapping_sub(near as u32) as i32 as i64;
    near.checked_add_signed(step)
}

/// Whether `a` lies before `b`, modulo 2³².
pub const fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

/// A TCP connection as both of its ends can name it: the sequence numbers of the first data byte in
/// each direction. There is no address in it, so address translation on the way does not change it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Name {
    /// The first data byte of the end that connected.
    pub active: u32,
    /// The first data byte of the end that accepted.
    pub passive: u32,
}

/// Which end of a connection a socket is.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum End {
    /// It connected.
    Active,
    /// It accepted.
    Passive,
}

impl Name {
    /// The name that this end's snapshot gives the connection, if this end is `end`.
    pub const fn of(tcp: &Tcp, end: End) -> Self {
        match end {
            End::Active => {
                Self { active: tcp.first_sent_if_passive().wrapping_add(1), passive: tcp.first_received() }
            }
            End::Passive => Self { active: tcp.first_received(), passive: tcp.first_sent_if_passive() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_that_also_takes_the_fin_is_one_byte_too_far() {
        let tcp = Tcp { copied_seq: 111, rcv_nxt: 111, ..Tcp::default() };
        assert_eq!(tcp.received_at(10, RCV_SHUTDOWN), 100);
        assert_eq!(tcp.received_at(10, 0), 101);
        let unread = Tcp { copied_seq: 110, rcv_nxt: 120, ..Tcp::default() };
        assert_eq!(unread.received_at(10, RCV_SHUTDOWN), 100);
    }

    #[test]
    fn positions_wrap() {
        let tcp = Tcp { write_seq: 5, copied_seq: 3, rcv_nxt: 9, ..Tcp::default() };
        assert_eq!(tcp.sent_at(10), u32::MAX - 4);
        assert_eq!(tcp.received_at(10, 0), u32::MAX - 6);
    }

    #[test]
    fn both_ends_of_a_connection_compute_the_same_name() {
        // The client's first byte is 1001, the server's 5001; 10 bytes each way, all acknowledged.
        let client =
            Tcp { snd_una: 1011, bytes_acked: 11, rcv_nxt: 5011, bytes_received: 10, ..Tcp::default() };
        let server =
            Tcp { snd_una: 5011, bytes_acked: 10, rcv_nxt: 1011, bytes_received: 10, ..Tcp::default() };
        assert_eq!(Name::of(&client, End::Active), Name::of(&server, End::Passive));
        assert_ne!(Name::of(&client, End::Passive), Name::of(&server, End::Active));
    }

    #[test]
    fn extension_takes_the_nearest_congruent_number() {
        assert_eq!(extend(5, 0xffff_fff0), Some(0x1_0000_0005));
        assert_eq!(extend(0xffff_fff0, 0x1_0000_0005), Some(0xffff_fff0));
        assert_eq!(extend(7, 5_000_000_000), Some((1 << 32) + 7));
        assert_eq!(extend(0, 0), Some(0));
        assert_eq!(extend(10, 0), Some(10));
    }

    #[test]
    fn nothing_lies_before_the_first_byte() {
        assert_eq!(extend(u32::MAX, 0), None);
        assert_eq!(extend(u32::MAX - 10, 5), None);
        assert_eq!(extend(u32::MAX, 1 << 32), Some(u64::from(u32::MAX)));
    }

    #[test]
    fn comparison_is_modulo_two_to_the_32() {
        assert!(before(u32::MAX, 3));
        assert!(!before(3, u32::MAX));
        assert!(!before(3, 3));
    }
}
