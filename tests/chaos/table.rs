//! The table of what faults cost, and its place in `docs/reliability.md`.

use std::{
    fmt::Write,
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use crate::run::Figures;

/// All runs of one fault.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) runs: Vec<Figures>,
}

/// What is promised.
const NOTICED: Duration = Duration::from_secs(2);
const NEXT_TOKEN: Duration = Duration::from_secs(1);

impl Row {
    /// Runs that gave a figure, in its order.
    fn sorted(&self, figure: impl Fn(&Figures) -> Option<Duration>) -> Vec<Duration> {
        let mut all: Vec<_> = self.runs.iter().filter_map(figure).collect();
        all.sort_unstable();
        all
    }

    fn noticed(&self) -> Vec<Duration> {
        self.sorted(|run| run.noticed)
    }

    fn next_token(&self) -> Vec<Duration> {
        self.sorted(|run| run.noticed.map(|_| run.next_token))
    }

    pub(crate) fn lost(&self) -> usize {
        self.runs.iter().map(|run| run.lost.len()).sum()
    }

    pub(crate) fn wrong(&self) -> usize {
        self.runs.iter().map(|run| run.wrong).sum()
    }

    /// What of the promise was not kept.
    pub(crate) fn misses(&self) -> Vec<String> {
        let mut misses = Vec::new();
        for (what, all, most) in [
            ("noticed", self.noticed(), NOTICED),
            ("the next token came", self.next_token(), NEXT_TOKEN),
        ] {
            let late = all.iter().filter(|time| **time > most).count();
            if let (1.., Some(worst)) = (late, all.last()) {
                misses
                    .push(format!("{what} later than {most:?} in {late} runs, {worst:?} at worst"));
            }
        }
        let lost = self.runs.iter().flat_map(|run| &run.lost);
        misses.extend(lost.map(|how| format!("a request was lost: {how}")));
        misses.extend((self.wrong() > 0).then(|| format!("{} tokens were wrong", self.wrong())));
        misses.into_iter().map(|miss| format!("{}: {miss}", self.name)).collect()
    }

    fn line(&self) -> String {
        let sum = |count: fn(&Figures) -> usize| self.runs.iter().map(count).sum::<usize>();
        let both = |all: Vec<Duration>| match (all.get(all.len().saturating_sub(1) / 2), all.last())
        {
            (Some(median), Some(worst)) => format!("{} / {}", seconds(*median), seconds(*worst)),
            _ => "-".into(),
        };
        let cut = sum(|run| run.cut);
        let lost = match cut {
            0 => self.lost().to_string(),
            _ => format!("{} (and {cut} cut off with their gateway)", self.lost()),
        };
        format!(
            "| {} | {} | {} | {} | {} | {} | {lost} | {} |",
            self.name,
            self.runs.len(),
            both(self.noticed()),
            both(self.next_token()),
            both(self.sorted(|run| Some(run.wait))),
            sum(|run| run.requests),
            self.wrong(),
        )
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.2}", time.as_secs_f64())
}

/// The table, as Markdown.
pub(crate) fn table<'a>(rows: impl IntoIterator<Item = &'a Row>) -> String {
    let mut text = String::from(
        "| fault | runs | noticed, s | next token after that, s | longest wait of a client, s \
         | requests | lost | tokens wrong |\n|---|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        writeln!(text, "{}", row.line()).expect("a string takes all");
    }
    text
}

/// Puts a table into the page, with the day and what it came of.
pub(crate) fn publish<'a>(rows: impl IntoIterator<Item = &'a Row>, runs: usize) {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reliability.md");
    let text = fs::read_to_string(&page).expect("the page is there");
    let (before, rest) = text.split_once(BEGIN).expect("the page has the first line");
    let (_, after) = rest.split_once(END).expect("and the last");
    let (day, cores) = (today(), std::thread::available_parallelism().map_or(0, usize::from));
    let head = format!(
        "\n`make chaos RUNS={runs}`, {day}, on a machine with {cores} cores. Of times the median \
         and the worst.\n\n"
    );
    let text = [before, BEGIN, &head, &table(rows), END, after].concat();
    fs::write(&page, text).expect("the page can be written");
}

/// The day in the calendar, by the system's own program for it.
fn today() -> String {
    let said = std::process::Command::new("date").args(["-u", "+%F"]).output();
    let said = said.map(|said| String::from_utf8_lossy(&said.stdout).trim().to_owned());
    said.unwrap_or_else(|_| format!("{:?}", SystemTime::now()))
}

const BEGIN: &str = "<!-- written by `make chaos`: begin -->\n";
const END: &str = "<!-- written by `make chaos`: end -->\n";
