//! What a reader sees, as text; when it is printed; and what is kept.

use super::style::{duration, harmless, shorten, width};
use super::*;
use crate::discover::Resource;
use crate::identity::ProcessKey;
use crate::stitch::span::{Kind, LinkMethod, Parent};

const MS: u64 = 1_000_000;
const TRACE: TraceId = TraceId(0x4bf92f3577b34da6a3ce929d0e0e4736_u128.to_be_bytes());

/// A span by a line: `id parent:method service kind name place status start..end`, times in microseconds.
fn span(text: &str) -> Arc<Span> {
    let [_, parent, service, kind, name, place, status, times] =
        text.split_whitespace().collect::<Vec<_>>()[..]
    else {
        panic!("{text}")
    };
    let id = |text: &str| SpanId(u64::from_str_radix(text, 16).unwrap().to_be_bytes());
    let parent = parent.split_once(':').map(|(span, method)| Parent {
        span: id(span),
        method: LinkMethod::ALL.into_iter().find(|link| link.name() == method).unwrap(),
        remote: method == "header",
    });
    let kind = if kind == "client" { Kind::Client } else { Kind::Server };
    let key = if kind == Kind::Client { "url.full" } else { "url.path" };
    let mut attributes = vec![(key, Value::Text(place.replace('_', " ").into()))];
    let error = match status.parse::<i64>() {
        Ok(code) => {
            attributes.push(("http.response.status_code", Value::Integer(code)));
            (code >= 500 || code >= 400 && kind == Kind::Client).then(|| code.to_string().into())
        }
        Err(_) => Some(status.into()),
    };
    let (start, end) = times.split_once("..").unwrap();
    let time = |text: &str| Monotonic(5_000_000_000 + text.parse::<u64>().unwrap() * 1_000);
    Arc::new(Span {
        trace: TRACE,
        id: id(text.split_whitespace().next().unwrap()),
        parent,
        flags: 3,
        trace_state: None,
        kind,
        name: name.into(),
        start: time(start),
        end: time(end),
        wall_offset: 0,
        attributes,
        events: Vec::new(),
        error,
        process: ProcessKey { pid: 1, exec: 1, started: 1 },
        resource: Arc::new(Resource { service: service.to_owned(), attributes: Vec::new() }),
    })
}

fn spans(text: &str) -> Vec<Arc<Span>> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(span).collect()
}

fn plain(width: Option<usize>) -> Style {
    Style { color: Color::Off, width }
}

#[track_caller]
fn check(list: &str, width: Option<usize>, want: &str) {
    let got = tree::draw(&spans(list), 0, plain(width));
    assert!(got.trim_end() == want.trim(), "\n{got}");
}

const SHOP: &str = "
    b3 a2:stream  stock server GET /stock/7                         200  4100..7600
    a1 -          curl  client GET http://localhost:8000/items/7?a  200  0..12340
    b2 a1:stream  shop  server GET /items/7                         200  310..11900
    a2 b2:thread  shop  client GET http://stock:8001/stock/7        200  3800..8000
    a3 b2:thread  shop  client POST http://mail.example/send        503  8200..11500
";

#[test]
fn a_trace_is_a_tree_with_a_picture_of_time() {
    check(SHOP, None, SHOP_PLAIN);
}

const SHOP_PLAIN: &str = "
trace 4bf92f3577b34da6a3ce929d0e0e4736 · 12.3 ms · 5 spans · 3 services
curl → GET /items/7                    200  12.3 ms  ████████████████████
└─ shop GET /items/7                   200  11.5 ms  ▐██████████████████▎  via stream
   ├─ shop → GET /stock/7              200  4.20 ms        ██████▉         via thread
   │  └─ stock GET /stock/7            200  3.50 ms        ▐█████▎         via stream
   └─ shop → POST mail.example/send  ✗ 503  3.30 ms               █████▋   via thread
";

#[test]
fn eighty_columns_are_enough_for_the_same_picture() {
    check(SHOP, Some(80), SHOP_80);
}

