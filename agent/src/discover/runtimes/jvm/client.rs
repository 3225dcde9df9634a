//! `java.net.http.HttpClient`: for which exchange one of its threads writes.
//!
//! ```text
//!   stack of a client's thread ─▶ λ ─▶ InternalWriteSubscriber ─▶ WriteSubscription         the walk, at the call
//!     ─▶ Http1WriteSubscription ─▶ Http1Publisher ─▶ Http1Exchange ─▶ Exchange ─▶ MultiExchange    here, afterwards
//! ```
//! Whoever calls `send` or `sendAsync` allocates the `MultiExchange`, so its address says for whom the client's thread writes
//! (see `tlab`), however long the exchange waited. The one link that changes is that from a connection's subscriber to its subscription,
//! one for each exchange; it is read at the call. All behind it are final, so they may be read later, as long as no
//! collection came: whoever reads has to see to that. Final are also those from the subscription back to the connection's socket, whose
//! descriptor must be the call's: what lies on a stack may be left over from another connection.
//!
//! Where the references lie is learnt from objects of these classes. It must never go on from an object of another class: HTTP/2 and
//! TLS have others, and are not followed.

use super::classes::{ClassLayout, Kind};
use super::tomcat::{Narrow, Places, the_only};
use crate::discover::memory::ReadMemory;

/// Where one gets on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Path {
    /// How far below the base of its stack a client's thread keeps what it runs.
    pub depth: u64,
    /// The number of the class of that.
    pub class: u32,
    /// The offsets of the two references that the walk follows.
    pub first: [u64; 2],
    /// Those behind, each with the number of the class that it leads to.
    rest: [(u64, u32); LATER],
    /// Those from the subscription to the connection's socket, and where the descriptor is in that.
    socket: [(u64, u32); BACK],
    descriptor: u64,
    /// How references are written.
    pub narrow: Narrow,
}

impl Path {
    /// One that leads nowhere.
    #[cfg(test)]
    pub fn for_tests(narrow: Narrow) -> Self {
        let (rest, socket) = ([(0, 0); LATER], [(0, 0); BACK]);
        Self { depth: 8, class: 7, first: [12, 16], rest, socket, descriptor: 0, narrow }
    }

    /// The `MultiExchange` that this reference, which the walk met, leads to, if it is of the connection with this descriptor.
    pub fn exchange(&self, reference: u64, descriptor: u64, memory: &dyn ReadMemory) -> Option<u64> {
        let reference = u32::try_from(reference).ok().filter(|&reference| reference != 0)?;
        let subscription = self.narrow.object(reference)?;
        let socket = self.follow(subscription, &self.socket, memory)?;
        if memory.u32(socket.checked_add(self.descriptor)?).map(u64::from) != Some(descriptor) {
            return None;
        }
        self.follow(subscription, &self.rest, memory)
    }

    fn follow(&self, from: u64, links: &[(u64, u32)], memory: &dyn ReadMemory) -> Option<u64> {
        let mut at = from;
        for &(offset, class) in links {
            at = self.narrow.object(memory.u32(at.checked_add(offset)?).filter(|&next| next != 0)?)?;
            if memory.u32(at.checked_add(8)?)? != class {
                return None;
            }
        }
        Some(at)
    }
}

/// Finds the path.
#[derive(Debug, Default)]
pub struct Finder {
    path: Option<Path>,
    descriptor: Places,
    looks: u32,
}

/// What a client's thread runs or ran at a call.
#[derive(Clone, Copy, Debug)]
pub struct Ran {
    /// How far below the base of its stack it was found.
    pub depth: u64,
    /// The object.
    pub object: u64,
    /// The number of its class.
    pub class: u32,
    /// The descriptor of the call.
    pub descriptor: u64,
}

impl Finder {
    /// The path, if it is known.
    pub fn path(&self) -> Option<Path> {
        self.path
    }

    /// Looks at what a client's thread runs or ran: true if the path is known now and was not before.
    pub fn look(
        &mut self,
        ran: Ran,
        (layout, narrow): (&ClassLayout, Narrow),
        memory: &dyn ReadMemory,
    ) -> bool {
        if self.path.is_some() || self.looks >= MAX_LOOKS {
            return false;
        }
        self.looks += 1;
        let found = Self::find(ran, layout, narrow, memory);
        let Some((mut path, socket)) = found else { return false };
        let is = |number: u32| u64::from(number) == ran.descriptor;
        let Some(descriptor) = self.descriptor.look(socket, layout, memory, &is) else { return false };
        path.descriptor = descriptor;
        self.path = Some(path);
        true
    }

    /// The path, but for where the descriptor is, and the socket.
    fn find(ran: Ran, layout: &ClassLayout, narrow: Narrow, memory: &dyn ReadMemory) -> Option<(Path, u64)> {
        let next = |at: u64, wanted: &[u8]| the_only(at, wanted, layout, narrow, memory);
        let (mut at, mut first) = (ran.object, [0; 2]);
        for (offset, wanted) in first.iter_mut().zip(FIRST) {
            (*offset, at) = next(at, wanted)?;
        }
        let links = |links: &mut [(u64, u32)], classes: &[&[u8]]| {
            let mut at = at;
            for (link, wanted) in links.iter_mut().zip(classes) {
                let (place, object) = next(at, wanted)?;
                (*link, at) = ((place, memory.u32(object.checked_add(8)?)?), object);
            }
            Some(at)
        };
        let (mut rest, mut back) = ([(0, 0); LATER], [(0, 0); BACK]);
        links(&mut rest, &REST)?;
        let socket = links(&mut back, &SOCKET)?;
        let Ran { depth, object: _, class, descriptor: _ } = ran;
        Some((Path { depth, class, first, rest, socket: back, descriptor: 0, narrow }, socket))
    }
}

