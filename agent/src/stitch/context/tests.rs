//! The vectors of the W3C test suite for levels 1 and 2, and inputs that nobody should send.

use super::*;
use crate::protocol::FieldName;

const T: &str = "12345678901234567890123456789012";
const S: &str = "1234567890123456";

fn fields(list: &[(&str, &str)]) -> Fields {
    // As the parser does it: names without regard to case, and what is not kept is gone.
    Fields(
        list.iter()
            .filter_map(|(name, value)| {
                Some((FieldName::kept(name.as_bytes())?, value.as_bytes().to_vec().into()))
            })
            .collect(),
    )
}

fn parent(value: &str) -> Option<Context> {
    from_fields(&fields(&[("traceparent", &value.replace('T', T).replace('S', S))]))
}

/// The tracestate that is kept beside a good traceparent.
fn state(values: &[&str]) -> Option<String> {
    let good = format!("00-{T}-{S}-00");
    let mut list = vec![("traceparent", good.as_str())];
    list.extend(values.iter().map(|value| ("tracestate", *value)));
    let context = from_fields(&fields(&list)).expect("a bad tracestate never invalidates traceparent");
    context.trace_state
}

#[test]
fn the_specification_example_is_read() {
    let context = parent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").unwrap();
    assert_eq!(context.trace.0, 0x4bf92f3577b34da6a3ce929d0e0e4736_u128.to_be_bytes());
    assert_eq!(context.span.0, 0x00f067aa0ba902b7_u64.to_be_bytes());
    assert!(context.sampled() && !context.random());
    assert_eq!(context.trace_state, None);
}

#[test]
fn a_trace_is_continued_where_the_traceparent_is_good() {
    for good in [
        "00-T-S-01",
        " 00-T-S-01",
        "\t00-T-S-01",
        "00-T-S-01 ",
        "00-T-S-01\t",
        "\t 00-T-S-01 \t",
        "cc-T-S-01",
        "cc-T-S-01-what-the-future-will-be-like",
        "cc-T-S-01-",
        "fe-T-S-01",
    ] {
        let context = parent(good).unwrap_or_else(|| panic!("{good:?} is no context"));
        assert_eq!(context.flags, SAMPLED, "{good:?}");
        assert_eq!(context.span.0, 0x1234567890123456_u64.to_be_bytes(), "{good:?}");
    }
}

#[test]
fn a_new_trace_begins_where_the_traceparent_breaks_a_rule() {
    for bad in [
        "",
        " ",
        "00-T-S-01.",
        "00-T-S-01-",
        "00-T-S-01-what-the-future-will-be-like",
        "cc-T-S-01.what-the-future-will-be-like",
        "ff-T-S-01",
        "ff-T-S-01-x",
        ".0-T-S-01",
        "0.-T-S-01",
        "000-T-S-01",
        "0-T-S-01",
        "0x-T-S-01",
        "00-00000000000000000000000000000000-S-01",
        "00-.2345678901234567890123456789012-S-01",
        "00-1234567890123456789012345678901.-S-01",
        "00-123456789012345678901234567890123-S-01",
        "00-1234567890123456789012345678901-S-01",
        "00-T-0000000000000000-01",
        "00-T-.234567890123456-01",
        "00-T-123456789012345.-01",
        "00-T-12345678901234567-01",
        "00-T-123456789012345-01",
        "00-T-S-.0",
        "00-T-S-0.",
        "00-T-S-001",
        "00-T-S-1",
        "00-T-S",
        "00-T-S-",
        "00_T-S-01",
        "00-T_S-01",
        "00-T-S_01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-S-01",
        "00-T-00F067AA0BA902B7-01",
        "00-T-S-0A",
        "00-T-S-01,00-T-S-01",
        "00 -T-S-01",
    ] {
        assert_eq!(parent(bad), None, "{bad:?}");
    }
}

#[test]
fn bytes_that_are_not_ascii_are_no_context() {
    let mut value = format!("00-{T}-{S}-01").into_bytes();
    for at in 0..value.len() {
        let was = std::mem::replace(&mut value[at], 0xc3);
        let fields = Fields(vec![(FieldName::Traceparent, value.clone().into())]);
        assert_eq!(from_fields(&fields), None, "byte {at}");
        value[at] = was;
    }
}

#[test]
fn the_name_of_the_field_has_any_case_and_no_other_spelling() {
    let value = format!("00-{T}-{S}-01");
    for name in ["traceparent", "TraceParent", "TrAcEpArEnT", "TRACEPARENT"] {
        assert!(from_fields(&fields(&[(name, &value)])).is_some(), "{name}");
    }
    for name in ["trace-parent", "trace.parent", "trace_parent"] {
        assert_eq!(from_fields(&fields(&[(name, &value)])), None, "{name}");
    }
}

