//! Flags of LoRA adapters: vLLM's.

use clap::Args;
use troupe_runtime::spec::{LoraFlags, LoraModule};

/// Which adapters there are, and how much room for them.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct LoraArgs {
    /// Make room for LoRA adapters, which `--lora-modules` does as well.
    #[arg(long)]
    enable_lora: bool,
    /// Adapters that requests choose by name, each as name=path or {"name": "...", "path": "..."}.
    #[arg(long, num_args = 1.., value_name = "NAME=PATH", value_parser = LoraModule::parse)]
    lora_modules: Vec<LoraModule>,
    /// Most adapters in one step [default: 1].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_loras: Option<u32>,
    /// The largest rank of an adapter [default: 16].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_lora_rank: Option<u32>,
    /// Most adapters in the host's memory; others are read again when they are used [default: as
    /// many as --max-loras].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_cpu_loras: Option<u32>,
}

impl LoraArgs {
    /// The engine's flags.
    pub(crate) fn flags(&self) -> LoraFlags {
        LoraFlags {
            enable: self.enable_lora.then_some(true),
            modules: self.lora_modules.clone(),
            max_loras: self.max_loras,
            max_lora_rank: self.max_lora_rank,
            max_cpu_loras: self.max_cpu_loras,
        }
    }
}
