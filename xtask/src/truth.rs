//! stub
/// stub
#[derive(Debug, clap::Args)]
pub struct Truth {}
impl Truth { pub fn run(self) -> anyhow::Result<()> { Ok(()) } }
