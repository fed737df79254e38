//! What an operator sees of a small cluster that is not fit.

use serde_json::json;

use super::*;

fn report() -> Report {
    let host = |name: &str, count: u32| {
        json!({
            "name": name, "door": "quic://10.0.0.1:1", "version": "0.1.0", "wire": 1,
            "devices": {"count": count, "kind": "cpu", "memoryBytes": 17_179_869_184_u64},
            "limits": {
                "openFiles": 65_536, "lockedMemoryBytes": "unlimited",
                "socketReceiveBytes": 212_992, "socketSendBytes": null,
            },
            "disks": [
                {"for": "data", "path": "/d", "freeBytes": 5_368_709_120_u64},
                {"for": "cache", "path": "/c", "freeBytes": null},
            ],
            "model": {"digest": "0123456789abcdef", "tokenizerDigest": "ab"},
        })
    };
    let mut missing = host("n1", 2);
    missing["model"] = json!({"missing": "it is no folder"});
    let silent = json!({"name": "n2", "door": "quic://10.0.0.3:1", "silent": "timed out"});
    let way = json!({
        "from": "n1", "to": "(control)", "door": "quic://10.0.0.1:1",
        "roundTripMicros": {"min": 80, "median": 1_240}, "bytesPerSecond": 1.25e9,
        "clock": {"aheadMicros": -1_500_000, "errorMicros": 40},
    });
    let blocked = json!({"from": "(control)", "to": "n1", "blocked": "timed out"});
    let refused = json!({
        "severity": "refused", "topic": "ways", "about": "(control) -> n1",
        "what": "cannot be reached", "fix": "open the firewall",
    });
    let right = json!({
        "severity": "ok", "topic": "versions", "about": "", "what": "all run 0.1.0", "fix": "",
    });
    let mut report = Report::default();
    let downs = [
        PreflightDown::Host(host("(control)", 0).to_string()),
        PreflightDown::Host(missing.to_string()),
        PreflightDown::Host(silent.to_string()),
        PreflightDown::Way(way.to_string()),
        PreflightDown::Way(blocked.to_string()),
        PreflightDown::Finding(refused.to_string()),
        PreflightDown::Finding(right.to_string()),
    ];
    for down in &downs {
        report.add(down).unwrap_or_else(|failure| panic!("{}", failure.message()));
    }
    report
}

#[test]
fn a_person_sees_hosts_ways_and_what_comes_of_them() {
    let text = "\
HOST        VERSION    DEVICES   MEMORY   FILES   LOCKED      SOCKETS   DISKS   MODEL
(control)   0.1.0      <none>    <none>   65536   unlimited   208 KiB   5 GiB   0123456789ab
n1          0.1.0      2 cpu     16 GiB   65536   unlimited   208 KiB   5 GiB   <missing>
n2          <silent>

FROM        TO          ROUND TRIP   RATE       CLOCK
(control)   n1          <blocked>
n1          (control)   1.2 ms       1.2 GB/s   -1.5 s +-40 us

refused  (control) -> n1: cannot be reached
         fix: open the firewall
ok       versions: all run 0.1.0
";
    assert_eq!(report().tables(), text);
}

#[test]
fn a_program_sees_the_same_and_whether_it_is_fit() {
    let document = report().document();
    assert_eq!(document["fit"], false);
    assert_eq!(document["hosts"][2]["silent"], "timed out");
    assert_eq!(document["ways"].as_array().map(Vec::len), Some(2));
    assert_eq!(document["findings"][0]["fix"], "open the firewall");
    assert_eq!(Report::default().document()["fit"], true);
}
