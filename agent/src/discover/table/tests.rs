//! The table over real processes and over a made-up procfs. Must never depend on what else runs here.

use std::os::unix::fs::symlink;
use std::path::PathBuf;

use super::*;

/// A procfs made of files.
struct Fake {
    root: PathBuf,
}

impl Fake {
    fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("spandrel-table-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&root);
        std::fs::create_dir_all(&root).unwrap();
        Self { root }
    }

    fn process(&self, pid: u32, ticks: u64, executable: &str, argv: &str, environ: &str) {
        let folder = self.root.join(pid.to_string());
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        let stat = format!("{pid} (x) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 {ticks} 0\n");
        std::fs::write(folder.join("stat"), stat).unwrap();
        std::fs::write(folder.join("cmdline"), argv).unwrap();
        std::fs::write(folder.join("environ"), environ).unwrap();
        std::fs::write(folder.join("cgroup"), "0::/\n").unwrap();
        symlink(executable, folder.join("exe")).unwrap();
        symlink("/srv/shop", folder.join("cwd")).unwrap();
    }

    fn gone(&self, pid: u32) {
        std::fs::remove_dir_all(self.root.join(pid.to_string())).unwrap();
    }

    fn table(&self) -> ProcessTable {
        ProcessTable::with(
            ProcFs::at(&self.root),
            Host { name: "box".to_owned(), boot: "b".to_owned() },
            Containers::below(&self.root),
            CgroupTree::at(self.root.join("cgroup")),
        )
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

const SECOND: u64 = 1_000_000_000;

fn key(pid: u32, exec: u32, seconds: u64) -> ProcessKey {
    ProcessKey { pid, exec, started: seconds * SECOND }
}

fn exec(key: ProcessKey, filename: &str, argv: &str, time: u64) -> ExecFacts {
    ExecFacts {
        key,
        filename: filename.as_bytes().to_vec(),
        argv: argv.as_bytes().to_vec(),
        cgroup_id: 0,
        time: Monotonic(time),
    }
}

#[track_caller]
fn balanced(table: &ProcessTable) -> Ledger {
    let ledger = table.ledger();
    let Ledger {
        met,
        held,
        ended_by_age,
        ended_by_count,
        vanished,
        displaced,
        resolved,
        by_image,
        by_scan,
        by_proc,
        by_record,
        unnamed,
        proc_gone: _,
        proc_changed: _,
        proc_denied: _,
        scanned: _,
    } = ledger;
    assert_eq!(met, held + ended_by_age + ended_by_count + vanished + displaced, "{ledger:?}");
    assert_eq!(resolved, by_image + by_scan + by_proc + by_record + unnamed, "{ledger:?}");
    ledger
}

#[test]
fn a_process_that_is_gone_is_named_by_its_record() {
    let fake = Fake::new("gone");
    let mut table = fake.table();
    let curl = key(10, 1, 5);
    table.exec(exec(curl, "/usr/bin/curl", "curl\0http://x/\0", 1));
    table.exit(curl, Monotonic(2));
    let resource = table.resource(curl);
    assert_eq!(resource.service, "curl");
    assert!(Arc::ptr_eq(&resource, &table.resource(curl)), "resolved once");
    assert_eq!(balanced(&table).by_record, 1);
}

#[test]
fn a_live_process_is_enriched_from_proc() {
    let fake = Fake::new("live");
    fake.process(10, 500, "/usr/bin/python3.11", "python3\0main.py\0", "OTEL_RESOURCE_ATTRIBUTES=team=a\0");
    let mut table = fake.table();
    table.exec(exec(key(10, 1, 5), "/usr/bin/python3", "python3\0main.py\0", 1));
    let resource = table.resource(key(10, 1, 5));
    assert_eq!(resource.service, "shop", "the folder of main.py needs the working directory");
    assert!(resource.attributes.iter().any(|(key, _)| key == "team"));
    assert_eq!(balanced(&table).by_proc, 1);
}

#[test]
fn a_reused_pid_is_not_taken_for_the_process_meant() {
    let fake = Fake::new("reused");
    fake.process(10, 900, "/usr/bin/other", "other\0", "OTEL_SERVICE_NAME=wrong\0");
    let mut table = fake.table();
    table.exec(exec(key(10, 1, 5), "/usr/bin/curl", "curl\0", 1));
    // The exit record is still on its way.
    assert_eq!(table.resource(key(10, 1, 5)).service, "curl");
    assert_eq!(balanced(&table).proc_changed, 1);
}

#[test]
fn a_program_that_replaced_another_is_not_taken_for_it() {
    let fake = Fake::new("replaced");
    fake.process(10, 500, "/usr/bin/other", "other\0x\0", "OTEL_SERVICE_NAME=wrong\0");
    let mut table = fake.table();
    table.exec(exec(key(10, 1, 5), "/usr/bin/curl", "curl\0", 1));
    assert_eq!(table.resource(key(10, 1, 5)).service, "curl");
    table.exec(exec(key(10, 2, 5), "/usr/bin/other", "other\0x\0", 2));
    assert_eq!(table.resource(key(10, 2, 5)).service, "wrong", "that is its own variable");
    assert_eq!(table.resource(key(10, 1, 5)).service, "curl");
    balanced(&table);
}

#[test]
fn a_rewritten_title_is_still_the_same_program() {
    let fake = Fake::new("title");
    fake.process(10, 500, "/usr/sbin/nginx", "nginx: master process nginx\0", "OTEL_SERVICE_NAME=edge\0");
    let mut table = fake.table();
    table.exec(exec(key(10, 1, 5), "/usr/sbin/nginx", "nginx\0-g\0daemon off;\0", 1));
    assert_eq!(table.resource(key(10, 1, 5)).service, "edge");
}

#[test]
fn a_forked_worker_is_what_its_parent_is_even_when_both_are_gone() {
    let fake = Fake::new("fork");
    fake.process(10, 500, "/usr/bin/python3.11", "python3\0app.py\0", "OTEL_SERVICE_NAME=shop\0");
    let mut table = fake.table();
    table.exec(exec(key(10, 1, 5), "/usr/bin/python3", "python3\0app.py\0", 1));
    table.fork(key(10, 1, 5), key(11, 1, 6), Monotonic(2));
    let parent = table.resource(key(10, 1, 5));
    fake.gone(10);
    let child = table.resource(key(11, 1, 6));
    assert_eq!((parent.service.as_str(), child.service.as_str()), ("shop", "shop"));
    assert_ne!(parent.attributes, child.attributes, "another pid and instance");
    assert_eq!(balanced(&table).by_image, 1);
}

#[test]
fn a_python_worker_that_was_spawned_is_what_its_parent_is() {
    let fake = Fake::new("spawned");
    let worker =
        "python3\0-c\0from multiprocessing.spawn import spawn_main; spawn_main(1)\0--multiprocessing-fork\0";
    let mut table = fake.table();
    table.exec(exec(key(10, 1, 5), "/usr/bin/python3", "python3\0-m\0uvicorn\0shop:app\0", 1));
    table.fork(key(10, 1, 5), key(11, 1, 6), Monotonic(2));
    table.exec(exec(key(11, 2, 6), "/usr/bin/python3", worker, 3));
    assert_eq!(table.resource(key(11, 2, 6)).service, "shop:app");
    assert_eq!(table.serving(key(11, 2, 6)), Serving::ManyPerThread);
    balanced(&table);

    fake.process(20, 500, "/usr/bin/python3.11", "python3\0-m\0uvicorn\0cart:app\0", "");
    fake.process(21, 500, "/usr/bin/python3.11", worker, "");
    let stat = fake.root.join("21/stat");
    let text = std::fs::read_to_string(&stat).unwrap().replace("(x) S 1 ", "(x) S 20 ");
    std::fs::write(stat, text).unwrap();
    table.scan().unwrap();
    assert_eq!(table.resource(key(21, 2, 5)).service, "cart:app");
}

#[test]
fn a_long_command_line_goes_on_in_proc_where_the_record_ends() {
    let fake = Fake::new("long");
    let argv = format!("java\0-cp\0{}\0com.acme.Shop\0", "x".repeat(600));
    fake.process(10, 500, "/usr/bin/java", &argv, "");
    let mut table = fake.table();
    table.exec(exec(key(10, 1, 5), "/usr/bin/java", &argv[..RECORDED_ARGV], 1));
    table.exec(exec(key(11, 1, 5), "/usr/bin/java", &argv[..RECORDED_ARGV], 1));
    assert_eq!(table.resource(key(10, 1, 5)).service, "Shop");
    assert_eq!(table.resource(key(11, 1, 5)).service, "java", "a cut argument is not believed");
}

#[test]
fn a_process_from_before_the_agent_is_known_by_the_scan_or_by_a_late_look() {
    let fake = Fake::new("scan");
    fake.process(10, 500, "/usr/bin/node", "node\0server.js\0", "");
    let mut table = fake.table();
    assert_eq!(table.scan().unwrap(), 1);
    fake.process(20, 600, "/usr/bin/node", "node\0late.js\0", "");
    fake.gone(10);
    assert_eq!(table.resource(key(10, 3, 5)).service, "server");
    assert_eq!(table.serving(key(10, 3, 5)), Serving::ManyPerThread);
    assert_eq!(table.resource(key(20, 3, 6)).service, "late");
    let ledger = balanced(&table);
    assert_eq!((ledger.by_scan, ledger.by_proc, ledger.scanned), (1, 1, 1));
}

#[test]
fn a_scanned_process_keeps_its_name_after_its_exit_and_its_forks_have_it() {
    let fake = Fake::new("scan-exit");
    fake.process(10, 500, "/usr/bin/ruby", "ruby\0app.rb\0", "");
    let mut table = fake.table();
    table.scan().unwrap();
    fake.gone(10);
    table.fork(key(10, 1, 5), key(11, 1, 7), Monotonic(1));
    table.exit(key(10, 1, 5), Monotonic(2));
    table.exit(key(11, 1, 7), Monotonic(3));
    assert_eq!(table.resource(key(11, 1, 7)).service, "app");
    assert_eq!(table.resource(key(10, 1, 5)).service, "app");
    balanced(&table);
}

#[test]
fn a_process_that_is_gone_is_still_known_by_its_cgroup() {
    let fake = Fake::new("cgroup");
    let unit = fake.root.join("cgroup/system.slice/shop.service");
    std::fs::create_dir_all(&unit).unwrap();
    let cgroup_id = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&unit).unwrap());
    let mut table = fake.table();
    table.exec(ExecFacts { cgroup_id, ..exec(key(10, 1, 5), "/usr/bin/python3", "python3\0app.py\0", 1) });
    table.exit(key(10, 1, 5), Monotonic(2));
    assert_eq!(table.resource(key(10, 1, 5)).service, "shop");
    assert_eq!(table.description(key(10, 1, 5)).cgroup, "/system.slice/shop.service");
}

