//! What a command line runs: which script, module, jar, class or application, read off the arguments as
//! each interpreter reads its own.
//!
//! ```text
//! executable + argv ──▶ Interpreter ──▶ its option grammar ──▶ Program
//! ```
//! Pure: the arguments are bytes that any program can set and rewrite. It must never guess past what it
//! understands: an option whose arity is not known may hide the script, and then the answer is
//! [`Program::Executable`], which names the interpreter.

use super::text::base_name;

/// What a process runs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Program {
    /// `-m MODULE`.
    Module(Vec<u8>),
    /// A script's path as it was given; may be relative, or a folder.
    Script(Vec<u8>),
    /// `-jar PATH`.
    Jar(Vec<u8>),
    /// A Java main class, with its packages.
    MainClass(Vec<u8>),
    /// The application argument of a Python application server.
    Application(Vec<u8>),
    /// `-c` or `-e`, standard input, or a prompt: code without a name.
    Inline,
    /// Nothing but the executable itself.
    Executable,
}

/// A program that runs other programs' text.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[allow(missing_docs)]
pub enum Interpreter {
    Python,
    Pypy,
    Node,
    Deno,
    Bun,
    Ruby,
    Perl,
    Php,
    Java,
    Dotnet,
    Lua,
    Shell,
}

impl Interpreter {
    /// By an executable's file name: the name itself, or the name and a version (`python3.11`, `php8.2`).
    pub fn of(name: &[u8]) -> Option<Self> {
        let name = name.strip_suffix(b".exe").unwrap_or(name);
        let stem_length = name.iter().position(|byte| byte.is_ascii_digit()).unwrap_or(name.len());
        let (stem, version) = name.split_at_checked(stem_length)?;
        // ABI flags of Python (`python3.6m`, `python3.13t`) and separators of others (`php-8`, `lua5.4`).
        if !version
            .iter()
            .all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'm' | b'd' | b't' | b'u'))
        {
            return None;
        }
        Some(match stem.strip_suffix(b"-").unwrap_or(stem) {
            b"python" | b"python-dbg" => Self::Python,
            b"pypy" => Self::Pypy,
            b"node" | b"nodejs" => Self::Node,
            b"deno" => Self::Deno,
            b"bun" => Self::Bun,
            b"ruby" | b"truffleruby" => Self::Ruby,
            b"perl" => Self::Perl,
            b"php" | b"php-cli" => Self::Php,
            b"java" => Self::Java,
            b"dotnet" => Self::Dotnet,
            b"lua" | b"luajit" => Self::Lua,
            b"sh" | b"bash" | b"dash" | b"ash" | b"zsh" | b"ksh" | b"mksh" | b"fish" => Self::Shell,
            _ => return None,
        })
    }
}

/// What `argv` (with `argv[0]`) makes `interpreter` run.
pub fn program(interpreter: Interpreter, argv: &[Vec<u8>]) -> Program {
    match parsed(interpreter, argv) {
        // A descriptor has no name that says anything.
        Program::Script(path) if is_descriptor(&path) => Program::Inline,
        program => program,
    }
}

/// Whether a Python process was started by `multiprocessing` to go on with what its parent does: its code is
/// `-c`, and its name the parent's (Lib/multiprocessing/spawn.py, forkserver.py).
pub fn continues_parent(argv: &[Vec<u8>]) -> bool {
    argv.iter().any(|argument| {
        argument == b"--multiprocessing-fork"
            || argument.starts_with(b"from multiprocessing.forkserver import main")
    })
}

fn is_descriptor(path: &[u8]) -> bool {
    path == b"/dev/stdin" || path.starts_with(b"/dev/fd/") || path.starts_with(b"/proc/self/fd/")
}

fn parsed(interpreter: Interpreter, argv: &[Vec<u8>]) -> Program {
    let arguments = Arguments::after_first(argv);
    match interpreter {
        Interpreter::Python | Interpreter::Pypy => python(arguments),
        Interpreter::Node => node(arguments),
        Interpreter::Deno | Interpreter::Bun => deno_or_bun(arguments),
        Interpreter::Ruby => short_options(arguments, &RUBY),
        Interpreter::Perl => short_options(arguments, &PERL),
        Interpreter::Lua => short_options(arguments, &LUA),
        Interpreter::Shell => short_options(arguments, &SHELL),
        Interpreter::Php => short_options(arguments, &PHP),
        Interpreter::Java => java(arguments),
        Interpreter::Dotnet => dotnet(arguments),
    }
}

