//! Judgements as readable scripts: `../scripts/*.txt`.
//!
//! | command | does |
//! |---|---|
//! | `cluster a b` | a control host and these, all of them as they should be |
//! | `host a version=0.2.0 wire=3 devices=0 kind=cuda memory=0 files=64 locked=65536 receive=212992 send=212992 data=0 cache=0` | what is otherwise on a host |
//! | `door a quic://127.0.0.1:7000` | where it says that it is reached |
//! | `silent a WHY` | a host that does not answer |
//! | `model file:///m a=1 b=1/2 c=missing` | the digest of each host's copy, and of its tokenizer |
//! | `way a b rtt=3000 rate=1000000 ahead=-5000000` | what is otherwise on a way |
//! | `blocked a b WHY` | a way that is none |
//! | `judge` | what comes of it |

use std::fmt::Write as _;

use super::*;
use crate::scripts::{Words, play_all};
use troupe_runtime::wire::host::Disk;

#[test]
fn judgements_are_as_their_scripts_say() {
    play_all("src/host/scripts", Survey::default, run);
}

fn run(survey: &mut Survey, line: &str) -> String {
    let mut words: Vec<_> = line.split_whitespace().collect();
    let command = words.remove(0);
    match command {
        "cluster" => {
            let names = std::iter::once("(control)").chain(words);
            let hosts = (0..).zip(names).map(|(index, name)| host(index, name)).collect();
            *survey = Survey { model: None, hosts, ways: Vec::new() };
            let count = survey.hosts.len();
            let ends = (0..count).flat_map(|from| (0..count).map(move |to| (from, to)));
            let ways = ends.filter(|(from, to)| from != to);
            survey.ways = ways.map(|(from, to)| Measured { from, to, way: Ok(way()) }).collect();
        }
        "host" => change(facts(survey, words[0]), &Words(words.split_off(1))),
        "door" => {
            let index = index(survey, words[0]);
            survey.hosts[index].door = words[1].to_owned();
        }
        "silent" => {
            let index = index(survey, words[0]);
            survey.hosts[index].facts = Err(words[1..].join(" "));
            survey.ways.retain(|way| way.from != index && way.to != index);
        }
        "model" => {
            survey.model = Some(words[0].to_owned());
            for (name, copy) in Words(words).pairs() {
                facts(survey, name).model = Some(found(copy));
            }
        }
        "way" => {
            let words = Words(words);
            let ends = (words.0[0], words.0[1]);
            let Ok(way) = way_of(survey, ends) else { panic!("{line}: it is blocked") };
            way.rtt_median_us = words.number("rtt").unwrap_or(way.rtt_median_us);
            way.rtt_min_us = words.number("rtt").unwrap_or(way.rtt_min_us);
            way.bytes = words.number("rate").unwrap_or(way.bytes);
            way.clock_ahead_us = words.number("ahead").unwrap_or(way.clock_ahead_us);
        }
        "blocked" => *way_of(survey, (words[0], words[1])) = Err(words[2..].join(" ")),
        "judge" => return judge(survey).iter().map(shown).collect(),
        _ => panic!("{command}: no command"),
    }
    String::new()
}

fn host(index: u8, name: &str) -> Surveyed {
    let disk = |what, path: &str| Disk { what, path: path.into(), free: Some(100 << 30) };
    let facts = HostFacts {
        version: "0.1.0".into(),
        wire: 1,
        devices: u32::from(index > 0),
        device_kind: "cpu".into(),
        device_memory: 16 << 30,
        open_files: Some(65_536),
        locked_memory: Some(8 << 20),
        socket_receive: Some(8 << 20),
        socket_send: Some(8 << 20),
        disks: vec![disk(DiskUse::Data, "/data"), disk(DiskUse::Cache, "/cache")],
        model: None,
    };
    let door = format!("quic://10.0.0.{index}:7000");
    Surveyed { name: name.into(), door, facts: Ok(facts) }
}

fn way() -> Way {
    Way {
        rtt_min_us: 80,
        rtt_median_us: 100,
        clock_ahead_us: 0,
        bytes: 1_000_000_000,
        bytes_us: 1_000_000,
    }
}

fn index(survey: &Survey, name: &str) -> usize {
    let index = survey.hosts.iter().position(|host| host.name == name);
    index.unwrap_or_else(|| panic!("there is no host {name}"))
}

fn facts<'a>(survey: &'a mut Survey, name: &str) -> &'a mut HostFacts {
    let index = index(survey, name);
    survey.hosts[index].facts.as_mut().unwrap_or_else(|_| panic!("{name} is silent"))
}

fn way_of<'a>(survey: &'a mut Survey, (from, to): (&str, &str)) -> &'a mut Result<Way, String> {
    let (from, to) = (index(survey, from), index(survey, to));
    let way = survey.ways.iter_mut().find(|way| (way.from, way.to) == (from, to));
    &mut way.unwrap_or_else(|| panic!("there is no such way")).way
}

fn change(facts: &mut HostFacts, words: &Words<'_>) {
    for (key, value) in words.pairs() {
        let number = || value.parse::<u64>().unwrap_or_else(|_| panic!("{value}: a number"));
        match key {
            "version" => facts.version = value.into(),
            "wire" => facts.wire = number() as u32,
            "devices" => facts.devices = number() as u32,
            "kind" => facts.device_kind = value.into(),
            "memory" => facts.device_memory = number(),
            "files" => facts.open_files = Some(number()),
            "locked" => facts.locked_memory = Some(number()),
            "receive" => facts.socket_receive = Some(number()),
            "send" => facts.socket_send = Some(number()),
            "data" => facts.disks[0].free = Some(number()),
            "cache" => facts.disks[1].free = Some(number()),
            _ => panic!("{key}: no fact"),
        }
    }
}

fn found(copy: &str) -> ModelFound {
    if copy == "missing" {
        return ModelFound::missing("it is no folder on this machine");
    }
    let (model, tokenizer) = copy.split_once('/').unwrap_or((copy, "1"));
    let digest = |text: &str| Digest::of(text.as_bytes());
    ModelFound::Here(ModelDigests { model: digest(model), tokenizer: digest(tokenizer) })
}

fn shown(finding: &Finding) -> String {
    let Finding { severity, topic, about, what, fix } = finding;
    let mut text = format!("{severity} {topic}");
    if !about.is_empty() {
        let _ = write!(text, " {about}");
    }
    let _ = writeln!(text, ": {what}");
    if !fix.is_empty() {
        let _ = writeln!(text, "  fix: {fix}");
    }
    text
}