#[test]
fn nothing_known_is_said_to_be_unknown() {
    let fake = Fake::new("nothing");
    let mut table = fake.table();
    assert_eq!(table.resource(key(10, 1, 5)).service, "unknown_service");
    assert_eq!(balanced(&table).unnamed, 1);
}

#[test]
fn an_older_key_of_a_pid_does_not_displace_the_newer_one() {
    let fake = Fake::new("older");
    fake.process(10, 500, "/usr/bin/curl", "curl\0", "");
    let mut table = fake.table();
    table.exec(exec(key(10, 2, 5), "/usr/bin/curl", "curl\0", 1));
    assert_eq!(table.resource(key(10, 1, 5)).service, "unknown_service");
    assert_eq!(table.resource(key(10, 2, 5)).service, "curl");
    assert_eq!(balanced(&table).by_proc, 1);
}

#[test]
fn ended_processes_are_forgotten_by_age_and_by_count_and_the_books_balance() {
    let fake = Fake::new("bounds");
    let mut table = fake.table();
    for pid in 0..20_000 {
        table.exec(exec(key(pid, 1, 5), "/bin/x", "x\0", 10));
        table.exit(key(pid, 1, 5), Monotonic(10));
    }
    let ledger = balanced(&table);
    assert_eq!(ledger.held, MAX_ENDED as u64);
    assert_eq!(ledger.ended_by_count, 20_000 - MAX_ENDED as u64);
    table.expire(Monotonic(10 + UNASKED_AGE));
    let ledger = balanced(&table);
    assert_eq!((ledger.held, ledger.ended_by_age), (0, MAX_ENDED as u64));
    assert_eq!(table.resource(key(1, 1, 5)).service, "unknown_service");
}

