//! The records that kernel programs write into the ring, and their decoder.
//!
//! The kernel side fills the structures; the agent never casts bytes to them: [`decode`] reads by tag
//! and length and answers [`Undecodable`] for anything that does not fit. All numbers are in the
//! machine's own byte order, all padding is spelled out.

use crate::position::Tcp;

/// What all records begin with.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Header {
    /// One of the `TAG_` constants.
    pub tag: u16,
    /// Of the `FLAG_` constants those that apply.
    pub flags: u16,
    /// Bytes of the record, this header included.
    pub length: u32,
    /// `CLOCK_MONOTONIC` in nanoseconds, at the end of the call.
    pub time: u64,
    /// The process: its thread group id.
    pub pid: u32,
    /// The thread.
    pub thread: u32,
    /// When the process started, `CLOCK_MONOTONIC` in nanoseconds.
    pub started: u64,
    /// How often the process called `execve`.
    pub exec: u32,
    /// Records of this socket that were lost since the last that was not.
    pub lost: u32,
}

/// Bytes that a call moved.
pub const TAG_DATA: u16 = 1;
/// A connection was established, or met for the first time.
pub const TAG_OPENED: u16 = 2;
/// A TCP connection went to another state on its way to its end.
pub const TAG_STATE: u16 = 3;
/// A process became another program.
pub const TAG_EXEC: u16 = 4;
/// A process made another.
pub const TAG_FORK: u16 = 5;
/// A process's last thread ended.
pub const TAG_EXIT: u16 = 6;
/// A probed instruction was reached.
pub const TAG_OBSERVED: u16 = 7;
/// A TCP connection is asked for.
pub const TAG_CONNECTING: u16 = 8;

/// A call of a TLS library moved bytes, in clear.
pub const TAG_PLAIN: u16 = 9;

/// The process wrote the bytes; else it read them.
pub const FLAG_SEND: u16 = 1;
/// `O_NONBLOCK` or `MSG_DONTWAIT`.
pub const FLAG_NONBLOCKING: u16 = 2;
/// The socket's file is in an epoll set.
pub const FLAG_IN_EPOLL: u16 = 4;
/// The first piece of its call.
pub const FLAG_FIRST: u16 = 8;
/// The last piece of its call.
pub const FLAG_LAST: u16 = 16;
/// The connection was older than its first record.
pub const FLAG_LATE: u16 = 32;
/// This end connected (only with [`TAG_OPENED`] and without [`FLAG_LATE`]).
pub const FLAG_ACTIVE: u16 = 64;

/// Transport of [`Socket`]: the kernel's own TCP.
pub const TRANSPORT_TCP: u32 = 1;
/// Transport of [`Socket`]: a unix stream.
pub const TRANSPORT_UNIX: u32 = 2;
/// Transport of [`Socket`]: a stream whose positions are not known (MPTCP, kTLS, sockmap).
pub const TRANSPORT_FOREIGN: u32 = 3;

/// A socket at the end of a call.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Socket {
    /// Its id: unique among all sockets since boot.
    pub connection: u64,
    /// One of the `TRANSPORT_` constants.
    pub transport: u32,
    /// `sk_shutdown`; of a TCP socket, `RCV_SHUTDOWN` only if the peer's FIN came.
    pub shutdown: u32,
    /// Bytes that this direction moved since the socket was first met, this call's included.
    pub moved: u64,
    /// Its positions; what they mean depends on the transport, see [`Place`].
    pub place: [u64; 4],
}

/// What a socket's positions are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Place {
    /// TCP sequence numbers.
    Tcp(Tcp),
    /// A unix stream: no sequence numbers.
    Unix(Unix),
    /// Nothing is known.
    Foreign,
}

/// What places bytes of a unix stream.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Unix {
    /// The address of this socket's `struct sock`, unique among live sockets.
    pub sock: u64,
    /// That of the other end; 0 if it is gone.
    pub peer: u64,
    /// The inode number of this socket.
    pub inode: u64,
    /// True if everything that this end wrote has been read: `sk_wmem_alloc` has its base value of 1
    /// (`sk_alloc`, net/core/sock.c; a buffer is charged to its writer until the reader frees it).
    pub drained: bool,
}

