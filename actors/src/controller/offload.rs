//! What `kvCacheOffloading` comes to: settings of the engine, where its flags do not say them.
//!
//! Behind a group's memory there is one place on disk. Several `emptyDir`s are one, as large as all
//! of them, because all would be on the host's disk. A `pvc` is the folder where the engine's
//! container has that claim mounted; how much of it is for this no claim says, so a flag does.

use serde_json::Value;
use troupe_runtime::spec::{
    EngineFlags,
    service::{Eviction, FileTier, WorkloadSpec},
};

/// The engine's flags of a side of a service. Amounts are those of a whole group.
///
/// # Errors
/// The field that cannot be, and what could.
pub(super) fn flags(path: &str, workload: &WorkloadSpec) -> Result<EngineFlags, String> {
    let template = workload.template.as_ref();
    let mut flags = template.map(|pod| pod.flags.clone()).unwrap_or_default();
    let Some(offload) = &workload.kv_offload else { return Ok(flags) };
    let field = format!("{path}.kvCacheOffloading.secondary");
    let locals = offload.files.iter().map_while(|file| match file {
        FileTier::Local { bytes } => Some(*bytes),
        FileTier::Volume { .. } => None,
    });
    let locals: Vec<u64> = locals.collect();
    match offload.files.as_slice() {
        [] => {}
        files if locals.len() == files.len() => {
            let bytes = locals.into_iter().fold(0, u64::saturating_add);
            flags.kv_offloading_disk_bytes.get_or_insert(bytes);
        }
        [FileTier::Volume { name, path: within }] => {
            let field = format!("{field}[0].fileSystem.pvc");
            if flags.kv_offloading_disk_bytes.is_none() {
                let why = "does not say how much of it may be used: add --kv-offloading-disk-size \
                           to the args of the engine's container";
                return Err(format!("{field}: {why}"));
            }
            let folder = folder(workload, name, within.as_deref());
            let folder = folder.map_err(|why| format!("{field}.ref.name: {why}"))?;
            flags.kv_offloading_disk_path.get_or_insert(folder);
        }
        files => {
            let volumes = files.iter().filter(|file| matches!(file, FileTier::Volume { .. }));
            let (volumes, all) = (volumes.count(), files.len());
            let right =
                "must be any number of emptyDir, whose sizes are added up, or one pvc alone";
            return Err(format!("{field}: {right}; has {all} entries, {volumes} of them pvc"));
        }
    }
    if offload.eviction == Eviction::Arc {
        flags.kv_offloading_eviction_policy.get_or_insert_with(|| "arc".to_owned());
    }
    flags.kv_offloading_bytes.get_or_insert(offload.cpu);
    Ok(flags)
}

/// The folder in a claim, as the engine sees it: in the same place in every pod of a group.
fn folder(workload: &WorkloadSpec, claim: &str, within: Option<&str>) -> Result<String, String> {
    let pods = workload.template.iter().chain(&workload.worker);
    let mut mounts: Vec<_> = pods.map(|pod| mounted_at(&pod.document, claim)).collect();
    mounts.dedup();
    match mounts.as_slice() {
        [Some(mount)] => {
            let within = within.unwrap_or_default().trim_matches('/');
            let mount = mount.trim_end_matches('/');
            Ok(if within.is_empty() { mount.to_owned() } else { format!("{mount}/{within}") })
        }
        [_, _, ..] => Err(format!("the claim {claim} must be mounted in one place in all pods")),
        _ => Err(format!(
            "the claim {claim} is not mounted: the template needs a volume whose \
             persistentVolumeClaim.claimName is {claim} and the engine's container a writable \
             volumeMount of it; without a claim use emptyDir, and --kv-offloading-disk-path for \
             the folder"
        )),
    }
}

