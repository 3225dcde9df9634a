//! nginx and its kin: an upstream connection names the request that it works for.
//!
//! ```text
//!   epoll word & ~1 ─▶ connection c ─ +0 ─▶ its request r: "HTTP" ─ +8 ─▶ the client's connection
//! ```
//! The word that nginx gives to `epoll_ctl` is a pointer to its connection, with a bit of its own at the end
//! (`ngx_epoll_module.c`). An upstream connection's `data` is the request, set before anything is sent, also where the
//! connection is used again; a request begins with a signature and then names the connection it came on, which a
//! subrequest shares with its main request (`ngx_http_request.h`). So the key of a request is the address of the
//! client's connection: what is sent to an upstream belongs to the request that is under way there. A request that came
//! over HTTP/2 has a connection of its own that no descriptor leads to: its calls find no owner.
//!
//! Nothing is learnt or looked up, no symbol needed. The signature is asked for at each read; before walks are given to
//! a process, the connections that it has are asked to prove the layout: a connection knows its descriptor, and its
//! read event points back to it.

use std::time::Duration;

use spandrel_proto::walk::Step;

use super::epoll::{Watched, watched};
use super::{Outcome, Process, Proved, Reader, Runtime, Seen, Walk, Walks, Wish};
use crate::discover::memory::ReadMemory;
use crate::identity::{Claim, Direction, Facts, Key, LinkMethod};

/// See the module.
#[derive(Debug)]
pub struct Nginx;

impl Runtime for Nginx {
    fn name(&self) -> &'static str {
        "nginx"
    }

    fn prove(&self, process: &Process<'_>) -> Outcome {
        let named = process.executable.is_some_and(|mapping| is_name(&mapping.path));
        if !named {
            return Outcome::Not;
        }
        let watched = watched(process.key.pid);
        let connections = watched.iter().filter(|watched| is_connection(&process.memory, watched)).count();
        if connections == 0 {
            // The master has none; a worker has its listening sockets from the start.
            return Outcome::Later(
                LATER,
                format!("none of {} watched descriptors is nginx's", watched.len()),
            );
        }
        Outcome::Proved(Box::new(Proved {
            report: vec![format!(
                "{connections} of {} watched descriptors are connections whose read event points back",
                watched.len()
            )],
            walks: walks(),
            reader: Box::new(Requests),
        }))
    }
}

/// OpenResty, Angie and Tengine share the declarations.
fn is_name(path: &[u8]) -> bool {
    let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or(path);
    let name = name.strip_suffix(b" (deleted)").unwrap_or(name);
    [&b"nginx"[..], b"openresty", b"angie", b"tengine", b"nginx-debug"].contains(&name)
}

/// `ngx_connection_t` begins with `data`, `read`, `write`, `fd`; `ngx_event_t` with `data`.
fn is_connection(memory: &dyn ReadMemory, watched: &Watched) -> bool {
    let connection = watched.word & !INSTANCE;
    let descriptor = memory.u32(connection.wrapping_add(DESCRIPTOR));
    let read = memory.word(connection.wrapping_add(READ_EVENT));
    descriptor == u32::try_from(watched.descriptor).ok()
        && read.and_then(|event| memory.word(event)) == Some(connection)
}

/// For the fuzz bodies: memory, whatever is in it.
pub(super) fn read_memory(data: &[u8]) {
    let mut image = crate::discover::memory::Image::default();
    image.put(0x10_0000, data);
    for (descriptor, word) in [(0, 0x10_0001), (7, 0x10_0010), (-1, u64::MAX), (1, 0)] {
        is_connection(&image, &Watched { descriptor, word });
    }
}

fn walks() -> Walks {
    let steps = vec![
        Step::epoll_word(4),
        Step::and(4, 4, !INSTANCE),
        Step::keep(4),
        Step::read8(5, 4, DATA).or(5),
        Step::read4(6, 5, 0).or(4),
        Step::equal(6, SIGNATURE).or(3),
        Step::read8(7, 5, REQUEST_CONNECTION).or(2),
        Step::not_zero(7).or(1),
        Step::keep(7),
        Step::end(),
    ];
    let walk = Walk { tag: TAG, steps };
    Walks { send: Some(walk.clone()), receive: Some(walk), parameters: [0; 4] }
}

