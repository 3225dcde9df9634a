//! Sequences of valid messages, made by a seeded generator that knows the right answer, cut anywhere.

use super::*;

/// SplitMix64: enough randomness for tests, the same on every machine.
pub(super) struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below this number, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

/// A stream, the events it must give, and what its final responses answer.
#[derive(Default)]
struct Stream {
    bytes: Vec<u8>,
    want: Vec<String>,
    answers: Vec<Answers>,
    /// Where bodies' bytes are that may be missing.
    bodies: Vec<std::ops::Range<usize>>,
}

impl Stream {
    fn message(&mut self, random: &mut Random, side: Side) {
        if random.below(4) == 0 {
            self.bytes.extend_from_slice(random.pick(&["\r\n", "\n", "\r\n\r\n"]).as_bytes());
        }
        let end_of_line = random.pick(&["\r\n", "\r\n", "\n"]);
        let start = self.bytes.len();
        let mut answers = Answers::Ordinary;
        let (line, said) = match side {
            Side::Requests => {
                let method = random.pick(&["GET", "POST", "HEAD", "X-Y", "DELETE"]);
                let target = random.pick(&["/", "/a?b=c", "*", "http://h/x", "h:80"]);
                (format!("{method} {target} HTTP/1.1"), format!("{method} {target}"))
            }
            Side::Responses => {
                answers = random.pick(&[Answers::Ordinary, Answers::Ordinary, Answers::Head]);
                let status = random.pick(&[200, 404, 100, 103, 204, 304, 500]);
                (format!("HTTP/1.1 {status} Reason phrase"), status.to_string())
            }
        };
        let interim = matches!(said.as_str(), "100" | "103");
        let bodyless = interim || matches!(said.as_str(), "204" | "304") || answers == Answers::Head;
        let mut head = line + end_of_line;
        for _ in 0..random.below(4) {
            head += random.pick(&["Cookie: x", "X-A:\tb ", "Date: a\r\n b", "A:", "Accept: */*;q=0.1"]);
            head += end_of_line;
        }
        let length = random.below(40);
        let framing = random.below(3);
        match framing {
            0 => head += &format!("Content-Length: {length}{end_of_line}"),
            1 => head += &format!("Transfer-Encoding: chunked{end_of_line}Content-Length: 7{end_of_line}"),
            _ if side == Side::Responses => head += &format!("content-length:0{end_of_line}"),
            _ => {}
        }
        head += end_of_line;
        self.bytes.extend_from_slice(head.as_bytes());
        let suffix = if said.starts_with("HEAD") { " (Head)" } else { "" };
        self.want.push(format!("{start} began"));
        self.want.push(format!("{start}..{} {said}{suffix}", self.bytes.len()));
        let body = match framing {
            _ if bodyless => 0,
            0 => {
                self.body(random, length);
                length
            }
            1 => {
                let mut body = 0;
                for _ in 0..random.below(4) {
                    let size = 1 + random.below(20);
                    let extension = random.pick(&["", "", ";a", ";a=\"b c\"", " "]);
                    self.bytes.extend_from_slice(format!("{size:x}{extension}{end_of_line}").as_bytes());
                    self.body(random, size);
                    self.bytes.extend_from_slice(end_of_line.as_bytes());
                    body += size;
                }
                let trailer = random.pick(&["", "", "Digest: x\r\n", "A: b\nC: d\r\n"]);
                self.bytes.extend_from_slice(format!("0{end_of_line}{trailer}{end_of_line}").as_bytes());
                body
            }
            _ => 0,
        };
        if interim {
            return;
        }
        if side == Side::Responses {
            self.answers.push(answers);
        }
        self.want.push(format!("{} ended, body {body}", self.bytes.len()));
    }

    /// A body full of what would be framing elsewhere.
    fn body(&mut self, random: &mut Random, length: usize) {
        let text =
            random.pick(&["GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n", "0\r\n\r\n", "\0\r\n x:"]);
        let start = self.bytes.len();
        self.bytes.extend(text.bytes().cycle().take(length));
        self.bodies.push(start..start + length);
    }
}

fn streams(seed: u64) -> impl Iterator<Item = (Side, Stream, Random)> {
    (0..300).map(move |round| {
        let mut random = Random(seed ^ (round << 32));
        let side = random.pick(&[Side::Requests, Side::Responses]);
        let mut stream = Stream::default();
        for _ in 0..1 + random.below(6) {
            stream.message(&mut random, side);
        }
        (side, stream, random)
    })
}

#[test]
fn valid_messages_are_found_wherever_calls_and_pieces_cut_them() {
    for (side, stream, mut random) in streams(1) {
        for most in [1, 2, 5, 40, 1_000] {
            let mut driver = Driver::new(side, &stream.answers);
            let mut rest = stream.bytes.as_slice();
            // The first call holds the first start line's method, as programs write it.
            let mut first = true;
            while !rest.is_empty() {
                let least = if first { 12 } else { 1 };
                let (piece, after) = rest.split_at((least + random.below(most)).min(rest.len()));
                driver.piece(piece, first || random.below(2) == 0);
                (rest, first) = (after, false);
            }
            assert_eq!(
                driver.told,
                stream.want,
                "pieces of up to {most}: {:?}",
                stream.bytes.escape_ascii().to_string()
            );
            assert!(driver.answers.is_empty());
        }
    }
}

#[test]
fn bodies_may_be_missing_anywhere_and_nothing_else_changes() {
    for (side, stream, mut random) in streams(2) {
        let mut driver = Driver::new(side, &stream.answers);
        let mut at = 0;
        for body in stream.bodies.iter().filter(|body| !body.is_empty()) {
            let start = body.start + random.below(body.len());
            let end = start + random.below(body.end - start + 1);
            driver.piece(&stream.bytes[at..start], at == 0);
            driver.gap((end - start) as u64);
            at = end;
        }
        driver.piece(&stream.bytes[at..], at == 0);
        assert_eq!(driver.told, stream.want, "{:?}", stream.bytes.escape_ascii().to_string());
    }
}

#[test]
fn after_a_hole_anywhere_only_true_messages_are_found() {
    for (side, stream, mut random) in streams(3) {
        // A call per message; what is not proven may be missing, but nothing may be made up.
        let starts: Vec<usize> =
            stream.want.iter().filter_map(|event| event.strip_suffix(" began")?.parse().ok()).collect();
        let hole = random.below(stream.bytes.len());
        let end = hole + 1 + random.below(30.min(stream.bytes.len() - hole));
        let mut driver = Driver::new(side, &[]);
        driver.answers = std::iter::repeat_n(Answers::Ordinary, 100).collect();
        let mut at = 0;
        let calls: Vec<usize> = starts.iter().copied().chain([stream.bytes.len()]).collect();
        for next in calls {
            for (from, to) in [(at, next.min(hole)), (at.max(hole), next.min(end)), (at.max(end), next)] {
                match from < to {
                    true if from >= hole && to <= end => drop(driver.gap((to - from) as u64)),
                    true => drop(driver.piece(&stream.bytes[from..to], from == 0 || starts.contains(&from))),
                    false => {}
                }
            }
            at = next;
        }
        if side == Side::Requests {
            for told in driver.told.iter().filter(|told| told.contains("..")) {
                assert!(
                    stream.want.contains(told),
                    "{told} was made up: {:?}",
                    stream.bytes.escape_ascii().to_string()
                );
            }
        }
    }
}
