//! How a program's threads serve requests: the one fact about it that `stitch` may rely on without proof
//! from the traffic.
//!
//! Pure. A wrong "one request per thread" makes wrong parents, so only programs whose design forbids
//! anything else are listed, and "unknown" is the answer for all others: there the socket decides (a
//! blocking read outside of any epoll set). It must never be learnt from behaviour.

use super::command::{self, Interpreter, Program};
use super::naming::{self, ProcessFacts};
use super::runtime::Runtime;
use super::text::base_name;

/// How a thread of a program serves requests.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Serving {
    /// Not known.
    #[default]
    Unknown,
    /// A thread that has read a request works for it alone until it has written the response.
    OneRequestPerThread,
    /// A thread that reads a request from a blocking socket works for it alone: what the program can wait for together
    /// with others, it must have made non-blocking. Whether the socket is in an epoll set says nothing.
    OneIfBlocking,
    /// A thread switches between requests: what it does next says nothing about the last one.
    ManyPerThread,
}

/// The serving model of a process.
pub fn serving(facts: &ProcessFacts, runtime: Option<&Runtime>) -> Serving {
    if runtime.is_some_and(|runtime| runtime.name == "go") {
        return Serving::ManyPerThread;
    }
    match naming::interpreter(facts) {
        Some((Interpreter::Node | Interpreter::Deno | Interpreter::Bun, _)) => Serving::ManyPerThread,
        Some((Interpreter::Ruby, _)) => ruby(facts),
        Some((Interpreter::Python, _)) => python(facts),
        // Tomcat's worker reads, works and writes, but asynchronous servlets, Netty and virtual threads hand
        // over, and which it is cannot be read off the command line. A channel of Java's is never blocking while it is
        // registered with a selector (java.nio.channels.SelectableChannel); one that was taken back from its selector
        // stays in the epoll set until that selects again.
        Some((Interpreter::Java, _)) => Serving::OneIfBlocking,
        Some(_) => Serving::Unknown,
        // An applet of BusyBox has the name of the program that it stands in for, and not its design.
        None if base_name(&facts.executable).starts_with(b"busybox") => Serving::Unknown,
        None => by_name(&naming::executable_name(facts)),
    }
}

fn by_name(name: &[u8]) -> Serving {
    // `php-fpm8.2`, `haproxy-2.8`: up to the version.
    let end = name.iter().position(|byte| byte.is_ascii_digit() && name != b"apache2").unwrap_or(name.len());
    let stem = name.get(..end).unwrap_or(name);
    let stem = stem.strip_suffix(b"-").unwrap_or(stem);
    match stem {
        // All of Apache's MPMs give a request to one thread from read to response; php-fpm serves one
        // request per process.
        b"apache2" | b"httpd" | b"php-fpm" | b"php-cgi" => Serving::OneRequestPerThread,
        b"nginx" | b"openresty" | b"haproxy" | b"envoy" | b"lighttpd" | b"squid" | b"node" | b"nodejs"
        | b"uvicorn" => Serving::ManyPerThread,
        _ => Serving::Unknown,
    }
}

/// Puma's and Unicorn's workers call the application once per request and thread.
fn ruby(facts: &ProcessFacts) -> Serving {
    let title = naming::title(facts).unwrap_or(&[]);
    if title.starts_with(b"puma") || title.starts_with(b"unicorn") {
        return Serving::OneRequestPerThread;
    }
    match naming::program(facts) {
        Program::Script(path) => match base_name(&path) {
            b"puma" | b"unicorn" | b"unicorn_rails" => Serving::OneRequestPerThread,
            b"falcon" | b"thin" | b"iodine" => Serving::ManyPerThread,
            _ => Serving::Unknown,
        },
        _ => Serving::Unknown,
    }
}

