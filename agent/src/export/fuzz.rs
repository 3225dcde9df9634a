//! Fuzz bodies: whatever a backend answers or a variable says, nothing panics and every bound holds.

use std::time::SystemTime;

use super::answer::{
    Answer, IsJson, MAX_SERVER_WAIT, Reply, grpc_failure, http_failure, parse_retry_after, retry_info,
};
use super::metrics::resource_attributes;
use super::settings::OtlpSettings;

/// An answer: its first byte chooses the status; the rest is body, details and `Retry-After`.
pub fn fuzz_answer(data: &[u8]) {
    let (first, rest) = data.split_first().map_or((0, data), |(&first, rest)| (first, rest));
    let text = String::from_utf8_lossy(rest);
    let now = SystemTime::UNIX_EPOCH;
    for json in [IsJson::Yes, IsJson::No] {
        let reply = Reply::from_body(rest, json);
        assert!(!reply.message.chars().any(char::is_control), "a message cannot move a terminal");
        assert!(reply.message.chars().count() <= 301, "a message is short");
        let status = 100 + u16::from(first) * 2;
        check(&http_failure(status, "", Some(&text), rest, json, now));
    }
    check(&grpc_failure(tonic::Code::from_i32(i32::from(first) % 20), &text, rest));
    for wait in [parse_retry_after(&text, now), retry_info(rest)].into_iter().flatten() {
        assert!(wait <= MAX_SERVER_WAIT, "no answer silences the agent for longer");
    }
}

/// Variables: each has the same value.
pub fn fuzz_settings(data: &[u8]) {
    let text = String::from_utf8_lossy(data).into_owned();
    let env = |_: &str| Some(text.clone());
    for flag in [None, Some(text.as_str())] {
        if let Ok(settings) = OtlpSettings::from(flag, &env) {
            assert!(matches!(settings.endpoint.scheme(), "http" | "https"));
            assert!(settings.endpoint.has_host());
            assert!(settings.batch.max_batch > 0);
            assert!(!settings.timeout.is_zero());
        }
    }
    let without_endpoint = |key: &str| if key.ends_with("ENDPOINT") { None } else { Some(text.clone()) };
    assert!(OtlpSettings::from(None, &without_endpoint).is_ok(), "only an endpoint can be an error");
    let _ = resource_attributes(&text);
}

fn check(answer: &Answer) {
    let reason = match answer {
        Answer::Accepted { .. } => panic!("a failure was taken for a success"),
        Answer::Retry { reason, after, .. } => {
            assert!(after.is_none_or(|wait| wait <= MAX_SERVER_WAIT));
            reason
        }
        Answer::Refused { reason } => reason,
    };
    assert!(!reason.chars().any(char::is_control), "{reason:?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_and_their_mutations_hold_every_invariant() {
        let seeds: [&[u8]; 9] = [
            b"",
            b"\xc8Sun, 06 Nov 1994 08:49:37 GMT",
            b"\x080120",
            b"\x08\x08\x08\x1a\x30\x0a\x28type.googleapis.com/google.rpc.RetryInfo\x12\x04\x0a\x02\x08\x05",
            b"\x01{\"partialSuccess\":{\"rejectedSpans\":\"18446744073709551616\",\"errorMessage\":\"\\u001b[2J\"}}",
            b"http://localhost:4318/v1/traces",
            b"a=b,c=%20d,,=,e",
            b"https://[::1]:4317/%zz?#",
            b"localhost:4317",
        ];
        for seed in seeds {
            for cut in 0..=seed.len() {
                fuzz_answer(&seed[..cut]);
                fuzz_settings(&seed[..cut]);
            }
            for place in 0..seed.len() {
                for byte in [0, 0x1b, b'%', b',', b'=', 0x7f, 0x80, 0xff] {
                    let mut mutated = seed.to_vec();
                    mutated[place] = byte;
                    fuzz_answer(&mutated);
                    fuzz_settings(&mutated);
                }
            }
        }
    }
}
