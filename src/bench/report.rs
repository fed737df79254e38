//! Figures to text and JSON: the lines and keys that programs which read `vllm bench serve` know.

use std::{fmt::Write as _, io::Write as _, path::PathBuf};

use clap::Args;
use serde_json::{Map, Value, json};

use super::{
    arrivals::TrafficArgs,
    measure::{Figures, Goals, Series},
    request::Outcome,
};
use crate::cli::Failure;

/// What is reported, and where it is kept.
#[derive(Args, Clone, Debug)]
pub(crate) struct ReportArgs {
    /// Which latencies are reported: ttft, tpot, itl, e2el, separated by commas.
    #[arg(long, default_value = "ttft,tpot,itl", value_delimiter = ',', value_name = "NAMES",
          value_parser = ["ttft", "tpot", "itl", "e2el"])]
    percentile_metrics: Vec<String>,
    /// Which of their percentiles, separated by commas.
    #[arg(long, default_value = "99", value_delimiter = ',', value_name = "PERCENT",
          value_parser = percent)]
    metric_percentiles: Vec<f64>,
    /// What a good request keeps, as NAME:MILLISECONDS; names are ttft, tpot and e2el.
    #[arg(long, num_args = 1.., value_name = "NAME:MS", value_parser = goal)]
    goodput: Vec<(String, f64)>,
    /// Write the figures to a JSON file.
    #[arg(long)]
    save_result: bool,
    /// Write each request's lengths, times, text and error to it too.
    #[arg(long)]
    save_detailed: bool,
    /// Add a line to the file instead of writing it anew.
    #[arg(long)]
    append_result: bool,
    /// The file's folder.
    #[arg(long, value_name = "DIR")]
    result_dir: Option<PathBuf>,
    /// The file's name [default: made of label, rate, model and date].
    #[arg(long, value_name = "FILE")]
    result_filename: Option<String>,
    /// What the run is called in the file and its name [default: the backend].
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,
    /// Further fields of the file, as KEY=VALUE.
    #[arg(long, num_args = 1.., value_name = "KEY=VALUE", value_parser = pair)]
    metadata: Vec<(String, String)>,
    /// Show no progress bar.
    #[arg(long)]
    pub(crate) disable_tqdm: bool,
}

/// What a file says of a run beside its figures.
pub(crate) struct About<'a> {
    pub(crate) backend: &'a str,
    pub(crate) model: &'a str,
    pub(crate) tokenizer: &'a str,
    pub(crate) num_prompts: u32,
    pub(crate) traffic: &'a TrafficArgs,
    /// When it ended, in seconds since 1970.
    pub(crate) unix_s: u64,
}

const LATENCIES: [(&str, &str, &str); 4] = [
    ("ttft", "TTFT", "Time to First Token"),
    ("tpot", "TPOT", "Time per Output Token (excl. 1st token)"),
    ("itl", "ITL", "Inter-token Latency"),
    ("e2el", "E2EL", "End-to-end Latency"),
];

impl ReportArgs {
    /// What good requests keep.
    pub(crate) fn goals(&self) -> Goals {
        let of = |wanted: &str| {
            self.goodput.iter().rev().find(|(name, _)| name == wanted).map(|(_, goal)| *goal)
        };
        Goals { ttft: of("ttft"), tpot: of("tpot"), e2el: of("e2el") }
    }

