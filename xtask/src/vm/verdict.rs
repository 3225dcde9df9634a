//! What a machine's results mean: pure, from lines to a verdict per case.
//!
//! A case that traces must yield exactly one trace of exactly two spans, curl's and its child, the web
//! server's; leave no kernel program behind; and end with status 0. Whatever is absent counts against
//! it: a case of which the results say nothing has failed.

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;

use super::{Case, Expect};

/// Each case with what it showed, or why it failed.
pub fn judge(lines: &[String], cases: &[Case]) -> Vec<(&'static str, Result<String>)> {
    cases
        .iter()
        .map(|case| {
            let start = format!("case {}", case.backend);
            let facts: Vec<&str> = lines
                .iter()
                .skip_while(|line| **line != start)
                .skip(1)
                .take_while(|line| !line.starts_with("case ") && !line.starts_with("verdict "))
                .map(String::as_str)
                .collect();
            (case.backend, one(&Facts(facts), case))
        })
        .collect()
}

fn one(facts: &Facts, case: &Case) -> Result<String> {
    let outcome = match case.expect {
        Expect::Traces(backend) => traces(facts, backend),
        Expect::Refuses => refuses(facts, case.backend),
    };
    outcome.map_err(|error| anyhow!("{error:#}; the agent said:\n{}", facts.log()))
}

fn traces(facts: &Facts, backend: &str) -> Result<String> {
    let ready = facts.all("log").find(|line| line.starts_with("ready")).context("it never was ready")?;
    ensure!(ready.contains(backend), "it is not the backend {backend} that is ready: {ready}");
    ensure!(facts.one("answer")? == "200", "curl got no answer 200 but: {}", facts.one("answer")?);
    ensure!(facts.one("status")? == "0", "it ended with status {}", facts.one("status")?);
    let spans = spans(facts)?;
    let [client, server] = &spans[..] else { bail!("{} spans instead of 2: {spans:#?}", spans.len()) };
    let (client, server) = if client.kind == CLIENT { (client, server) } else { (server, client) };
    ensure!(client.kind == CLIENT && server.kind == SERVER, "not a client and a server: {spans:#?}");
    ensure!(client.service == "curl" && server.service == "http.server", "services named wrong: {spans:#?}");
    ensure!(client.trace == server.trace, "two traces: {spans:#?}");
    ensure!(client.parent.is_empty() && server.parent == client.id, "wrong parents: {spans:#?}");
    ensure!(server.link == "stream", "the link is {:?}, not \"stream\"", server.link);

    let count =
        |name| -> Result<u64> { facts.one(name)?.parse().with_context(|| format!("{name} is no number")) };
    let (before, during, after) =
        (count("programs-before")?, count("programs-during")?, count("programs-after")?);
    ensure!(
        during > before,
        "no kernel program showed while it ran, so its absence afterwards proves nothing"
    );
    ensure!(after == before, "{} kernel programs are left behind", after.abs_diff(before));
    Ok(format!("curl → http.server, one trace; {} kernel programs, none left", during - before))
}

fn refuses(facts: &Facts, backend: &str) -> Result<String> {
    ensure!(
        !facts.all("log").any(|line| line.starts_with("ready")),
        "it works, which the matrix says it cannot"
    );
    ensure!(facts.one("status")? == "1", "it ended with status {} instead of 1", facts.one("status")?);
    let sentence = facts.all("log").find(|line| line.contains(backend));
    Ok(format!("refused: {}", sentence.context("it did not say that it is the backend that does not work")?))
}

/// The results of one case: `name value` lines.
struct Facts<'a>(Vec<&'a str>);

impl<'a> Facts<'a> {
    fn all(&self, name: &'static str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter_map(move |line| line.strip_prefix(name)?.strip_prefix(' '))
    }

