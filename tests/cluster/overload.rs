//! A service that is full, as real processes: what waits is bounded, what may be shed is shed
//! first, whoever is turned away is told so whole, and whoever is let in gets his answer. Nothing
//! here depends on time; `benches/overload.rs` measures what those see that are let in.

use std::{
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
};

use serde_json::json;

use crate::{
    http,
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
    let fleet = Fleet::start(2, &[&most, "--stage-time-min-ms=15"], &gateway);
    let address = fleet.address;
    let exam = Exam::taken(address, Question::texts(8, 16), 2);
    let held = || fleet.counted("inference_extension_flow_control_queue_size{").iter().sum::<f64>();
    let let_in = |priority: i32| {
        let name = "inference_extension_flow_control_request_queue_duration_seconds_count{";
        let labels = [format!("priority=\"{priority}\""), "outcome=\"Dispatched\"".to_owned()];
        let Ok(answer) = http::get(address, "/metrics") else { return 0.0 };
        let is_it =
            |l: &&str| l.starts_with(name) && labels.iter().all(|label| l.contains(label.as_str()));
        let counted = answer.text.lines().find(is_it).and_then(|line| line.rsplit(' ').next());
        counted.and_then(|count| count.parse().ok()).unwrap_or(0.0)
    };

    let (first_goes, all_go) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let (begun, begins) = mpsc::sync_channel(1);
        // Answers that last as long as this test wants them to.
        let hold = |number: usize, priority: i32| {
            let (go, begun) = (if number == 0 { &first_goes } else { &all_go }, begun.clone());
            scope.spawn(move || {
                let mut question = Question::text(100 + number, 24, 1900);
                question.body["priority"] = json!(priority);
                let stream = http::stream(address, question.path, &question.body);
                let stream = stream.expect("an answer");
                assert_eq!(stream.status, 200, "it is let in");
                for event in stream {
                    assert!(matches!(event, http::Event::Data(_)), "{event:?}");
                    let _ = begun.try_send(());
                    if go.load(Ordering::Relaxed) {
                        break;
                    }
                }
            })
        };
        let ask = |number: usize, priority: i32| {
            let exam = &exam;
            scope.spawn(move || {
                exam.ask_with(address, number, &json!({"priority": priority}), || true)
            })
        };
        let before = let_in(0);
        // All places, and one that its endpoint's queue has room for.
        let places = 2 * SEQUENCES + 1;
        let mut holders = vec![hold(0, 0)];
        begins.recv().expect("it has a place");
        holders.extend((1..places).map(|number| hold(number, 0)));
        until("they are let in", || let_in(0) - before >= places as f64);
        let waiting: Vec<_> = (0..WAITING).map(|number| ask(number, 0)).collect();
        until("the next wait", || held() >= WAITING as f64);

        for number in 0..4 {
            for (priority, reason) in [(1, "rejectedsaturated"), (0, "rejectedcapacity")] {
                let asked = ask(number, priority).join().expect("it was asked");
                let Outcome::Refused(answer) = asked.outcome else { panic!("{asked:?}") };
                assert_eq!(answer.status, 429, "{answer:?}");
                assert_eq!(answer.header("x-llm-d-request-dropped-reason"), reason);
                assert_eq!(refusal_is_whole(&answer), Ok(()));
            }
        }
        assert_eq!(held(), WAITING as f64, "those who wait still do, and nobody beside them");

        // One that matters more waits in a band of its own, and is the next.
        holders.push(hold(places, -1));
        until("it waits", || held() > WAITING as f64);
        first_goes.store(true, Ordering::Relaxed);
        until("it is let in", || let_in(1) > 0.0);
        until("the others wait", || held() == WAITING as f64);
        assert_eq!(let_in(0) - before, places as f64, "none of the others was");

        all_go.store(true, Ordering::Relaxed);
        for asked in waiting {
            let outcome = asked.join().expect("it was asked").outcome;
            assert!(matches!(outcome, Outcome::Right), "{outcome:?}");
        }
        for holder in holders {
            holder.join().expect("nothing disturbed it");
        }
    });
    until("nobody waits", || held() == 0.0);
}