impl Data {
    /// Why what follows is not here, and how many bytes directly before were left out.
    pub const fn rest(&self) -> (u32, u32) {
        (self.rest & 0xff, self.rest >> 8)
    }
}

impl Socket {
    /// Puts TCP positions in.
    #[inline(always)]
    pub const fn set_tcp(&mut self, tcp: &Tcp) {
        self.place[0] = tcp.write_seq as u64 | (tcp.snd_una as u64) << 32;
        self.place[1] = tcp.copied_seq as u64 | (tcp.rcv_nxt as u64) << 32;
        self.place[2] = tcp.bytes_acked;
        self.place[3] = tcp.bytes_received;
    }

    /// Puts a unix stream's in.
    #[inline(always)]
    pub const fn set_unix(&mut self, unix: &Unix) {
        self.place = [unix.sock, unix.peer, unix.inode, unix.drained as u64];
    }

    /// The positions, by transport.
    pub const fn place(&self) -> Place {
        let [a, b, c, d] = self.place;
        match self.transport {
            TRANSPORT_TCP => Place::Tcp(Tcp {
                write_seq: a as u32,
                snd_una: (a >> 32) as u32,
                copied_seq: b as u32,
                rcv_nxt: (b >> 32) as u32,
                bytes_acked: c,
                bytes_received: d,
            }),
            TRANSPORT_UNIX => Place::Unix(Unix { sock: a, peer: b, inode: c, drained: d == 1 }),
            _ => Place::Foreign,
        }
    }
}

/// [`TAG_DATA`]: a piece of what a call moved. Evidence words follow, then the bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Data {
    /// What all records begin with.
    pub header: Header,
    /// The socket.
    pub socket: Socket,
    /// Bytes that the whole call moved.
    pub total: u32,
    /// Bytes of the call before this piece.
    pub skip: u32,
    /// Bytes of this piece that are here.
    pub captured: u32,
    /// The number of the system call.
    pub call: u32,
    /// Lowest byte: why what follows this piece in its call is not here, if it is the last: a `REST_` constant. The
    /// others: how many bytes directly before this piece were left out, of this call and of whole calls before it
    /// ([`crate::frames`]).
    pub rest: u32,
    /// The walk that found the evidence; 0 for none.
    pub walk: u16,
    /// How many evidence words follow.
    pub words: u16,
}

/// Nothing follows the last piece, or what follows was not wanted.
pub const REST_NOTHING: u32 = 0;
/// The call has no buffer that can be read.
pub const REST_UNSEEN: u32 = 1;
/// A page was not there.
pub const REST_UNREADABLE: u32 = 2;
/// The vector has more pieces than are looked at.
pub const REST_VECTOR: u32 = 3;
/// What follows is payload that a policy leaves out.
pub const REST_SILENT: u32 = 4;
/// More frames than are looked at in one call.
pub const REST_FRAMES: u32 = 5;

/// [`TAG_OPENED`]: a connection, its ends and addresses. A unix stream's path follows, if it has one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Opened {
    /// What all records begin with.
    pub header: Header,
    /// The socket.
    pub socket: Socket,
    /// The addresses.
    pub addresses: Addresses,
    /// Bytes of path that follow.
    pub path: u32,
    /// Spelled-out padding.
    pub reserved: u32,
}

/// The addresses of a TCP connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Addresses {
    /// `AF_INET` (2), `AF_INET6` (10) or `AF_UNIX` (1).
    pub family: u32,
    /// Inode number of the network namespace.
    pub net: u32,
    /// This end's port.
    pub local_port: u32,
    /// The other end's.
    pub peer_port: u32,
    /// This end's address, the first 4 bytes for IPv4.
    pub local: [u8; 16],
    /// The other end's.
    pub peer: [u8; 16],
}

/// [`TAG_CONNECTING`]: the header's thread asks for a TCP connection: what it does then may be told much later, and by
/// no call of its own. Evidence words follow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Connecting {
    /// What all records begin with.
    pub header: Header,
    /// The socket; it has no positions yet.
    pub socket: Socket,
    /// Where to. Its own port may not be chosen yet.
    pub addresses: Addresses,
    /// The walk that found the evidence; 0 for none.
    pub walk: u16,
    /// How many evidence words follow.
    pub words: u16,
    /// Spelled-out padding.
    pub reserved: u32,
}