    /// The report as text.
    pub(crate) fn text(&self, figures: &Figures, traffic: &TrafficArgs) -> String {
        let mut text = format!("{:=^50}\n", " Serving Benchmark Result ");
        count(&mut text, "Successful requests:", figures.completed);
        count(&mut text, "Failed requests:", figures.failed);
        if let Some(most) = traffic.max_concurrency {
            count(&mut text, "Maximum request concurrency:", most.into());
        }
        if traffic.request_rate.is_finite() {
            number(&mut text, "Request rate configured (RPS):", traffic.request_rate);
        }
        number(&mut text, "Benchmark duration (s):", figures.seconds);
        count(&mut text, "Total input tokens:", figures.input_tokens);
        count(&mut text, "Total generated tokens:", figures.output_tokens);
        number(&mut text, "Request throughput (req/s):", figures.per_second(figures.completed));
        if self.goals().is_any() {
            number(&mut text, "Request goodput (req/s):", figures.goodput);
        }
        let (output, input) = (figures.output_tokens, figures.input_tokens);
        number(&mut text, "Output token throughput (tok/s):", figures.per_second(output));
        number(&mut text, "Peak output token throughput (tok/s):", figures.peak_output);
        number(&mut text, "Peak concurrent requests:", figures.peak_requests as f64);
        number(&mut text, "Total token throughput (tok/s):", figures.per_second(input + output));
        for (key, name, header) in self.latencies() {
            let series = series(figures, key);
            let _ = writeln!(text, "{header:-^50}");
            number(&mut text, &format!("Mean {name} (ms):"), series.mean());
            number(&mut text, &format!("Median {name} (ms):"), series.percentile(50.0));
            for percent in &self.metric_percentiles {
                number(&mut text, &format!("P{percent} {name} (ms):"), series.percentile(*percent));
            }
        }
        text + &"=".repeat(50)
    }

    fn latencies(&self) -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
        LATENCIES.into_iter().filter(|(key, ..)| self.percentile_metrics.iter().any(|n| n == key))
    }

    /// The report as JSON.
    pub(crate) fn json(&self, figures: &Figures, about: &About<'_>, runs: &[Outcome]) -> Value {
        let mut fields = self.setup(about);
        let all = figures.input_tokens + figures.output_tokens;
        let goodput = self.goals().is_any().then_some(figures.goodput);
        let more = json!({
            "duration": figures.seconds,
            "completed": figures.completed,
            "failed": figures.failed,
            "total_input_tokens": figures.input_tokens,
            "total_output_tokens": figures.output_tokens,
            "request_throughput": figures.per_second(figures.completed),
            "request_goodput": goodput,
            "output_throughput": figures.per_second(figures.output_tokens),
            "total_token_throughput": figures.per_second(all),
            "max_output_tokens_per_s": figures.peak_output,
            "max_concurrent_requests": figures.peak_requests,
        });
        fields.extend(more.as_object().cloned().unwrap_or_default());
        for (key, ..) in self.latencies() {
            let series = series(figures, key);
            fields.insert(format!("mean_{key}_ms"), series.mean().into());
            fields.insert(format!("median_{key}_ms"), series.percentile(50.0).into());
            fields.insert(format!("std_{key}_ms"), series.deviation().into());
            for percent in &self.metric_percentiles {
                let value = series.percentile(*percent);
                fields.insert(format!("p{percent}_{key}_ms"), value.into());
            }
        }
        if self.save_detailed {
            fields.extend(details(runs));
        }
        Value::Object(fields)
    }

    fn setup(&self, about: &About<'_>) -> Map<String, Value> {
        let traffic = about.traffic;
        let number_or_inf = |number: f64| match number.is_finite() {
            true => json!(number),
            false => json!("inf"),
        };
        let setup = json!({
            "date": stamp(about.unix_s),
            "endpoint_type": about.backend,
            "backend": about.backend,
            "label": self.label,
            "model_id": about.model,
            "tokenizer_id": about.tokenizer,
            "num_prompts": about.num_prompts,
        });
        let mut fields = setup.as_object().cloned().unwrap_or_default();
        for (name, value) in &self.metadata {
            fields.insert(name.clone(), json!(value));
        }
        fields.insert("request_rate".into(), number_or_inf(traffic.request_rate));
        fields.insert("burstiness".into(), number_or_inf(traffic.burstiness));
        fields.insert("max_concurrency".into(), json!(traffic.max_concurrency));
        fields
    }

    /// Writes the report's file, if one is wanted, and says where it is.
    pub(crate) fn save(
        &self,
        report: &Value,
        about: &About<'_>,
    ) -> Result<Option<PathBuf>, Failure> {
        if !self.save_result && !self.append_result {
            return Ok(None);
        }
        let folder = self.result_dir.clone().unwrap_or_default();
        let path = folder.join(self.result_filename.clone().unwrap_or_else(|| self.name(about)));
        let write = || {
            if self.result_dir.is_some() {
                std::fs::create_dir_all(&folder)?;
            }
            let mut options = std::fs::File::options();
            options.create(true).append(self.append_result);
            options.write(true).truncate(!self.append_result);
            let mut file = options.open(&path)?;
            let gap = if file.metadata()?.len() > 0 { "\n" } else { "" };
            write!(file, "{gap}{report}")
        };
        write().map_err(|error| Failure::run(format!("{}: {error}", path.display())))?;
        Ok(Some(path))
    }

    fn name(&self, about: &About<'_>) -> String {
        let label = self.label.as_deref().unwrap_or(about.backend);
        let model = about.model.rsplit('/').next().unwrap_or(about.model);
        let most = about.traffic.max_concurrency;
        let most = most.map_or_else(String::new, |most| format!("-concurrency{most}"));
        let rate = about.traffic.request_rate;
        format!("{label}-{rate:?}qps{most}-{model}-{}.json", stamp(about.unix_s))
    }
}

