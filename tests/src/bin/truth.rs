//! `spandrel-truth`: runs the rows of the truth table and prints what came of them. Exit status 1 if a row misses its
//! claim, 2 for a bad argument. It only prints and decides nothing: claims are in `rows`, verdicts in `judge`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use spandrel_tests::apps::Runtimes;
use spandrel_tests::rows::{self, Report, Row, Run};

/// Runs the truth table against the real agent (`SPANDREL_BIN`, or target/release/spandrel).
#[derive(Parser, Debug)]
struct Arguments {
    /// Requests a row, over all concurrencies.
    #[arg(long, default_value_t = 1_000)]
    requests: usize,
    /// 10,000 requests a row.
    #[arg(long)]
    full: bool,
    /// Only this row; repeatable.
    #[arg(long)]
    row: Vec<String>,
    /// So many requests at once; repeatable. Without it 1, 3 and 50.
    #[arg(long)]
    at: Vec<usize>,
    /// When the agent starts.
    #[arg(long, value_enum, default_value = "listening")]
    attach: rows::Attach,
    /// Minutes of an even load, 50 at once, instead of so many requests; the agent's memory must stay flat.
    #[arg(long, default_value_t = 0, conflicts_with_all = ["requests", "full"])]
    minutes: u64,
    /// With the default bound on the hits of probes, also where a row lifts it.
    #[arg(long)]
    default_budget: bool,
    /// Of plans and pauses.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The agent's backend.
    #[arg(long, default_value = "auto")]
    backend: String,
    /// Start no agent: only whether programs and driver work.
    #[arg(long)]
    dry: bool,
    /// Print the names of the rows.
    #[arg(long)]
    list: bool,
    /// Rows of Node on this one instead of the one on PATH; repeatable: each of them in turn.
    #[arg(long, value_name = "PATH")]
    node: Vec<PathBuf>,
    /// Rows of the JVM on this `java` instead of the one on PATH; repeatable.
    #[arg(long, value_name = "PATH")]
    java: Vec<PathBuf>,
    /// Rows of the JVM with this collector (G1, Serial, Parallel, Z, Shenandoah); repeatable.
    #[arg(long, value_name = "NAME")]
    collector: Vec<String>,
    /// Print the agent's counters after each row that misses its claim.
    #[arg(long)]
    counters: bool,
}

