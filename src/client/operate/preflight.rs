//! What was found of a cluster: a table of its hosts, one of the ways between them, and what comes
//! of it; or all of that as one document.

use serde_json::{Value, json};
use troupe_actors::host::show;
use troupe_runtime::wire::preflight::PreflightDown;

use super::{
    columns::at,
    session::parse,
    table::{Table, Titles},
};
use crate::cli::Failure;

/// Everything that a control host said.
#[derive(Debug, Default)]
pub(crate) struct Report {
    hosts: Vec<Value>,
    ways: Vec<Value>,
    findings: Vec<Value>,
}

// === impl Report ===

impl Report {
    /// Takes what was said next.
    pub(crate) fn add(&mut self, down: &PreflightDown) -> Result<(), Failure> {
        match down {
            PreflightDown::Host(document) => self.hosts.push(parse(document)?),
            PreflightDown::Way(document) => self.ways.push(parse(document)?),
            PreflightDown::Finding(document) => self.findings.push(parse(document)?),
            // The session ends with it.
            PreflightDown::Refused(_) => {}
        }
        Ok(())
    }

    /// How many findings are as bad as that.
    pub(crate) fn count(&self, severity: &str) -> usize {
        self.findings.iter().filter(|finding| at(finding, "/severity") == severity).count()
    }

    /// All of it.
    pub(crate) fn document(&self) -> Value {
        json!({
            "apiVersion": "troupe.dev/v1alpha1",
            "kind": "Preflight",
            "fit": self.count("refused") == 0,
            "hosts": self.hosts,
            "ways": self.ways,
            "findings": self.findings,
        })
    }

    /// For people.
    pub(crate) fn tables(&self) -> String {
        let mut text = hosts(&self.hosts).print(Titles::Shown);
        if !self.ways.is_empty() {
            text.push('\n');
            text.push_str(&ways(&self.ways).print(Titles::Shown));
        }
        text.push('\n');
        for finding in &self.findings {
            text.push_str(&line(finding));
        }
        text
    }
}

fn hosts(hosts: &[Value]) -> Table {
    let model = hosts.iter().any(|host| host.get("model").is_some());
    let titles = ["HOST", "VERSION", "DEVICES", "MEMORY", "FILES", "LOCKED", "SOCKETS", "DISKS"];
    let mut table = Table::new(titles.into_iter().chain(model.then_some("MODEL")));
    for host in hosts {
        if host.get("silent").is_some() {
            table.add([at(host, "/name"), "<silent>".into()]);
            continue;
        }
        let size = |pointer: &str| match host.pointer(pointer) {
            Some(Value::Number(number)) => number.as_u64().map(show::bytes).unwrap_or_default(),
            _ => at(host, pointer),
        };
        let devices = match number(host, "/devices/count") {
            Some(0) | None => String::new(),
            Some(count) => format!("{count} {}", at(host, "/devices/kind")),
        };
        let memory = match devices.is_empty() {
            true => String::new(),
            false => size("/devices/memoryBytes"),
        };
        let disks = host.pointer("/disks").and_then(Value::as_array).into_iter().flatten();
        let disks: Vec<String> =
            disks.filter_map(|disk| number(disk, "/freeBytes")).map(show::bytes).collect();
        let cells = [
            at(host, "/name"),
            at(host, "/version"),
            devices,
            memory,
            at(host, "/limits/openFiles"),
            size("/limits/lockedMemoryBytes"),
            size("/limits/socketReceiveBytes"),
            disks.join(", "),
        ];
        let found = match host.pointer("/model/digest").and_then(Value::as_str) {
            Some(digest) => digest.chars().take(12).collect(),
            None => "<missing>".to_owned(),
        };
        table.add(cells.into_iter().chain(model.then_some(found)));
    }
    table
}

fn ways(ways: &[Value]) -> Table {
    let mut table = Table::new(["FROM", "TO", "ROUND TRIP", "RATE", "CLOCK"]);
    let mut ways: Vec<&Value> = ways.iter().collect();
    // They come as they are measured.
    ways.sort_by_key(|way| (at(way, "/from"), at(way, "/to")));
    for way in ways {
        let ends = [at(way, "/from"), at(way, "/to")];
        if way.get("blocked").is_some() {
            table.add(ends.into_iter().chain(["<blocked>".to_owned()]));
            continue;
        }
        let rtt = number(way, "/roundTripMicros/median").map(show::micros).unwrap_or_default();
        let rate = way.pointer("/bytesPerSecond").and_then(Value::as_f64);
        let ahead = way.pointer("/clock/aheadMicros").and_then(Value::as_i64).unwrap_or_default();
        let sign = if ahead < 0 { '-' } else { '+' };
        let error = number(way, "/clock/errorMicros").unwrap_or_default();
        let (ahead, error) = (show::micros(ahead.unsigned_abs()), show::micros(error));
        let rate = rate.map(show::rate).unwrap_or_default();
        let cells = [rtt, rate, format!("{sign}{ahead} +-{error}")];
        table.add(ends.into_iter().chain(cells));
    }
    table
}

/// What was found, and below it what helps.
fn line(finding: &Value) -> String {
    let (about, what, fix) = (at(finding, "/about"), at(finding, "/what"), at(finding, "/fix"));
    let about = if about.is_empty() { at(finding, "/topic") } else { about };
    let head = format!("{:<9}{about}: {what}\n", at(finding, "/severity"));
    if fix.is_empty() { head } else { format!("{head}{:9}fix: {fix}\n", "") }
}

fn number(document: &Value, pointer: &str) -> Option<u64> {
    document.pointer(pointer)?.as_u64()
}

#[cfg(test)]
mod tests;