const SHOP_80: &str = "
trace 4bf92f3577b34da6a3ce929d0e0e4736 · 12.3 ms · 5 spans · 3 services
curl → GET /items/7                    200  12.3 ms  ███████████████
└─ shop GET /items/7                   200  11.5 ms  ██████████████▍  via stream
   ├─ shop → GET /stock/7              200  4.20 ms      ▐████▋       via thread
   │  └─ stock GET /stock/7            200  3.50 ms      ▐████▏       via stream
   └─ shop → POST mail.example/send  ✗ 503  3.30 ms           ▐███▉   via thread
";

#[test]
fn a_narrow_terminal_loses_the_bars_then_the_ends_of_the_labels() {
    check(SHOP, Some(60), SHOP_60);
}

const SHOP_60: &str = "
trace 4bf92f3577b34da6a3ce929d0e0e4736 · 12.3 ms · 5 spans · 3 services
curl → GET /items/7                 200  12.3 ms
└─ shop GET /items/7                200  11.5 ms  via stream
   ├─ shop → GET /stock/7           200  4.20 ms  via thread
   │  └─ stock GET /stock/7         200  3.50 ms  via stream
   └─ shop → POST mail.example/…  ✗ 503  3.30 ms  via thread
";

#[test]
fn a_trace_whose_root_is_elsewhere_says_from_which_span_it_came() {
    check(
        "b1 00f067aa0ba902b7:header shop server GET /a 200 0..3000
         b2 00f067aa0ba902b7:header shop server GET /b 404 1000..2000
         a1 b2:thread shop client GET http://h/c connection_reset 1200..1900",
        None,
        "
trace 4bf92f3577b34da6a3ce929d0e0e4736 · 3.00 ms · 3 spans · 1 service
shop GET /a          200               3.00 ms  ████████████████████  via header from 00f067aa
shop GET /b          404               1.00 ms        ▐██████▎        via header from 00f067aa
└─ shop → GET h/c  ✗ connection_reset   700 µs          ████▋         via thread
",
    );
}

#[test]
fn an_error_is_marked_without_colour_and_says_its_type() {
    check(
        "a1 - a client GET http://h/ 404 0..10
         a2 - b server GET / 404 0..10
         a3 - c server GET / timeout 0..10
         a4 - d client CONNECT http://h:443 200 0..10",
        None,
        "
trace 4bf92f3577b34da6a3ce929d0e0e4736 · 10.0 µs · 4 spans · 4 services
a → GET h/         ✗ 404      10.0 µs  ████████████████████
d → CONNECT h:443    200      10.0 µs  ████████████████████
b GET /              404      10.0 µs  ████████████████████
c GET /            ✗ timeout  10.0 µs  ████████████████████
",
    );
}

#[test]
fn spans_that_are_their_own_ancestors_are_printed_once() {
    check(
        "a1 a3:header a server GET /1 200 0..10
         a2 a1:header a server GET /2 200 1..10
         a3 a2:header a server GET /3 200 2..10
         a4 a4:header a server GET /4 200 3..10
         a5 a4:header a server GET /5 200 4..10
         a5 a4:header a server GET /again 200 5..10",
        None,
        "
trace 4bf92f3577b34da6a3ce929d0e0e4736 · 10.0 µs · 6 spans · 1 service
a GET /4         200  7.00 µs        ██████████████  via header
├─ a GET /5      200  6.00 µs          ████████████  via header
└─ a GET /again  200  5.00 µs            ██████████  via header
a GET /1         200  10.0 µs  ████████████████████  via header
└─ a GET /2      200  9.00 µs    ██████████████████  via header
   └─ a GET /3   200  8.00 µs      ████████████████  via header
",
    );
}