/// [`TAG_STATE`]: a TCP connection leaves one state for another (`FIN_WAIT1`, `LAST_ACK`, `CLOSE`…).
/// The process in the header is whoever was running, and means nothing.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct State {
    /// What all records begin with.
    pub header: Header,
    /// The socket.
    pub socket: Socket,
    /// The state that it leaves, a `TCP_` constant of include/net/tcp_states.h.
    pub from: u32,
    /// The state that it enters.
    pub to: u32,
    /// The socket's error: an errno, or 0.
    pub error: u32,
    /// Spelled-out padding.
    pub reserved: u32,
}

/// include/net/tcp_states.h
pub mod tcp_state {
    #![allow(missing_docs)]
    pub const ESTABLISHED: u32 = 1;
    pub const SYN_SENT: u32 = 2;
    pub const SYN_RECV: u32 = 3;
    pub const FIN_WAIT1: u32 = 4;
    pub const FIN_WAIT2: u32 = 5;
    pub const TIME_WAIT: u32 = 6;
    pub const CLOSE: u32 = 7;
    pub const CLOSE_WAIT: u32 = 8;
    pub const LAST_ACK: u32 = 9;
    pub const LISTEN: u32 = 10;
    pub const CLOSING: u32 = 11;
    pub const NEW_SYN_RECV: u32 = 12;
}

/// Bytes of a program's file name that are kept.
pub const FILENAME: usize = 256;
/// Bytes of a program's arguments that are kept.
pub const ARGUMENTS: usize = 512;

/// [`TAG_EXEC`]: the header's process is now this program.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Exec {
    /// What all records begin with.
    pub header: Header,
    /// The cgroup (v2) it runs in.
    pub cgroup: u64,
    /// Bytes of `filename` that mean something.
    pub filename_length: u32,
    /// Bytes of `arguments` that mean something.
    pub arguments_length: u32,
    /// The file that was executed.
    pub filename: [u8; FILENAME],
    /// The arguments, each ended by a zero byte.
    pub arguments: [u8; ARGUMENTS],
}

/// [`TAG_FORK`]: the header's process made this one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Fork {
    /// What all records begin with.
    pub header: Header,
    /// When the child started, `CLOCK_MONOTONIC` in nanoseconds.
    pub started: u64,
    /// The child's thread group id.
    pub pid: u32,
    /// How often the child called `execve`: as often as its parent.
    pub exec: u32,
}

/// [`TAG_OBSERVED`]: a thread of the header's process reached a probed instruction. Evidence words follow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Observed {
    /// What all records begin with.
    pub header: Header,
    /// The instruction's address in the process.
    pub address: u64,
    /// The tag of the walk that found the words.
    pub walk: u16,
    /// How many words follow.
    pub words: u16,
    /// Spelled-out padding.
    pub reserved: u32,
}

/// [`TAG_PLAIN`]: a piece of what a call of a TLS library moved, in clear. The bytes follow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Plain {
    /// What all records begin with. [`FLAG_LATE`]: the bytes before this call were not counted.
    pub header: Header,
    /// The ClientHello's random bytes, as the session has them; of a library that keeps none, the connection and zeroes.
    pub random: [u8; 32],
    /// Bytes that the session's calls before this one moved in this direction, since they were first counted.
    pub place: u64,
    /// When the call began, `CLOCK_MONOTONIC` in nanoseconds.
    pub began: u64,
    /// Bytes that the whole call moved.
    pub total: u32,
    /// Bytes of the call before this piece.
    pub skip: u32,
    /// Bytes of this piece that are here.
    pub captured: u32,
    /// Which party this end is: a `PARTY_` constant; and which library's it is, one of [`crate::tls::LIBRARIES`].
    pub party: u32,
}

/// Which party it is cannot be told.
pub const PARTY_UNKNOWN: u32 = 0;
/// It sent the ClientHello.
pub const PARTY_CLIENT: u32 = 1;
/// It received the ClientHello.
pub const PARTY_SERVER: u32 = 2;

/// What was lost of one connection while the ring was full, noted beside the ring: the value of the map
/// `LOSSES`, whose key is the connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Loss {
    /// The addresses, since the record that told them may be among the lost.
    pub addresses: Addresses,
    /// One of the `TRANSPORT_` constants.
    pub transport: u32,
    /// Records that were lost.
    pub records: u32,
    /// Bytes written that were lost.
    pub sent: u64,
    /// Bytes read that were lost.
    pub received: u64,
    /// The position of the first byte written that was lost, and after the last.
    pub sent_span: [u32; 2],
    /// The position of the first byte read that was lost, and after the last.
    pub received_span: [u32; 2],
}

