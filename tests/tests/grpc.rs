//! HTTP/2 and gRPC with real peers: a short selection of what `cargo xtask grpc` shows in full. Claims that a loaded machine
//! cannot break: nothing wrong, every call seen at both ends with its name and status, both ends joined.

use anyhow::{Result, ensure};
use spandrel_tests::checks::machine;
use spandrel_tests::grpc::ends;
use spandrel_tests::grpc::late::{self, Late};
use spandrel_tests::grpc::peers::Peer;
use spandrel_tests::grpc::rows::{self, How, Row};

/// Each peer once as a client and once as a server.
const RING: [(Peer, Peer); 5] = [
    (Peer::Go, Peer::Python),
    (Peer::Python, Peer::Node),
    (Peer::Node, Peer::Java),
    (Peer::Java, Peer::Tonic),
    (Peer::Tonic, Peer::Go),
];

fn pair(
    client: Peer,
    server: Peer,
    calls: Vec<spandrel_tests::grpc::calls::Call>,
    concurrency: usize,
) -> Row {
    Row { client, server, calls, concurrency, connections: 1 }
}

#[test]
fn every_kind_of_call_between_five_implementations_has_its_spans() -> Result<()> {
    let _machine = machine();
    for (client, server) in RING {
        let row = pair(client, server, rows::every_kind(2), 3);
        let verdict = rows::run(&row, &How::default())?.verdict;
        let good = verdict.wrong() == 0 && verdict.named == verdict.ends && verdict.status == verdict.ends;
        ensure!(good, "{} calls {}: {verdict}", client.name(), server.name());
        ensure!(verdict.joined == verdict.calls(), "{} calls {}: {verdict}", client.name(), server.name());
    }
    Ok(())
}

#[test]
fn fifty_calls_at_once_over_one_connection_are_joined_each_with_its_own() -> Result<()> {
    let _machine = machine();
    for (client, server) in [(Peer::Go, Peer::Tonic), (Peer::Python, Peer::Go)] {
        let row = pair(client, server, rows::unary(1_000, true), 50);
        let verdict = rows::run(&row, &How::default())?.verdict;
        let good = verdict.wrong() == 0 && verdict.joined == verdict.calls();
        ensure!(good, "{} calls {}: {verdict}", client.name(), server.name());
    }
    Ok(())
}

#[test]
fn whatever_ends_a_call_both_ends_tell_it_once_and_alike() -> Result<()> {
    let _machine = machine();
    let (lines, _) = ends::run(&RING, &RING.map(|(client, _)| client), &How::default())?;
    let (mut all, mut told) = (0, 0);
    for line in &lines {
        ensure!(line.wrong.is_empty() && line.seen == line.ends && 2 * line.joined == line.ends, "{line:?}");
        (all, told) = (all + line.ends, told + line.status);
    }
    // A reset may hide what the client had read last; then its status is not known.
    ensure!(all > 300 && told + 10 >= all, "{told} of {all} ends have their status: {lines:?}");
    Ok(())
}

fn warm(client: Peer, server: Peer, methods: usize, calls: usize) -> Late {
    Late { client, server, methods, before: 500, calls, clients: 1, connections: 1, random: false }
}

#[test]
fn a_warm_connection_gives_no_wrong_name() -> Result<()> {
    let _machine = machine();
    for client in [Peer::Go, Peer::Node] {
        let verdict = late::run(&warm(client, Peer::Go, 50, 200), &How::default())?.verdict;
        ensure!(verdict.wrong() == 0, "{}: {verdict}", client.name());
    }
    Ok(())
}

#[test]
fn what_warm_connections_hide_is_found_in_memory_if_that_is_allowed() -> Result<()> {
    let _machine = machine();
    let how = How { arguments: vec!["--late-names".into(), "memory".into()], ..How::default() };
    // Each library once as a client and once as a server, and several clients whose tables differ.
    let several = Late { clients: 3, connections: 2, ..warm(Peer::Go, Peer::Go, 50, 1_500) };
    let one = [Peer::Python, Peer::Node].map(|peer| warm(peer, peer, 50, 2_000));
    for late in [several].into_iter().chain(one) {
        let verdict = late::run(&late, &how)?.verdict;
        ensure!(verdict.wrong() == 0, "{late:?}: {verdict}");
        // How many depends on how long the search takes on a busy machine.
        ensure!(verdict.named > 1_000 && verdict.status > 1_000, "{late:?}: {verdict}");
    }
    Ok(())
}
