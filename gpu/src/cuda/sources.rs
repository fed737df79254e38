//! The kernels' sources, which are part of the binary, so that a GPU of an architecture that no
//! release was made for can be served wherever NVRTC is.

/// One file of kernels.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    /// Its name without an ending: what compiled images are called.
    pub name: &'static str,
    /// Its text.
    pub text: &'static str,
}

macro_rules! sources {
    ($(#[$about:meta])* $list:ident: $($name:literal),+ in $ending:literal) => {
        $(#[$about])*
        pub const $list: &[Source] = &[
            $(Source {
                name: $name,
                text: include_str!(concat!("../../kernels/", $name, ".", $ending)),
            },)+
        ];
    };
}

sources! {
    /// Files that define kernels, each compiled to an image of its own.
    KERNELS:
    "attention", "attention_mma", "coded", "integers", "kv", "latent", "latent_mma", "moe", "norm",
    "product", "product_mma", "quantize", "rows", "sample" in "cu"
}

sources! {
    /// What those include.
    HEADERS:
    "attention", "attention_any", "attention_mma", "common", "kv", "mma", "product",
    "product_mma" in "cuh"
}
