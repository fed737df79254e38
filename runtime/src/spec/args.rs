//! The engine's flags out of a container's `args`: vLLM's names, `--x v` and `--x=v`.

use super::{
    EngineFlags,
    finding::Findings,
    lora::{LORA_MODULES, LoraModule},
    pod::ParallelFlags,
};

/// Reads what is known; unknown flags are warnings, values that cannot be are problems.
pub(super) fn read(
    args: &[String],
    path: &str,
    findings: &Findings,
) -> (EngineFlags, ParallelFlags) {
    let mut flags = EngineFlags::default();
    let mut parallel = ParallelFlags::default();
    let mut rest = args.iter().map(String::as_str).peekable();
    while let Some(arg) = rest.next() {
        // What a template leaves open is read once it is filled in.
        if findings.is_template(arg) {
            continue;
        }
        let short = SHORT.iter().find(|(short, _)| *short == arg).map(|(_, name)| *name);
        let long = arg.strip_prefix("--").filter(|name| !name.is_empty());
        let Some(name) = short.or(long) else {
            findings.warn(path, format!("`{arg}` is not a flag that is known and has no effect"));
            continue;
        };
        let (name, inline) = match name.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (name, None),
        };
        let name = name.replace('_', "-");
        let mut values: Vec<&str> = inline.into_iter().collect();
        // A value never starts like a flag: none of the known ones may be negative.
        if inline.is_none() {
            while let Some(value) = rest.next_if(|next| !is_flag(next)) {
                values.push(value);
                if name != SERVED_MODEL_NAME && name != LORA_MODULES {
                    break;
                }
            }
        }
        if values.iter().any(|value| findings.is_template(value)) {
            continue;
        }
        let flag = Flag { name: &name, values: &values, path, findings };
        if !flag.read_parallel(&mut parallel) {
            flag.read_into(&mut flags);
        }
    }
    (flags, parallel)
}

fn is_flag(arg: &str) -> bool {
    arg.starts_with("--") || SHORT.iter().any(|(short, _)| *short == arg)
}

/// Short forms of flags.
const SHORT: [(&str, &str); 5] = [
    ("-tp", "tensor-parallel-size"),
    ("-pp", "pipeline-parallel-size"),
    ("-dp", "data-parallel-size"),
    ("-dpl", "data-parallel-size-local"),
    ("-ep", "enable-expert-parallel"),
];

const SERVED_MODEL_NAME: &str = "served-model-name";

struct Flag<'a> {
    name: &'a str,
    values: &'a [&'a str],
    path: &'a str,
    findings: &'a Findings,
}

