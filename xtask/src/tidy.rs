//! stub
/// stub
#[derive(Debug, clap::Args)]
pub struct Tidy {}
impl Tidy { pub fn run(self) -> anyhow::Result<()> { Ok(()) } }
