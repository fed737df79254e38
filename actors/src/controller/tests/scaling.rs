//! The number of groups by load alone: `scripts/scale/*.txt`, on virtual time.
//!
//! | command | does |
//! |---|---|
//! | `scaling min=1 max=8 idle=0 cooldown=300 queue=5 kv=80 first=500ms next=40ms up=0 down=300` | what is held; targets that are not said are not there |
//! | `policy up groups=4 period=15`, `select up Min` | how fast it may change; the first policy replaces what was |
//! | `begin 2` | somebody begins, and there are so many |
//! | `serve 0 1 2` | these groups serve, and no others |
//! | `load 0 waiting=3 running=1 used=50 steps=9 first=700msx10 next=...` | a group tells its load, of 100 blocks |
//! | `quiet 0` | it tells it no longer |
//! | `held 3` | requests wait at gateways |
//! | `wait 15` | seconds pass; says every change, and how things are then |

use std::{fmt::Write as _, time::Duration};

use troupe_runtime::{
    id::Epoch,
    spec::service::{
        Scaling, ScalingPolicy, ScalingRules, ScalingStep, ScalingTarget, SelectPolicy,
    },
    wire::{latency::Latencies, status::Load},
};

use crate::controller::scale::{Look, Scaler};
use crate::scripts::{Words, play_all};

struct Script {
    now: Duration,
    scaling: Scaling,
    scaler: Scaler,
    serving: Vec<(u32, Epoch)>,
    held: u32,
    /// What took how long is counted on.
    loads: std::collections::BTreeMap<u32, Load>,
    fresh_policies: bool,
}

#[test]
fn services_scale_as_their_scripts_say() {
    play_all("src/controller/scripts/scale", Script::new, Script::run);
}

const EPOCH: Epoch = Epoch { number: 1, nonce: 1 };
const START: Duration = Duration::from_secs(1_000_000);

impl Script {
    fn new() -> Self {
        Self {
            now: START,
            scaling: scaling(&Words(vec![])),
            scaler: Scaler::default(),
            serving: vec![],
            held: 0,
            loads: Default::default(),
            fresh_policies: true,
        }
    }

    fn run(&mut self, line: &str) -> String {
        let mut words: Vec<_> = line.split_whitespace().collect();
        let command = words.remove(0);
        let words = Words(words);
        let first = words.names().next().unwrap_or_default();
        match command {
            "scaling" => {
                self.scaling = scaling(&words);
                self.fresh_policies = true;
            }
            "policy" => {
                let by = match (words.number("groups"), words.number("percent")) {
                    (Some(groups), _) => ScalingStep::Groups(groups),
                    (_, percent) => ScalingStep::Percent(percent.expect("groups or percent")),
                };
                let period = Duration::from_secs(words.number("period").expect("a period"));
                let fresh = std::mem::take(&mut self.fresh_policies);
                let rules = self.rules(first);
                if fresh {
                    rules.policies.clear();
                }
                rules.policies.push(ScalingPolicy { by, period });
            }
            "select" => {
                let select = match words.names().nth(1) {
                    Some("Min") => SelectPolicy::Min,
                    Some("Disabled") => SelectPolicy::Disabled,
                    _ => SelectPolicy::Max,
                };
                self.rules(first).select = select;
            }
            "begin" => {
                let there_are = first.parse().expect("a number");
                self.scaler.forget();
                let replicas = self.scaler.replicas(self.now, &self.scaling, there_are);
                return format!("size {replicas}");
            }
            "serve" => {
                let groups = words.names().map(|word| word.parse().expect("an index"));
                self.serving = groups.map(|index| (index, EPOCH)).collect();
            }
            "load" => {
                let group = first.parse().expect("an index");
                let load = self.loads.entry(group).or_default();
                (load.running, load.waiting) = (count(&words, "running"), count(&words, "waiting"));
                (load.blocks_used, load.blocks_total) = (count(&words, "used"), 100);
                load.steps += u64::from(count(&words, "steps"));
                took(&words, "first", &mut load.first_token);
                took(&words, "next", &mut load.next_token);
                self.scaler.told(self.now, (group, EPOCH), *load);
            }
            "quiet" => self.scaler.silent(first.parse().expect("an index"), EPOCH),
            "held" => self.held = first.parse().expect("a number"),
            "wait" => return self.wait(first.parse().expect("seconds")),
            other => panic!("`{other}` is no command"),
        }
        String::new()
    }

    fn rules(&mut self, direction: &str) -> &mut ScalingRules {
        match direction {
            "up" => &mut self.scaling.scale_up,
            _ => &mut self.scaling.scale_down,
        }
    }

    fn wait(&mut self, seconds: u64) -> String {
        let mut text = String::new();
        for _ in 0..seconds {
            self.now += Duration::from_secs(1);
            let look = Look { scaling: &self.scaling, serving: &self.serving, held: self.held };
            if let Some(rescale) = self.scaler.look(self.now, &look) {
                let at = (self.now - START).as_secs();
                let (from, to, why) = (rescale.from, rescale.to, rescale.why);
                let _ = writeln!(text, "at {at} s from {from} to {to}: {why}");
            }
        }
        let replicas = self.scaler.replicas(self.now, &self.scaling, 0);
        let outlook = &self.scaler.outlook;
        let _ = write!(text, "size {replicas}");
        if let Some(limit) = outlook.limited {
            let _ = write!(text, ", {limit:?}");
        }
        if let Some(unknown) = &outlook.unknown {
            let _ = write!(text, ", {unknown}");
        }
        text
    }
}

fn count(words: &Words<'_>, key: &str) -> u32 {
    words.number(key).unwrap_or(0)
}

/// `700msx10`: ten things that took so long.
fn took(words: &Words<'_>, key: &str, latencies: &mut Latencies) {
    if let Some(text) = words.get(key) {
        let (time, things) = text.split_once("msx").expect("as 700msx10");
        let time = Duration::from_millis(time.parse().expect("milliseconds"));
        latencies.add(time, things.parse().expect("a number"));
    }
}

fn scaling(words: &Words<'_>) -> Scaling {
    let seconds = |key: &str| words.number(key).map(Duration::from_secs);
    let time = |key: &str| {
        let text = words.get(key)?;
        Some(Duration::from_millis(text.strip_suffix("ms")?.parse().ok()?))
    };
    let queue = words.number("queue").map(|average| ScalingTarget::QueueDepth { average });
    let kv = words.number("kv").map(|percent| ScalingTarget::KvCacheUtilization { percent });
    let percentile = 90;
    let first = time("first").map(|limit| ScalingTarget::TimeToFirstToken { limit, percentile });
    let next = time("next").map(|limit| ScalingTarget::InterTokenLatency { limit, percentile });
    let (mut up, mut down) = (ScalingRules::up(), ScalingRules::down());
    up.stabilization = seconds("up").unwrap_or(up.stabilization);
    down.stabilization = seconds("down").unwrap_or(down.stabilization);
    Scaling {
        min_replicas: words.number("min").unwrap_or(1),
        max_replicas: words.number("max").unwrap_or(1),
        idle_replicas: words.number("idle"),
        cooldown: seconds("cooldown").unwrap_or(Duration::from_secs(300)),
        targets: [queue, kv, first, next].into_iter().flatten().collect(),
        scale_up: up,
        scale_down: down,
        cost: None,
    }
}