/// The application argument, if `launcher` (a script's or module's name) is an application server whose
/// first positional argument is one: `package.module:attribute`. A call's arguments are left out.
pub fn application(launcher: &[u8], arguments: &[Vec<u8>]) -> Option<Vec<u8>> {
    let flags = APPLICATION_SERVERS.iter().find(|(name, _)| name.as_bytes() == launcher)?.1;
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        if argument == b"--" {
            return arguments.next().and_then(|argument| import_path(argument));
        }
        if argument.starts_with(b"-") && argument.len() > 1 {
            let attached = argument.contains(&b'=') || (!argument.starts_with(b"--") && argument.len() > 2);
            if !attached && !flags.iter().any(|flag| flag.as_bytes() == argument) {
                arguments.next();
            }
            continue;
        }
        return import_path(argument);
    }
    None
}

/// Gunicorn's process title holds its application: `gunicorn: worker [shop.wsgi:app]` (setproctitle).
pub fn application_in_title(title: &[u8]) -> Option<Vec<u8>> {
    if !title.starts_with(b"gunicorn: ") {
        return None;
    }
    let open = title.iter().position(|byte| *byte == b'[')?;
    let inside = title.get(open + 1..)?;
    let close = inside.iter().position(|byte| *byte == b']')?;
    import_path(inside.get(..close)?)
}

/// Whether an option with a value, `-x VALUE`, `-xVALUE`, `--long VALUE` or `--long=VALUE`, has one for which
/// `accept` holds.
pub fn has_value(arguments: &[Vec<u8>], short: &[u8], long: &[u8], accept: impl Fn(&[u8]) -> bool) -> bool {
    arguments.iter().enumerate().any(|(at, argument)| {
        let next = || arguments.get(at + 1).map(Vec::as_slice);
        let value = if argument == short || argument == long {
            next()
        } else if argument.starts_with(b"--") {
            argument.strip_prefix(long).and_then(|rest| rest.strip_prefix(b"="))
        } else {
            argument.strip_prefix(short)
        };
        value.is_some_and(&accept)
    })
}

fn import_path(argument: &[u8]) -> Option<Vec<u8>> {
    let path = argument.split(|byte| *byte == b'(').next().unwrap_or(argument);
    let plausible =
        path.first().is_some_and(|byte| byte.is_ascii_alphabetic() || *byte == b'_' || *byte >= 0x80)
            && path.iter().all(|byte| {
                byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b':') || *byte >= 0x80
            });
    plausible.then(|| path.to_vec())
}

/// Arguments one after the other.
#[derive(Clone)]
struct Arguments<'a> {
    rest: std::slice::Iter<'a, Vec<u8>>,
}

impl<'a> Arguments<'a> {
    fn after_first(argv: &'a [Vec<u8>]) -> Self {
        let mut rest = argv.iter();
        rest.next();
        Self { rest }
    }

    fn next(&mut self) -> Option<&'a [u8]> {
        self.rest.next().map(Vec::as_slice)
    }

    /// The next argument as a script; none means that the interpreter reads standard input.
    fn script(&mut self) -> Program {
        match self.next() {
            Some(path) if !path.is_empty() && path != b"-" => Program::Script(path.to_vec()),
            _ => Program::Inline,
        }
    }

    fn remaining(&self) -> &'a [Vec<u8>] {
        self.rest.as_slice()
    }
}

/// Python's command line (docs.python.org, "Command line and environment"): short options cluster, and
/// `-c`, `-m`, `-W`, `-X` take the rest of their argument or the next one.
fn python(mut arguments: Arguments<'_>) -> Program {
    while let Some(argument) = arguments.next() {
        if argument == b"--" {
            return launched(arguments.script(), &arguments);
        }
        if let Some(long) = argument.strip_prefix(b"--") {
            if long == b"check-hash-based-pycs" {
                arguments.next();
            }
            continue;
        }
        let Some(cluster) = argument.strip_prefix(b"-").filter(|cluster| !cluster.is_empty()) else {
            return if argument == b"-" || argument.is_empty() {
                Program::Inline
            } else {
                launched(Program::Script(argument.to_vec()), &arguments)
            };
        };
        for (at, letter) in cluster.iter().enumerate() {
            let attached = cluster.get(at + 1..).unwrap_or(&[]);
            match letter {
                b'c' => return Program::Inline,
                b'm' => {
                    let module = if attached.is_empty() { arguments.next() } else { Some(attached) };
                    return match module {
                        Some(module) if !module.is_empty() => {
                            launched(Program::Module(module.to_vec()), &arguments)
                        }
                        _ => Program::Executable,
                    };
                }
                b'W' | b'X' | b'Q' => {
                    if attached.is_empty() {
                        arguments.next();
                    }
                    break;
                }
                _ => {}
            }
        }
    }
    Program::Inline
}