/// Whether a class is that of what a client's threads run to write.
pub fn kind(name: &[u8]) -> Option<Kind> {
    name.starts_with(WRITES).then_some(Kind::Client)
}

/// `this::requestMore`, which a subscriber hands to the client's executor.
const WRITES: &[u8] = b"jdk/internal/net/http/SocketTube$InternalWriteSubscriber$$Lambda";
const FIRST: [&[u8]; 2] = [
    b"jdk/internal/net/http/SocketTube$InternalWriteSubscriber",
    b"jdk/internal/net/http/SocketTube$InternalWriteSubscriber$WriteSubscription",
];
/// How many links are read afterwards.
const LATER: usize = 5;
const REST: [&[u8]; LATER] = [
    b"jdk/internal/net/http/Http1Exchange$Http1Publisher$Http1WriteSubscription",
    b"jdk/internal/net/http/Http1Exchange$Http1Publisher",
    b"jdk/internal/net/http/Http1Exchange",
    b"jdk/internal/net/http/Exchange",
    b"jdk/internal/net/http/MultiExchange",
];
/// How many lead from a subscription to the socket.
const BACK: usize = 3;
const SOCKET: [&[u8]; BACK] = [
    b"jdk/internal/net/http/SocketTube$InternalWriteSubscriber",
    b"jdk/internal/net/http/SocketTube",
    b"sun/nio/ch/SocketChannelImpl",
];
/// Objects looked at before it is given up: a connection may be between two exchanges.
const MAX_LOOKS: u32 = 512;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discover::memory::Image;

    const NARROW: Narrow = Narrow { base: 0, shift: 3 };
    const LAMBDA: &[u8] = b"jdk/internal/net/http/SocketTube$InternalWriteSubscriber$$Lambda/0x1";
    const DESCRIPTOR: u32 = 33;

    /// The numbers of objects: what is run, the subscriber, the subscription, five that lead to the exchange, the tube, the socket.
    const ALL: [&[u8]; 10] =
        [LAMBDA, FIRST[0], FIRST[1], REST[0], REST[1], REST[2], REST[3], REST[4], SOCKET[1], SOCKET[2]];
    const SUBSCRIPTION: u32 = 2;
    const EXCHANGE: u32 = 7;

    /// Classes at 0x10_0000 and up, 0x100 each, numbered from 1; of each an object, with these references.
    fn image(names: &[&[u8]]) -> Image {
        let mut image = Image::default();
        for (number, name) in (0u32..).zip(names) {
            let place = u64::from(number + 1) * 0x100;
            image.put_words(0x10_0000 + place, &[64, 0x20_0000 + place, 0, 0x30_0000]);
            image.put(0x20_0000 + place, [&(name.len() as u16).to_le_bytes()[..], name, &[0; 8]].concat());
            let mut members = match number {
                EXCHANGE => vec![],
                8 => vec![9],
                9 => vec![],
                _ => vec![number + 1],
            };
            match number {
                1 => members.push(8),
                SUBSCRIPTION => members.push(1),
                _ => {}
            }
            let members = members.into_iter().map(reference).chain((number == 9).then_some(DESCRIPTOR));
            let words = [1, 0, number + 1].into_iter().chain(members).flat_map(u32::to_le_bytes);
            let mut bytes: Vec<u8> = words.collect();
            bytes.resize(64, 0);
            image.put(object(number), bytes);
        }
        image.put_words(0x30_0000, &[0]);
        image
    }

    fn object(number: u32) -> u64 {
        0x40_0000 + u64::from(number) * 0x100
    }

    fn reference(number: u32) -> u32 {
        u32::try_from(object(number) >> 3).unwrap()
    }

    fn look(image: &Image, descriptor: u64) -> Option<Path> {
        let layout = ClassLayout::for_tests(0x10_0000, 8);
        let mut finder = Finder::default();
        let ran = Ran { depth: 0x1600, object: object(0), class: 1, descriptor };
        let found = (0..100).any(|_| finder.look(ran, (&layout, NARROW), image));
        assert_eq!(found, finder.path().is_some());
        finder.path()
    }

    #[test]
    fn the_exchange_of_a_subscription_is_found() {
        let image = image(&ALL);
        let path = look(&image, DESCRIPTOR.into()).unwrap();
        assert_eq!((path.depth, path.class, path.first), (0x1600, 1, [12, 12]));
        let subscription = reference(SUBSCRIPTION).into();
        let exchange = |reference: u64| path.exchange(reference, DESCRIPTOR.into(), &image);
        assert_eq!(exchange(subscription), Some(object(EXCHANGE)));
        assert_eq!(exchange(0), None, "nothing was met");
        assert_eq!(exchange(reference(1).into()), None, "of another class");
        assert_eq!(path.exchange(subscription, 34, &image), None, "of another connection");
    }

    #[test]
    fn what_is_not_of_these_classes_is_not_followed() {
        let mut names = ALL;
        names[3] = b"jdk/internal/net/http/Http2Connection$Subscription";
        assert_eq!(look(&image(&names), DESCRIPTOR.into()), None);
    }

    #[test]
    fn without_the_descriptor_there_is_no_path() {
        assert_eq!(look(&image(&ALL), 34), None);
    }

    #[test]
    fn what_a_clients_thread_runs_to_write_is_known_by_its_name() {
        assert_eq!(kind(LAMBDA), Some(Kind::Client));
        assert_eq!(kind(FIRST[0]), None);
    }
}
