//! Connections that want to make the agent wrong, slow or large: nothing wrong is told, its memory is bounded, every loss has a counter.
//! `cargo xtask grpc -- hostile` shows the figures.

use anyhow::{Result, ensure};
use spandrel_tests::checks::machine;
use spandrel_tests::grpc::hostile;
use spandrel_tests::grpc::rows::How;

#[test]
fn whatever_a_connection_of_http2_does_nothing_wrong_is_told_and_nothing_grows() -> Result<()> {
    let _machine = machine();
    for line in hostile::run(&How::default())? {
        ensure!(line.is_right(), "{line:?}");
        // Where nothing may be lost on any machine, nothing is missing.
        if ["tunnel", "HPACK bomb", "HPACK tables"].contains(&line.case) {
            ensure!(line.right == line.ends && 2 * line.joined == line.ends, "{line:?}");
        }
        // A connection that is joined late, or loses its place, is read again soon.
        if ["tunnel, joined late", "300 PINGs a call"].contains(&line.case) {
            ensure!(2 * line.right > line.ends, "{line:?}");
        }
    }
    Ok(())
}
