//! placeholder until the pipeline lands
fn main() { if let Err(e) = run() { eprintln!("{e:#}"); std::process::exit(1) } }
fn run() -> anyhow::Result<()> {
    use spandrel::probe::*;
    let found = feature::Found::probe(&feature::Places::default());
    for row in feature::TABLE { println!("{}: {}", row.name, found.answer(row.feature)); }
    let wanted = match std::env::args().nth(1).as_deref() { Some("syscall") => Some(plan::Backend::Syscall), Some("socket") => Some(plan::Backend::Socket), _ => None };
    let plan = plan::plan(&|f| found.answer(f).clone(), wanted)?;
    let attached = attach::attach(&plan, &found, attach::Options { ring_bytes: 16 << 20, capture_bytes: 65536, selective: false, log_level: 0 })?;
    println!("{} {:?}", attached.backend, attached.verified_instructions);
    std::thread::sleep(std::time::Duration::from_secs(2));
    Ok(())
}