impl Flag<'_> {
    /// Whether it is one of parallelism.
    fn read_parallel(&self, parallel: &mut ParallelFlags) -> bool {
        match self.name {
            "tensor-parallel-size" => parallel.tensor = self.count(),
            "pipeline-parallel-size" => parallel.pipeline = self.count(),
            "data-parallel-size" => parallel.data = self.count(),
            "data-parallel-size-local" => parallel.data_local = self.count(),
            "enable-expert-parallel" => parallel.expert = self.switch(true),
            _ => return false,
        }
        true
    }

    fn read_into(&self, flags: &mut EngineFlags) {
        match self.name {
            "dtype" => flags.dtype = self.one_of(&DTYPES),
            "quantization" => flags.quantization = self.one_of(&QUANTIZATIONS),
            "kv-cache-dtype" => flags.kv_cache_dtype = self.kv_cache_dtype(),
            "runner" => flags.runner = self.one_of(&RUNNERS),
            "task" => flags.task = self.one_of(&TASKS),
            "pooler-config" => flags.pooler_config = self.value().map(ToOwned::to_owned),
            "max-model-len" => flags.max_model_len = self.count(),
            "max-num-seqs" => flags.max_num_seqs = self.count(),
            "max-num-batched-tokens" => flags.max_num_batched_tokens = self.count(),
            "block-size" => flags.block_size = self.count(),
            "num-gpu-blocks-override" => flags.num_gpu_blocks_override = self.count(),
            "kv-cache-memory-bytes" => flags.kv_cache_memory_bytes = self.number(1),
            "seed" => flags.seed = self.number(0),
            "max-num-queued-reqs" => flags.max_num_queued_reqs = self.count(),
            "long-prefill-token-threshold" => {
                flags.long_prefill_token_threshold = self.number_u32(0);
            }
            "scheduling-policy" => flags.scheduling_policy = self.one_of(&POLICIES),
            "enable-prefix-caching" => flags.enable_prefix_caching = self.switch(true),
            "no-enable-prefix-caching" => flags.enable_prefix_caching = self.switch(false),
            "speculative-config" => {
                flags.speculative_config = self.value().map(ToOwned::to_owned);
            }
            "kv-transfer-timeout-ms" => flags.kv_transfer_timeout_ms = self.number_u32(0),
            "kv-transfer-shm" => flags.kv_transfer_shm = self.one_of(&["on", "off"]),
            "kv-offloading-size" => flags.kv_offloading_bytes = self.gib(),
            "kv-offloading-backend" => flags.kv_offloading_backend = self.one_of(&["native"]),
            "kv-offloading-eviction-policy" => {
                flags.kv_offloading_eviction_policy = self.one_of(&["lru", "arc"]);
            }
            "kv-offloading-disk-size" => flags.kv_offloading_disk_bytes = self.gib(),
            "kv-offloading-disk-path" => {
                flags.kv_offloading_disk_path = self.value().map(ToOwned::to_owned);
            }
            "enable-lora" => flags.lora.enable = self.switch(true),
            "no-enable-lora" => flags.lora.enable = self.switch(false),
            "max-loras" => flags.lora.max_loras = self.count(),
            "max-lora-rank" => flags.lora.max_lora_rank = self.count(),
            "max-cpu-loras" => flags.lora.max_cpu_loras = self.count(),
            LORA_MODULES => flags.lora.modules = self.lora_modules(),
            "threads" => flags.threads = self.count(),
            "device" => flags.device = self.read(super::flags::device),
            "gpu-memory-utilization" => {
                flags.gpu_memory_utilization = self.read(super::flags::utilization);
            }
            "batch-invariant" => flags.batch_invariant = self.is_said(),
            "enforce-eager" => flags.enforce_eager = self.is_said(),
            "allow-shared-device" => flags.allow_shared_device = self.is_said(),
            "cpu-path" => flags.cpu_path = self.one_of(&CPU_PATHS),
            "stage-time-min-ms" => flags.stage_time_min_ms = self.count(),
            SERVED_MODEL_NAME if self.values.is_empty() => self.problem("needs a value"),
            SERVED_MODEL_NAME => {
                flags.served_model_name = self.values.iter().map(ToString::to_string).collect();
            }
            name => {
                let instead = OF_THE_SPEC.iter().find(|(flag, _)| *flag == name);
                let message = match instead {
                    Some((_, field)) => format!("`--{name}` has no effect, set {field}"),
                    None => format!("`--{name}` is not known and has no effect"),
                };
                self.findings.warn(self.path, message);
            }
        }
    }

    fn problem(&self, message: impl AsRef<str>) {
        self.findings.problem(self.path, format!("`--{}` {}", self.name, message.as_ref()));
    }

    fn value(&self) -> Option<&str> {
        let value = self.values.first().copied();
        if value.is_none() {
            self.problem("needs a value");
        }
        value
    }

    fn one_of(&self, values: &[&str]) -> Option<String> {
        let value = self.value()?;
        if !values.contains(&value) {
            self.problem(format!("must be one of {}, got {value}", values.join(", ")));
            return None;
        }
        Some(value.to_owned())
    }

    /// A number of GiB, in bytes.
    fn gib(&self) -> Option<u64> {
        super::flags::gib(self.value()?).map_err(|why| self.problem(why)).ok()
    }

    fn lora_modules(&self) -> Vec<LoraModule> {
        if self.values.is_empty() {
            self.problem("needs a value");
        }
        let modules = self.values.iter().map(|value| LoraModule::parse(value));
        modules.filter_map(|module| module.map_err(|why| self.problem(why)).ok()).collect()
    }

    fn kv_cache_dtype(&self) -> Option<String> {
        super::flags::kv_cache_dtype(self.value()?).map_err(|why| self.problem(why)).ok()
    }

    /// A value that `read` reads.
    fn read<T>(&self, read: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        read(self.value()?).map_err(|why| self.problem(why)).ok()
    }

    /// A flag that is off unless it is said.
    fn is_said(&self) -> bool {
        self.switch(true).unwrap_or(false)
    }

    /// A flag that is said or not; `=true` and `=false` are understood too.
    fn switch(&self, said: bool) -> Option<bool> {
        match self.values.first().copied() {
            None | Some("true") => Some(said),
            Some("false") => Some(!said),
            Some(other) => {
                self.problem(format!("takes no value, got {other}"));
                None
            }
        }
    }

    fn count(&self) -> Option<u32> {
        self.number_u32(1)
    }

    fn number_u32(&self, least: u64) -> Option<u32> {
        let number = self.number(least)?;
        let count = u32::try_from(number).ok();
        if count.is_none() {
            self.problem(format!("must be at most {}, got {number}", u32::MAX));
        }
        count
    }

    fn number(&self, least: u64) -> Option<u64> {
        let value = self.value()?;
        match human_number(value).filter(|number| *number >= least) {
            Some(number) => Some(number),
            None => {
                self.problem(format!("must be a whole number of at least {least}, got {value}"));
                None
            }
        }
    }
}

