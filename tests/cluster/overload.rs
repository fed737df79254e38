//! A service that is full, as real processes: what waits is bounded, what may be shed is shed
//! first, whoever is turned away is told so whole, and whoever is let in gets his answer. Nothing
//! here depends on time; `benches/overload.rs` measures what those see that are let in.

use std::{sync::mpsc, thread};

use serde_json::json;

use crate::{
    load::{
        exam::{Exam, Outcome, Question},
        fleet::Fleet,
        overload::refusal_is_whole,
    },
    process::until,
};

/// Sequences that a group runs, and requests that may wait in a band.
const SEQUENCES: usize = 2;
const WAITING: usize = 3;

#[test]
fn what_is_too_much_is_turned_away_and_nothing_that_was_let_in_is_lost() {
    let most = format!("--max-num-seqs={SEQUENCES}");
    let waiting = WAITING.to_string();
    let gateway = ["--flow-max-requests", &waiting, "--flow-queue-depth-threshold", "0.5"];
    let fleet = Fleet::start(2, &[&most, "--stage-time-min-ms=5"], &gateway);
    let questions =
        (0..24).map(|number| Question::text(number, 24, if number < 8 { 400 } else { 16 }));
    let exam = Exam::taken(fleet.address, questions.collect(), 2);
    let held = || fleet.counted("inference_extension_flow_control_queue_size{").iter().sum::<f64>();

    thread::scope(|scope| {
        let (begun, begins) = mpsc::sync_channel(64);
        let ask = |number: usize, priority: i32| {
            let (begun, exam, address) = (begun.clone(), &exam, fleet.address);
            scope.spawn(move || {
                let more = json!({"priority": priority});
                let mut said = false;
                exam.ask_with(address, number, &more, || {
                    if !std::mem::replace(&mut said, true) {
                        let _ = begun.try_send(number);
                    }
                    true
                })
            })
        };
        // All places are taken, by long answers.
        let places = 2 * SEQUENCES;
        let long: Vec<_> = (0..places).map(|number| ask(number, 0)).collect();
        for _ in 0..places {
            begins.recv().expect("it begins");
        }
        let refused = |number, priority, reason: &str| {
            let asked = ask(number, priority).join().expect("it was asked");
            let Outcome::Refused(answer) = asked.outcome else { panic!("{:?}", asked.outcome) };
            assert_eq!(answer.status, 429, "{answer:?}");
            assert_eq!(answer.header("x-llm-d-request-dropped-reason"), reason.to_lowercase());
            assert_eq!(refusal_is_whole(&answer), Ok(()));
        };
        // One more is let in, since queues are empty. Then others wait, as many as may.
        let mut waiting = vec![ask(8, 0)];
        for count in 1..=WAITING {
            waiting.push(ask(8 + count, 0));
            until("it waits", || held() >= count as f64);
        }
        for round in 0..4 {
            refused(16 + round, 1, "RejectedSaturated");
            refused(16 + round, 0, "RejectedCapacity");
            assert!(held() <= WAITING as f64, "no more than may wait do");
        }
        // One that matters more waits in a band of its own, and goes before all that wait.
        let urgent = ask(20, -1);
        until("it waits", || held() > WAITING as f64);
        let all = long.into_iter().chain(waiting).chain([urgent]);
        for asked in all {
            let outcome = asked.join().expect("it was asked").outcome;
            assert!(matches!(outcome, Outcome::Right), "{outcome:?}");
        }
        let order: Vec<usize> = begins.try_iter().collect();
        let at = |number| order.iter().position(|begun| *begun == number);
        assert!(at(20) < at(8 + WAITING), "the urgent one goes first: {order:?}");
    });
    assert_eq!(held(), 0.0);
}