#[test]
fn a_very_deep_trace_loses_its_outer_levels_and_no_line() {
    let mut list = vec![span("1 - a server GET /1 200 0..90000")];
    for n in 2..5_000 {
        list.push(span(&format!("{n:x} {:x}:thread a server GET /{n} 200 {n}..90000", n - 1)));
    }
    for width in [None, Some(80), Some(200)] {
        let text = tree::draw(&list, 0, plain(width));
        assert_eq!(text.lines().count(), 5_001);
        let widest = text.lines().map(style::width).max().unwrap();
        assert!(widest <= width.unwrap_or(140), "{widest}");
    }
    let text = tree::draw(&list, 0, plain(Some(80)));
    let line = text.lines().nth(4_900).unwrap();
    assert!(line.starts_with("⋯ ") && line.contains("└─ a GET /49"), "{line}");
}

#[test]
fn no_line_is_wider_than_the_terminal() {
    let long = "x".repeat(500);
    let list = spans(&format!("{SHOP}\na9 b2:thread {long} client {long} http://{long}/{long} 503 1..9999"));
    for columns in 60..200 {
        for line in tree::draw(&list, 2, plain(Some(columns))).lines().skip(1) {
            assert!(style::width(line) <= columns, "{columns}: {line}");
        }
    }
}

#[test]
fn without_a_terminal_nothing_is_shortened() {
    let long = "x".repeat(500);
    let text = tree::draw(&spans(&format!("a1 - {long} server GET /{long} 200 0..1")), 0, plain(None));
    assert!(text.contains(&format!("{long} GET /{long}")), "{text}");
}

#[test]
fn what_would_move_a_terminal_is_shown_as_what_it_is() {
    for (text, shown) in [
        ("plain \\ caf\u{e9} \u{fffd}", "plain \\ caf\u{e9} \u{fffd}"),
        ("\u{1b}[2J\u{7}\0\r\n\t\u{7f}", "\\x1b[2J\\x07\\x00\\x0d\\x0a\\x09\\x7f"),
        ("\u{9b}31m\u{85}", "\\x9b31m\\x85"),
        ("\u{202e}gpj.\u{2066}\u{feff}\u{2028}", "\\u{202e}gpj.\\u{2066}\\u{feff}\\u{2028}"),
    ] {
        assert_eq!(harmless(text), shown);
    }
    let hostile = "\u{1b}]0;x\u{7}\u{202e}";
    let mut bad = Span::clone(&span("a1 - s client GET http://h/ 500 0..1"));
    bad.name = hostile.into();
    bad.error = Some(hostile.into());
    bad.attributes = vec![("url.full", Value::Text(format!("http://{hostile}/{hostile}").into()))];
    bad.resource = Arc::new(Resource { service: hostile.to_owned(), attributes: Vec::new() });
    let bad = [Arc::new(bad)];
    for text in
        [tree::draw(&bad, 0, plain(None)), tree::late(&bad[0], Some(&tree::name(&bad[0])), plain(None))]
    {
        let harmful = |character: char| character != '\n' && crate::stitch::http::is_harmful(character);
        assert!(!text.contains(harmful), "{text:?}");
    }
}

#[test]
fn colours_are_there_when_wanted_and_change_no_text() {
    let strip = |text: &str| {
        let mut parts = text.split('\u{1b}');
        let first = parts.next().unwrap().to_owned();
        parts.fold(first, |all, part| all + part.split_once('m').unwrap().1)
    };
    for width in [None, Some(80), Some(50)] {
        let colored = tree::draw(&spans(SHOP), 1, Style { color: Color::On, width });
        let plain = tree::draw(&spans(SHOP), 1, plain(width));
        assert!(colored.contains('\u{1b}') && !plain.contains('\u{1b}'));
        assert_eq!(strip(&colored), plain);
    }
}

#[test]
fn the_usual_variables_choose_colours() {
    for (terminal, variables, want) in [
        (true, &[][..], Color::On),
        (false, &[], Color::Off),
        (true, &[("NO_COLOR", "1")], Color::Off),
        (true, &[("NO_COLOR", "")], Color::On),
        (true, &[("NO_COLOR", "1"), ("CLICOLOR_FORCE", "1")], Color::Off),
        (false, &[("CLICOLOR_FORCE", "1")], Color::On),
        (false, &[("CLICOLOR_FORCE", "0")], Color::Off),
        (true, &[("CLICOLOR", "0")], Color::Off),
        (true, &[("CLICOLOR", "0"), ("CLICOLOR_FORCE", "1")], Color::On),
        (false, &[("CLICOLOR", "1")], Color::Off),
        (true, &[("TERM", "dumb")], Color::Off),
        (true, &[("TERM", "xterm")], Color::On),
    ] {
        let variable =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        assert_eq!(Color::choose(terminal, variable), want, "{terminal} {variables:?}");
    }
}