/// Kernel paths of the CPU.
const QUANTIZATIONS: [&str; 2] = ["int8", "int4"];
const CPU_PATHS: [&str; 7] =
    ["amx", "avx512-bf16", "avx512-vnni", "avx512", "avx2", "portable", "reference"];

/// What a model can be run for.
const RUNNERS: [&str; 3] = ["auto", "generate", "pooling"];
/// The same by older names.
const TASKS: [&str; 4] = ["auto", "generate", "embed", "embedding"];

/// Orders of admission.
const POLICIES: [&str; 3] = ["fcfs", "priority", "lpm"];

/// Data types that the engine computes in.
const DTYPES: [&str; 6] = ["auto", "float32", "float", "bfloat16", "float16", "half"];

/// Flags of vLLM whose place is a field of the specification.
const OF_THE_SPEC: [(&str, &str); 1] = [("model", "spec.model.uri")];

/// A whole number with one of vLLM's unit letters: `k` is a thousand, `K` is 1024, and so on.
fn human_number(text: &str) -> Option<u64> {
    let units = [
        ('k', 1_000),
        ('K', 1 << 10),
        ('m', 1_000_000),
        ('M', 1 << 20),
        ('g', 1_000_000_000),
        ('G', 1 << 30),
    ];
    let unit = units.iter().find_map(|(letter, unit)| Some((text.strip_suffix(*letter)?, *unit)));
    let (digits, unit) = unit.unwrap_or((text, 1));
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> (EngineFlags, Vec<String>, Vec<String>) {
        let findings = Findings::default();
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let (flags, _) = read(&args, "args", &findings);
        let (problems, warnings) = findings.into_parts();
        let texts = |findings: Vec<crate::spec::Finding>| {
            findings.iter().map(ToString::to_string).collect()
        };
        (flags, texts(problems), texts(warnings))
    }

    #[test]
    fn both_forms_and_units_are_read() {
        let (flags, problems, warnings) = parse(
            "--max-model-len 8K --max_num_seqs=64 --max-num-batched-tokens 2k --block-size 16 \
             --dtype bfloat16 --seed 0 --served-model-name a b --kv-cache-memory-bytes=1G",
        );
        assert_eq!((problems, warnings), (vec![], vec![]));
        let wanted = EngineFlags {
            dtype: Some("bfloat16".into()),
            max_model_len: Some(8192),
            max_num_seqs: Some(64),
            max_num_batched_tokens: Some(2000),
            block_size: Some(16),
            kv_cache_memory_bytes: Some(1 << 30),
            seed: Some(0),
            served_model_name: vec!["a".into(), "b".into()],
            ..EngineFlags::default()
        };
        assert_eq!(flags, wanted);
    }

    #[test]
    fn unknown_flags_are_warnings_and_swallow_no_other() {
        let (flags, problems, warnings) =
            parse("--enable-thing --other 3 stray --block-size 32 --model x");
        assert_eq!(problems, [""; 0]);
        assert_eq!(flags.block_size, Some(32));
        assert_eq!(
            warnings,
            [
                "args: `--enable-thing` is not known and has no effect",
                "args: `--other` is not known and has no effect",
                "args: `stray` is not a flag that is known and has no effect",
                "args: `--model` has no effect, set spec.model.uri",
            ]
        );
    }

    #[test]
    fn parallelism_is_read_in_every_form() {
        let findings = Findings::default();
        let line = "-ep -tp 2 --pipeline_parallel_size=3 --data-parallel-size 4 -dpl 2";
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let (flags, parallel) = read(&args, "args", &findings);
        assert_eq!(findings.into_parts(), (vec![], vec![]));
        assert_eq!(flags, EngineFlags::default());
        let wanted = ParallelFlags {
            tensor: Some(2),
            pipeline: Some(3),
            data: Some(4),
            data_local: Some(2),
            expert: Some(true),
        };
        assert_eq!(parallel, wanted);
    }

    #[test]
    fn templates_are_left_for_later() {
        let findings = Findings::of_templates();
        let args = ["--block-size", "{{ x }}", "--seed=1", "{{ if y }}--dtype=z{{ end }}"];
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        let (flags, _) = read(&args, "args", &findings);
        assert_eq!(findings.into_parts(), (vec![], vec![]));
        assert_eq!(flags, EngineFlags { seed: Some(1), ..EngineFlags::default() });
    }

    #[test]
    fn every_impossible_value_is_told() {
        let (_, problems, _) =
            parse("--block-size 0 --max-model-len x --dtype int3 --max-num-seqs 5000000000 --seed");
        assert_eq!(
            problems,
            [
                "args: `--block-size` must be a whole number of at least 1, got 0",
                "args: `--max-model-len` must be a whole number of at least 1, got x",
                "args: `--dtype` must be one of auto, float32, float, bfloat16, float16, half, \
                 got int3",
                "args: `--max-num-seqs` must be at most 4294967295, got 5000000000",
                "args: `--seed` needs a value",
            ]
        );
    }
}
