//! Which processes to trace: what `--pid`, `--exe`, `--port`, `--cgroup` and `--exclude-exe` mean.
//!
//! Without any of the first four everything is selected; with some of them, what any one of them selects.
//! `--exclude-exe` takes away from that, always. Pure: it sees a [`Candidate`] and never looks one up.
//!
//! A pattern matches as a whole: `*` stands for any bytes (also none, also `/`), `?` for any one byte,
//! everything else for itself. A pattern with a `/` is compared with the whole path, one without with the
//! file's name (a cgroup's: with each of its components).

use super::text::base_name;

/// What was selected on the command line.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Selection {
    /// `--pid`.
    pub pids: Vec<u32>,
    /// `--exe`.
    pub executables: Vec<Glob>,
    /// `--port`: processes that serve on it.
    pub ports: Vec<u16>,
    /// `--cgroup`.
    pub cgroups: Vec<Glob>,
    /// `--exclude-exe`.
    pub excluded: Vec<Glob>,
}

/// A process that may be traced.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// Its pid.
    pub pid: u32,
    /// Its executable's path.
    pub executable: &'a [u8],
    /// The name that it was called by, where that differs (`python3`, a BusyBox applet).
    pub name: &'a [u8],
    /// Its cgroup's path.
    pub cgroup: &'a str,
}

impl Candidate<'_> {
    /// Whether its executable matches.
    pub(super) fn runs(&self, glob: &Glob) -> bool {
        glob.matches_path(self.executable) || glob.matches_path(self.name)
    }

    /// Whether its cgroup matches.
    pub(super) fn is_in(&self, glob: &Glob) -> bool {
        glob.matches_component(self.cgroup.as_bytes())
    }
}

/// What a selection says of a process.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Verdict {
    /// Trace it.
    Selected,
    /// Trace it once it is seen at the serving end of a connection to one of the ports.
    IfItServes,
    /// Do not trace it.
    No,
}

impl Selection {
    /// Whether nothing was asked for, so that everything is selected.
    pub fn is_everything(&self) -> bool {
        let Self { pids, executables, ports, cgroups, excluded } = self;
        pids.is_empty()
            && executables.is_empty()
            && ports.is_empty()
            && cgroups.is_empty()
            && excluded.is_empty()
    }

    /// Whether a process is selected.
    pub fn verdict(&self, candidate: &Candidate<'_>) -> Verdict {
        let Self { pids, executables, ports, cgroups, excluded } = self;
        let is_one_of = |globs: &[Glob]| globs.iter().any(|glob| candidate.runs(glob));
        if is_one_of(excluded) {
            return Verdict::No;
        }
        let unrestricted =
            pids.is_empty() && executables.is_empty() && ports.is_empty() && cgroups.is_empty();
        if unrestricted
            || pids.contains(&candidate.pid)
            || is_one_of(executables)
            || cgroups.iter().any(|glob| candidate.is_in(glob))
        {
            Verdict::Selected
        } else if ports.is_empty() {
            Verdict::No
        } else {
            Verdict::IfItServes
        }
    }

    /// Whether a process that serves on this local port is one that `--port` asks for.
    pub fn serves(&self, port: u16) -> bool {
        self.ports.contains(&port)
    }

    /// The one process that was selected, if it is one pid and nothing else.
    pub fn single(&self) -> Option<u32> {
        match (
            self.pids.as_slice(),
            self.executables.is_empty() && self.ports.is_empty() && self.cgroups.is_empty(),
        ) {
            ([pid], true) => Some(*pid),
            _ => None,
        }
    }
}

/// A pattern with `*` and `?`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Glob(Vec<u8>);

impl Glob {
    /// A pattern; any text is one.
    pub fn new(pattern: &str) -> Self {
        Self(pattern.as_bytes().to_vec())
    }