    fn one(&self, name: &'static str) -> Result<&'a str> {
        let mut values = self.all(name);
        let value = values.next().with_context(|| format!("the guest did not say `{name}`"))?;
        ensure!(values.next().is_none(), "the guest said `{name}` twice");
        Ok(value)
    }

    fn log(&self) -> String {
        self.all("log").map(|line| format!("    {line}\n")).collect()
    }
}

/// `SPAN_KIND_SERVER` and `SPAN_KIND_CLIENT` of opentelemetry/proto/trace/v1/trace.proto.
const SERVER: u64 = 2;
const CLIENT: u64 = 3;

#[derive(Debug)]
struct Span {
    service: String,
    trace: String,
    id: String,
    parent: String,
    kind: u64,
    link: String,
}

/// The spans of the OTLP/JSON lines (a TracesData object each).
fn spans(facts: &Facts) -> Result<Vec<Span>> {
    let mut spans = Vec::new();
    for line in facts.all("traces") {
        let data: Value = serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))?;
        for resource in array(&data, "resourceSpans") {
            let service = attribute(&resource["resource"], "service.name");
            for scope in array(resource, "scopeSpans") {
                for span in array(scope, "spans") {
                    let text = |key: &str| span[key].as_str().unwrap_or_default().to_owned();
                    spans.push(Span {
                        service: service.clone(),
                        trace: text("traceId"),
                        id: text("spanId"),
                        parent: text("parentSpanId"),
                        kind: span["kind"].as_u64().unwrap_or_default(),
                        link: attribute(span, "spandrel.link.method"),
                    });
                }
            }
        }
    }
    Ok(spans)
}

fn array<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value[key].as_array().into_iter().flatten()
}

fn attribute(value: &Value, key: &str) -> String {
    let found = array(value, "attributes").find(|attribute| attribute["key"] == key);
    found.and_then(|attribute| attribute["value"]["stringValue"].as_str()).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACED: &str = r#"case syscall
programs-before 0
programs-during 9
answer 200
status 0
log ready in 0.2 s: backend syscall
traces {"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"http.server"}}]},"scopeSpans":[{"spans":[{"traceId":"t","spanId":"b","parentSpanId":"a","kind":2,"attributes":[{"key":"spandrel.link.method","value":{"stringValue":"stream"}}]}]}]}]}
traces {"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"curl"}}]},"scopeSpans":[{"spans":[{"traceId":"t","spanId":"a","kind":3}]}]}]}
programs-after 0
verdict finished"#;

    fn verdict(results: &str, expect: Expect) -> Result<String> {
        let lines: Vec<String> = results.lines().map(str::to_owned).collect();
        judge(&lines, &[Case { backend: "syscall", expect }]).remove(0).1
    }

    #[test]
    fn one_trace_of_a_client_and_its_server_passes() {
        let what = verdict(TRACED, Expect::Traces("syscall")).unwrap();
        assert_eq!(what, "curl → http.server, one trace; 9 kernel programs, none left");
    }

    #[test]
    fn each_thing_that_can_be_wrong_fails() {
        let changes = [
            (r#""parentSpanId":"a""#, r#""parentSpanId":"c""#, "wrong parents"),
            (r#""traceId":"t","spanId":"b""#, r#""traceId":"u","spanId":"b""#, "two traces"),
            (r#""kind":3"#, r#""kind":2"#, "not a client and a server"),
            (r#""stringValue":"curl""#, r#""stringValue":"sh""#, "services named wrong"),
            (r#""stringValue":"stream""#, r#""stringValue":"thread""#, "the link is"),
            (r#""spandrel.link.method""#, r#""other""#, "the link is"),
            ("answer 200", "answer 000", "no answer 200"),
            ("status 0", "status 1", "ended with status 1"),
            ("log ready", "log almost", "never was ready"),
            ("backend syscall", "backend socket", "not the backend"),
            ("programs-after 0", "programs-after 2", "2 kernel programs are left behind"),
            ("programs-during 9", "programs-during 0", "proves nothing"),
            ("case syscall", "case other", "never was ready"),
        ];
        for (right, wrong, reason) in changes {
            let results = TRACED.replace(right, wrong);
            assert_ne!(results, TRACED, "{right} does not occur");
            let error = format!("{:#}", verdict(&results, Expect::Traces("syscall")).unwrap_err());
            assert!(error.contains(reason), "{right} → {wrong}: {error}");
        }
    }

    #[test]
    fn a_backend_that_works_where_the_matrix_says_it_cannot_fails() {
        let error = format!("{:#}", verdict(TRACED, Expect::Refuses).unwrap_err());
        assert!(error.contains("which the matrix says it cannot"), "{error}");
        let refused = "case syscall\nstatus 1\nlog cannot use backend syscall: no tracefs\nverdict finished";
        let what = verdict(refused, Expect::Refuses).unwrap();
        assert_eq!(what, "refused: cannot use backend syscall: no tracefs");
    }
}
