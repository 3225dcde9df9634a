//! stub
/// stub
#[derive(Debug, clap::Args)]
pub struct Soak {}
impl Soak { pub fn run(self) -> anyhow::Result<()> { Ok(()) } }
