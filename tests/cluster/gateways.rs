//! Three gateways over the same groups. Conversations go from one to the next, because every
//! gateway hears from the leaders what they hold; and when one is killed, nothing is lost but what
//! it was just asked.

use std::{fs, net::SocketAddr, thread};

use crate::{
    conversation::{ask, counted, go_on, question, two_groups},
    joining::Cluster,
    process::{Troupe, until},
};

const CONVERSATIONS: u32 = 8;
/// Tokens of the first question, and of each further one.
const LENGTHS: (u32, u32) = (64, 7);

#[test]
fn gateways_know_the_same_and_one_that_is_killed_takes_nothing_with_it() {
    let roles = ["--roles", "controller,gateway,node", "--devices", "2"];
    let mut cluster = Cluster::start_with("troupe", &roles, false);
    let file = cluster.path("service.json");
    fs::write(&file, two_groups().to_string()).expect("it can be written");
    cluster.done(&["apply", "-f", &file]);
    let (door, _) = cluster.invitation();
    let mut others: Vec<Troupe> = ["second", "third"]
        .into_iter()
        .map(|name| {
            let mut args = cluster.gateway_args(name);
            args.extend(["--join".into(), door.clone(), "--token".into(), cluster.token(&[])]);
            Troupe::start(&args)
        })
        .collect();
    let first = cluster.control.address("gateway on ");
    let more = others.iter_mut().map(|gateway| gateway.address("gateway on "));
    let gateways: Vec<SocketAddr> = std::iter::once(first).chain(more).collect();
    until("all of them see both groups", || gateways.iter().all(|at| groups(*at) == 2));

    let begin = |number| ask(first, &question(number, LENGTHS.0)).expect("it is there").0;
    let mut conversations: Vec<Vec<u32>> = (0..CONVERSATIONS).map(begin).collect();
    let mut at = 0;
    let mut round = |conversations: &mut Vec<Vec<u32>>, gateways: &[SocketAddr]| {
        until("all of them know the same", || {
            let known: Vec<f64> = gateways.iter().map(|at| known(*at)).collect();
            known[0] > 0.0 && known.iter().all(|blocks| *blocks == known[0])
        });
        for (number, conversation) in (0..).zip(conversations) {
            at += 1;
            go_on(gateways[at % gateways.len()], conversation, question(100 + number, LENGTHS.1));
        }
    };
    round(&mut conversations, &gateways);
    round(&mut conversations, &gateways);

    // All at once, and meanwhile the last gateway is gone. Who asked it asks another.
    let (left, lost) = gateways.split_at(2);
    let lost = lost[0];
    conversations = thread::scope(|scope| {
        let client = |(number, conversation): (u32, Vec<u32>)| {
            let gateways = &gateways;
            scope.spawn(move || {
                let prompt = [conversation, question(200 + number, LENGTHS.1)].concat();
                let at = gateways[number as usize % gateways.len()];
                match ask(at, &prompt) {
                    Some((all, _)) => all,
                    None if at == lost => ask(left[0], &prompt).expect("it is there").0,
                    None => panic!("a gateway that lives failed a request"),
                }
            })
        };
        let asked: Vec<_> = (0..).zip(conversations).map(client).collect();
        others[1].kill();
        asked.into_iter().map(|turn| turn.join().expect("an answer")).collect()
    });
    round(&mut conversations, left);
    round(&mut conversations, left);
}

fn groups(gateway: SocketAddr) -> usize {
    counted(gateway, "vllm:num_requests_running{").len()
}

fn known(gateway: SocketAddr) -> f64 {
    counted(gateway, "inference_extension_prefix_indexer_size").into_iter().sum()
}
