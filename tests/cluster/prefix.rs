//! Two groups and some conversations: each goes on where the beginning of it was computed, because
//! the gateway knows from the leaders what they hold.

use std::fs;

use crate::{
    conversation::{ask, counted, go_on, question, two_groups},
    joining::Cluster,
    process::until,
};

const CONVERSATIONS: u32 = 8;
const TURNS: usize = 3;
/// Tokens of the first question, and of each further one.
const LENGTHS: (u32, u32) = (64, 23);
/// Tokens that each group has looked for in its cache.
const COMPUTED: &str = "vllm:prefix_cache_queries_total{";

#[test]
fn a_conversation_goes_on_where_its_beginning_was_computed() {
    let roles = ["--roles", "controller,gateway,node", "--devices", "2"];
    let mut cluster = Cluster::start_with("troupe", &roles, false);
    let file = cluster.path("service.json");
    fs::write(&file, two_groups().to_string()).expect("it can be written");
    cluster.done(&["apply", "-f", &file]);
    let gateway = cluster.control.address("gateway on ");
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
