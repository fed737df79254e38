//! Rules as Lark's text.
//!
//! A rule that leads back to itself is a rule of Lark's parser (`r1`, and `start` for the root),
//! any other is a terminal (`T1`), that is a regular expression. In a rule, neighbors that do not
//! lead back are one terminal together.

use std::collections::BTreeSet;

use super::{
    super::lark::text as quoted,
    read::{Item, Rules, Times},
};

/// The grammar as Lark.
pub(super) fn lark(rules: &Rules) -> String {
    let regular = regular(&rules.bodies);
    let mut writer = Writer { root: rules.root, regular, terminals: Vec::new() };
    let mut lines = Vec::with_capacity(rules.bodies.len() + 1);
    if writer.regular[rules.root] {
        lines.push(format!("start: T{}", rules.root));
    }
    for (index, body) in rules.bodies.iter().enumerate() {
        lines.push(match writer.regular[index] {
            true => format!("T{index}: {}", writer.expression(body)),
            false => format!("{}: {}", writer.rule(index), writer.structure(body)),
        });
    }
    lines.append(&mut writer.terminals);
    lines.join("\n") + "\n"
}

/// Which rules lead to no recursion: those that refer to nothing, to those, and so on.
fn regular(bodies: &[Item]) -> Vec<bool> {
    let mut users = vec![Vec::new(); bodies.len()];
    let mut waits = Vec::with_capacity(bodies.len());
    for (user, body) in bodies.iter().enumerate() {
        let mut used = BTreeSet::new();
        body.uses(&mut used);
        waits.push(used.len());
        used.into_iter().for_each(|rule| users[rule].push(user));
    }
    let mut regular = vec![false; bodies.len()];
    let mut ready: Vec<usize> = (0..bodies.len()).filter(|rule| waits[*rule] == 0).collect();
    while let Some(rule) = ready.pop() {
        regular[rule] = true;
        for &user in &users[rule] {
            waits[user] -= 1;
            ready.extend((waits[user] == 0).then_some(user));
        }
    }
    regular
}

struct Writer {
    root: usize,
    regular: Vec<bool>,
    /// Definitions of those that are no rules of their own; their numbers go on behind the rules'.
    terminals: Vec<String>,
}

// === impl Writer ===

impl Writer {
    /// What a rule of the parser says.
    fn structure(&mut self, item: &Item) -> String {
        if self.is_regular(item) {
            return self.lexeme(vec![item.clone()], Item::Sequence);
        }
        match item {
            // Those are regular.
            Item::Text(_) | Item::Character(_) => String::new(),
            Item::Rule(index) => self.rule(*index),
            Item::Sequence(items) => {
                let mut parts = Vec::new();
                let mut rest = items.as_slice();
                while let [first, behind @ ..] = rest {
                    let run = rest.iter().take_while(|item| self.is_regular(item)).count();
                    if run > 0 {
                        parts.push(self.lexeme(rest[..run].to_vec(), Item::Sequence));
                        rest = &rest[run..];
                        continue;
                    }
                    let part = self.structure(first);
                    parts.push(if matches!(first, Item::Choice(_)) { braced(&part) } else { part });
                    rest = behind;
                }
                parts.join(" ")
            }
            Item::Choice(items) => {
                let (regular, others): (Vec<&Item>, Vec<&Item>) =
                    items.iter().partition(|item| self.is_regular(item));
                let regular: Vec<Item> = regular.into_iter().cloned().collect();
                let lexeme = (!regular.is_empty()).then(|| self.lexeme(regular, Item::Choice));
                let others: Vec<String> =
                    others.into_iter().map(|item| self.structure(item)).collect();
                lexeme.into_iter().chain(others).collect::<Vec<_>>().join(" | ")
            }
            Item::Repeat(item, times) => repeated(&braced(&self.structure(item)), *times),
        }
    }

    /// The name or the text of one terminal that holds all of these.
    fn lexeme(&mut self, mut items: Vec<Item>, together: fn(Vec<Item>) -> Item) -> String {
        let item = if items.len() == 1 { items.remove(0) } else { together(items) };
        if matches!(item, Item::Text(_) | Item::Character(_) | Item::Rule(_)) {
            return self.expression(&item);
        }
        let name = format!("T{}", self.regular.len() + self.terminals.len());
        self.terminals.push(format!("{name}: {}", self.expression(&item)));
        name
    }

    /// What a terminal says.
    fn expression(&self, item: &Item) -> String {
        match item {
            Item::Text(text) => quoted(text),
            Item::Character(regex) => format!("/{regex}/"),
            Item::Rule(index) => format!("T{index}"),
            Item::Sequence(items) if items.is_empty() => quoted(""),
            Item::Sequence(items) => {
                let part = |item: &Item| match item {
                    Item::Choice(_) => braced(&self.expression(item)),
                    item => self.expression(item),
                };
                items.iter().map(part).collect::<Vec<_>>().join(" ")
            }
            Item::Choice(items) => {
                let options: Vec<String> = items.iter().map(|item| self.expression(item)).collect();
                options.join(" | ")
            }
            Item::Repeat(item, times) => {
                let inner = self.expression(item);
                let is_one = matches!(**item, Item::Text(_) | Item::Character(_) | Item::Rule(_));
                repeated(&if is_one { inner } else { braced(&inner) }, *times)
            }
        }
    }

    fn rule(&self, index: usize) -> String {
        if index == self.root { "start".into() } else { format!("r{index}") }
    }

    fn is_regular(&self, item: &Item) -> bool {
        let mut used = BTreeSet::new();
        item.uses(&mut used);
        used.into_iter().all(|rule| self.regular[rule])
    }
}

// === impl Item ===

impl Item {
    /// Collects the rules that are referred to.
    fn uses(&self, used: &mut BTreeSet<usize>) {
        match self {
            Self::Text(_) | Self::Character(_) => {}
            Self::Rule(index) => {
                used.insert(*index);
            }
            Self::Sequence(items) | Self::Choice(items) => {
                items.iter().for_each(|item| item.uses(used));
            }
            Self::Repeat(item, _) => item.uses(used),
        }
    }
}

// === Helpers ===

fn braced(text: &str) -> String {
    format!("({text})")
}

fn repeated(text: &str, times: Times) -> String {
    match (times.least, times.most) {
        (_, Some(0)) => quoted(""),
        (0, None) => format!("{text}*"),
        (1, None) => format!("{text}+"),
        (0, Some(1)) => format!("{text}?"),
        (least, None) => format!("{text}{{{least},}}"),
        (least, Some(most)) if least == most => format!("{text}{{{least}}}"),
        (least, Some(most)) => format!("{text}{{{least},{most}}}"),
    }
}
