//! `spandrel check`: what this kernel and these privileges allow, what would be traced, and why not.
//! ```text
//!   Found, plan, process table ──▶ Checked ──▶ render (pure) ──▶ text     status 1 if nothing can be traced
//! ```
//! It must never attach anything, write anywhere but to its output, or let what a process says of itself move
//! the terminal. The rows about features come from [`feature::TABLE`], as does `docs/features.md`.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write;
use std::sync::Arc;

use anyhow::Context as _;

use super::feature::{self, Answer, Feature, Found, Places, TABLE};
use super::plan::{self, Impossible, Plan};
use super::sessions;
use crate::config::{self, Settings};
use crate::discover::naming::NameSource;
use crate::discover::proc::{ProcFs, ReadError};
use crate::discover::resource::Description;
use crate::discover::select::Verdict;
use crate::discover::table::candidate;
use crate::discover::text::harmless;
use crate::discover::{ProcessTable, Selection, Serving, runtimes};

/// Everything that `check` found out.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The kernel's release, as `uname -r` says it; empty if that is not known.
    pub kernel: String,
    /// What was found about each feature.
    pub answers: Vec<(Feature, Answer)>,
    /// What would be attached.
    pub plan: Result<Plan, Impossible>,
    /// The processes that run now, or why they could not be listed.
    pub running: Result<Running, String>,
    /// Those that were asked about.
    pub asked: Vec<Asked>,
}

/// The processes that run now, the agent itself left out.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Running {
    /// How many processes would be traced, by the name of their service.
    pub traced: HashMap<String, u64>,
    /// How many would be once they serve on one of the selected ports.
    pub if_they_serve: u64,
    /// How many are not selected.
    pub not_selected: u64,
}

/// A process that was asked about.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Its id.
    pub pid: u32,
    /// What is known of its program; nothing if it could not be read or runs none.
    pub description: Option<Arc<Description>>,
    /// Whether it would be traced, as far as that depends on the process.
    pub fate: Fate,
    /// Whether its TLS would be read.
    pub tls: Option<&'static str>,
    /// What was proved of its runtime, and what not and why.
    pub proved: Vec<String>,
}

/// Whether a process would be traced.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Fate {
    /// It would.
    Traced,
    /// Its calls are those of a 32-bit program, whose bytes are counted and not read.
    ThirtyTwoBits,
    /// Once it serves on one of these ports.
    IfItServes(Vec<u16>),
    /// `--exclude-exe` takes it away, or nothing selects it.
    NotSelected,
    /// It is the agent.
    Itself,
    /// It is a thread of the kernel's.
    KernelThread,
    /// It is a thread of the process with this id.
    ThreadOf(u32),
    /// It could not be read.
    Unreadable(ReadError),
}

impl Fate {
    /// Whether anything of it would be traced, now or later.
    pub fn can_be_traced(&self) -> bool {
        match self {
            Self::Traced | Self::IfItServes(_) => true,
            Self::ThirtyTwoBits
            | Self::NotSelected
            | Self::Itself
            | Self::KernelThread
            | Self::ThreadOf(_)
            | Self::Unreadable(_) => false,
        }
    }
}

impl Checked {
    /// Whether anything can be traced: of the processes that were asked about, if there were any.
    pub fn can_trace(&self) -> bool {
        self.plan.is_ok()
            && (self.asked.is_empty() || self.asked.iter().any(|asked| asked.fate.can_be_traced()))
    }
}

/// Finds everything out and writes it. True if something can be traced. Besides `pid`, the processes that are
/// selected by their id are told about one by one.
///
/// # Errors
/// The output did not take the text.
pub fn run(settings: &Settings, pid: Option<u32>, out: &mut impl Write) -> anyhow::Result<bool> {
    let found = Found::probe(&Places::default());
    let mut processes = ProcessTable::new();
    let running = match processes.scan() {
        Ok(_) => Ok(running(&processes, &settings.selection)),
        Err(error) => Err(error.to_string()),
    };
    let mut pids: Vec<u32> = pid.into_iter().chain(settings.selection.pids.iter().copied()).collect();
    pids.sort_unstable();
    pids.dedup();
    let asked = pids.into_iter().map(|pid| ask(&mut processes, pid, settings)).collect();
    let release = std::fs::read("/proc/sys/kernel/osrelease").unwrap_or_default();
    let checked = Checked {
        kernel: harmless(&release, MAX_SHOWN),
        answers: TABLE.iter().map(|row| (row.feature, found.answer(row.feature).clone())).collect(),
        plan: decide(&found, settings.backend),
        running,
        asked,
    };
    out.write_all(render(&checked).as_bytes())
        .and_then(|()| out.flush())
        .context("writing what was found")?;
    Ok(checked.can_trace())
}