/// Event-loop servers, and gunicorn where the command line asks for a worker that is one. Its default worker
/// is left to the socket (blocking), because a configuration file may ask for another.
fn python(facts: &ProcessFacts) -> Serving {
    let arguments = facts.argv.get(1..).unwrap_or(&[]);
    let launcher =
        arguments.iter().find(|argument| !argument.starts_with(b"-")).map(|argument| base_name(argument));
    match launcher {
        Some(b"uvicorn" | b"hypercorn" | b"daphne")
            if matches!(naming::program(facts), Program::Application(_)) =>
        {
            Serving::ManyPerThread
        }
        Some(b"gunicorn") if command::has_value(arguments, b"-k", b"--worker-class", is_event_worker) => {
            Serving::ManyPerThread
        }
        _ => Serving::Unknown,
    }
}

fn is_event_worker(class: &[u8]) -> bool {
    let events: [&[u8]; 4] = [b"gevent", b"eventlet", b"uvicorn", b"tornado"];
    events.iter().any(|event| class.starts_with(event))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(executable: &str, command: &str, want: Serving) {
        let facts = ProcessFacts {
            executable: executable.as_bytes().to_vec(),
            argv: command.split_whitespace().map(|word| word.as_bytes().to_vec()).collect(),
            ..ProcessFacts::default()
        };
        assert_eq!(serving(&facts, None), want, "{executable}: {command}");
    }

    #[test]
    fn programs_that_give_a_thread_to_a_request_are_known() {
        for (executable, command) in [
            ("/usr/sbin/apache2", "/usr/sbin/apache2 -k start"),
            ("/usr/sbin/httpd", "httpd -DFOREGROUND"),
            ("/usr/sbin/php-fpm8.2", "php-fpm: pool www"),
            ("/usr/bin/ruby3.1", "/usr/bin/ruby /usr/bin/puma -C x"),
            ("/usr/bin/ruby3.1", "/usr/bin/ruby /usr/bin/unicorn"),
        ] {
            check(executable, command, Serving::OneRequestPerThread);
        }
    }

    #[test]
    fn event_loops_are_known() {
        for (executable, command) in [
            ("/usr/bin/node", "node server.js"),
            ("/usr/sbin/nginx", "nginx -g daemon"),
            ("/usr/sbin/haproxy", "haproxy -f x"),
            ("/usr/bin/envoy", "envoy"),
            ("/usr/bin/python3.11", "python3 /usr/bin/uvicorn main:app"),
            ("/usr/bin/python3.11", "python3 -m uvicorn main:app"),
            ("/usr/bin/python3.11", "python3 /usr/bin/gunicorn -k uvicorn.workers.UvicornWorker x:y"),
            ("/usr/bin/python3.11", "python3 /usr/bin/gunicorn --worker-class=gevent x:y"),
        ] {
            check(executable, command, Serving::ManyPerThread);
        }
        let facts = ProcessFacts { executable: b"/srv/shop".to_vec(), ..ProcessFacts::default() };
        assert_eq!(serving(&facts, Some(&Runtime::go(None))), Serving::ManyPerThread);
    }

    #[test]
    fn a_java_program_is_known_for_what_its_blocking_sockets_mean() {
        check("/usr/lib/jvm/bin/java", "java -jar tomcat.jar", Serving::OneIfBlocking);
    }

    #[test]
    fn what_a_command_line_cannot_show_stays_unknown() {
        for (executable, command) in [
            ("/usr/bin/python3.11", "python3 app.py"),
            ("/usr/bin/python3.11", "python3 /usr/bin/gunicorn -w 4 x:y"),
            ("/usr/bin/python3.11", "python3 /usr/bin/gunicorn -k sync x:y"),
            ("/usr/bin/ruby3.1", "ruby app.rb"),
            ("/bin/busybox", "httpd -f"),
            ("/usr/bin/php8.2", "php react.php"),
            ("/srv/shop", "shop"),
            ("", ""),
        ] {
            check(executable, command, Serving::Unknown);
        }
    }
}