#[test]
fn a_duration_has_three_digits() {
    for (nanoseconds, text) in [
        (0, "0 ns"),
        (999, "999 ns"),
        (1_000, "1.00 µs"),
        (12_345, "12.3 µs"),
        (999_999, "999 µs"),
        (1_050_000, "1.05 ms"),
        (999_999_999, "999 ms"),
        (1_500_000_000, "1.50 s"),
        (99_990_000_000, "99.9 s"),
        (100_000_000_000, "1m40s"),
        (6_000_000_000_000, "1h40m"),
        (u64::MAX, "5124095h34m"),
    ] {
        assert_eq!(duration(nanoseconds), text);
    }
}

#[test]
fn shortened_text_fits_and_says_that_it_was_cut() {
    for (text, columns, want) in [
        ("abc", 3, "abc"),
        ("abcd", 3, "ab…"),
        ("abc", 1, "…"),
        ("abc", 0, ""),
        ("日本語", 5, "日本…"),
        ("日本語", 4, "日…"),
    ] {
        assert_eq!(shorten(text, columns), want);
        assert!(width(want) <= columns);
    }
}

/// A terminal without colours, what it has written, and its clock in milliseconds.
struct Screen {
    terminal: Terminal,
    written: Vec<u8>,
}

impl Screen {
    fn new(limits: Limits) -> Self {
        Self { terminal: Terminal::new(plain(None), limits), written: Vec::new() }
    }

    fn bound(&mut self, span: &Span, at: u64) {
        self.terminal.bound(span.trace, span.id, Monotonic(at * MS));
    }

    fn ended(&mut self, span: &Arc<Span>, at: u64) {
        self.terminal.ended(span.clone(), Monotonic(at * MS), &mut self.written).unwrap();
    }

    /// What was written since the last time, after a poll.
    fn poll(&mut self, at: u64) -> String {
        self.terminal.poll(Monotonic(at * MS), &mut self.written).unwrap();
        String::from_utf8(std::mem::take(&mut self.written)).unwrap()
    }

    #[track_caller]
    fn balanced(&self) -> Ledger {
        let ledger = self.terminal.ledger();
        let Ledger {
            ended,
            in_tree,
            late,
            over_bound,
            unwritten,
            held,
            trees: _,
            trees_by_age: _,
            open_over_bound: _,
            open_by_age: _,
            forgotten: _,
        } = ledger;
        assert_eq!(ended, in_tree + late + over_bound + unwritten + held, "{ledger:?}");
        ledger
    }
}

#[test]
fn a_trace_is_printed_after_a_quiet_second_without_open_exchanges() {
    let mut screen = Screen::new(Limits::default());
    let list = spans(SHOP);
    for (n, span) in list.iter().enumerate() {
        screen.bound(span, n as u64);
    }
    for span in &list[1..] {
        screen.ended(span, 100);
    }
    assert_eq!(screen.poll(2_000), "", "one exchange is open");
    screen.ended(&list[0], 2_500);
    assert_eq!(screen.poll(3_499), "", "not quiet for a second");
    assert_eq!(screen.poll(3_500).trim_end(), SHOP_PLAIN.trim());
    assert_eq!(screen.poll(9_000), "");
    let ledger = screen.balanced();
    assert_eq!((ledger.in_tree, ledger.trees, ledger.trees_by_age, ledger.held), (5, 1, 0, 0));
}