/// Where the engine's container of a pod has a claim to write to.
fn mounted_at<'a>(pod: &'a Value, claim: &str) -> Option<&'a str> {
    let list = |of: &'a Value, key: &str| of[key].as_array().into_iter().flatten();
    let of_claim = |volume: &&Value| volume["persistentVolumeClaim"]["claimName"] == claim;
    let volume = list(pod, "volumes").find(of_claim)?;
    let main = list(pod, "containers").find(|container| container["name"] == "main");
    let container = main.or_else(|| list(pod, "containers").next())?;
    let writes = |mount: &&Value| mount["name"] == volume["name"] && mount["readOnly"] != true;
    list(container, "volumeMounts").find(writes)?["mountPath"].as_str()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use troupe_runtime::spec::ServiceSpec;

    use super::*;

    /// The settings of a service that says this of offloading and has this template.
    fn read(secondary: &Value, template: &Value) -> Result<EngineFlags, String> {
        let (spec, _) = ServiceSpec::from_document(json!({
            "apiVersion": "serving.kserve.io/v1alpha2",
            "kind": "LLMInferenceService",
            "metadata": {"name": "s"},
            "spec": {
                "model": {"uri": "file:///m"},
                "template": template,
                "kvCacheOffloading": {"cpu": "1Gi", "secondary": secondary},
            },
        }))
        .expect("it can be read");
        flags("spec", &spec.workload)
    }

    fn local(size: &str) -> Value {
        json!({"fileSystem": {"emptyDir": {"size": size}}})
    }

    fn volume() -> Value {
        json!({"fileSystem": {"pvc": {"ref": {"name": "kv", "path": "/blocks/"}}}})
    }

    fn mounting(args: &[&str], mount: &Value) -> Value {
        json!({
            "volumes": [
                {"name": "other", "emptyDir": {}},
                {"name": "cache", "persistentVolumeClaim": {"claimName": "kv"}},
            ],
            "containers": [
                {"name": "sidecar"},
                {"name": "main", "args": args, "volumeMounts": [mount]},
            ],
        })
    }

    #[test]
    fn folders_of_the_host_are_one_as_large_as_all() {
        let none = json!({"containers": [{"name": "main"}]});
        let sizes = |secondary: &Value| {
            let flags = read(secondary, &none).expect("it can be");
            (flags.kv_offloading_bytes, flags.kv_offloading_disk_bytes)
        };
        assert_eq!(sizes(&json!([])), (Some(1 << 30), None));
        assert_eq!(sizes(&json!([local("2Gi")])), (Some(1 << 30), Some(2 << 30)));
        assert_eq!(sizes(&json!([local("2Gi"), local("1Gi")])), (Some(1 << 30), Some(3 << 30)));
    }

    #[test]
    fn a_claim_is_the_folder_where_the_engine_has_it() {
        let size = ["--kv-offloading-disk-size=4"];
        let mount = json!({"name": "cache", "mountPath": "/mnt/kv/"});
        let flags = read(&json!([volume()]), &mounting(&size, &mount)).expect("it is mounted");
        assert_eq!(flags.kv_offloading_disk_path.as_deref(), Some("/mnt/kv/blocks"));
        assert_eq!(flags.kv_offloading_disk_bytes, Some(4 << 30));
        let said = ["--kv-offloading-disk-size=4", "--kv-offloading-disk-path=/mine"];
        let flags = read(&json!([volume()]), &mounting(&said, &mount)).expect("it is mounted");
        assert_eq!(flags.kv_offloading_disk_path.as_deref(), Some("/mine"), "flags say it last");
        for (args, mount, wrong) in [
            (&[][..], &mount, "add --kv-offloading-disk-size"),
            (&size, &json!({"name": "other", "mountPath": "/mnt/kv"}), "is not mounted"),
            (&size, &json!({"name": "cache", "mountPath": "/a", "readOnly": true}), "writable"),
        ] {
            let why = read(&json!([volume()]), &mounting(args, mount)).expect_err(wrong);
            assert!(why.contains(wrong) && why.contains("secondary[0].fileSystem.pvc"), "{why}");
        }
    }

    #[test]
    fn what_would_be_two_places_is_refused() {
        let size = ["--kv-offloading-disk-size=4"];
        let template = mounting(&size, &json!({"name": "cache", "mountPath": "/mnt/kv"}));
        for secondary in [json!([local("2Gi"), volume()]), json!([volume(), volume()])] {
            let why = read(&secondary, &template).expect_err("two places");
            assert!(why.contains("or one pvc alone; has 2 entries"), "{why}");
        }
    }
}