/// The backend that the user asks for, if any.
pub fn wanted(backend: config::Backend) -> Option<plan::Backend> {
    match backend {
        config::Backend::Auto => None,
        config::Backend::Socket => Some(plan::Backend::Socket),
        config::Backend::Syscall => Some(plan::Backend::Syscall),
    }
}

/// The plan, if also the kernel's structures are laid out in a way that is understood.
fn decide(found: &Found, backend: config::Backend) -> Result<Plan, Impossible> {
    let plan = plan::plan(&|feature| found.answer(feature).clone(), wanted(backend))?;
    match found.offsets() {
        Ok(_) => Ok(plan),
        Err(error) => Err(Impossible { feature: "btf", why: feature::chain(&error) }),
    }
}

fn running(processes: &ProcessTable, selection: &Selection) -> Running {
    let own = std::process::id();
    let mut running = Running::default();
    for (pid, description) in processes.scanned().filter(|(pid, _)| *pid != own) {
        match selection.verdict(&candidate(pid, description)) {
            Verdict::Selected => *running.traced.entry(description.service.clone()).or_default() += 1,
            Verdict::IfItServes => running.if_they_serve += 1,
            Verdict::No => running.not_selected += 1,
        }
    }
    running
}

fn ask(processes: &mut ProcessTable, pid: u32, settings: &Settings) -> Asked {
    let selection = &settings.selection;
    let description = match processes.describe_pid(pid) {
        Ok(description) => description,
        Err(error) => {
            let fate = Fate::Unreadable(error);
            return Asked { pid, description: None, fate, tls: None, proved: Vec::new() };
        }
    };
    let leader = thread_group(&std::fs::read(format!("/proc/{pid}/status")).unwrap_or_default());
    let fate = if pid == std::process::id() {
        Fate::Itself
    } else if let Some(leader) = leader.filter(|leader| *leader != pid) {
        Fate::ThreadOf(leader)
    } else if ProcFs::default().stat(pid).is_ok_and(|stat| stat.kernel_thread) {
        Fate::KernelThread
    } else {
        match selection.verdict(&candidate(pid, &description)) {
            Verdict::Selected if is_32_bit(pid) => Fate::ThirtyTwoBits,
            Verdict::Selected => Fate::Traced,
            Verdict::IfItServes => Fate::IfItServes(selection.ports.clone()),
            Verdict::No => Fate::NotSelected,
        }
    };
    let runs_program = fate != Fate::KernelThread;
    let looked_at = runs_program && fate != Fate::Itself;
    let tls = looked_at.then(|| sessions::describe(pid, settings.tls.of(&candidate(pid, &description))));
    let how = runtimes::How { off: settings.no_runtime.clone(), weakest: settings.weakest_link };
    let proved = if looked_at { runtimes::describe(pid, &how) } else { Vec::new() };
    Asked { pid, description: runs_program.then_some(description), fate, tls, proved }
}

/// The field `Tgid` of `/proc/PID/status` (proc_pid_status(5)): the process that a thread is of.
fn thread_group(status: &[u8]) -> Option<u32> {
    let line = status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"Tgid:"))?;
    std::str::from_utf8(line).ok()?.trim().parse().ok()
}

/// Whether the executable is a 32-bit one: `EI_CLASS` is `ELFCLASS32` (elf(5)).
fn is_32_bit(pid: u32) -> bool {
    use std::io::Read as _;
    let mut head = [0; 5];
    let read =
        std::fs::File::open(format!("/proc/{pid}/exe")).and_then(|mut file| file.read_exact(&mut head));
    read.is_ok() && head == *b"\x7fELF\x01"
}

