//! What was found of a cluster as the documents that people and their programs read.

use serde_json::{Value, json};
use troupe_runtime::wire::host::{DiskUse, HostFacts, ModelDigests, ModelFound, Way};

use super::fit::{Finding, Measured, Surveyed};

/// A host.
pub(super) fn host(host: &Surveyed) -> Value {
    let mut document = json!({"name": host.name, "door": host.door});
    match &host.facts {
        Ok(facts) => fill(&mut document, facts),
        Err(why) => document["silent"] = json!(why),
    }
    document
}

fn fill(document: &mut Value, facts: &HostFacts) {
    document["version"] = json!(facts.version);
    document["wire"] = json!(facts.wire);
    document["devices"] = json!({
        "count": facts.devices,
        "kind": facts.device_kind,
        "memoryBytes": facts.device_memory,
    });
    // What is unlimited is so many that no number says it.
    let limit = |limit: Option<u64>| match limit {
        Some(u64::MAX) => json!("unlimited"),
        limit => json!(limit),
    };
    document["limits"] = json!({
        "openFiles": limit(facts.open_files),
        "lockedMemoryBytes": limit(facts.locked_memory),
        "socketReceiveBytes": facts.socket_receive,
        "socketSendBytes": facts.socket_send,
    });
    let disks = facts.disks.iter().map(|disk| {
        let what = match disk.what {
            DiskUse::Data => "data",
            DiskUse::Cache => "cache",
        };
        json!({"for": what, "path": disk.path, "freeBytes": disk.free})
    });
    document["disks"] = disks.collect();
    match &facts.model {
        Some(ModelFound::Here(ModelDigests { model, tokenizer })) => {
            let (model, tokenizer) = (model.to_string(), tokenizer.to_string());
            document["model"] = json!({"digest": model, "tokenizerDigest": tokenizer});
        }
        Some(ModelFound::Missing(why)) => document["model"] = json!({"missing": why}),
        None => {}
    }
}

/// A way.
pub(super) fn way(hosts: &[Surveyed], measured: &Measured) -> Value {
    let (from, to) = (&hosts[measured.from], &hosts[measured.to]);
    let mut document = json!({"from": from.name, "to": to.name, "door": to.door});
    match &measured.way {
        Ok(way) => {
            let Way { rtt_min_us, rtt_median_us, clock_ahead_us, .. } = *way;
            document["roundTripMicros"] = json!({"min": rtt_min_us, "median": rtt_median_us});
            document["bytesPerSecond"] = json!(way.rate() as u64);
            let error = rtt_min_us.div_ceil(2);
            document["clock"] = json!({"aheadMicros": clock_ahead_us, "errorMicros": error});
        }
        Err(why) => document["blocked"] = json!(why),
    }
    document
}

/// A finding.
pub(super) fn finding(finding: &Finding) -> Value {
    json!({
        "severity": finding.severity.to_string(),
        "topic": finding.topic,
        "about": finding.about,
        "what": finding.what,
        "fix": finding.fix,
    })
}