impl Arguments {
    /// On what a row is to be run, and how that is called if it was asked for.
    fn runtimes(&self, row: &Row) -> Vec<(Runtimes, String)> {
        let (node, java) = row.runs_on();
        let each = |paths: &[PathBuf], asked: bool| -> Vec<Option<PathBuf>> {
            match paths {
                paths if asked && !paths.is_empty() => paths.iter().cloned().map(Some).collect(),
                _ => vec![None],
            }
        };
        let collectors: Vec<_> = match self.collector.as_slice() {
            names if java && !names.is_empty() => names.iter().map(Some).collect(),
            _ => vec![None],
        };
        let mut all = Vec::new();
        for node in each(&self.node, node) {
            for java in each(&self.java, java) {
                for &collector in &collectors {
                    let paths = [&node, &java].into_iter().flatten().map(|path| path.display().to_string());
                    let named: Vec<_> = paths.chain(collector.cloned()).collect();
                    let java_options = collector.iter().map(|name| format!("-XX:+Use{name}GC")).collect();
                    let (node, java) = (node.clone(), java.clone());
                    all.push((Runtimes { node, java, java_options }, named.join(", ")));
                }
            }
        }
        all
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list {
        for row in rows::all() {
            println!("{}", row.name);
        }
        return ExitCode::SUCCESS;
    }
    let chosen: Result<Vec<&Row>, _> = match arguments.row.as_slice() {
        [] => Ok(rows::all().collect()),
        names => names.iter().map(|name| rows::named(name)).collect(),
    };
    let chosen = match chosen {
        Ok(chosen) => chosen,
        Err(error) => {
            eprintln!("error: {error:#}");
            return ExitCode::from(2);
        }
    };
    let concurrency = match (arguments.at.as_slice(), arguments.minutes) {
        ([], 0) => Run::default().concurrency,
        ([], _) => vec![50],
        (at, _) => at.to_vec(),
    };
    let run = Run {
        requests: match arguments.minutes {
            0 if arguments.full => 10_000,
            0 => arguments.requests,
            minutes => minutes as usize * 60 * rows::A_SECOND,
        },
        concurrency,
        attach: arguments.attach,
        minutes: arguments.minutes,
        default_budget: arguments.default_budget,
        seed: arguments.seed,
        dry: arguments.dry,
        backend: arguments.backend.clone(),
        ..Run::default()
    };
    println!(
        "commit {}, seed {}, {} requests a row, backend {}, attached {:?}",
        commit(),
        run.seed,
        run.requests,
        run.backend,
        run.attach
    );
    println!(
        "{:<24}{:>5}{:>10}{:>9}{:>9}{:>8}{:>9}{:>7}  links",
        "row", "at", "complete", "right", "orphan", "missing", "unexpl.", "wrong"
    );
    let mut failed = false;
    for row in chosen {
        for (runtimes, named) in arguments.runtimes(row) {
            if !named.is_empty() {
                println!("{:<24}  on {named}", row.name);
            }
            let run = Run { runtimes, ..run.clone() };
            match rows::run(row, &run) {
                Ok(report) => failed |= print(row, &report, arguments.counters),
                Err(error) => {
                    failed = true;
                    println!("{:<24} failed: {error:#}", row.name);
                }
            }
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Whether the row misses its claim.
fn print(row: &Row, report: &Report, counters: bool) -> bool {
    if report.outcome.is_none() {
        println!("{:<24} all answered, {:.1?}", row.name, report.elapsed);
        return false;
    }
    for (concurrency, verdict) in &report.batches {
        let links: Vec<_> =
            verdict.methods.iter().map(|(method, count)| format!("{method} {count}")).collect();
        println!(
            "{:<24}{:>5}{:>9.2}%{:>9}{:>9}{:>8}{:>9}{:>7}  {}",
            row.name,
            concurrency,
            verdict.complete_percent(),
            verdict.right,
            verdict.orphan,
            verdict.missing,
            verdict.unexplained,
            verdict.wrong,
            links.join(", ")
        );
    }
    if row.warm_up > 0 {
        let warm = &report.warm_up;
        println!("{:<24}  warm-up: {} orphans, {} wrong", "", warm.orphan, warm.wrong);
    }
    if row.timer > 0 {
        let background = &report.background;
        println!("{:<24}  timer: {} spans, {} wrong", "", background.background, background.wrong);
    }
    if !report.memory.is_empty() {
        let megabytes: Vec<_> =
            report.memory.iter().map(|bytes| format!("{:.1}", bytes / 1048576.0)).collect();
        let grown = rows::grown(&report.memory) * 100.0;
        println!("{:<24}  memory by minute, MiB: {} (+{grown:.1} %)", "", megabytes.join(" "));
    }
    if let Some(off) = report.off_p99 {
        println!("{:<24}  start and end within {off:.1?} at p99", "");
    }
    for miss in &report.misses {
        println!("{:<24}  MISSES ITS CLAIM: {miss}", "");
    }
    if !report.misses.is_empty() {
        for example in report.total.examples.iter().chain(&report.background.examples) {
            println!("{:<24}    {example}", "");
        }
        if let (true, Some(outcome)) = (counters, &report.outcome) {
            for (name, value) in outcome.counters.all().iter().filter(|(_, value)| **value > 0) {
                println!("{:<24}    {name} {value}", "");
            }
        }
    }
    !report.misses.is_empty()
}

fn commit() -> String {
    let mut command = std::process::Command::new("git");
    command.current_dir(spandrel_tests::apps::workspace()).args(["describe", "--always", "--dirty"]);
    spandrel_tests::process::output(&mut command)
        .map_or_else(|_| "unknown".into(), |text| text.trim().to_owned())
}
