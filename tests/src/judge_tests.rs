//! The judge is judged: known trees, and what it must say about each way of spoiling them.

use super::*;
use crate::gaps::Gap;
use crate::plan::Shape;

fn plan() -> Plan {
    Plan::new(&Shape { fan_out: vec![1..=2], background: 2, ..Shape::default() }, 50, 3)
}

/// The spans that a perfect agent makes of a plan.
fn perfect(plan: &Plan) -> Vec<SeenSpan> {
    let span = |index: usize, kind: Kind| {
        let call = &plan.calls[index];
        let mut root = index;
        while let Some(parent) = plan.calls[root].parent {
            root = parent;
        }
        let (trace, outside) = match &plan.calls[root].carried {
            Some(carried) => (carried.trace.clone(), Some(carried.span.clone())),
            None => (format!("{:032x}", root + 1), None),
        };
        let id = |index: usize, kind: Kind| format!("{:016x}", (index + 1) * 2 + kind as usize);
        let (parent, method) = match (kind, call.parent) {
            (Kind::Server, _) => (Some(id(index, Kind::Client)), "stream"),
            (Kind::Client, Some(parent)) => (Some(id(parent, Kind::Server)), "thread"),
            (Kind::Client, None) => (outside, "header"),
        };
        let key = if kind == Kind::Server { "url.path" } else { "url.full" };
        let value =
            if kind == Kind::Server { call.path.clone() } else { format!("http://127.0.0.1:1{}", call.path) };
        SeenSpan {
            trace,
            id: id(index, kind),
            parent,
            kind,
            name: "GET".into(),
            start: 100 + kind as u64,
            end: 200 + kind as u64,
            flags: 0,
            trace_state: String::new(),
            status: 0,
            attributes: [(key.to_owned(), value), ("spandrel.link.method".to_owned(), method.to_owned())]
                .into(),
            events: Vec::new(),
            resource: BTreeMap::new(),
        }
    };
    let mut spans = Vec::new();
    for index in 0..plan.calls.len() {
        let (client, mut server) = (span(index, Kind::Client), span(index, Kind::Server));
        (server.start, server.end) = (client.start + 1, client.end - 1);
        spans.extend([client, server]);
    }
    spans
}

fn judged(plan: &Plan, provable: Provable, spans: &[SeenSpan]) -> Verdict {
    judge(plan, &plan.roots, provable, spans, &HashMap::new(), &GapIndex::default())
}

fn position(plan: &Plan, spans: &[SeenSpan], edge: u8, nth: usize, kind: Kind) -> usize {
    let path = &plan.calls.iter().filter(|call| call.edge == edge).nth(nth).unwrap().path;
    spans.iter().position(|span| span.path() == path && span.kind == kind).unwrap()
}

#[test]
fn a_perfect_agent_is_complete() {
    let plan = plan();
    let spans = perfect(&plan);
    let verdict = judged(&plan, Provable::ALL, &spans);
    assert_eq!((verdict.requests, verdict.complete), (50, 50), "{verdict}");
    assert_eq!((verdict.right, verdict.orphan, verdict.missing, verdict.wrong), (verdict.spans, 0, 0, 0));
    let background = judge_background(&plan, &spans);
    assert_eq!((background.background, background.wrong), (4, 0));
}

#[test]
fn two_parents_exchanged_are_two_wrong() {
    let plan = plan();
    let mut spans = perfect(&plan);
    let last = plan.calls.iter().filter(|call| call.edge == 2).count() - 1;
    let one = position(&plan, &spans, 2, 0, Kind::Client);
    let other = position(&plan, &spans, 2, last, Kind::Client);
    let (parent, trace) = (spans[one].parent.clone(), spans[one].trace.clone());
    spans[one].parent = spans[other].parent.clone();
    spans[one].trace = spans[other].trace.clone();
    (spans[other].parent, spans[other].trace) = (parent, trace);
    let verdict = judged(&plan, Provable::ALL, &spans);
    // The servers below them stay in their old trace, and so are wrong as well.
    assert_eq!(verdict.wrong, 4, "{verdict}");
    assert_eq!(verdict.complete, 48, "{verdict}");
}

#[test]
fn two_parents_exchanged_in_one_trace_are_two_wrong() {
    let plan = plan();
    let mut spans = perfect(&plan);
    let parent = plan.calls.iter().find(|call| call.calls.len() == 2).unwrap();
    let at = |child: usize| {
        spans.iter().position(|s| s.path() == plan.calls[child].path && s.kind == Kind::Server).unwrap()
    };
    let (one, other) = (at(parent.calls[0]), at(parent.calls[1]));
    let kept = spans[one].parent.clone();
    spans[one].parent = spans[other].parent.clone();
    spans[other].parent = kept;
    assert_eq!(judged(&plan, Provable::ALL, &spans).wrong, 2);
}