    /// Whether the pattern matches the whole text. Time grows with the product of both lengths at most.
    pub fn matches(&self, text: &[u8]) -> bool {
        let (mut at, mut pattern_at) = (0, 0);
        // Where to go on when the bytes after the last `*` turn out wrong: the `*` takes one more.
        let mut retry: Option<(usize, usize)> = None;
        while let Some(byte) = text.get(at) {
            match self.0.get(pattern_at) {
                Some(b'*') => {
                    retry = Some((pattern_at, at));
                    pattern_at += 1;
                }
                Some(wanted) if *wanted == b'?' || wanted == byte => {
                    pattern_at += 1;
                    at += 1;
                }
                _ => match retry {
                    Some((star, taken)) => {
                        retry = Some((star, taken + 1));
                        pattern_at = star + 1;
                        at = taken + 1;
                    }
                    None => return false,
                },
            }
        }
        self.0.get(pattern_at..).unwrap_or(&[]).iter().all(|byte| *byte == b'*')
    }

    fn matches_path(&self, path: &[u8]) -> bool {
        !path.is_empty()
            && if self.0.contains(&b'/') { self.matches(path) } else { self.matches(base_name(path)) }
    }

    fn matches_component(&self, path: &[u8]) -> bool {
        if self.0.contains(&b'/') {
            self.matches(path)
        } else {
            path.split(|byte| *byte == b'/').any(|component| !component.is_empty() && self.matches(component))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PYTHON: Candidate<'static> = Candidate {
        pid: 7,
        executable: b"/usr/bin/python3.11",
        name: b"python3",
        cgroup: "/system.slice/shop.service",
    };

    fn globs(patterns: &[&str]) -> Vec<Glob> {
        patterns.iter().map(|pattern| Glob::new(pattern)).collect()
    }

    #[test]
    fn a_glob_matches_as_a_whole() {
        for (pattern, text, want) in [
            ("curl", "curl", true),
            ("curl", "curly", false),
            ("cu*", "curl", true),
            ("*", "", true),
            ("?", "", false),
            ("c?rl", "curl", true),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b", "xxaxxbxx", false),
            ("a*b*c", "abbbcbc", true),
            ("", "", true),
            ("", "a", false),
            ("**", "x", true),
            ("/usr/*/py*", "/usr/local/bin/python", true),
            ("[a]", "a", false),
        ] {
            assert_eq!(Glob::new(pattern).matches(text.as_bytes()), want, "{pattern} {text}");
        }
    }

    #[test]
    fn a_glob_of_many_stars_ends_soon() {
        assert!(!Glob::new(&format!("{}b", "a*".repeat(200))).matches(&[b'a'; 4096]));
    }

    #[test]
    fn without_a_selection_everything_is_selected() {
        assert!(Selection::default().is_everything());
        assert_eq!(Selection::default().verdict(&PYTHON), Verdict::Selected);
    }

    #[test]
    fn each_kind_selects_on_its_own() {
        let check =
            |selection: Selection, want| assert_eq!(selection.verdict(&PYTHON), want, "{selection:?}");
        let none = Selection::default;
        check(Selection { pids: vec![7], ..none() }, Verdict::Selected);
        check(Selection { pids: vec![8], ..none() }, Verdict::No);
        check(Selection { executables: globs(&["python3*"]), ..none() }, Verdict::Selected);
        check(Selection { executables: globs(&["python3"]), ..none() }, Verdict::Selected);
        check(Selection { executables: globs(&["/usr/*"]), ..none() }, Verdict::Selected);
        check(Selection { executables: globs(&["usr*"]), ..none() }, Verdict::No);
        check(Selection { cgroups: globs(&["shop.service"]), ..none() }, Verdict::Selected);
        check(Selection { cgroups: globs(&["/system.slice/*"]), ..none() }, Verdict::Selected);
        check(Selection { ports: vec![80], ..none() }, Verdict::IfItServes);
        check(Selection { pids: vec![7], ports: vec![80], ..none() }, Verdict::Selected);
        check(Selection { pids: vec![7], excluded: globs(&["python*"]), ..none() }, Verdict::No);
        check(Selection { excluded: globs(&["curl"]), ..none() }, Verdict::Selected);
        check(Selection { excluded: globs(&["curl"]), pids: vec![9], ..none() }, Verdict::No);
    }

    #[test]
    fn one_pid_alone_is_a_single_process() {
        assert_eq!(Selection { pids: vec![7], ..Selection::default() }.single(), Some(7));
        assert_eq!(Selection { pids: vec![7], ports: vec![1], ..Selection::default() }.single(), None);
        assert_eq!(Selection::default().single(), None);
    }
}