#[test]
fn an_ended_process_that_somebody_asked_for_is_known_longer_than_one_that_was_only_looked_at() {
    let fake = Fake::new("asked");
    let mut table = fake.table();
    for pid in [1, 2, 3] {
        table.exec(exec(key(pid, 1, 5), "/bin/x", "x\0", 10));
        table.prepare(key(pid, 1, 5));
    }
    table.resource(key(1, 1, 5));
    for pid in [1, 2, 3] {
        table.exit(key(pid, 1, 5), Monotonic(10));
    }
    // One is asked for after its end.
    table.serving(key(2, 1, 5));
    for (age, held) in [(UNASKED_AGE - 1, 3), (UNASKED_AGE, 2), (MAX_AGE - 1, 2), (MAX_AGE, 0)] {
        table.expire(Monotonic(10 + age));
        assert_eq!(balanced(&table).held, held, "after {age}");
    }
}

#[test]
fn live_processes_without_exit_records_stay_bounded() {
    let fake = Fake::new("leak");
    let mut table = fake.table();
    for pid in 0..(MAX_PROCESSES as u32 + 10) {
        table.exec(exec(key(pid, 1, 5), "/bin/x", "x\0", 11 * SECOND));
    }
    let ledger = balanced(&table);
    assert!(ledger.held <= MAX_PROCESSES as u64);
    assert!(ledger.vanished > 0, "none of them is in /proc");
}

