//! KV that a device does not have and that is not computed again: its host kept it, or another
//! endpoint has it.

use std::{fs, path::Path};

use crate::{
    conversation::{ask, counted, question, two_groups},
    golden, http,
    joining::Cluster,
    process::{Server, until},
};

/// Tokens of a prompt: of a device with so few blocks each takes half.
const LENGTH: u32 = 96;
const BLOCKS: &str = "14";

#[test]
fn what_the_device_gives_up_comes_back_from_its_host() {
    let model = golden::model("tiny-qwen2").expect("both sets have it");
    let folder = tempfile::tempdir().expect("a folder");
    let disk = folder.path().display().to_string();
    let mut args = vec!["--dtype", "float32", "--num-gpu-blocks-override", BLOCKS];
    args.extend(["--max-model-len", "128", "--max-num-seqs", "2"]);
    // Room for three hundred blocks in memory; and for nine there, and the others on disk.
    let memory = ["--kv-offloading-size", "0.01", "-tp", "2"];
    let mut both = vec!["--kv-offloading-size", "0.0003", "--kv-offloading-disk-size", "0.01"];
    both.extend(["--kv-offloading-disk-path", &disk, "-pp", "2", "--stage-processes"]);
    for (tier, more) in [("host", &memory[..]), ("disk", &both)] {
        let args = [&args[..], more].concat();
        let server = Server::serve(&model, &args);
        let asked = |number| ask(server.address, &question(number, LENGTH)).expect("an answer");
        let first: Vec<_> = (0..6).map(asked).collect();
        assert!(first.iter().all(|(_, cached)| *cached == 0), "nothing was known of them");
        let again: Vec<_> = (0..6).map(asked).collect();
        for ((said, _), (repeated, cached)) in first.iter().zip(&again) {
            assert_eq!(said, repeated);
            assert!(*cached + 16 >= LENGTH as usize, "{cached} tokens came back");
        }
        let text = http::get(server.address, "/metrics").expect("metrics").text;
        let label = format!("tier=\"{tier}\"");
        let is_loaded = |line: &&str| {
            line.starts_with("troupe:kv_offload_loaded_blocks_total{") && line.contains(&label)
        };
        let line = text.lines().find(is_loaded).expect("it is counted");
        assert!(!line.ends_with(" 0"), "{line}");
    }
    assert!(is_empty(folder.path()), "nothing is left of what was kept");
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).expect("it is there").next().is_none()
}

/// Wherever it is placed: each time by chance.
#[test]
fn what_one_endpoint_has_cached_another_fetches() {
    let folder = tempfile::tempdir().expect("a folder");
    let picker = folder.path().join("picker.yaml");
    let by_chance = "apiVersion: llm-d.ai/v1\nkind: EndpointPickerConfig\nplugins:\n\
                     - type: random-picker\nschedulingProfiles:\n- name: default\n  plugins:\n  \
                     - pluginRef: random-picker\n";
    fs::write(&picker, by_chance).expect("it can be written");
    let picker = picker.display().to_string();
    let mut args = vec!["--roles", "controller,gateway,node", "--devices", "2"];
    args.extend(["--endpoint-picker-config", &picker]);
    let mut cluster = Cluster::start_with("troupe", &args, false);
    let file = cluster.path("service.json");
    let mut service = two_groups();
    let wide = [
        "--max-model-len=1024",
        "--max-num-batched-tokens=64",
        "--stage-time-min-ms=10",
        "--kv-transfer-timeout-ms=60000",
    ];
    service["spec"]["template"]["containers"][0]["args"] = wide.to_vec().into();
    fs::write(&file, service.to_string()).expect("it can be written");
    cluster.done(&["apply", "-f", &file]);
    let gateway = cluster.control.address("gateway on ");
    let engines = || counted(gateway, "vllm:cache_config_info").len();
    until("both groups serve", || engines() == 2);

    let prompt = question(7, 900);
    let (first, _) = ask(gateway, &prompt).expect("an answer");
    let fetched = || counted(gateway, "troupe:kv_transfers_total{");
    until("the other one is asked and fetches what the first has", || {
        let (said, _) = ask(gateway, &prompt).expect("an answer");
        assert_eq!(said, first);
        fetched().iter().sum::<f64>() > 0.0
    });
    let tokens: f64 = counted(gateway, "troupe:kv_transfer_tokens_total{").iter().sum();
    assert_eq!(tokens, 896.0, "all blocks before the last token");
}
