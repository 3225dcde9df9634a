//! Texts as values: numbers, sizes, durations, URLs, words of a list.
//!
//! Each function gives the value, or a noun phrase that says what would be right ("a size such as …"). Pure;
//! it must never overflow, panic or guess a unit.

use std::time::Duration;

/// A decimal number from `min` to `max`.
pub fn number(text: &str, min: u64, max: u64) -> Result<u64, String> {
    let wanted = || format!("a number from {min} to {max}");
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number: u64 = text.parse().ok().filter(|_| digits).ok_or_else(wanted)?;
    if (min..=max).contains(&number) { Ok(number) } else { Err(wanted()) }
}

/// A size in bytes: a number, or one with `KiB`, `MiB` or `GiB` (`K`, `M`, `G` for short).
pub fn bytes(text: &str, min: u64, max: u64) -> Result<u64, String> {
    let wanted = || format!("a size from {} to {}, such as 65536 or 64KiB,", size(min), size(max));
    let (digits, unit) = split_unit(text);
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        _ => return Err(wanted()),
    };
    let value =
        digits.parse::<u64>().ok().and_then(|number| number.checked_mul(factor)).ok_or_else(wanted)?;
    if (min..=max).contains(&value) { Ok(value) } else { Err(wanted()) }
}

/// A size that the kernel takes for a ring buffer: a power of two and a multiple of the page size, which any
/// power of two from 64 KiB on is.
pub fn ring(text: &str, min: u64, max: u64) -> Result<u64, String> {
    let value = bytes(text, min, max)?;
    if value.is_power_of_two() {
        return Ok(value);
    }
    let above = value.checked_next_power_of_two().unwrap_or(max);
    Err(format!("a power of two, such as {} or {},", size(above / 2), size(above.min(max))))
}

/// A duration: a number with `ms`, `s`, `m` or `h`.
pub fn duration(text: &str, min: Duration, max: Duration) -> Result<Duration, String> {
    let wanted = || format!("a duration from {min:?} to {max:?} with its unit, such as 60s or 500ms,");
    let (digits, unit) = split_unit(text);
    let number: u64 = digits.parse().map_err(|_| wanted())?;
    let milliseconds = match unit {
        "ms" => Some(number),
        "s" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        _ => None,
    };
    let value = milliseconds.map(Duration::from_millis).ok_or_else(wanted)?;
    if (min..=max).contains(&value) { Ok(value) } else { Err(wanted()) }
}

/// One word of a list.
pub fn choice<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, String> {
    choices.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        match words.split_last() {
            Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
            _ => words.concat(),
        }
    })
}

/// An `http` or `https` URL with a host.
pub fn endpoint(text: &str) -> Result<String, String> {
    let wanted = || "a URL such as http://collector:4317".to_owned();
    let url = reqwest::Url::parse(text).map_err(|_| wanted())?;
    let usable =
        matches!(url.scheme(), "http" | "https") && url.host_str().is_some_and(|host| !host.is_empty());
    if usable && text.contains("://") { Ok(text.to_owned()) } else { Err(wanted()) }
}

/// Text that is there and can be printed.
pub fn text(text: &str, wanted: &str) -> Result<String, String> {
    if text.is_empty() || text.contains('\0') { Err(wanted.to_owned()) } else { Ok(text.to_owned()) }
}

/// A size as one would write it.
pub fn size(bytes: u64) -> String {
    for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes >= 1 << shift && bytes.trailing_zeros() >= shift {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

/// Digits, then a unit; blanks between them do not count.
fn split_unit(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    (digits, unit.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_take_binary_units_and_nothing_else() {
        let all = |text| bytes(text, 0, u64::MAX);
        for (text, want) in [
            ("0", 0),
            ("65536", 65536),
            ("64KiB", 65536),
            ("64 kib", 65536),
            ("16M", 16 << 20),
            ("1G", 1 << 30),
        ] {
            assert_eq!(all(text), Ok(want), "{text}");
        }
        for bad in ["", "KiB", "-1", "1.5M", "1KB2", "x", "99999999999999999999", "18446744073709551615K"] {
            assert!(all(bad).is_err(), "{bad}");
        }
        assert_eq!(
            bytes("1", 1024, 2048),
            Err("a size from 1KiB to 2KiB, such as 65536 or 64KiB,".to_owned())
        );
    }

    #[test]
    fn a_ring_is_a_power_of_two_and_the_error_names_two() {
        let ring = |text| ring(text, 64 << 10, 1 << 30);
        assert_eq!(ring("16MiB"), Ok(16 << 20));
        assert_eq!(ring("65536"), Ok(65536));
        assert_eq!(ring("100KiB"), Err("a power of two, such as 64KiB or 128KiB,".to_owned()));
        assert!(ring("32KiB").unwrap_err().contains("from 64KiB"));
    }

    #[test]
    fn durations_need_their_unit() {
        let all = |text| duration(text, Duration::ZERO, Duration::from_secs(1 << 20));
        assert_eq!(all("60s"), Ok(Duration::from_secs(60)));
        assert_eq!(all("500 ms"), Ok(Duration::from_millis(500)));
        assert_eq!(all("2m"), Ok(Duration::from_secs(120)));
        for bad in ["60", "", "s", "1d", "99999999999999999999s", "18446744073709551615h"] {
            assert!(all(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_endpoint_is_a_url_with_scheme_and_host() {
        for good in ["http://collector:4317", "https://c/v1/traces", "http://[::1]:4318"] {
            assert!(endpoint(good).is_ok(), "{good}");
        }
        for bad in
            ["", "collector:4317", "localhost:4318", "ftp://x", "http://", "http:/x y", "no url", "unix:///x"]
        {
            assert!(endpoint(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers_stay_in_their_range() {
        assert_eq!(number("7", 1, 9), Ok(7));
        for bad in ["", "0", "10", "+7", "7x", "99999999999999999999"] {
            assert_eq!(number(bad, 1, 9), Err("a number from 1 to 9".to_owned()), "{bad}");
        }
    }
}
