//! How the TLS of which process is read: what `--tls` and `--tls-for` mean.
//!
//! The first rule that a process meets says it; without one, what is usual. A process keeps its way for as long as it runs the
//! same program, so nothing is asked here that may show later, such as a port. Pure: it sees a [`Candidate`] and never looks one up.

use super::select::{Candidate, Glob};

/// A way to read TLS.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Mode {
    /// With the keys of its sessions.
    Keys,
    /// By probes in its libraries.
    Probes,
    /// Not at all.
    Off,
}

/// Which processes a rule is for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Selector {
    /// The one with this number.
    Pid(u32),
    /// Those whose executable matches, as for `--exe`.
    Executable(Glob),
    /// Those whose cgroup matches, as for `--cgroup`.
    Cgroup(Glob),
}

/// All that was said about it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Modes {
    /// How the TLS of processes is read for which there is no rule.
    pub usual: Mode,
    /// In the order in which they were given.
    pub rules: Vec<(Selector, Mode)>,
}

impl Modes {
    /// How a process's TLS is read.
    pub fn of(&self, candidate: &Candidate<'_>) -> Mode {
        let rule = self.rules.iter().find(|(selector, _)| selector.selects(candidate));
        rule.map_or(self.usual, |(_, mode)| *mode)
    }

    /// Whether any process's may be read in this way.
    pub fn include(&self, mode: Mode) -> bool {
        self.usual == mode || self.rules.iter().any(|(_, other)| *other == mode)
    }
}

impl Selector {
    fn selects(&self, candidate: &Candidate<'_>) -> bool {
        match self {
            Self::Pid(pid) => candidate.pid == *pid,
            Self::Executable(glob) => candidate.runs(glob),
            Self::Cgroup(glob) => candidate.is_in(glob),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_a_process_meets_counts() {
        let nginx = Candidate {
            pid: 7,
            executable: b"/usr/sbin/nginx",
            name: b"nginx",
            cgroup: "/shop/nginx.service",
        };
        let exe = |pattern| Selector::Executable(Glob::new(pattern));
        let cgroup = |pattern| Selector::Cgroup(Glob::new(pattern));
        let check = |rules: &[(Selector, Mode)], want| {
            let modes = Modes { usual: Mode::Keys, rules: rules.to_vec() };
            assert_eq!(modes.of(&nginx), want, "{modes:?}");
        };
        check(&[], Mode::Keys);
        check(&[(exe("curl"), Mode::Off)], Mode::Keys);
        check(&[(exe("curl"), Mode::Off), (exe("ngin?"), Mode::Probes)], Mode::Probes);
        check(&[(exe("/usr/*"), Mode::Off), (exe("nginx"), Mode::Probes)], Mode::Off);
        check(&[(Selector::Pid(8), Mode::Off), (cgroup("shop"), Mode::Probes)], Mode::Probes);
        check(&[(Selector::Pid(7), Mode::Off), (cgroup("shop"), Mode::Probes)], Mode::Off);
    }

    #[test]
    fn what_no_rule_allows_is_not_prepared() {
        let modes = Modes { usual: Mode::Off, rules: vec![(Selector::Pid(1), Mode::Probes)] };
        assert!(modes.include(Mode::Off) && modes.include(Mode::Probes) && !modes.include(Mode::Keys));
    }
}