#[test]
fn what_comes_after_its_trace_was_printed_is_one_line_with_its_parents_name() {
    let mut screen = Screen::new(Limits::default());
    for span in spans(SHOP) {
        screen.ended(&span, 0);
    }
    screen.poll(1_000);
    let late = span("c1 b3:thread stock client GET http://db/7 200 4200..4300");
    screen.bound(&late, 1_500);
    screen.ended(&late, 1_600);
    assert_eq!(
        screen.poll(1_600),
        "late 4bf92f35  stock GET /stock/7 › stock → GET /7  200  100 µs  via thread\n"
    );
    screen.ended(&span("c2 c1:stream db server GET /7 200 4200..4300"), 1_700);
    screen.ended(&span("c3 ff00000000000000:header db server GET /8 500 4200..4300"), 1_700);
    assert_eq!(
        screen.poll(1_700),
        "late 4bf92f35  stock → GET /7 › db GET /7  200  100 µs  via stream\n\
         late 4bf92f35  ff000000 › db GET /8  ✗ 500  100 µs  via header\n"
    );
    assert_eq!(screen.balanced().late, 3);
}

#[test]
fn a_printed_trace_is_forgotten_in_time() {
    let mut screen = Screen::new(Limits::default());
    screen.ended(&spans(SHOP)[1], 0);
    screen.poll(1_000);
    screen.poll(61_000);
    assert!(screen.terminal.printed.is_empty() && screen.terminal.names == 0);
    screen.ended(&spans(SHOP)[1], 61_001);
    assert!(screen.poll(62_001).starts_with("trace "));
}

#[test]
fn a_trace_that_does_not_finish_is_printed_with_what_it_has() {
    let mut screen = Screen::new(Limits::default());
    let list = spans(SHOP);
    screen.bound(&list[1], 0);
    screen.ended(&list[2], 10);
    assert_eq!(screen.poll(59_999), "");
    let text = screen.poll(60_000);
    assert!(
        text.starts_with(
            "trace 4bf92f3577b34da6a3ce929d0e0e4736 · 11.5 ms · 1 span · 1 service · 1 not ended yet\n"
        ),
        "{text}"
    );
    screen.ended(&list[1], 70_000);
    assert!(screen.poll(70_000).starts_with("late 4bf92f35  root › curl → GET"));
    let ledger = screen.balanced();
    assert_eq!((ledger.trees_by_age, ledger.open_by_age, ledger.late), (1, 1, 1));
}

#[test]
fn an_exchange_that_never_ends_is_not_held_for_ever() {
    let mut screen = Screen::new(Limits::default());
    screen.bound(&spans(SHOP)[0], 0);
    assert_eq!(screen.poll(60_000), "");
    assert!(screen.terminal.traces.is_empty() && screen.terminal.spans == 0);
    assert_eq!(screen.balanced().open_by_age, 1);
}

#[test]
fn a_span_that_was_given_up_is_not_waited_for() {
    let mut screen = Screen::new(Limits::default());
    let list = spans(SHOP);
    screen.bound(&list[1], 0);
    screen.bound(&list[2], 0);
    screen.ended(&list[1], 10);
    let gone = &list[2];
    for _ in 0..2 {
        screen.terminal.abandoned(gone.trace, gone.id, Monotonic(20 * MS));
    }
    assert_eq!(screen.terminal.spans, 1);
    assert!(screen.poll(1_020).contains("· 1 span · 1 service\n"));
    screen.terminal.abandoned(gone.trace, gone.id, Monotonic(2_000 * MS));
    assert_eq!((screen.balanced().in_tree, screen.terminal.spans), (1, 0));
}