#[test]
fn two_traceparents_are_none() {
    let (one, other) = (format!("00-{T}-{S}-01"), format!("00-{T}-{S}-00"));
    for second in [&one, &other] {
        assert_eq!(from_fields(&fields(&[("traceparent", &one), ("traceparent", second)])), None);
    }
}

#[test]
fn the_flags_that_are_not_defined_are_dropped() {
    for (flags, kept) in
        [("00", 0), ("01", SAMPLED), ("02", RANDOM), ("03", SAMPLED | RANDOM), ("ff", 3), ("fc", 0)]
    {
        assert_eq!(parent(&format!("00-T-S-{flags}")).unwrap().flags, kept, "{flags}");
    }
}

#[test]
fn tracestate_without_a_good_traceparent_is_dropped() {
    assert_eq!(from_fields(&fields(&[("tracestate", "foo=1")])), None);
    assert_eq!(from_fields(&fields(&[("traceparent", "00-x"), ("tracestate", "foo=1")])), None);
}

#[test]
fn a_good_tracestate_is_kept_verbatim() {
    let value256 = "v".repeat(256);
    let key256 = format!("{}=1", "k".repeat(256));
    let tenant = format!("{}@{}=1", "t".repeat(241), "v".repeat(14));
    let members32 = (0..32).map(|n| format!("bar{n:02}={n:02}")).collect::<Vec<_>>().join(",");
    for good in [
        "foo=1",
        "foo=1,bar=2",
        "foo=1 \t , \t bar=2",
        "foo=1,foo=1",
        "foo=1,foo=2",
        "foo@=1,bar=2",
        "foo@@bar=1,bar=2",
        "foo@bar@baz=1",
        "0foo=1",
        "foo-_*/bar=bar4",
        "foo= 1",
        "foo=1,,bar=2",
        "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7",
        "ot=th:e666;rv:6e6d1a75832a2f",
        "foo=!\"#$%&'()*+-./0123456789:;<>?@ABCXYZ[\\]^_`abcxyz{|}~",
        &format!("foo={value256}"),
        &key256,
        &tenant,
        &members32,
    ] {
        assert_eq!(state(&[good]).as_deref(), Some(good));
    }
}

#[test]
fn a_tracestate_that_breaks_a_rule_is_dropped_whole() {
    let value257 = format!("foo={}", "v".repeat(257));
    let key257 = format!("{}=1", "k".repeat(257));
    let members33 = (0..33).map(|n| format!("bar{n:02}={n:02}")).collect::<Vec<_>>().join(",");
    for bad in [
        "",
        " \t",
        ",",
        "foo",
        "=1",
        "foo =1",
        "FOO=1",
        "foo.bar=1",
        "@foo=1,bar=2",
        "@=1",
        "_foo=1",
        "foo=bar=baz",
        "foo=,bar=3",
        "foo=1\u{7f}",
        "foo=1\t2",
        "foo=\u{e9}",
        "foo=1,bar",
        &value257,
        &key257,
        &members33,
    ] {
        assert_eq!(state(&[bad]), None, "{bad:?}");
    }
}

#[test]
fn several_tracestate_fields_are_one_list_in_order() {
    assert_eq!(state(&["foo=1", "bar=2"]).as_deref(), Some("foo=1,bar=2"));
    assert_eq!(state(&["foo=1", ""]).as_deref(), Some("foo=1"));
    assert_eq!(state(&["", "foo=1"]).as_deref(), Some("foo=1"));
    assert_eq!(state(&[" foo=1\t", "bar=2 "]).as_deref(), Some("foo=1,bar=2"));
    assert_eq!(state(&["foo=1", "BAR=2"]), None);
    let half = |from: usize| (from..from + 17).map(|n| format!("k{n}=1")).collect::<Vec<_>>().join(",");
    assert_eq!(state(&[&half(0), &half(17)]), None, "34 members");
}

#[test]
fn white_space_does_not_make_the_kept_list_long() {
    let padded = format!("foo=1,{}bar=2", " ".repeat(60_000));
    assert_eq!(state(&[&padded]).as_deref(), Some("foo=1,bar=2"));
    assert_eq!(state(&[&format!("foo=1{}", ",".repeat(60_000))]).as_deref(), Some("foo=1"));
}

#[test]
fn the_fuzz_body_holds_on_seeds() {
    let good = format!("p00-{T}-{S}-01\nsfoo=1 , bar=2\nsbaz=3");
    let mut seeds: Vec<Vec<u8>> = vec![good.clone().into_bytes(), b"p\n\ns".to_vec(), Vec::new()];
    for at in 0..good.len() {
        for byte in [0, b' ', b',', b'=', b'-', b'f', 0xff] {
            let mut seed = good.clone().into_bytes();
            seed[at] = byte;
            seeds.push(seed);
        }
        seeds.push(good.as_bytes()[..at].to_vec());
    }
    for seed in seeds {
        fuzz::fuzz_context(&seed);
    }
}