const _: () = {
    assert!(size_of::<Header>() == 40);
    assert!(size_of::<Socket>() == 56);
    assert!(size_of::<Data>() == 120);
    assert!(size_of::<Opened>() == 152);
    assert!(size_of::<State>() == 112);
    assert!(size_of::<Connecting>() == 152);
    assert!(size_of::<Exec>() == 56 + FILENAME + ARGUMENTS);
    assert!(size_of::<Fork>() == 56);
    assert!(size_of::<Observed>() == 56);
    assert!(size_of::<Loss>() == 88);
    assert!(size_of::<Plain>() == 104);
};

/// A record, decoded; its bytes are still in the ring.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Record<'a> {
    /// [`TAG_DATA`]
    Data {
        /// The record's fixed part.
        data: Data,
        /// The evidence words, 8 bytes each.
        words: &'a [u8],
        /// What was captured.
        bytes: &'a [u8],
    },
    /// [`TAG_OPENED`]
    Opened {
        /// The record's fixed part.
        opened: Opened,
        /// A unix stream's path.
        path: &'a [u8],
    },
    /// [`TAG_CONNECTING`]
    Connecting {
        /// The record's fixed part.
        connecting: Connecting,
        /// The evidence words, 8 bytes each.
        words: &'a [u8],
    },
    /// [`TAG_STATE`]
    State(State),
    /// [`TAG_EXEC`]
    Exec {
        /// What all records begin with.
        header: Header,
        /// The cgroup (v2) it runs in.
        cgroup: u64,
        /// The file that was executed.
        filename: &'a [u8],
        /// The arguments, each ended by a zero byte.
        arguments: &'a [u8],
    },
    /// [`TAG_FORK`]
    Fork(Fork),
    /// [`TAG_EXIT`]
    Exit(Header),
    /// [`TAG_OBSERVED`]
    Observed {
        /// The record's fixed part.
        observed: Observed,
        /// The evidence words, 8 bytes each.
        words: &'a [u8],
    },
    /// [`TAG_PLAIN`]
    Plain {
        /// The record's fixed part.
        plain: Plain,
        /// What was captured.
        bytes: &'a [u8],
    },
}

/// Evidence words, as numbers.
pub fn words(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    bytes.chunks_exact(8).filter_map(|word| word.try_into().ok().map(u64::from_ne_bytes))
}

/// Why bytes are not a record. Only a fault of ours can make such bytes; they are counted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Undecodable {
    /// Shorter than the fixed part of what it claims to be.
    Short,
    /// The tag is none of ours.
    Tag(u16),
    /// A length in it contradicts another.
    Length,
}

