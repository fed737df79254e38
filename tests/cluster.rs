//! What is tested across crates, with the real binary: models, batches, whole clusters, mistakes.
//!
//! Every test starts processes of its own on free ports, talks to them over HTTP as any client
//! would, and waits for conditions, never for time. One binary, so that it links once.

#[path = "cluster/apart.rs"]
mod apart;
#[path = "cluster/bad_input.rs"]
mod bad_input;
#[path = "cluster/batching.rs"]
mod batching;
#[path = "cluster/chaos.rs"]
mod chaos;
#[path = "cluster/chaos_apart.rs"]
mod chaos_apart;
#[path = "cluster/chat.rs"]
mod chat;
#[allow(dead_code)]
#[path = "../src/bench/checkpoint.rs"]
mod checkpoint;
#[path = "cluster/commands.rs"]
mod commands;
#[path = "support/conversation.rs"]
mod conversation;
#[path = "cluster/disk.rs"]
mod disk;
#[path = "cluster/embeddings.rs"]
mod embeddings;
#[path = "cluster/etcd.rs"]
mod etcd;
#[allow(dead_code)]
#[path = "support/etcd.rs"]
mod etcd_process;
#[path = "cluster/fetch.rs"]
mod fetch;
#[path = "cluster/forms.rs"]
mod forms;
#[path = "cluster/gateways.rs"]
mod gateways;
#[allow(dead_code)]
#[path = "support/golden.rs"]
mod golden;
#[path = "cluster/goldens.rs"]
mod goldens;
#[path = "cluster/hosts.rs"]
mod hosts;
#[path = "support/http.rs"]
mod http;
#[path = "cluster/invariance.rs"]
mod invariance;
#[path = "cluster/join.rs"]
mod join;
#[path = "support/joining.rs"]
mod joining;
#[path = "cluster/kept.rs"]
mod kept;
#[allow(dead_code)]
#[path = "support/load/mod.rs"]
mod load;
#[path = "cluster/lora.rs"]
mod lora;
#[path = "cluster/memory.rs"]
mod memory;
#[path = "cluster/metrics.rs"]
mod metrics;
#[allow(dead_code)]
#[path = "support/hosts.rs"]
mod network;
#[path = "cluster/operate.rs"]
mod operate;
#[path = "support/operator.rs"]
mod operator;
#[path = "cluster/outages.rs"]
mod outages;
#[path = "cluster/overload.rs"]
mod overload;
#[path = "support/picker.rs"]
mod picker;
#[path = "cluster/pods.rs"]
mod pods;
#[path = "cluster/poison.rs"]
mod poison;
#[path = "cluster/prefix.rs"]
mod prefix;
#[path = "cluster/preflight.rs"]
mod preflight;
#[path = "cluster/pressure.rs"]
mod pressure;
#[allow(dead_code)]
#[path = "support/process.rs"]
mod process;
#[path = "support/question.rs"]
mod question;
#[allow(dead_code)]
#[path = "../src/bench/random.rs"]
mod random;
#[path = "cluster/scaling.rs"]
mod scaling;
#[path = "cluster/secrets.rs"]
mod secrets;
#[path = "support/skip.rs"]
mod skip;
#[allow(dead_code)]
#[path = "support/stand.rs"]
mod stand;
#[path = "cluster/storm.rs"]
mod storm;
#[path = "cluster/tracing.rs"]
mod tracing;