#[test]
fn over_a_bound_a_span_is_a_line_at_once_and_counted() {
    let other = |n: u8, id: &str| {
        let mut span = Span::clone(&span(&format!("{id} - s server GET /{n} 200 0..10")));
        span.trace = TraceId([n; 16]);
        Arc::new(span)
    };
    for limits in [
        Limits { traces: 2, ..Limits::default() },
        Limits { spans: 2, ..Limits::default() },
        Limits { bytes: 2 * size(&other(1, "a1")), ..Limits::default() },
    ] {
        let mut screen = Screen::new(limits);
        for n in 1..=5 {
            screen.ended(&other(n, "a1"), 0);
        }
        let text = screen.poll(0);
        assert_eq!(text.lines().count(), 3, "{limits:?} {text}");
        assert!(text.starts_with("late 03030303  root › s GET /3  200  10.0 µs\n"), "{text}");
        assert_eq!((screen.balanced().over_bound, screen.balanced().held), (3, 2));
        assert_eq!(screen.poll(1_000).matches("trace ").count(), 2);
        assert_eq!(screen.balanced().held, 0);
    }
    let mut screen = Screen::new(Limits { spans: 2, ..Limits::default() });
    for n in 1..=5 {
        screen.bound(&other(n, "a1"), 0);
    }
    assert_eq!(screen.terminal.ledger().open_over_bound, 3);
    screen.ended(&other(1, "a1"), 0);
    assert_eq!((screen.balanced().held, screen.balanced().over_bound), (1, 0), "its place was its own");
}

#[test]
fn names_of_printed_spans_are_bounded() {
    let mut screen = Screen::new(Limits { names: 3, ..Limits::default() });
    for n in 1..=9 {
        let mut span = Span::clone(&span("a1 - s server GET / 200 0..10"));
        span.trace = TraceId([n; 16]);
        screen.ended(&Arc::new(span), 0);
    }
    screen.poll(1_000);
    assert_eq!((screen.terminal.names, screen.terminal.printed.len()), (3, 3));
    assert_eq!(screen.balanced().forgotten, 6);
}

#[test]
fn what_cannot_be_written_is_counted() {
    let mut terminal = Terminal::new(plain(None), Limits::default());
    for span in spans(SHOP) {
        terminal.ended(span, Monotonic(0), &mut Vec::new()).unwrap();
    }
    let mut closed: &mut [u8] = &mut [];
    assert!(terminal.poll(Monotonic(QUIET), &mut closed).is_err());
    assert!(terminal.ended(spans(SHOP)[0].clone(), Monotonic(QUIET), &mut closed).is_err());
    assert_eq!((terminal.ledger().unwritten, terminal.ledger().ended), (6, 6));
}

#[test]
fn at_the_end_everything_held_is_printed() {
    let mut screen = Screen::new(Limits::default());
    for span in spans(SHOP) {
        screen.bound(&span, 0);
    }
    screen.ended(&spans(SHOP)[1], 1);
    screen.terminal.finish(Monotonic(2 * MS), &mut screen.written).unwrap();
    assert!(screen.poll(2).contains("4 not ended yet"));
    assert_eq!((screen.balanced().in_tree, screen.terminal.spans), (1, 0));
}

#[test]
fn traces_are_printed_in_the_order_in_which_they_began() {
    let mut screen = Screen::new(Limits::default());
    for n in [3, 1, 2] {
        let mut span = Span::clone(&span(&format!("a1 - s server GET /{n} 200 {n}..10")));
        span.trace = TraceId([9 - n; 16]);
        screen.ended(&Arc::new(span), 0);
    }
    let text = screen.poll(1_000);
    let places: Vec<_> = ["GET /1", "GET /2", "GET /3"].iter().map(|name| text.find(name).unwrap()).collect();
    assert!(places.is_sorted(), "{text}");
}

#[test]
fn the_fuzz_bodies_hold_on_seeds() {
    for seed in ["", "x", "\u{1b}[2J", "\u{202e}\u{9b}\r\n", "日本語 text", "%00", " ", "a/b?c#d"] {
        for repeat in [1, 3, 40] {
            fuzz::fuzz_escape(seed.repeat(repeat).as_bytes());
        }
    }
    for byte in 0..=255 {
        fuzz::fuzz_escape(&[byte, b'a', byte]);
    }
    let mut state = 1_u32;
    for length in [0, 1, 2, 50, 5_000, 20_000] {
        let bytes = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        });
        fuzz::fuzz_terminal(&bytes.take(length).collect::<Vec<_>>());
    }
}
