//! `strftime_now`: the date as a template wants it, from a clock that was passed in.

/// A moment in UTC, as a calendar shows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    year: i64,
    /// From 1.
    month: u32,
    /// From 1.
    day: u32,
    second_of_day: u32,
    days_since_1970: i64,
}

impl Clock {
    /// The moment so many seconds after 1970 began.
    pub(super) fn at(unix_s: i64) -> Self {
        let days = unix_s.div_euclid(86_400);
        // Counts from 1 March of year 0, so that a leap day is the last of its year: eras of 400
        // years, each 146,097 days; in a year, months of 153 days per five.
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        Self {
            year: era * 400 + year_of_era + i64::from(month <= 2),
            month: month as u32,
            day: day as u32,
            second_of_day: unix_s.rem_euclid(86_400) as u32,
            days_since_1970: days,
        }
    }

    /// Formats as C's `strftime` does in the C locale; what is not known stays as it is written.
    pub(super) fn format(&self, format: &str) -> String {
        let mut out = String::new();
        let mut characters = format.chars();
        while let Some(character) = characters.next() {
            if character != '%' {
                out.push(character);
                continue;
            }
            match characters.next() {
                // glibc: no padding.
                Some('-') => {
                    let field = characters.next().map(|code| self.field(code)).unwrap_or_default();
                    let trimmed = field.trim_start_matches(['0', ' ']);
                    out.push_str(if trimmed.is_empty() { "0" } else { trimmed });
                }
                Some(code) => out.push_str(&self.field(code)),
                None => out.push('%'),
            }
        }
        out
    }

    fn field(&self, code: char) -> String {
        let (hour, minute) = (self.second_of_day / 3600, self.second_of_day / 60 % 60);
        let second = self.second_of_day % 60;
        let hour_of_twelve = (hour + 11) % 12 + 1;
        let month = MONTHS[self.month as usize - 1];
        // 1 January 1970 was a Thursday.
        let weekday = (self.days_since_1970 + 4).rem_euclid(7) as usize;
        match code {
            'Y' => self.year.to_string(),
            'y' => format!("{:02}", self.year.rem_euclid(100)),
            'm' => format!("{:02}", self.month),
            'd' => format!("{:02}", self.day),
            'e' => format!("{:2}", self.day),
            'B' => month.to_owned(),
            'b' | 'h' => month[..3].to_owned(),
            'A' => WEEKDAYS[weekday].to_owned(),
            'a' => WEEKDAYS[weekday][..3].to_owned(),
            'w' => weekday.to_string(),
            'u' => ((weekday + 6) % 7 + 1).to_string(),
            'j' => format!("{:03}", self.day_of_year()),
            'H' => format!("{hour:02}"),
            'I' => format!("{hour_of_twelve:02}"),
            'M' => format!("{minute:02}"),
            'S' => format!("{second:02}"),
            'f' => "000000".to_owned(),
            'p' => if hour < 12 { "AM" } else { "PM" }.to_owned(),
            'F' => self.format("%Y-%m-%d"),
            'T' | 'X' => self.format("%H:%M:%S"),
            'R' => self.format("%H:%M"),
            'D' | 'x' => self.format("%m/%d/%y"),
            'c' => self.format("%a %b %e %H:%M:%S %Y"),
            // A time without a zone, as Python's `datetime.now()` is.
            'Z' | 'z' => String::new(),
            '%' => "%".to_owned(),
            other => format!("%{other}"),
        }
    }

    fn day_of_year(&self) -> i64 {
        let is_leap = self.year % 4 == 0 && (self.year % 100 != 0 || self.year % 400 == 0);
        let before = DAYS_BEFORE_MONTH[self.month as usize - 1];
        before + i64::from(is_leap && self.month > 2) + i64::from(self.day)
    }
}

const DAYS_BEFORE_MONTH: [i64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