/// The whole report.
pub fn render(checked: &Checked) -> String {
    let Checked { kernel, answers, plan, running, asked } = checked;
    let mut text = String::new();
    // Writing into a String cannot fail.
    let _ = (|| {
        let kernel = if kernel.is_empty() { "of unknown release" } else { kernel };
        writeln!(text, "Kernel {kernel}, {} {}", env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"))?;
        features(&mut text, answers)?;
        match plan {
            Ok(plan) => hooks(&mut text, plan)?,
            Err(Impossible { feature, why }) => {
                writeln!(text, "\nNothing can be traced: {feature}: {why}")?;
            }
        }
        let indeed = plan.is_ok();
        for asked in asked {
            process(&mut text, asked, indeed)?;
        }
        match running {
            Ok(running) if indeed => processes(&mut text, running),
            Ok(_) => Ok(()),
            Err(why) => writeln!(text, "\nThe processes that run now could not be listed: {why}"),
        }
    })();
    text
}

fn features(text: &mut String, answers: &[(Feature, Answer)]) -> std::fmt::Result {
    writeln!(text, "\nFeatures")?;
    let width = TABLE.iter().map(|row| row.name.len()).max().unwrap_or_default();
    for row in TABLE {
        let name = row.name;
        match answers.iter().find(|(feature, _)| *feature == row.feature).map(|(_, answer)| answer) {
            Some(Answer::Yes) => writeln!(text, "  {name:width$}  yes")?,
            other => {
                match other {
                    Some(answer) => writeln!(text, "  {name:width$}  {answer}")?,
                    None => writeln!(text, "  {name:width$}  not asked")?,
                }
                writeln!(text, "  {:width$}  since Linux: {}", "", row.since)?;
                writeln!(text, "  {:width$}  lost without it: {}", "", row.without)?;
            }
        }
    }
    Ok(())
}

fn hooks(text: &mut String, plan: &Plan) -> std::fmt::Result {
    let Plan { backend, attachments } = plan;
    writeln!(text, "\nPlan: backend {backend}, {}", counted(attachments.len() as u64, "hook"))?;
    let width = attachments.iter().map(|(program, _)| program.len()).max().unwrap_or_default();
    for (program, hook) in attachments {
        writeln!(text, "  {program:width$}  {hook}")?;
    }
    Ok(())
}

fn process(text: &mut String, asked: &Asked, possible: bool) -> std::fmt::Result {
    let Asked { pid, description, fate, tls, proved } = asked;
    writeln!(text, "\nProcess {pid}")?;
    if let Some(description) = description {
        writeln!(text, "  service     {} ({})", description.service, source(description.source))?;
        let executable = harmless(&description.executable, MAX_SHOWN);
        let executable = if executable.is_empty() { "not readable" } else { &executable };
        writeln!(text, "  executable  {executable}")?;
        let runtime = match &description.runtime {
            Some(runtime) => match &runtime.version {
                Some(version) => format!("{} {version}", runtime.name),
                None => runtime.name.to_owned(),
            },
            None => "none that is known".to_owned(),
        };
        writeln!(text, "  runtime     {runtime}")?;
        writeln!(text, "  cgroup      {}", harmless(description.cgroup.as_bytes(), MAX_SHOWN))?;
        writeln!(text, "  threads     {}", serving(description.serving))?;
        for (number, line) in proved.iter().enumerate() {
            let name = if number == 0 { "inside" } else { "" };
            writeln!(text, "  {name:10}  {}", harmless(line.as_bytes(), MAX_SHOWN))?;
        }
        if let Some(tls) = tls {
            writeln!(text, "  TLS         {tls}")?;
        }
    }
    if possible || !fate.can_be_traced() {
        writeln!(text, "  traced      {}", fate_text(fate))
    } else {
        writeln!(text, "  traced      no: nothing can be")
    }
}

fn processes(text: &mut String, running: &Running) -> std::fmt::Result {
    let Running { traced, if_they_serve, not_selected } = running;
    let count: u64 = traced.values().sum();
    let services = counted(traced.len() as u64, "service");
    writeln!(text, "\nWould trace {} of {services} now", counted(count, "process"))?;
    let mut rows: Vec<(&String, u64)> = traced.iter().map(|(service, count)| (service, *count)).collect();
    rows.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    let width = rows.first().map_or(0, |(_, most)| most.to_string().len());
    for (service, count) in rows.iter().take(MAX_SERVICES) {
        writeln!(text, "  {count:>width$}  {service}")?;
    }
    if let Some(more) = rows.len().checked_sub(MAX_SERVICES).filter(|more| *more > 0) {
        writeln!(text, "  and {} more", counted(more as u64, "service"))?;
    }
    if *if_they_serve > 0 {
        let ports = "only at the serving end of a selected port";
        writeln!(text, "Would trace {} {ports}", counted(*if_they_serve, "process"))?;
    }
    if *not_selected > 0 {
        writeln!(text, "Would not trace {}: not selected", counted(*not_selected, "process"))?;
    }
    Ok(())
}

fn fate_text(fate: &Fate) -> String {
    match fate {
        Fate::Traced => "yes".to_owned(),
        Fate::ThirtyTwoBits => "no: it is a 32-bit program; what it moves is counted and not read".to_owned(),
        Fate::IfItServes(ports) => {
            let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
            format!("once it serves on port {}", ports.join(" or "))
        }
        Fate::NotSelected => {
            "no: --exclude-exe names it, or none of --pid, --exe and --cgroup does".to_owned()
        }
        Fate::Itself => "no: this is Spandrel itself".to_owned(),
        Fate::KernelThread => "no: it is a thread of the kernel and runs no program".to_owned(),
        Fate::ThreadOf(leader) => format!("no: it is a thread of process {leader}; ask for that one"),
        Fate::Unreadable(error) => format!("no: {error}"),
    }
}

/// Where a service's name came from.
pub fn source(source: NameSource) -> &'static str {
    match source {
        NameSource::Environment => "from OTEL_SERVICE_NAME in its environment",
        NameSource::ResourceAttributes => "from OTEL_RESOURCE_ATTRIBUTES in its environment",
        NameSource::Container => "its container",
        NameSource::Unit => "its systemd unit",
        NameSource::Module => "the module it runs",
        NameSource::Script => "the script it runs",
        NameSource::Jar => "the jar it runs",
        NameSource::MainClass => "its main class",
        NameSource::Application => "the application it serves",
        NameSource::Executable => "its executable",
        NameSource::Nothing => "nothing is known of it",
    }
}

