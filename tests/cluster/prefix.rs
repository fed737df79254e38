//! Two groups and some conversations: each goes on where the beginning of it was computed, because
//! the gateway knows from the leaders what they hold. One process, real engines.

use std::fs;

use crate::{
    conversation::{ask, counted, go_on, question, two_groups},
    process::{Troupe, until},
};

const CONVERSATIONS: u32 = 8;
const TURNS: usize = 3;
/// Tokens of the first question, and of each further one.
const LENGTHS: (u32, u32) = (64, 23);
/// Tokens that each group has looked for in its cache.
const COMPUTED: &str = "vllm:prefix_cache_queries_total{";

#[test]
fn a_conversation_goes_on_where_its_beginning_was_computed() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    fs::write(path("service.yaml"), two_groups().to_string()).expect("it can be written");
    let (data, file) = (path("control"), path("service.yaml"));
    let mut args = vec!["up", "--data-dir", &data, "--name", "n1", "--devices", "2", "-f", &file];
    args.extend(["--listen", "127.0.0.1:0", "--host", "127.0.0.1", "--port", "0"]);
    args.extend(["--log-format", "json"]);
    let mut troupe = Troupe::start(&args);
    let gateway = troupe.address("gateway on ");
    until("both groups serve", || counted(gateway, COMPUTED).len() == 2);

    // All begin at once, so that both groups get some.
    let begin = |number| ask(gateway, &question(number, LENGTHS.0)).expect("it is there").0;
    let mut conversations: Vec<Vec<u32>> = std::thread::scope(|scope| {
        let begun: Vec<_> =
            (0..CONVERSATIONS).map(|number| scope.spawn(move || begin(number))).collect();
        begun.into_iter().map(|turn| turn.join().expect("an answer")).collect()
    });
    let begun = counted(gateway, COMPUTED);
    assert!(begun.iter().all(|tokens| *tokens > 0.0), "both have something to do: {begun:?}");
    for _ in 1..TURNS {
        for (number, conversation) in (0..).zip(&mut conversations) {
            go_on(gateway, conversation, question(100 + number, LENGTHS.1));
        }
    }
}
