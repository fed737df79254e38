//! Signs that the cluster has noticed a fault: lines that its processes log, by message and by the
//! names in them, with the time at which they were logged.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::{cluster::Cluster, process::Troupe};

/// Whose logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// Nodes, and with them their members.
    Nodes,
    Gateways,
    Controls,
}

/// What has to be said, by whom, and what has to be named by it.
#[derive(Clone, Debug)]
pub(crate) struct Sign {
    pub(crate) who: Who,
    pub(crate) message: &'static str,
    pub(crate) names: Vec<String>,
}

/// How long each log was at a time. Who was started since is read from the beginning.
pub(crate) struct Marks(Vec<(Who, usize, u32, u64)>);

impl Sign {
    pub(crate) fn new(who: Who, message: &'static str, names: &[&str]) -> Self {
        Self { who, message, names: names.iter().map(ToString::to_string).collect() }
    }

    fn is_in(&self, line: &Value) -> bool {
        let message = line.pointer("/fields/message").and_then(Value::as_str);
        message == Some(self.message) && {
            let text = line.to_string();
            self.names.iter().all(|name| text.contains(name.as_str()))
        }
    }
}

impl Marks {
    pub(crate) fn now(cluster: &Cluster) -> Self {
        let all = all(cluster).map(|(who, at, troupe)| (who, at, troupe.id(), troupe.log_len()));
        Self(all.collect())
    }

    /// The first of these signs since, and when it was given.
    pub(crate) fn first(
        &self,
        cluster: &Cluster,
        signs: &[Sign],
        since: SystemTime,
    ) -> Option<(SystemTime, String)> {
        let whose = |who| signs.iter().any(|sign| sign.who == who);
        let mut found: Option<(SystemTime, String)> = None;
        for (who, at, troupe) in all(cluster).filter(|(who, ..)| whose(*who)) {
            let from =
                self.0.iter().find(|mark| (mark.0, mark.1, mark.2) == (who, at, troupe.id()));
            for line in troupe.log_from(from.map_or(0, |mark| mark.3)).lines() {
                let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
                let is_sign = |sign: &Sign| sign.who == who && sign.is_in(&line);
                let Some(when) = line["timestamp"].as_str().and_then(time) else { continue };
                let is_first = found.as_ref().is_none_or(|(first, _)| when < *first);
                if when >= since && is_first && signs.iter().any(is_sign) {
                    found = Some((when, line["fields"].to_string()));
                }
            }
        }
        found
    }
}

fn all(cluster: &Cluster) -> impl Iterator<Item = (Who, usize, &Troupe)> {
    let nodes = cluster.nodes.iter().enumerate().map(|(at, troupe)| (Who::Nodes, at, troupe));
    let gateways = cluster.gateways.iter().enumerate();
    let gateways = gateways.map(|(at, troupe)| (Who::Gateways, at, troupe));
    let controls = cluster.controls.iter().enumerate();
    nodes.chain(gateways).chain(controls.map(|(at, troupe)| (Who::Controls, at, troupe)))
}

/// The time that a log line tells, as `2026-11-28T03:00:00.123456Z`.
fn time(text: &str) -> Option<SystemTime> {
    let (date, clock) = text.strip_suffix('Z')?.split_once('T')?;
    let number = |text: &str| text.parse::<u64>().ok();
    let date: Vec<u64> = date.split('-').map(number).collect::<Option<_>>()?;
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let clock: Vec<u64> = clock.split(':').map(number).collect::<Option<_>>()?;
    let ([year, month, day], [hour, minute, second]) = (&date[..], &clock[..]) else { return None };
    // Years that begin in March end with the leap day.
    let (year, month) = if *month > 2 { (*year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1;
    let seconds = (days - 719_468) * 86_400 + hour * 3600 + minute * 60 + second;
    let nanos = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    Some(SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos))
}

#[test]
fn times_are_read() {
    let since = |text| time(text).and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    let of = |seconds, nanos| Some(Duration::new(seconds, nanos));
    assert_eq!(since("1970-01-01T00:00:00.000001Z"), of(0, 1000));
    assert_eq!(since("2024-02-29T12:00:01.5Z"), of(1_709_208_001, 500_000_000));
    assert_eq!(since("2026-11-28T03:00:00Z"), of(1_795_834_800, 0));
    assert_eq!(since("yesterday"), None);
}
