//! `java.net.http.HttpClient`: for which exchange one of its threads writes.
//!
//! ```text
//!   stack of a client's thread ─▶ λ ─▶ InternalWriteSubscriber ─▶ WriteSubscription         the walk, at the call
//!     ─▶ Http1WriteSubscription ─▶ Http1Publisher ─▶ Http1Exchange ─▶ Exchange ─▶ MultiExchange    here, afterwards
//! ```
//! Whoever calls `send` or `sendAsync` allocates the `MultiExchange`, so its address says for whom the client's thread writes
//! (see `tlab`), however long the exchange waited. The one link that changes is that from a connection's subscriber to its subscription,
//! one for each exchange; it is read at the call. All behind it are final, so they may be read later, as long as no
//! collection came: whoever reads has to see to that.
//!
//! Where the references lie is learnt from objects of these classes. It must never go on from an object of another class: HTTP/2 and
//! TLS have others, and are not followed.

use super::classes::{ClassLayout, Kind};
use super::tomcat::{Narrow, the_only};
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
    /// How references are written.
    pub narrow: Narrow,
}

impl Path {
    /// One that leads nowhere.
    #[cfg(test)]
    pub fn for_tests(narrow: Narrow) -> Self {
        Self { depth: 8, class: 7, first: [12, 16], rest: [(0, 0); LATER], narrow }
    }

    /// The `MultiExchange` that this reference, which the walk met, leads to.
    pub fn exchange(&self, reference: u64, memory: &dyn ReadMemory) -> Option<u64> {
        let reference = u32::try_from(reference).ok().filter(|&reference| reference != 0)?;
        let mut at = self.narrow.object(reference)?;
        for (offset, class) in self.rest {
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
    looks: u32,
}

impl Finder {
    /// The path, if it is known.
    pub fn path(&self) -> Option<Path> {
        self.path
    }

    /// Looks at what a client's thread runs or ran, which was found so far below the base of its stack: true if the path is known now and
    /// was not before.
    pub fn look(
        &mut self,
        (depth, object, class): (u64, u64, u32),
        (layout, narrow): (&ClassLayout, Narrow),
        memory: &dyn ReadMemory,
    ) -> bool {
        if self.path.is_some() || self.looks >= MAX_LOOKS {
            return false;
        }
        self.looks += 1;
        let next = |at: u64, wanted: &[u8]| the_only(at, wanted, layout, narrow, memory);
        let (mut at, mut first, mut rest) = (object, [0; 2], [(0, 0); LATER]);
        for (offset, wanted) in first.iter_mut().zip(FIRST) {
            let Some((place, object)) = next(at, wanted) else { return false };
            (*offset, at) = (place, object);
        }
        for (link, wanted) in rest.iter_mut().zip(REST) {
            let Some((place, object)) = next(at, wanted) else { return false };
            let Some(class) = memory.u32(object + 8) else { return false };
            (*link, at) = ((place, class), object);
        }
        self.path = Some(Path { depth, class, first, rest, narrow });
        true
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
/// Objects looked at before it is given up: a connection may be between two exchanges.
const MAX_LOOKS: u32 = 512;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discover::memory::Image;

    const NARROW: Narrow = Narrow { base: 0, shift: 3 };
    const LAMBDA: &[u8] = b"jdk/internal/net/http/SocketTube$InternalWriteSubscriber$$Lambda/0x1";

    /// Classes at 0x10_0000 and up, 0x100 each, by number from 1; objects of 32 bytes: what is run, and all that it leads to, each
    /// with a reference at 12 plus four times its number.
    fn image(names: &[&[u8]]) -> Image {
        let mut image = Image::default();
        for (number, name) in (1u64..).zip(names) {
            let (klass, text) = (0x10_0000 + number * 0x100, 0x20_0000 + number * 0x100);
            image.put_words(klass, &[64, text, 0, 0x30_0000]);
            image.put(text, [&(name.len() as u16).to_le_bytes()[..], name, &[0; 8]].concat());
            let mut bytes = vec![0; 64];
            bytes[8..12].copy_from_slice(&(number as u32).to_le_bytes());
            let place = 8 + 4 * number as usize;
            bytes[place..place + 4].copy_from_slice(&reference(number).to_le_bytes());
            image.put(object(number - 1), bytes);
        }
        image.put_words(0x30_0000, &[0]);
        image
    }

    fn object(number: u64) -> u64 {
        0x40_0000 + number * 0x100
    }

    fn reference(number: u64) -> u32 {
        u32::try_from(object(number) >> 3).unwrap()
    }

    fn all() -> Vec<&'static [u8]> {
        [LAMBDA].into_iter().chain(FIRST).chain(REST).collect()
    }

    fn look(image: &Image) -> Option<Path> {
        let layout = ClassLayout::for_tests(0x10_0000, 8);
        let mut finder = Finder::default();
        assert_eq!(finder.look((0x1600, object(0), 1), (&layout, NARROW), image), finder.path().is_some());
        finder.path()
    }

    #[test]
    fn the_exchange_of_a_subscription_is_found() {
        let image = image(&all());
        let path = look(&image).unwrap();
        assert_eq!((path.depth, path.class, path.first), (0x1600, 1, [12, 16]));
        assert_eq!(path.exchange(reference(2).into(), &image), Some(object(7)));
        assert_eq!(path.exchange(0, &image), None, "nothing was met");
        assert_eq!(path.exchange(reference(1).into(), &image), None, "of another class");
    }

    #[test]
    fn what_is_not_of_these_classes_is_not_followed() {
        let mut names = all();
        names[3] = b"jdk/internal/net/http/Http2Connection$Subscription";
        assert_eq!(look(&image(&names)), None);
    }

    #[test]
    fn what_a_clients_thread_runs_to_write_is_known_by_its_name() {
        assert_eq!(kind(LAMBDA), Some(Kind::Client));
        assert_eq!(kind(FIRST[0]), None);
    }
}