fn count(text: &mut String, name: &str, value: u64) {
    // Writing to a text cannot fail.
    let _ = writeln!(text, "{name:<40} {value:<10}");
}

fn number(text: &mut String, name: &str, value: f64) {
    // Writing to a text cannot fail.
    let _ = writeln!(text, "{name:<40} {value:<10.2}");
}

fn series<'a>(figures: &'a Figures, key: &str) -> &'a Series {
    match key {
        "ttft" => &figures.ttft,
        "tpot" => &figures.tpot,
        "itl" => &figures.itl,
        _ => &figures.e2el,
    }
}

/// What each request was, in lists of equal length.
fn details(runs: &[Outcome]) -> Map<String, Value> {
    let all = |of: &dyn Fn(&Outcome) -> Value| Value::Array(runs.iter().map(of).collect());
    let mut fields = Map::new();
    fields.insert("input_lens".into(), all(&|one| one.prompt_tokens.into()));
    fields.insert("output_lens".into(), all(&|one| one.output_tokens.into()));
    fields.insert("ttfts".into(), all(&|one| one.ttft.into()));
    fields.insert("itls".into(), all(&|one| json!(one.itl)));
    fields.insert("generated_texts".into(), all(&|one| one.text.as_str().into()));
    fields.insert("errors".into(), all(&|one| one.error.clone().unwrap_or_default().into()));
    fields
}

/// A time as 20261124-013000, in UTC.
fn stamp(unix_s: u64) -> String {
    let (mut days, second) = (unix_s / 86_400, unix_s % 86_400);
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!("{year:04}{month:02}{:02}-{hour:02}{minute:02}{:02}", days + 1, second % 60)
}

fn percent(text: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(number) if (0.0..=100.0).contains(&number) => Ok(number),
        _ => Err("a number from 0 to 100 is needed".into()),
    }
}

fn goal(text: &str) -> Result<(String, f64), String> {
    let goal = text.split_once(':').and_then(|(name, goal)| {
        let goal = goal.parse().ok().filter(|goal| *goal >= 0.0)?;
        ["ttft", "tpot", "e2el"].contains(&name).then(|| (name.to_owned(), goal))
    });
    goal.ok_or_else(|| "NAME:MILLISECONDS is needed; names are ttft, tpot and e2el".into())
}

fn pair(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').map(|(name, value)| (name.trim(), value.trim()));
    pair.map(|(name, value)| (name.into(), value.into())).ok_or("KEY=VALUE is needed".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let dates = [
            (0, "19700101-000000"),
            (951_782_399, "20000228-235959"),
            (951_782_400, "20000229-000000"),
            (1_735_689_599, "20241231-235959"),
            (4_107_542_400, "21000301-000000"),
        ];
        dates.iter().for_each(|(unix_s, date)| assert_eq!(stamp(*unix_s), *date));
    }

    #[test]
    fn goals_have_names_and_numbers() {
        assert_eq!(goal("ttft:200"), Ok(("ttft".into(), 200.0)));
        for bad in ["ttft", "itl:3", "tpot:-1", "e2el:x"] {
            assert!(goal(bad).is_err(), "{bad}");
        }
    }
}
