//! Amounts as Kubernetes writes them: bytes with units, durations, counts or percentages.

use std::{fmt, time::Duration};

use serde_json::Value;

use super::reader::Fields;

/// A number of groups, or a share of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntOrPercent {
    /// So many.
    Count(u32),
    /// So many of a hundred.
    Percent(u32),
}

impl IntOrPercent {
    /// What it is of a total, rounded down: `maxUnavailable`.
    pub fn floor_of(self, total: u32) -> u32 {
        match self {
            Self::Count(count) => count,
            Self::Percent(percent) => Self::share(u64::from(total) * u64::from(percent) / 100),
        }
    }

    /// What it is of a total, rounded up: `maxSurge`.
    pub fn ceil_of(self, total: u32) -> u32 {
        match self {
            Self::Count(count) => count,
            Self::Percent(percent) => {
                Self::share((u64::from(total) * u64::from(percent)).div_ceil(100))
            }
        }
    }

    fn share(count: u64) -> u32 {
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    pub(super) fn read(fields: &Fields<'_>, key: &'static str) -> Option<Self> {
        let value = fields.value(key)?;
        let read = match value {
            Value::Number(number) => {
                let count = number.as_u64().and_then(|count| u32::try_from(count).ok());
                count.map(Self::Count)
            }
            Value::String(text) => text
                .strip_suffix('%')
                .and_then(|digits| digits.parse().ok())
                .filter(|percent| *percent <= 100)
                .map(Self::Percent),
            _ => None,
        };
        if read.is_none() {
            let right = "must be a whole number of at least 0, or text from 0% to 100%";
            fields.problem(key, format!("{right}, got {value}"));
        }
        read
    }
}

impl fmt::Display for IntOrPercent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => count.fmt(f),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

/// Kubernetes' quantity as a whole number, rounded up: `8Gi`, `1.5G`, `2e3`, `500m`.
pub fn quantity(text: &str) -> Option<u64> {
    let units = [
        ("Ki", 1024.0_f64),
        ("Mi", 1024.0_f64.powi(2)),
        ("Gi", 1024.0_f64.powi(3)),
        ("Ti", 1024.0_f64.powi(4)),
        ("Pi", 1024.0_f64.powi(5)),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
    ];
    let unit = units.iter().find_map(|(unit, size)| Some((text.strip_suffix(unit)?, *size)));
    let (digits, size) = unit.unwrap_or((text, 1.0));
    let plain = |byte: u8| byte.is_ascii_digit() || b".eE+".contains(&byte);
    if !digits.starts_with(|first: char| first.is_ascii_digit() || first == '.')
        || !digits.bytes().all(plain)
    {
        return None;
    }
    let amount = (digits.parse::<f64>().ok()? * size).ceil();
    // Every whole number up to 2^53 is exact, which is 8 PiB.
    (0.0..=9_007_199_254_740_992.0).contains(&amount).then_some(amount as u64)
}

/// Go's duration: numbers with units one after the other, `500ms`, `1m30s`.
pub fn duration(text: &str) -> Option<Duration> {
    let units = [("ms", 1e-3), ("us", 1e-6), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let amount: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let (unit, size) = units.iter().find(|(unit, _)| rest.starts_with(unit))?;
        rest = &rest[unit.len()..];
        seconds += amount * size;
    }
    // Longer than a year is a mistake, and would overflow sums.
    let fits = !text.is_empty() && seconds <= 366.0 * 86_400.0;
    fits.then(|| Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_have_kubernetes_units() {
        let cases = [
            ("0", 0),
            ("8", 8),
            ("8Gi", 8 << 30),
            ("1.5k", 1500),
            ("2e3", 2000),
            ("100m", 1),
            ("1Pi", 1 << 50),
        ];
        for (text, amount) in cases {
            assert_eq!(quantity(text), Some(amount), "{text}");
        }
        for bad in ["", "Gi", "-1", "1 Gi", "x", "1Zi", "inf", "nan", "1e99", "e3", "1e3e"] {
            assert_eq!(quantity(bad), None, "{bad}");
        }
    }

    #[test]
    fn durations_are_gos() {
        let cases =
            [("0", 0), ("500ms", 500), ("1m30s", 90_000), ("1.5h", 5_400_000), ("2s", 2000)];
        for (text, millis) in cases {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "5", "s", "-1s", "1d", "1s1", "99999999h", "1..2s", "ä"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn shares_round_as_rollouts_want_them() {
        let quarter = IntOrPercent::Percent(25);
        assert_eq!((quarter.floor_of(3), quarter.ceil_of(3)), (0, 1));
        assert_eq!(IntOrPercent::Percent(100).ceil_of(u32::MAX), u32::MAX);
        assert_eq!(IntOrPercent::Count(7).floor_of(3), 7);
    }
}
