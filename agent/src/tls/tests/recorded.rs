//! Sessions of OpenSSL 3.0 in suites that rustls does not have: CCM, and CBC with both orders of MAC.
//!
//! `data/openssl.txt`: for each a line `suite NAME`, its secrets, and what the client (`c`) and the server (`s`) wrote, in order.

use super::super::testing::{moment, piece};
use super::*;

#[derive(Default)]
struct Recorded {
    name: String,
    secrets: Secrets,
    pieces: Vec<(Direction, Vec<u8>)>,
}

fn recorded() -> Vec<Recorded> {
    let mut sessions: Vec<Recorded> = Vec::new();
    for line in include_str!("data/openssl.txt").lines() {
        let (key, value) = line.split_once(' ').unwrap();
        if key == "suite" {
            sessions.push(Recorded { name: value.to_owned(), ..Recorded::default() });
            continue;
        }
        let digits = value.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
        let bytes: Vec<u8> = digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect();
        let session = sessions.last_mut().unwrap();
        match key {
            "traffic" => session.secrets.traffic.push(Secret::new(&bytes)),
            "master" => session.secrets.master.push(Secret::new(&bytes)),
            "c" => session.pieces.push((Direction::Receive, bytes)),
            _ => session.pieces.push((Direction::Send, bytes)),
        }
    }
    sessions
}

#[test]
fn sessions_of_openssl_come_out_as_they_went_in() {
    let sessions = recorded();
    assert_eq!(sessions.len(), 11);
    for Recorded { name, secrets, pieces } in sessions {
        for size in [1, 5, 100, usize::MAX] {
            let (mut layer, mut offsets) = (Layer::default(), [0u64; 2]);
            let (mut requests, mut responses) = (Vec::new(), Vec::new());
            let mut out = |direction, piece: Piece<'_>| {
                let bytes = match piece.content {
                    Content::Bytes(bytes) => bytes,
                    Content::Gap { cause: GapCause::Framing, .. } => return,
                    Content::Gap { .. } => panic!("{name}: {piece:?}"),
                };
                match direction {
                    Direction::Receive => requests.extend_from_slice(bytes),
                    Direction::Send => responses.extend_from_slice(bytes),
                }
            };
            let moment = moment(1);
            for (direction, bytes) in &pieces {
                let offset = &mut offsets[usize::from(*direction == Direction::Send)];
                for bytes in bytes.chunks(size) {
                    let piece = piece(*offset, Content::Bytes(bytes), &moment);
                    layer.piece(*direction, &piece, May::Begin, &mut out);
                    *offset += bytes.len() as u64;
                }
            }
            layer.secrets(&secrets, &mut out);
            assert!(layer.ledger().balances(), "{name}: {:?}", layer.ledger());
            let requests = String::from_utf8(requests).unwrap();
            assert_eq!(requests.matches("HTTP/1.1").count(), 2, "{name}: {:?}", layer.ledger());
            assert!(requests.ends_with("GET /2 HTTP/1.1\r\nHost: a\r\n\r\n"), "{name}: {requests:?}");
            assert_eq!(responses, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "{name}");
        }
    }
}
