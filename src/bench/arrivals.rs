//! When requests are sent: all at once, or at a rate, as a Poisson process or one with more or less
//! even gaps.

use std::time::Duration;

use clap::Args;

use super::random::Random;

/// How requests come.
#[derive(Args, Clone, Debug)]
pub(crate) struct TrafficArgs {
    /// Requests per second; inf sends all at once.
    #[arg(long, default_value_t = f64::INFINITY, value_name = "RPS", value_parser = positive)]
    pub(crate) request_rate: f64,
    /// How even the gaps are: 1 is a Poisson process, less is more bursty, more is more even.
    #[arg(long, default_value_t = 1.0, value_name = "SHAPE", value_parser = positive)]
    pub(crate) burstiness: f64,
    /// Most requests at a time; those that come while so many are under way wait here.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_concurrency: Option<u32>,
    /// Requests that are sent before those that count.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) num_warmups: u32,
    /// How long the server may say nothing in one answer, in seconds.
    #[arg(long, default_value_t = 3600, value_name = "SECONDS",
          value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) request_timeout: u64,
}

impl TrafficArgs {
    /// When each of `count` requests is sent, from the first on.
    ///
    /// The gaps are gamma deviates. Their sum is drawn to what the rate asks for, so that runs with
    /// several seeds take equally long.
    pub(crate) fn arrivals(&self, count: usize, random: &mut Random) -> Vec<Duration> {
        if self.request_rate.is_infinite() {
            return vec![Duration::ZERO; count];
        }
        let mut at = 0.0;
        let mut times: Vec<f64> = (0..count)
            .map(|_| {
                at += match self.burstiness.is_infinite() {
                    true => 1.0,
                    false => random.gamma(self.burstiness),
                };
                at
            })
            .collect();
        let wanted = count as f64 / self.request_rate;
        times.iter_mut().for_each(|time| *time *= wanted / at);
        times.into_iter().map(Duration::from_secs_f64).collect()
    }
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 => Ok(number),
        _ => Err("a number above 0, or inf, is needed".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traffic(request_rate: f64, burstiness: f64) -> Vec<Duration> {
        let args = TrafficArgs {
            request_rate,
            burstiness,
            max_concurrency: None,
            num_warmups: 0,
            request_timeout: 1,
        };
        args.arrivals(100, &mut Random::new(3))
    }

    #[test]
    fn the_last_request_is_sent_when_the_rate_says_so() {
        for burstiness in [0.5, 1.0, 8.0, f64::INFINITY] {
            let times = traffic(20.0, burstiness);
            assert!(times.is_sorted());
            let last = times[99].as_secs_f64();
            assert!((last - 5.0).abs() < 1e-6, "burstiness {burstiness}: {last} s");
        }
        assert_eq!(traffic(20.0, f64::INFINITY)[0], Duration::from_millis(50));
        assert_eq!(traffic(f64::INFINITY, 1.0), vec![Duration::ZERO; 100]);
    }

    #[test]
    fn only_numbers_above_zero_are_rates() {
        assert_eq!(positive("inf"), Ok(f64::INFINITY));
        for bad in ["0", "-1", "nan", "many"] {
            assert!(positive(bad).is_err(), "{bad}");
        }
    }
}