#[test]
fn a_parent_where_none_belongs_is_wrong() {
    let plan = plan();
    let mut spans = perfect(&plan);
    let path = &plan.calls[plan.background[0]].path;
    let at = spans.iter().position(|span| span.path() == path && span.kind == Kind::Client).unwrap();
    spans[at].parent = Some(spans[1].id.clone());
    spans[at].trace = spans[1].trace.clone();
    assert!(judge_background(&plan, &spans).wrong > 0);
}

#[test]
fn a_span_made_twice_is_wrong() {
    let plan = plan();
    let mut spans = perfect(&plan);
    spans.push(spans[0].clone());
    assert_eq!(judged(&plan, Provable::ALL, &spans).wrong, 1);
}

#[test]
fn an_orphan_is_excused_only_where_nothing_can_be_proved() {
    let plan = plan();
    let mut spans = perfect(&plan);
    let at = position(&plan, &spans, 2, 0, Kind::Client);
    let below = position(&plan, &spans, 2, 0, Kind::Server);
    spans[at].parent = None;
    spans[at].trace = format!("{:032x}", 0xabcdef);
    spans[below].trace = spans[at].trace.clone();
    let strict = judged(&plan, Provable::ALL, &spans);
    assert_eq!(
        (strict.orphan, strict.orphan_provable, strict.wrong, strict.complete),
        (1, 1, 0, 49),
        "{strict}"
    );
    let mild = judged(&plan, Provable::but(1), &spans);
    assert_eq!((mild.orphan, mild.orphan_provable, mild.wrong, mild.complete), (1, 0, 0, 50), "{mild}");
}

#[test]
fn a_missing_span_is_explained_only_by_a_gap_at_its_place() {
    let plan = plan();
    let mut spans = perfect(&plan);
    let at = position(&plan, &spans, 1, 0, Kind::Server);
    let path = spans.remove(at).path().to_owned();
    let place = Place { client: 40000, server: 80, request: (0, 100), response: (0, 50) };
    let places: HashMap<_, _> = [(path, place)].into();
    let gap = |offset: u32| {
        let gap = Gap {
            connection: 1,
            local: Some("127.0.0.1:80".into()),
            peer: Some("127.0.0.1:40000".into()),
            direction: "receive".into(),
            position: 1000 + offset,
            length: 10,
            cause: "lost".into(),
        };
        GapIndex::new(&[gap], &[((40000, 80), 1000)].into())
    };
    let none = HashMap::new();
    let cases = [
        (&places, GapIndex::default(), (1, 0)),
        (&places, gap(95), (0, 0)),
        (&places, gap(100), (1, 0)),
        (&none, GapIndex::default(), (1, 0)),
        (&none, gap(100), (0, 1)),
    ];
    for (places, gaps, (unexplained, unplaced)) in cases {
        let verdict = judge(&plan, &plan.roots, Provable::ALL, &spans, places, &gaps);
        assert_eq!(
            (verdict.missing, verdict.unexplained, verdict.unplaced, verdict.complete),
            (1, unexplained, unplaced, 49),
            "{verdict}"
        );
    }
}

#[test]
fn a_carried_context_is_the_parent_of_the_first_client_span() {
    let shape = Shape { fan_out: vec![1..=1], carried_flags: Some(1), ..Shape::default() };
    let plan = Plan::new(&shape, 20, 5);
    let mut spans = perfect(&plan);
    assert_eq!(judged(&plan, Provable::ALL, &spans).complete, 20);
    let at = position(&plan, &spans, 1, 0, Kind::Client);
    spans[at].parent = None;
    let verdict = judged(&plan, Provable::ALL, &spans);
    assert_eq!((verdict.orphan_provable, verdict.complete), (1, 19), "{verdict}");
}

#[test]
fn a_server_outside_its_client_span_is_acausal() {
    let plan = plan();
    let mut spans = perfect(&plan);
    let at = position(&plan, &spans, 1, 0, Kind::Server);
    spans[at].end = 10_000;
    assert_eq!(judged(&plan, Provable::ALL, &spans).acausal, 1);
}

#[test]
fn a_call_that_may_be_given_up_may_be_missing_or_nobodys_and_not_wrong() {
    let mut plan = plan();
    let given_up = plan.calls[plan.roots[0]].calls[0];
    plan.calls[given_up].optional = true;
    let path = plan.calls[given_up].path.clone();
    let whole = perfect(&plan);
    let without: Vec<_> = whole.iter().filter(|span| span.path() != path).cloned().collect();
    let verdict = judged(&plan, Provable::ALL, &without);
    assert_eq!((verdict.complete, verdict.unexplained), (50, 0), "{verdict}");
    let changed = |parent: Option<&str>| {
        let mut spans = whole.clone();
        let span = spans.iter_mut().find(|span| span.path() == path && span.kind == Kind::Client).unwrap();
        span.parent = parent.map(str::to_owned);
        judged(&plan, Provable::ALL, &spans)
    };
    assert_eq!((changed(None).complete, changed(None).wrong), (50, 0));
    assert_eq!(changed(Some("00000000000000aa")).wrong, 1);
}
