//! RFC 7541, appendix C, and what joining late makes of the same blocks.

use super::encode::{Encoder, Style};
use crate::protocol::http2::Malformed;
use crate::protocol::http2::hpack::{Decoder, Joined, Line, MAX_TABLE, Text};

fn unhex(text: &str) -> Vec<u8> {
    let digits: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    (0..digits.len() / 2).map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap()).collect()
}

fn text(line: &Line<'_>) -> String {
    let word = |text: Text<'_>| match text {
        Text::Known(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Text::Unkept => "(unkept)".to_owned(),
        Text::Old(entry) => format!("({entry})"),
    };
    format!("{}: {}", word(line.name), word(line.value))
}

fn read(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<String>, Malformed> {
    let mut lines = Vec::new();
    decoder.decode(block, &mut |line| lines.push(text(&line)))?;
    Ok(lines)
}

/// Blocks of one connection in order, each with its lines.
#[track_caller]
fn check(joined: Joined, blocks: &[(&str, &[&str])]) {
    let mut decoder = Decoder::new(joined);
    for (block, want) in blocks {
        assert_eq!(read(&mut decoder, &unhex(block)).unwrap(), *want, "{block}");
    }
}

#[test]
fn c2_single_fields() {
    check(
        Joined::AtBirth,
        &[
            (
                "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572",
                &["custom-key: custom-header"],
            ),
            ("040c 2f73 616d 706c 652f 7061 7468", &[":path: /sample/path"]),
            ("1008 7061 7373 776f 7264 0673 6563 7265 74", &["password: secret"]),
            ("82", &[":method: GET"]),
        ],
    );
}

const C3: [(&str, &[&str]); 3] = [
    (
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        &[":method: GET", ":scheme: http", ":path: /", ":authority: www.example.com"],
    ),
    (
        "8286 84be 5808 6e6f 2d63 6163 6865",
        &[
            ":method: GET",
            ":scheme: http",
            ":path: /",
            ":authority: www.example.com",
            "cache-control: no-cache",
        ],
    ),
    (
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
        &[
            ":method: GET",
            ":scheme: https",
            ":path: /index.html",
            ":authority: www.example.com",
            "custom-key: custom-value",
        ],
    ),
];

#[test]
fn c3_requests_without_huffman() {
    check(Joined::AtBirth, &C3);
}

#[test]
fn c4_requests_with_huffman() {
    check(
        Joined::AtBirth,
        &[
            ("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", C3[0].1),
            ("8286 84be 5886 a8eb 1064 9cbf", C3[1].1),
            ("8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf", C3[2].1),
        ],
    );
}

#[test]
fn c5_and_c6_responses_that_evict() {
    let first: &[&str] = &[
        ":status: 302",
        "cache-control: private",
        "date: Mon, 21 Oct 2013 20:13:21 GMT",
        "location: https://www.example.com",
    ];
    // What is not kept of an entry is named as such when it comes again.
    let second: &[&str] =
        &[":status: 307", "cache-control: (unkept)", "date: (unkept)", "location: (unkept)"];
    let third: &[&str] = &[
        ":status: 200",
        "cache-control: (unkept)",
        "date: Mon, 21 Oct 2013 20:13:22 GMT",
        "location: (unkept)",
        "content-encoding: gzip",
        "set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
    ];
    check(
        Joined::AtBirth,
        &[
            (
                "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
                first,
            ),
            ("4803 3330 37c1 c0bf", second),
            (
                "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31",
                third,
            ),
        ],
    );
    check(
        Joined::AtBirth,
        &[
            (
                "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
                first,
            ),
            ("4883 640e ffc1 c0bf", second),
            (
                "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
                third,
            ),
        ],
    );
}

#[test]
fn an_entry_from_before_the_join_is_unknown_and_keeps_its_number() {
    check(
        Joined::Late,
        &[
            ("82be", &[":method: GET", "(-1): (-1)"]),
            // An insertion makes every index one larger.
            ("400a 6375 7374 6f6d 2d6b 6579 0161", &["custom-key: a"]),
            ("bebf c0", &["custom-key: (unkept)", "(-1): (-1)", "(-2): (-2)"]),
            // The value is known, the name is that of an old entry.
            ("7f00 0135", &["(-1): 5"]),
            // It may be a status; no other value under a name that is not known is kept.
            ("be", &["(-1): 5"]),
            ("7f01 0378 7878", &["(-1): xxx"]),
            ("be", &["(-1): (unkept)"]),
        ],
    );
}

#[test]
fn an_entry_that_does_not_exist_breaks_a_connection_seen_from_birth() {
    let mut decoder = Decoder::new(Joined::AtBirth);
    assert_eq!(read(&mut decoder, &[0xbe]), Err(Malformed::Index));
    assert_eq!(read(&mut decoder, &[0x80]), Err(Malformed::Index));
    // After that it is a late join like any other.
    assert_eq!(read(&mut decoder, &[0xbe]).unwrap().len(), 1);
}

#[test]
fn broken_blocks_are_told_apart() {
    let check = |block: &str, want| {
        assert_eq!(read(&mut Decoder::new(Joined::Late), &unhex(block)), Err(want), "{block}");
    };
    check("ff", Malformed::BlockCut);
    check("400a 63", Malformed::BlockCut);
    check("ff ff ff ff ff ff 0f", Malformed::Integer);
    check("ff 80 80 80 80 80 80 00", Malformed::Integer);
    check("82 20", Malformed::SizeUpdate);
    check("40 81 00 00", Malformed::Huffman);
}

/// Every block of a long connection, read from every tenth block on by a reader that joins there: what it knows is what
/// the reader from birth knows.
#[test]
fn a_late_reader_is_never_wrong() {
    let mut encoder = Encoder::new(Style::default());
    let (mut whole, mut late) = (Decoder::new(Joined::AtBirth), Vec::new());
    let (mut known, mut unknown) = (0, 0);
    for call in 0..400usize {
        let path = format!("/bench.Echo/Method{}", call * 7 % 90);
        let id = format!("{:x}", call * 2_654_435_761 % 97);
        let block = encoder.block(&[
            (":method", "POST"),
            (":scheme", "http"),
            (":path", &path),
            (":authority", "localhost:50051"),
            ("content-type", "application/grpc"),
            ("grpc-timeout", &format!("{}m", call % 50)),
            ("x-request-id", &id),
        ]);
        let want = read(&mut whole, &block).unwrap();
        if call % 10 == 0 {
            late.push(Decoder::new(Joined::Late));
        }
        for decoder in &mut late {
            let got = read(decoder, &block).unwrap();
            assert_eq!(got.len(), want.len());
            for (got, want) in got.iter().zip(&want) {
                if got.contains("(-") {
                    unknown += 1;
                } else if !got.contains("unkept") {
                    // A reader from birth may have thrown the value away where a late one still has the literal.
                    assert!(want == got || want.contains("unkept"), "{got} is not {want}");
                    known += 1;
                }
            }
        }
    }
    assert!(known > 10_000 && unknown > 100, "{known} {unknown}");
}

#[test]
fn a_bomb_is_read_without_growing() {
    let mut encoder = Encoder::new(Style::default());
    let mut decoder = Decoder::new(Joined::AtBirth);
    let block = encoder.block(&[("cookie", &"x".repeat(3_900))]);
    read(&mut decoder, &block).unwrap();
    let mut lines = 0;
    decoder.decode(&[0xbe; 60_000], &mut |_| lines += 1).unwrap();
    assert_eq!(lines, 60_000);
    // Tables larger than announced sizes allow are not kept, whatever a block says.
    let mut huge = unhex("3f e1 ff ff 07");
    for number in 0..3_000 {
        huge.extend(Encoder::literal(&format!("x-{number}"), &"y".repeat(100)));
        if huge.len() > 50_000 {
            read(&mut decoder, &huge).unwrap();
            huge.clear();
        }
        assert!(decoder.bytes() <= MAX_TABLE);
    }
}
