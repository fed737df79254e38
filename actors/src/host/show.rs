//! Times, sizes and rates as people read them, in few letters.

/// A time in microseconds.
pub fn micros(us: u64) -> String {
    match us {
        ..1_000 => format!("{us} us"),
        1_000..1_000_000 => format!("{} ms", digits(us as f64 / 1e3)),
        _ => format!("{} s", digits(us as f64 / 1e6)),
    }
}

/// A number of bytes.
pub fn bytes(bytes: u64) -> String {
    let mut number = bytes as f64;
    let mut units = ["B", "KiB", "MiB", "GiB", "TiB"].into_iter().peekable();
    let mut unit = units.next().unwrap_or_default();
    while number >= 1024.0
        && let Some(larger) = units.next()
    {
        (number, unit) = (number / 1024.0, larger);
    }
    format!("{} {unit}", digits(number))
}

/// Bytes per second.
pub fn rate(rate: f64) -> String {
    match rate {
        ..1e6 => format!("{} KB/s", digits(rate / 1e3)),
        1e6..1e9 => format!("{} MB/s", digits(rate / 1e6)),
        _ => format!("{} GB/s", digits(rate / 1e9)),
    }
}

/// Two digits at least, and no more than say something; whole numbers as they are.
fn digits(number: f64) -> String {
    match number {
        ..10.0 if number.fract() != 0.0 => format!("{number:.1}"),
        _ => format!("{number:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_digits_are_enough() {
        assert_eq!(
            [0, 999, 1_234, 56_789, 2_000_000].map(micros),
            ["0 us", "999 us", "1.2 ms", "57 ms", "2 s"]
        );
        assert_eq!(
            [0, 1023, 212_992, 8 << 20, 5 << 29, u64::MAX].map(bytes),
            ["0 B", "1023 B", "208 KiB", "8 MiB", "2.5 GiB", "16777216 TiB"]
        );
        assert_eq!([0.0, 1.25e8, 2.5e9].map(rate), ["0 KB/s", "125 MB/s", "2.5 GB/s"]);
    }
}
