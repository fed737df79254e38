//! A short storm (`make storm` is a long one): streams at once while groups are killed without a
//! pause, none lost and none wrong. And a short soak (`make soak-real`).

use tokio::time::Duration;

use crate::load::{soak::Soak, storm::Storm};

#[test]
fn streams_go_on_while_groups_are_killed_without_a_pause() {
    let storm = Storm {
        streams: 64,
        groups: 2,
        lasts: Duration::from_secs(10),
        every: Duration::from_secs(2),
        tokens: 96,
        questions: 32,
    };
    let report = storm.run();
    assert!(report.begun >= storm.streams && report.kills > 0 && report.resumes > 0, "{report}");
    assert_eq!(report.ended, report.begun, "{report}");
}

#[test]
fn a_mixed_load_is_answered_whatever_goes_wrong() {
    let soak = Soak {
        groups: 2,
        lasts: Duration::from_secs(10),
        warm_up: Duration::ZERO,
        faults: Duration::from_millis(1500),
        looks: Duration::from_secs(5),
        rest: Duration::from_millis(50),
    };
    let report = soak.run(|line| eprintln!("{line}"));
    assert!(report.right > 0 && report.left > 0 && !report.faults.is_empty(), "{report}");
    assert_eq!(report.failed, Vec::<String>::new(), "{report}");
}