/// A Python program that only launches another one is named by that.
fn launched(program: Program, arguments: &Arguments<'_>) -> Program {
    let launcher = match &program {
        Program::Module(module) => module.as_slice(),
        Program::Script(path) => base_name(path),
        _ => return program,
    };
    match application(launcher, arguments.remaining()) {
        Some(application) => Program::Application(application),
        None => program,
    }
}

/// Node's command line (nodejs.org, "Command-line API"). Options that take a value may have it in the
/// next argument; those are listed, all others stand alone or use `=`.
fn node(mut arguments: Arguments<'_>) -> Program {
    while let Some(argument) = arguments.next() {
        match argument {
            b"--" => return arguments.script(),
            b"-" | b"" => return Program::Inline,
            b"-e" | b"--eval" | b"-p" | b"--print" | b"-pe" | b"-i" | b"--interactive" => {
                return Program::Inline;
            }
            b"--run" | b"--test" => return Program::Executable,
            _ if argument.starts_with(b"--eval=") || argument.starts_with(b"--print=") => {
                return Program::Inline;
            }
            b"inspect" => continue,
            _ if NODE_VALUES.iter().any(|option| option.as_bytes() == argument) => {
                arguments.next();
            }
            _ if argument.starts_with(b"-") => {}
            _ => return Program::Script(argument.to_vec()),
        }
    }
    Program::Inline
}

/// `deno run OPTIONS SCRIPT`, `bun SCRIPT`, `bun run SCRIPT`.
fn deno_or_bun(mut arguments: Arguments<'_>) -> Program {
    let mut command = false;
    while let Some(argument) = arguments.next() {
        match argument {
            b"run" | b"serve" | b"test" if !command => command = true,
            b"eval" | b"repl" | b"-e" | b"--eval" | b"-p" | b"-" | b"" => return Program::Inline,
            b"-c" | b"--config" | b"--import-map" | b"-r" | b"--preload" | b"--cwd" | b"--port"
            | b"--host" | b"--lock" | b"--seed" => {
                arguments.next();
            }
            _ if argument.starts_with(b"-") => {}
            // A subcommand or a package script is not a file.
            _ if base_name(argument).contains(&b'.') || argument.contains(&b'/') => {
                return Program::Script(argument.to_vec());
            }
            _ => return Program::Executable,
        }
    }
    Program::Inline
}

/// How an interpreter's single-letter options read.
struct Letters {
    /// Ends the options: the code is in the argument.
    inline: &'static [u8],
    /// Take the rest of their argument, or the next argument.
    value: &'static [u8],
    /// Take the rest of their argument, if there is one.
    attached: &'static [u8],
    /// Like `value`, and the value is the script.
    script: &'static [u8],
    /// Long options that take the next argument.
    long: &'static [&'static str],
}

const RUBY: Letters = Letters {
    inline: b"e",
    value: b"IrCEX",
    attached: b"xWK0FTi",
    script: b"",
    long: &["--encoding", "--enable", "--disable"],
};
const PERL: Letters =
    Letters { inline: b"eE", value: b"I", attached: b"MmxC0liFdDV", script: b"", long: &[] };
const LUA: Letters = Letters { inline: b"e", value: b"l", attached: b"jOb", script: b"", long: &[] };
const SHELL: Letters =
    Letters { inline: b"cs", value: b"oO", attached: b"", script: b"", long: &["--rcfile", "--init-file"] };
const PHP: Letters = Letters {
    inline: b"rRBEF",
    value: b"cdStz",
    attached: b"",
    script: b"f",
    long: &["--server", "--docroot", "--define", "--php-ini", "--zend-extension"],
};

fn short_options(mut arguments: Arguments<'_>, letters: &Letters) -> Program {
    while let Some(argument) = arguments.next() {
        if argument == b"--" {
            return arguments.script();
        }
        if argument.starts_with(b"--") {
            if letters.long.iter().any(|long| long.as_bytes() == argument) {
                arguments.next();
            }
            continue;
        }
        let cluster = argument.strip_prefix(b"-").or(argument.strip_prefix(b"+")).unwrap_or(&[]);
        if cluster.is_empty() {
            return if argument.len() <= 1 { Program::Inline } else { Program::Script(argument.to_vec()) };
        }
        for (at, letter) in cluster.iter().enumerate() {
            let attached = cluster.get(at + 1..).unwrap_or(&[]);
            if letters.inline.contains(letter) {
                return Program::Inline;
            }
            if letters.script.contains(letter) {
                return if attached.is_empty() {
                    arguments.script()
                } else {
                    Program::Script(attached.to_vec())
                };
            }
            if letters.value.contains(letter) {
                if attached.is_empty() {
                    arguments.next();
                }
                break;
            }
            if letters.attached.contains(letter) {
                break;
            }
        }
    }
    Program::Inline
}

