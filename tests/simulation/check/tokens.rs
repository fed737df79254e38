//! Every request that was accepted ends exactly once, with exactly the tokens that it would have
//! had if nothing had gone wrong; and no position is filled twice.
//!
//! What it would have had is computed here from the prompt alone, token by token, without engine,
//! blocks or network.

use std::collections::{BTreeMap, BTreeSet};

use troupe_actors::worker::fake::FakeExecutor;
use troupe_runtime::{
    error::{ErrorKind, PublicError},
    id::RequestId,
};

use super::Complaints;
use crate::simulation::{client::Wish, scenario::VOCABULARY};

/// See the file.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    wishes: BTreeMap<usize, Account>,
    /// Which wish a gateway's request is for.
    requests: BTreeMap<RequestId, usize>,
    /// Which attempt filled a choice's position, for each request.
    filled: BTreeMap<(RequestId, u32), Vec<u32>>,
    pub(super) complaints: Complaints,
}

/// One wish, and what came of it.
#[derive(Debug)]
struct Account {
    expected: Vec<u32>,
    choices: u32,
    received: BTreeMap<u32, Vec<u32>>,
    over: BTreeSet<u32>,
    end: Option<End>,
}

/// How a wish ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With all of its tokens.
    Done,
    /// Its client no longer wanted it.
    GivenUp,
    /// With an error.
    Failed(ErrorKind, String),
}

// === impl Tokens ===

impl Tokens {
    pub(crate) fn wished(&mut self, wish: &Wish) {
        let account = Account {
            expected: expected(wish),
            choices: wish.choices,
            received: BTreeMap::new(),
            over: BTreeSet::new(),
            end: None,
        };
        self.wishes.insert(wish.number, account);
    }

    /// A client asks a gateway, under this name.
    pub(crate) fn asked(&mut self, number: usize, request: RequestId) {
        self.requests.insert(request, number);
    }

    /// The gateway of a wish is gone, and what it told with it.
    pub(crate) fn lost_gateway(&mut self, number: usize) {
        if let Some(account) = self.wishes.get_mut(&number) {
            account.received.clear();
            account.over.clear();
        }
    }

    /// A gateway tells its client tokens of a choice from this position on, which an attempt gave.
    pub(crate) fn told(
        &mut self,
        request: RequestId,
        (choice, position): (u32, u32),
        attempt: u32,
        tokens: &[u32],
    ) {
        let filled = self.filled.entry((request, choice)).or_default();
        if filled.len() != position as usize {
            let next = filled.len();
            self.complaints.note(format!("position {position} is told where {next} is next"));
        }
        if filled.last().is_some_and(|before| *before > attempt) {
            self.complaints.note("an attempt that is over still gives tokens".into());
        }
        filled.extend(tokens.iter().map(|_| attempt));
    }

    /// A client receives tokens of a choice.
    pub(crate) fn received(&mut self, number: usize, choice: u32, tokens: &[u32], last: bool) {
        let Some(account) = self.wishes.get_mut(&number) else { return };
        let received = account.received.entry(choice).or_default();
        received.extend(tokens);
        let right = account.expected.starts_with(received);
        let whole = account.expected.len() == received.len();
        let again = account.over.contains(&choice) || account.end.is_some();
        if last {
            account.over.insert(choice);
        }
        if !right {
            self.complaints.note(format!("wish {number} has tokens that it should not have"));
        } else if again {
            self.complaints.note(format!("wish {number} has tokens after its end"));
        } else if last && !whole {
            self.complaints.note(format!("wish {number} ends before its last token"));
        }
    }

    pub(crate) fn done(&mut self, number: usize) {
        let whole = self.wishes.get(&number).is_some_and(|account| {
            let choices = 0..account.choices;
            choices.clone().all(|choice| account.over.contains(&choice))
        });
        if !whole {
            self.complaints.note(format!("wish {number} is done with choices that are not"));
        }
        self.ended(number, End::Done);
    }

    pub(crate) fn gave_up(&mut self, number: usize) {
        self.ended(number, End::GivenUp);
    }

    pub(crate) fn failed(&mut self, number: usize, error: &PublicError) {
        let elsewhere =
            [ErrorKind::Unavailable, ErrorKind::Overloaded, ErrorKind::DeadlineExceeded];
        if !elsewhere.contains(&error.kind) {
            self.complaints.note(format!("wish {number} fails: {:?} {error}", error.kind));
        }
        self.ended(number, End::Failed(error.kind, error.message.clone()));
    }

    fn ended(&mut self, number: usize, end: End) {
        let Some(account) = self.wishes.get_mut(&number) else { return };
        if account.end.replace(end).is_some() {
            self.complaints.note(format!("wish {number} ends twice"));
        }
    }

    /// How all wishes ended; none for one that has not.
    pub(crate) fn ends(&self) -> impl Iterator<Item = (usize, Option<&End>)> {
        self.wishes.iter().map(|(number, account)| (*number, account.end.as_ref()))
    }

    /// Wishes that were not fulfilled though nobody gave them up.
    pub(crate) fn unfulfilled(&self) -> Vec<String> {
        let ends = self.ends().filter_map(|(number, end)| match end {
            Some(End::Failed(kind, why)) => Some(format!("wish {number}: {kind:?} {why}")),
            _ => None,
        });
        ends.collect()
    }
}

/// The tokens of a wish if nothing goes wrong.
fn expected(wish: &Wish) -> Vec<u32> {
    let mut all = wish.prompt.clone();
    for _ in 0..wish.max_tokens {
        let token = FakeExecutor::next_token(&all, VOCABULARY);
        all.push(token);
        if wish.stop == Some(token) {
            break;
        }
    }
    all.split_off(wish.prompt.len())
}