fn serving(serving: Serving) -> &'static str {
    match serving {
        Serving::OneRequestPerThread => "serve one request at a time: a call belongs to its thread's request",
        Serving::ManyPerThread => {
            "serve many requests at once: a call has a parent only if it carries its request's trace context"
        }
        Serving::OneIfBlocking => {
            "one request at a time on blocking sockets: a call belongs to its thread's request then"
        }
        Serving::Unknown => {
            "not known: a call belongs to its thread's request if that was read from a blocking socket"
        }
    }
}

/// `1 process`, `2 processes`.
fn counted(count: u64, noun: &str) -> String {
    let ending = match noun {
        _ if count == 1 => "",
        noun if noun.ends_with('s') => "es",
        _ => "s",
    };
    format!("{count} {noun}{ending}")
}

/// The feature table as a page of the documentation, in Markdown.
pub fn features_markdown() -> String {
    let mut page = FEATURES_HEADER.to_owned();
    for row in TABLE {
        let feature::Row { feature: _, name, since, without } = row;
        page.push_str(&format!("| {name} | {since} | {without} |\n"));
    }
    page
}

const FEATURES_HEADER: &str = "\
# Features of the kernel

What Spandrel asks of a kernel. Each question is answered by trying the thing itself when the agent starts; the
version only says what to expect. `spandrel check` shows the answers on the machine at hand: yes, no and why, or that
the question itself failed.

| feature | since Linux | lost without it |
|---|---|---|
";