/// The `java` launcher (docs.oracle.com, "The java Command"). After an `@argfile`, which may hold anything,
/// only what cannot be an argument of the program counts.
fn java(mut arguments: Arguments<'_>) -> Program {
    let mut argument_file = false;
    while let Some(argument) = arguments.next() {
        match argument {
            b"-jar" => {
                return arguments.next().map_or(Program::Executable, |path| Program::Jar(path.to_vec()));
            }
            b"-m" | b"--module" => {
                return arguments.next().map_or(Program::Executable, module_class);
            }
            _ if JAVA_VALUES.iter().any(|option| option.as_bytes() == argument) => {
                arguments.next();
            }
            _ if argument.starts_with(b"--module=") => {
                return module_class(argument.strip_prefix(b"--module=").unwrap_or(argument));
            }
            _ if argument.starts_with(b"-") || argument.is_empty() => {}
            _ if argument.starts_with(b"@") => argument_file = true,
            _ if argument.ends_with(b".java") => return Program::Script(argument.to_vec()),
            _ if argument_file && !qualified_class(argument) => return Program::Executable,
            _ => return Program::MainClass(argument.to_vec()),
        }
    }
    Program::Executable
}

/// `module/class`, or a module whose descriptor knows its class.
fn module_class(module: &[u8]) -> Program {
    let mut parts = module.splitn(2, |byte| *byte == b'/');
    let (module, class) = (parts.next(), parts.next());
    match class.or(module) {
        Some(name) if !name.is_empty() => Program::MainClass(name.to_vec()),
        _ => Program::Executable,
    }
}

fn qualified_class(argument: &[u8]) -> bool {
    let last = argument.rsplit(|byte| *byte == b'.').next().unwrap_or(&[]);
    argument.contains(&b'.')
        && last.first().is_some_and(u8::is_ascii_uppercase)
        && argument.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'$'))
}

/// `dotnet APP.dll` and `dotnet exec OPTIONS APP.dll`.
fn dotnet(mut arguments: Arguments<'_>) -> Program {
    while let Some(argument) = arguments.next() {
        match argument {
            b"exec" => {}
            b"--additionalprobingpath"
            | b"--depsfile"
            | b"--runtimeconfig"
            | b"--fx-version"
            | b"--roll-forward"
            | b"--additional-deps" => {
                arguments.next();
            }
            _ if argument.starts_with(b"-") => {}
            _ if argument.ends_with(b".dll") => return Program::Script(argument.to_vec()),
            _ => return Program::Executable,
        }
    }
    Program::Executable
}

const NODE_VALUES: [&str; 30] = [
    "-r",
    "--require",
    "--import",
    "--loader",
    "--experimental-loader",
    "-C",
    "--conditions",
    "--title",
    "--inspect-port",
    "--debug-port",
    "--max-http-header-size",
    "--icu-data-dir",
    "--openssl-config",
    "--redirect-warnings",
    "--trace-event-categories",
    "--trace-event-file-pattern",
    "--unhandled-rejections",
    "--input-type",
    "--diagnostic-dir",
    "--disable-warning",
    "--experimental-default-type",
    "--watch-path",
    "--dns-result-order",
    "--report-dir",
    "--report-directory",
    "--report-filename",
    "--report-signal",
    "--heapsnapshot-signal",
    "--tls-cipher-list",
    "--tls-keylog",
];

const JAVA_VALUES: [&str; 14] = [
    "-cp",
    "-classpath",
    "--class-path",
    "-p",
    "--module-path",
    "--upgrade-module-path",
    "--add-modules",
    "--limit-modules",
    "--add-exports",
    "--add-opens",
    "--add-reads",
    "--enable-native-access",
    "--source",
    "--patch-module",
];

/// Application servers whose first positional argument names the application, and their options that take no value.
const APPLICATION_SERVERS: [(&str, &[&str]); 4] = [
    (
        "gunicorn",
        &[
            "--reload",
            "--preload",
            "-D",
            "--daemon",
            "--check-config",
            "--print-config",
            "--spew",
            "--no-sendfile",
            "--reuse-port",
            "--capture-output",
            "-R",
            "--enable-stdio-inheritance",
            "--proxy-protocol",
            "--disable-redirect-access-to-syslog",
            "--log-syslog",
            "--initgroups",
            "--no-control-socket",
        ],
    ),
    (
        "uvicorn",
        &[
            "--reload",
            "--factory",
            "--use-colors",
            "--no-use-colors",
            "--proxy-headers",
            "--no-proxy-headers",
            "--access-log",
            "--no-access-log",
            "--server-header",
            "--no-server-header",
            "--date-header",
            "--no-date-header",
            "--reset-contextvars",
        ],
    ),
    ("hypercorn", &["--debug", "--reload", "-d", "--daemon"]),
    ("daphne", &["--proxy-headers", "--no-server-name"]),
];