/// Reads one record.
pub fn decode(bytes: &[u8]) -> Result<Record<'_>, Undecodable> {
    let mut reader = Reader { bytes };
    let header = reader.header()?;
    if header.length as usize > bytes.len() || (header.length as usize) < size_of::<Header>() {
        return Err(Undecodable::Length);
    }
    reader.bytes = &bytes[size_of::<Header>()..header.length as usize];
    match header.tag {
        TAG_DATA => {
            let data = Data {
                header,
                socket: reader.socket()?,
                total: reader.u32()?,
                skip: reader.u32()?,
                captured: reader.u32()?,
                call: reader.u32()?,
                rest: reader.u32()?,
                walk: reader.u16()?,
                words: reader.u16()?,
            };
            let words = reader.take(usize::from(data.words) * 8)?;
            let bytes = reader.take(data.captured as usize)?;
            match data.skip.checked_add(data.captured) {
                Some(end) if end <= data.total => Ok(Record::Data { data, words, bytes }),
                _ => Err(Undecodable::Length),
            }
        }
        TAG_OPENED => {
            let opened = Opened {
                header,
                socket: reader.socket()?,
                addresses: reader.addresses()?,
                path: reader.u32()?,
                reserved: reader.u32()?,
            };
            Ok(Record::Opened { opened, path: reader.take(opened.path as usize)? })
        }
        TAG_CONNECTING => {
            let connecting = Connecting {
                header,
                socket: reader.socket()?,
                addresses: reader.addresses()?,
                walk: reader.u16()?,
                words: reader.u16()?,
                reserved: reader.u32()?,
            };
            Ok(Record::Connecting { connecting, words: reader.take(usize::from(connecting.words) * 8)? })
        }
        TAG_STATE => Ok(Record::State(State {
            header,
            socket: reader.socket()?,
            from: reader.u32()?,
            to: reader.u32()?,
            error: reader.u32()?,
            reserved: reader.u32()?,
        })),
        TAG_EXEC => {
            let cgroup = reader.u64()?;
            let filename_length = reader.u32()? as usize;
            let arguments_length = reader.u32()? as usize;
            let filename = reader.take(FILENAME)?;
            let arguments = reader.take(ARGUMENTS)?;
            Ok(Record::Exec {
                header,
                cgroup,
                filename: filename.get(..filename_length).ok_or(Undecodable::Length)?,
                arguments: arguments.get(..arguments_length).ok_or(Undecodable::Length)?,
            })
        }
        TAG_FORK => {
            Ok(Record::Fork(Fork { header, started: reader.u64()?, pid: reader.u32()?, exec: reader.u32()? }))
        }
        TAG_EXIT => Ok(Record::Exit(header)),
        TAG_OBSERVED => {
            let observed = Observed {
                header,
                address: reader.u64()?,
                walk: reader.u16()?,
                words: reader.u16()?,
                reserved: reader.u32()?,
            };
            Ok(Record::Observed { observed, words: reader.take(usize::from(observed.words) * 8)? })
        }
        TAG_PLAIN => {
            let plain = Plain {
                header,
                random: reader.array()?,
                place: reader.u64()?,
                began: reader.u64()?,
                total: reader.u32()?,
                skip: reader.u32()?,
                captured: reader.u32()?,
                party: reader.u32()?,
            };
            let bytes = reader.take(plain.captured as usize)?;
            match plain.skip.checked_add(plain.captured) {
                Some(end) if end <= plain.total => Ok(Record::Plain { plain, bytes }),
                _ => Err(Undecodable::Length),
            }
        }
        other => Err(Undecodable::Tag(other)),
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Undecodable> {
        let (taken, rest) = self.bytes.split_at_checked(length).ok_or(Undecodable::Short)?;
        self.bytes = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Undecodable> {
        let (taken, rest) = self.bytes.split_first_chunk().ok_or(Undecodable::Short)?;
        self.bytes = rest;
        Ok(*taken)
    }

    fn u16(&mut self) -> Result<u16, Undecodable> {
        self.array().map(u16::from_ne_bytes)
    }

    fn u32(&mut self) -> Result<u32, Undecodable> {
        self.array().map(u32::from_ne_bytes)
    }

    fn u64(&mut self) -> Result<u64, Undecodable> {
        self.array().map(u64::from_ne_bytes)
    }

    fn header(&mut self) -> Result<Header, Undecodable> {
        Ok(Header {
            tag: self.u16()?,
            flags: self.u16()?,
            length: self.u32()?,
            time: self.u64()?,
            pid: self.u32()?,
            thread: self.u32()?,
            started: self.u64()?,
            exec: self.u32()?,
            lost: self.u32()?,
        })
    }

    fn socket(&mut self) -> Result<Socket, Undecodable> {
        Ok(Socket {
            connection: self.u64()?,
            transport: self.u32()?,
            shutdown: self.u32()?,
            moved: self.u64()?,
            place: [self.u64()?, self.u64()?, self.u64()?, self.u64()?],
        })
    }

    fn addresses(&mut self) -> Result<Addresses, Undecodable> {
        Ok(Addresses {
            family: self.u32()?,
            net: self.u32()?,
            local_port: self.u32()?,
            peer_port: self.u32()?,
            local: self.array()?,
            peer: self.array()?,
        })
    }
}

/// Fuzz body: no bytes make the decoder panic, and what it returns lies within them.
#[doc(hidden)]
pub fn fuzz_decode(bytes: &[u8]) {
    if let Ok(Record::Data { data, words, bytes: captured }) = decode(bytes) {
        assert_eq!(captured.len(), data.captured as usize);
        assert_eq!(words.len(), usize::from(data.words) * 8);
        assert!(captured.len() + words.len() + size_of::<Data>() <= bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn data_record(total: u32, skip: u32, captured: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let length = (size_of::<Data>() + captured.len()) as u32;
        out.extend(TAG_DATA.to_ne_bytes());
        out.extend((FLAG_SEND | FLAG_FIRST).to_ne_bytes());
        out.extend(length.to_ne_bytes());
        out.extend(7u64.to_ne_bytes());
        for word in [1u32, 2] {
            out.extend(word.to_ne_bytes());
        }
        out.extend(3u64.to_ne_bytes());
        for word in [4u32, 0] {
            out.extend(word.to_ne_bytes());
        }
        out.extend(99u64.to_ne_bytes());
        for word in [TRANSPORT_TCP, 0] {
            out.extend(word.to_ne_bytes());
        }
        for word in [5u64, 10 | 20 << 32, 30 | 40 << 32, 50, 60] {
            out.extend(word.to_ne_bytes());
        }
        for word in [total, skip, captured.len() as u32, 1, REST_NOTHING, 0] {
            out.extend(word.to_ne_bytes());
        }
        out.extend(captured);
        out
    }

    #[test]
    fn a_data_record_is_read_field_by_field() {
        let bytes = data_record(10, 2, b"hello");
        let Ok(Record::Data { data, words, bytes }) = decode(&bytes) else { panic!() };
        assert_eq!((data.total, data.skip, data.captured), (10, 2, 5));
        assert_eq!(bytes, b"hello");
        assert!(words.is_empty());
        let tcp = Tcp {
            write_seq: 10,
            snd_una: 20,
            copied_seq: 30,
            rcv_nxt: 40,
            bytes_acked: 50,
            bytes_received: 60,
        };
        assert_eq!(data.socket.place(), Place::Tcp(tcp));
        let mut socket = data.socket;
        socket.set_tcp(&tcp);
        assert_eq!(socket, data.socket);
    }

    #[test]
    fn a_piece_that_claims_more_than_its_call_is_refused() {
        assert_eq!(decode(&data_record(6, 2, b"hello")), Err(Undecodable::Length));
        assert_eq!(decode(&data_record(6, u32::MAX, b"hello")), Err(Undecodable::Length));
    }

    #[test]
    fn every_cut_of_a_record_is_refused() {
        let bytes = data_record(10, 0, b"hello");
        for cut in 0..bytes.len() {
            assert!(decode(&bytes[..cut]).is_err(), "cut at {cut}");
            fuzz_decode(&bytes[..cut]);
        }
        fuzz_decode(&bytes);
    }

    #[test]
    fn a_piece_of_plaintext_is_read_field_by_field_and_never_beyond_its_call() {
        let record = |total: u32, skip: u32, captured: &[u8]| {
            let mut out = data_record(0, 0, b"");
            out.truncate(size_of::<Header>());
            out[0] = TAG_PLAIN as u8;
            out[4] = (size_of::<Plain>() + captured.len()) as u8;
            out.extend([7; 32]);
            out.extend([1000u64, 5].map(u64::to_ne_bytes).concat());
            out.extend([total, skip, captured.len() as u32, PARTY_SERVER].map(u32::to_ne_bytes).concat());
            out.extend(captured);
            out
        };
        let bytes = record(10, 2, b"hello");
        let Ok(Record::Plain { plain, bytes: captured }) = decode(&bytes) else { panic!() };
        assert_eq!((plain.random, plain.place, plain.began, plain.party), ([7; 32], 1000, 5, PARTY_SERVER));
        assert_eq!((plain.total, plain.skip, captured), (10, 2, &b"hello"[..]));
        for cut in 0..bytes.len() {
            assert!(decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        assert_eq!(decode(&record(6, 2, b"hello")), Err(Undecodable::Length));
        assert_eq!(decode(&record(6, u32::MAX, b"hello")), Err(Undecodable::Length));
        // The ring's item may be longer than the record in it.
        let mut longer = bytes.clone();
        longer.extend([0; 100]);
        assert_eq!(decode(&longer), decode(&bytes));
    }

    #[test]
    fn an_unknown_tag_is_named() {
        let mut bytes = data_record(10, 0, b"");
        bytes[0] = 200;
        assert_eq!(decode(&bytes), Err(Undecodable::Tag(200)));
    }
}
