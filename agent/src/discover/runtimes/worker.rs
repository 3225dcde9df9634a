//! The thread that looks at processes: whatever reads files and memory of theirs, off the path of records.
//!
//! Its queue is bounded and ordered by when a look is due; processes whose calls are waiting to be understood come before
//! those that have only begun. It must never hold up the pipeline, believe a pid without its start time, or look at one
//! process again and again for ever.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Cache, How, Outcome, Process, Proved, RUNTIMES};
use crate::discover::maps::{Mapping, Maps};
use crate::discover::memory::{ProcessMemory, ReadMemory as _};
use crate::discover::proc::is_meant;
use crate::identity::ProcessKey;
use crate::log;

/// What is asked of the worker.
#[derive(Clone, Debug)]
pub(super) enum Job {
    /// Look at a process, for the so-manieth time.
    Look(ProcessKey, u32),
    /// Read memory of a process.
    Read { process: ProcessKey, token: u64, address: u64, bytes: u32 },
}

impl Job {
    fn is_look_at(&self, process: ProcessKey) -> bool {
        matches!(self, Self::Look(of, _) if *of == process)
    }
}

/// What the worker found.
pub(super) enum Finding {
    /// A process of the named runtime.
    Proved(ProcessKey, &'static str, Box<Proved>),
    /// A process of the named runtime, of which nothing could be proved; why.
    Refused(ProcessKey, &'static str, String),
    /// A process of none.
    None(ProcessKey),
    /// It ended, or became another program, before or while it was looked at.
    Gone(ProcessKey),
    /// A process of the named runtime that is not far enough: it will be looked at again.
    Later(ProcessKey),
    /// The answer to [`Job::Read`].
    Read { process: ProcessKey, token: u64, bytes: Option<Vec<u8>> },
}

/// The queue and the thread behind it, which ends with this.
pub(super) struct Worker {
    queue: Arc<Queue>,
    pub findings: Receiver<Finding>,
}

#[derive(Default)]
struct Queue {
    jobs: Mutex<Jobs>,
    came: Condvar,
}

#[derive(Default)]
struct Jobs {
    /// Of processes that talk, and what their readers ask for.
    due: BTreeMap<(Instant, u64), Job>,
    /// Of processes that have only begun.
    begun: BTreeMap<(Instant, u64), Job>,
    number: u64,
    over: bool,
}

/// Which of two jobs comes first.
#[derive(Clone, Copy, Debug)]
enum Rank {
    Talks,
    Begun,
}

/// Jobs of a rank that wait: far more processes than begin, or begin to talk, within a second.
const MAX_JOBS: usize = 4096;
/// Looks at one process that is not far enough.
const MAX_LOOKS: u32 = 20;

impl Worker {
    /// Starts the thread. `how` processes are looked at.
    pub fn start(how: How) -> std::io::Result<Self> {
        let queue = Arc::new(Queue::default());
        let (send, findings) = channel();
        let jobs = Arc::clone(&queue);
        std::thread::Builder::new()
            .name("spandrel-prove".to_owned())
            .spawn(move || work(&jobs, &send, &how))?;
        Ok(Self { queue, findings })
    }

    /// Puts a job into the queue; false if there is no room.
    pub fn ask(&self, job: Job, after: Duration) -> bool {
        self.queue.put(job, after, Rank::Talks)
    }

    /// Puts a look into the queue at a program that has begun and says nothing yet; false if there is no room.
    pub fn ask_of_begun(&self, process: ProcessKey, after: Duration) -> bool {
        self.queue.put(Job::Look(process, 0), after, Rank::Begun)
    }

    /// A process ended, or became another program: whether a look at it was waiting, which is not made now.
    pub fn forget(&self, process: ProcessKey) -> bool {
        self.queue.forget(process)
    }

    /// A program that had only begun talks: what waits behind it does no longer come before it.
    pub fn promote(&self, process: ProcessKey) {
        self.queue.promote(process);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.queue.jobs.lock().unwrap_or_else(PoisonError::into_inner).over = true;
        self.queue.came.notify_all();
    }
}

impl Queue {
    fn put(&self, job: Job, after: Duration, rank: Rank) -> bool {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.number += 1;
        let key = (Instant::now() + after, jobs.number);
        let queue = match rank {
            Rank::Talks => &mut jobs.due,
            Rank::Begun => &mut jobs.begun,
        };
        if queue.len() >= MAX_JOBS {
            return false;
        }
        queue.insert(key, job);
        drop(jobs);
        self.came.notify_one();
        true
    }

    fn forget(&self, process: ProcessKey) -> bool {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let before = jobs.due.len() + jobs.begun.len();
        jobs.due.retain(|_, job| !job.is_look_at(process));
        jobs.begun.retain(|_, job| !job.is_look_at(process));
        jobs.due.len() + jobs.begun.len() < before
    }

    fn promote(&self, process: ProcessKey) {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let found = jobs.begun.iter().find(|(_, job)| job.is_look_at(process)).map(|(key, _)| *key);
        if let Some((key, job)) = found.and_then(|key| jobs.begun.remove_entry(&key)) {
            jobs.due.insert(key, job);
        }
    }

    /// The next job that is due; none at the end.
    fn next(&self) -> Option<Job> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if jobs.over {
                return None;
            }
            let now = Instant::now();
            let mut wait = Duration::from_secs(3600);
            let Jobs { due, begun, .. } = &mut *jobs;
            for queue in [due, begun] {
                match queue.first_key_value() {
                    Some((&(due, _), _)) if due <= now => return queue.pop_first().map(|(_, job)| job),
                    Some((&(due, _), _)) => wait = wait.min(due - now),
                    None => {}
                }
            }
            let waited = self.came.wait_timeout(jobs, wait);
            jobs = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn work(queue: &Queue, findings: &Sender<Finding>, how: &How) {
    let cache = Cache::default();
    while let Some(job) = queue.next() {
        let finding = match job {
            Job::Look(key, looks) => match look(key, &cache, how) {
                Look::Again(after, ..) if looks < MAX_LOOKS => {
                    queue.put(Job::Look(key, looks + 1), after, Rank::Talks);
                    Finding::Later(key)
                }
                Look::Again(_, name, why) => Finding::Refused(key, name, why),
                Look::Refused(name, why) => Finding::Refused(key, name, why),
                Look::Proved(name, proved) => Finding::Proved(key, name, proved),
                Look::None => Finding::None(key),
                Look::Gone => Finding::Gone(key),
            },
            Job::Read { process, token, address, bytes } => {
                let memory = ProcessMemory::of(process.pid).filter(|_| is_meant(process));
                let bytes = memory.and_then(|memory| memory.bytes(address, bytes as usize));
                Finding::Read { process, token, bytes: bytes.filter(|_| is_meant(process)) }
            }
        };
        if findings.send(finding).is_err() {
            return;
        }
    }
}

/// What one look found.
pub enum Look {
    /// Of this runtime.
    Proved(&'static str, Box<Proved>),
    /// Of this runtime, but nothing was proved.
    Refused(&'static str, String),
    /// Of this runtime, but not far enough yet.
    Again(Duration, &'static str, String),
    /// Of none.
    None,
    /// It is not there any more.
    Gone,
}

fn look(key: ProcessKey, cache: &Cache, how: &How) -> Look {
    if !is_meant(key) {
        return Look::Gone;
    }
    let began = Instant::now();
    let found = look_at(key, cache, how);
    log::debug(format_args!("process {}: looked at in {} µs", key.pid, began.elapsed().as_micros()));
    // What was read meanwhile may have been another process's.
    if is_meant(key) { found } else { Look::Gone }
}

/// Asks all runtimes about the process that has this pid now.
pub fn look_at(key: ProcessKey, cache: &Cache, how: &How) -> Look {
    let (Ok(maps), Some(memory)) = (Maps::of(key.pid), ProcessMemory::of(key.pid)) else { return Look::Gone };
    let executable = executable(key.pid, &maps).cloned();
    let process = Process { key, maps: &maps, executable: executable.as_ref(), memory, cache, how };
    for runtime in RUNTIMES.iter().filter(|runtime| !how.off.contains(runtime.name())) {
        let name = runtime.name();
        return match runtime.prove(&process) {
            Outcome::Not => continue,
            Outcome::Later(after, why) => Look::Again(after, name, why),
            Outcome::Refused(why) => Look::Refused(name, why),
            Outcome::Proved(proved) => Look::Proved(name, proved),
        };
    }
    Look::None
}

/// The first mapping of the program that a process runs.
fn executable(pid: u32, maps: &Maps) -> Option<&Mapping> {
    let inode = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(format!("/proc/{pid}/exe")).ok()?);
    maps.iter().find(|mapping| mapping.inode == inode)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::identity::LinkMethod;

    #[test]
    fn a_process_that_is_not_the_one_meant_is_not_looked_at() {
        let worker = Worker::start(How { off: HashSet::new(), weakest: LinkMethod::Thread }).unwrap();
        let key = ProcessKey { pid: std::process::id(), exec: 1, started: u64::MAX / 2 };
        assert!(worker.ask(Job::Look(key, 0), Duration::ZERO));
        assert!(matches!(worker.findings.recv(), Ok(Finding::Gone(of)) if of == key));
        worker.ask(Job::Read { process: key, token: 7, address: 0x1000, bytes: 8 }, Duration::ZERO);
        assert!(matches!(worker.findings.recv(), Ok(Finding::Read { token: 7, bytes: None, .. })));
    }

    #[test]
    fn jobs_come_in_the_order_in_which_they_are_due_and_are_bounded() {
        let queue = Queue::default();
        let key = |pid| ProcessKey { pid, exec: 0, started: 0 };
        queue.put(Job::Look(key(1), 0), Duration::from_secs(3600), Rank::Talks);
        queue.put(Job::Look(key(2), 0), Duration::ZERO, Rank::Talks);
        assert!(matches!(queue.next(), Some(Job::Look(of, 0)) if of == key(2)));
        queue.put(Job::Look(key(3), 0), Duration::from_micros(50), Rank::Talks);
        assert!(matches!(queue.next(), Some(Job::Look(of, 0)) if of == key(3)));
        for n in 1..MAX_JOBS {
            assert!(queue.put(Job::Look(key(n as u32), 0), Duration::ZERO, Rank::Talks));
        }
        assert!(!queue.put(Job::Look(key(0), 0), Duration::ZERO, Rank::Talks));
    }

    #[test]
    fn what_has_ended_is_not_looked_at() {
        let queue = Queue::default();
        let key = |exec| ProcessKey { pid: 7, exec, started: 0 };
        queue.put(Job::Look(key(1), 0), Duration::ZERO, Rank::Begun);
        queue.put(Job::Look(key(1), 3), Duration::ZERO, Rank::Talks);
        queue.put(Job::Look(key(2), 0), Duration::ZERO, Rank::Talks);
        assert!(queue.forget(key(1)) && !queue.forget(key(1)));
        assert!(matches!(queue.next(), Some(Job::Look(of, 0)) if of == key(2)));
    }

    #[test]
    fn whoever_talks_comes_before_those_that_have_only_begun() {
        let queue = Queue::default();
        let key = |pid| ProcessKey { pid, exec: 0, started: 0 };
        for pid in 1..=3 {
            queue.put(Job::Look(key(pid), 0), Duration::ZERO, Rank::Begun);
        }
        queue.put(Job::Look(key(4), 0), Duration::ZERO, Rank::Talks);
        queue.promote(key(3));
        queue.promote(key(7));
        let order: Vec<_> = (0..4).filter_map(|_| queue.next()).collect();
        let pids = order.iter().map(|job| match job {
            Job::Look(of, _) => of.pid,
            Job::Read { .. } => 0,
        });
        // The third began before the fourth came.
        assert_eq!(pids.collect::<Vec<_>>(), [3, 4, 1, 2]);
    }
}