/// What the words say.
#[derive(Debug)]
struct Requests;

impl Reader for Requests {
    fn read(&mut self, seen: &Seen<'_>, _wishes: &mut Vec<Wish>) -> Facts {
        let key = |value| Key { space: CONNECTION, value };
        match (seen.direction, seen.words) {
            _ if seen.tag != TAG => Facts::default(),
            // Only when it is sent: a mirrored request's answer may come when the client's next request is under way.
            (Direction::Send, &[connection, client]) if client != connection => {
                let claim = Claim { key: key(client), at: None, born: None, method: LinkMethod::Waiter };
                Facts { claims: vec![claim], ..Facts::default() }
            }
            // The key holds from the first bytes of the request on.
            (Direction::Receive, &[connection] | &[connection, _]) => {
                Facts { owns: vec![key(connection)], ..Facts::default() }
            }
            _ => Facts::default(),
        }
    }
}

const TAG: u16 = 1;
/// The one kind of key: an `ngx_connection_t`.
const CONNECTION: u8 = 1;
/// The bit of the epoll word that tells a connection from the one that had its place before.
const INSTANCE: u64 = 1;
const DATA: u64 = 0;
const READ_EVENT: u64 = 8;
const DESCRIPTOR: u64 = 24;
/// `NGX_HTTP_MODULE`, "HTTP".
const SIGNATURE: u64 = 0x5054_5448;
const REQUEST_CONNECTION: u64 = 8;
/// Between two looks at a process that watches nothing yet.
const LATER: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discover::memory::Image;
    use crate::identity::{ConnectionId, Monotonic, ThreadId};

    fn facts(direction: Direction, words: &[u64]) -> Facts {
        let seen = Seen {
            tag: TAG,
            words,
            time: Monotonic(1),
            thread: ThreadId(1),
            connection: ConnectionId(1),
            direction,
            bytes: b"GET / HTTP/1.1\r\n\r\n",
        };
        Requests.read(&seen, &mut Vec::new())
    }

    #[test]
    fn what_goes_to_an_upstream_is_the_request_of_its_client_connection() {
        let claims = facts(Direction::Send, &[0x1000, 0x2000]).claims;
        assert_eq!(claims.iter().map(|claim| claim.key.value).collect::<Vec<_>>(), [0x2000]);
        let owns = facts(Direction::Receive, &[0x2000]).owns;
        assert_eq!(owns, [Key { space: CONNECTION, value: 0x2000 }]);
    }

    #[test]
    fn an_answer_to_a_client_and_an_answer_of_an_upstream_claim_nothing() {
        assert_eq!(facts(Direction::Send, &[0x2000, 0x2000]), Facts::default());
        assert_eq!(facts(Direction::Send, &[0x2000]), Facts::default());
        assert!(facts(Direction::Receive, &[0x1000, 0x2000]).claims.is_empty());
    }

    #[test]
    fn a_connection_knows_its_descriptor_and_its_read_event_points_back() {
        let watched = Watched { descriptor: 7, word: 0x1001 };
        let mut image = Image::default();
        image.put_words(0x1000, &[0, 0x3000, 0x3100, 7]).put_words(0x3000, &[0x1000]);
        assert!(is_connection(&image, &watched));
        assert!(!is_connection(&image, &Watched { descriptor: 8, ..watched }));
        image.put_words(0x3000, &[0x1008]);
        assert!(!is_connection(&image, &watched));
    }

    #[test]
    fn the_kin_of_nginx_are_known_by_name() {
        for path in
            ["/usr/sbin/nginx", "/usr/sbin/nginx (deleted)", "/usr/local/openresty/bin/openresty", "angie"]
        {
            assert!(is_name(path.as_bytes()), "{path}");
        }
        assert!(!is_name(b"/opt/nginx/bin/haproxy"));
    }
}