#[test]
fn a_selected_name_names_the_service() {
    let fake = Fake::new("name");
    let mut table = fake.table();
    table.set_service_name("mine");
    table.exec(exec(key(10, 1, 5), "/usr/bin/curl", "curl\0", 1));
    assert_eq!(table.resource(key(10, 1, 5)).service, "mine");
}

#[test]
fn a_selection_sees_processes_that_are_gone() {
    let fake = Fake::new("select");
    let mut table = fake.table();
    table.exec(exec(key(10, 1, 5), "/usr/bin/curl", "curl\0", 1));
    let selection =
        Selection { executables: vec![super::super::select::Glob::new("curl")], ..Selection::default() };
    assert_eq!(table.verdict(key(10, 1, 5), &selection), Verdict::Selected);
    table.exec(exec(key(11, 1, 5), "/usr/bin/wget", "wget\0", 1));
    assert_eq!(table.verdict(key(11, 1, 5), &selection), Verdict::No);
}

#[test]
fn this_process_is_found_by_its_key_among_all_that_run() {
    let mut table = ProcessTable::new();
    // Of this thread alone: a machine that is busy with something else takes none of it.
    let cpu = || {
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
        std::time::Duration::from(now)
    };
    let began = cpu();
    let count = table.scan().unwrap();
    let took = cpu() - began;
    assert!(count > 0);
    // 0.5 ms for each of 200 is the budget of 100 ms; a debug build gets ten times that.
    assert!(took.as_millis() <= 50 + 5 * count as u128, "{count} processes took {took:?}");
    let stat = ProcFs::default().stat(std::process::id()).unwrap();
    let started = (stat.start_ticks * (SECOND / proc::USER_HZ)).saturating_sub(proc::suspended_now());
    let me = ProcessKey { pid: std::process::id(), exec: 1, started };
    assert!(table.resource(me).service.starts_with("spandrel"), "{:?}", table.resource(me));
    balanced(&table);
}