/// Services that are listed by name; a person reads them.
const MAX_SERVICES: usize = 30;
/// The longest path that is shown, in bytes: `PATH_MAX`.
const MAX_SHOWN: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discover::cgroup::Membership;
    use crate::discover::environment::Declared;
    use crate::discover::naming::ProcessFacts;
    use crate::discover::resource::describe;

    fn python() -> Arc<Description> {
        let facts = ProcessFacts {
            executable: b"/usr/bin/python3.11".to_vec(),
            argv: vec![b"python3".to_vec(), b"/srv/shop.py".to_vec()],
            ..ProcessFacts::default()
        };
        Arc::new(describe(&facts, &Membership::default(), &Declared::default(), None))
    }

    fn checked(missing: &'static [(Feature, &'static str)], asked: Vec<Asked>) -> Checked {
        let answer = move |feature: Feature| match missing.iter().find(|(f, _)| *f == feature) {
            Some((_, "EIO")) => Answer::Unknown("input/output error (os error 5)".to_owned()),
            Some((_, why)) => Answer::No((*why).to_owned()),
            None => Answer::Yes,
        };
        Checked {
            kernel: "6.12.0".to_owned(),
            answers: TABLE.iter().map(|row| (row.feature, answer(row.feature))).collect(),
            plan: plan::plan(&answer, None),
            running: Ok(Running {
                traced: HashMap::from([
                    ("shop".to_owned(), 4),
                    ("nginx".to_owned(), 12),
                    ("a".to_owned(), 4),
                ]),
                ..Running::default()
            }),
            asked,
        }
    }

    fn asked(fate: Fate) -> Vec<Asked> {
        vec![Asked { pid: 7, description: Some(python()), fate, tls: None, proved: Vec::new() }]
    }

    #[test]
    fn a_kernel_that_has_everything_gets_a_short_report() {
        let checked = checked(&[], Vec::new());
        assert!(checked.can_trace());
        let text = render(&checked);
        assert!(text.starts_with("Kernel 6.12.0, spandrel "), "{text}");
        assert!(!text.contains("since Linux"), "{text}");
        assert!(text.contains("\n  socket tracepoints       yes\n"), "{text}");
        assert!(text.contains("\nPlan: backend socket, 7 hooks\n"), "{text}");
        assert!(text.contains("  sent           tracepoint sock_send_length\n"), "{text}");
        assert!(
            text.ends_with(
                "\nWould trace 20 processes of 3 services now\n  12  nginx\n   4  a\n   4  shop\n"
            ),
            "{text}"
        );
    }

    #[test]
    fn a_missing_feature_says_since_when_and_what_is_lost() {
        let text = render(&checked(
            &[(Feature::SocketTracepoints, "not here"), (Feature::TaskRegisters, "EIO")],
            Vec::new(),
        ));
        assert!(text.contains("  socket tracepoints       no: not here\n"), "{text}");
        assert!(text.contains("  since Linux: 6.3\n"), "{text}");
        assert!(text.contains("  lost without it: backend `socket`"), "{text}");
        assert!(
            text.contains("  task registers           could not tell: input/output error (os error 5)\n"),
            "{text}"
        );
        assert!(text.contains("\nPlan: backend syscall, 14 hooks\n"), "{text}");
    }

    #[test]
    fn where_nothing_can_be_traced_the_reason_stands_and_no_promise() {
        let checked = checked(&[(Feature::Btf, "cannot read it")], asked(Fate::Traced));
        assert!(!checked.can_trace());
        let text = render(&checked);
        assert!(text.contains("\nNothing can be traced: BTF: no: cannot read it\n"), "{text}");
        assert!(text.contains("  traced      no: nothing can be\n"), "{text}");
        assert!(!text.contains("Would trace"), "{text}");
    }

    #[test]
    fn a_process_says_its_name_where_that_came_from_and_how_it_serves() {
        let checked = checked(&[], asked(Fate::Traced));
        assert!(checked.can_trace());
        let text = render(&checked);
        assert!(text.contains("\nProcess 7\n  service     shop (the script it runs)\n"), "{text}");
        assert!(text.contains("  executable  /usr/bin/python3.11\n  runtime     cpython\n"), "{text}");
        assert!(text.contains("  threads     not known: "), "{text}");
        assert!(text.contains("  traced      yes\n"), "{text}");
    }

    #[test]
    fn a_process_that_would_not_be_traced_says_why() {
        for (fate, why) in [
            (Fate::ThirtyTwoBits, "32-bit"),
            (Fate::NotSelected, "--exclude-exe"),
            (Fate::Itself, "Spandrel itself"),
            (Fate::KernelThread, "thread of the kernel"),
            (Fate::ThreadOf(99), "thread of process 99"),
            (Fate::Unreadable(ReadError::Gone), "the process is gone"),
        ] {
            let checked = checked(&[], asked(fate));
            let text = render(&checked);
            let line = text.lines().find(|line| line.starts_with("  traced")).unwrap();
            assert!(line.starts_with("  traced      no: ") && line.contains(why), "{line}");
            assert!(!checked.can_trace(), "{line}");
        }
        let serves = checked(&[], asked(Fate::IfItServes(vec![80, 443])));
        assert!(serves.can_trace());
        assert!(render(&serves).contains("  traced      once it serves on port 80 or 443\n"));
    }

    #[test]
    fn what_a_process_calls_itself_cannot_move_the_terminal() {
        let facts =
            ProcessFacts { executable: b"/tmp/\x1b[2J\xff\x07evil".to_vec(), ..ProcessFacts::default() };
        let membership = Membership { path: "/\u{1b}]0;x\u{7}".to_owned(), ..Membership::default() };
        let description = Arc::new(describe(&facts, &membership, &Declared::default(), None));
        let mut checked = checked(
            &[],
            vec![Asked {
                pid: 7,
                description: Some(description),
                fate: Fate::Traced,
                tls: None,
                proved: vec!["go: Go \u{1b}[2J1.24".to_owned(), "go: more".to_owned()],
            }],
        );
        checked.running = Err("no \\proc".to_owned());
        let text = render(&checked);
        assert!(text.chars().all(|character| character == '\n' || !character.is_control()), "{text:?}");
        assert!(text.contains("could not be listed: no \\proc"), "{text}");
        assert!(
            text.contains("\n  inside      go: Go ") && text.contains("\n              go: more\n"),
            "{text}"
        );
    }

    #[test]
    fn a_long_list_of_services_ends_with_how_many_more() {
        let mut checked = checked(&[], Vec::new());
        let traced = (0..MAX_SERVICES + 1).map(|number| (format!("s{number}"), 1)).collect();
        checked.running = Ok(Running { traced, if_they_serve: 2, not_selected: 1 });
        let text = render(&checked);
        assert!(text.contains("\n  and 1 service more\n"), "{text}");
        assert!(
            text.contains("\nWould trace 2 processes only at the serving end of a selected port\n"),
            "{text}"
        );
        assert!(text.ends_with("\nWould not trace 1 process: not selected\n"), "{text}");
    }

    #[test]
    fn the_agent_itself_is_not_traced_and_a_thread_is_told_from_its_process() {
        let own = ask(&mut ProcessTable::new(), std::process::id(), &Settings::defaults().unwrap());
        assert_eq!(own.fate, Fate::Itself);
        assert_eq!(thread_group(b"Name:\tx\nTgid:\t41\nPid:\t42\n"), Some(41));
        assert_eq!(thread_group(b"Name:\t\xff\n"), None);
        let gone = ask(&mut ProcessTable::new(), u32::MAX, &Settings::defaults().unwrap());
        assert_eq!(gone.fate, Fate::Unreadable(ReadError::Gone));
    }

    #[test]
    fn on_this_machine_it_says_something_and_does_not_fail() {
        let mut out = Vec::new();
        let settings = Settings::defaults().unwrap();
        run(&settings, Some(std::process::id()), &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("Features") && text.contains("this is Spandrel itself"), "{text}");
    }

    #[test]
    fn the_page_has_a_row_for_every_feature() {
        let page = features_markdown();
        for row in TABLE {
            assert!(page.contains(&format!("| {} |", row.name)), "{page}");
            assert!(!row.without.contains('|') && !row.since.contains('|'));
        }
    }
}
