//! The rollout alone: `scripts/rollout/*.txt`.
//!
//! | command | does |
//! |---|---|
//! | `rollout replicas=4 unavailable=2 surge=2 partition=0` | what may happen at a time; what is not said stays |
//! | `groups N N o - n` | what there is: `N` of the newest revision and ready, `n` not ready, `o` old and ready, `x` old and not ready, `X` old and given up, `-` none |
//! | `new` | there is a newer revision |
//! | `ready 4 5`, `broken 3`, `gone 2` | what becomes of groups |
//! | `stage ...` | one step; says partition, replicas and groups after it |

use std::collections::BTreeMap;

use crate::{
    controller::rollout::{Slot, Strategy},
    scripts::{Words, play_all},
};

#[derive(Default)]
struct Script {
    strategy: Strategy,
    slots: BTreeMap<u32, Slot>,
}

#[test]
fn rollouts_go_as_their_scripts_say() {
    play_all("src/controller/scripts/rollout", Script::default, Script::run);
}

impl Script {
    fn run(&mut self, line: &str) -> String {
        let mut words: Vec<_> = line.split_whitespace().collect();
        let command = words.remove(0);
        let words = Words(words);
        match command {
            "rollout" => {
                let now = self.strategy;
                self.strategy = Strategy {
                    replicas: words.number("replicas").unwrap_or(now.replicas),
                    partition: words.number("partition").unwrap_or(now.partition),
                    max_unavailable: words.number("unavailable").unwrap_or(now.max_unavailable),
                    max_surge: words.number("surge").unwrap_or(now.max_surge),
                    ..now
                };
                String::new()
            }
            "groups" => {
                self.slots = (0..).zip(&words.0).filter_map(|(i, w)| Some((i, slot(w)?))).collect();
                self.row(None)
            }
            "new" => {
                self.slots.values_mut().for_each(|slot| slot.updated = false);
                self.row(None)
            }
            "ready" | "broken" | "gone" => {
                for index in words.names().map(|word| word.parse::<u32>().expect("an index")) {
                    match command {
                        "gone" => drop(self.slots.remove(&index)),
                        _ => {
                            let slot = self.slots.get_mut(&index).expect("there is such a group");
                            slot.ready = command == "ready";
                        }
                    }
                }
                self.row(None)
            }
            "stage" => {
                let step = self.strategy.step(&self.slots);
                for index in &step.remove {
                    self.slots.remove(index);
                }
                for index in step.update.iter().chain(&step.create) {
                    self.slots.insert(*index, Slot { updated: true, ..Slot::default() });
                }
                self.row(Some(step.partition))
            }
            other => panic!("`{other}` is no command"),
        }
    }

    fn row(&self, partition: Option<u32>) -> String {
        let end = self.slots.last_key_value().map_or(0, |(index, _)| index + 1);
        let most = end.max(self.strategy.replicas + self.strategy.max_surge);
        let mark = |index| match self.slots.get(&index) {
            None => "-",
            Some(Slot { updated: true, ready: true, .. }) => "N",
            Some(Slot { updated: true, ready: false, .. }) => "n",
            Some(Slot { ready: true, .. }) => "o",
            Some(Slot { failed: true, .. }) => "X",
            Some(Slot { .. }) => "x",
        };
        let marks: Vec<&str> = (0..most).map(mark).collect();
        let marks = marks.join(" ");
        let there = self.slots.len();
        match partition {
            None => marks,
            Some(partition) => format!("| {partition} | {there} | {marks} |"),
        }
    }
}

fn slot(word: &str) -> Option<Slot> {
    let (updated, ready, failed) = match word {
        "N" => (true, true, false),
        "n" => (true, false, false),
        "o" => (false, true, false),
        "x" => (false, false, false),
        "X" => (false, false, true),
        "-" => return None,
        other => panic!("`{other}` is no group"),
    };
    Some(Slot { updated, ready, failed })
}
