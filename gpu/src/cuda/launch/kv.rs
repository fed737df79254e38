//! Kernels that move keys and values: `kv.cu`.

use super::{CODE_INT8, Rows, by_type, code, geometry};
use crate::{
    cuda::{
        driver::{Arg, Region},
        kernels::Call,
    },
    dtype::Dtype,
    error::DeviceError,
    kv::KvDtype,
};

/// One layer of a pool, as kernels see it.
#[derive(Clone, Copy, Debug)]
pub(in crate::cuda) struct KvLayer {
    /// Its elements.
    pub(in crate::cuda) data: Region,
    /// Its scales, if its type has them.
    pub(in crate::cuda) scales: Option<Region>,
    /// How elements are stored.
    pub(in crate::cuda) dtype: KvDtype,
    /// Key heads; 1 of latent rows.
    pub(in crate::cuda) heads: u32,
    /// Elements of a key, or of a latent row.
    pub(in crate::cuda) head_dim: u32,
    /// Positions of a block.
    pub(in crate::cuda) block_size: u32,
    /// Whether keys are values too.
    pub(in crate::cuda) latent: bool,
}

impl KvLayer {
    /// The structure that kernels take.
    pub(in crate::cuda) fn arg(&self) -> Arg {
        Arg::Struct(vec![
            Arg::Out(self.data),
            self.scales.map_or(Arg::Null, Arg::Out),
            Arg::U32(kv_code(self.dtype)),
            Arg::U32(self.heads),
            Arg::U32(self.head_dim),
            Arg::U32(self.block_size),
            Arg::U32(self.latent.into()),
            Arg::U32(0),
        ])
    }
}

/// A KV's element type as kernels are told it.
pub(in crate::cuda) fn kv_code(dtype: KvDtype) -> u32 {
    match dtype {
        KvDtype::Bf16 => code(Dtype::Bf16),
        KvDtype::F16 => code(Dtype::F16),
        KvDtype::F32 => code(Dtype::F32),
        KvDtype::Int8 => CODE_INT8,
    }
}

/// A rotary table: `[position][pair]` of (cosine, sine).
#[derive(Clone, Copy, Debug)]
pub(in crate::cuda) struct Angles {
    /// The table.
    pub(in crate::cuda) at: Region,
    /// Pairs of a position.
    pub(in crate::cuda) pairs: u32,
}

/// Where a step's rows stand in their sequences.
#[derive(Clone, Copy, Debug)]
pub(in crate::cuda) struct Places {
    /// The position of each row.
    pub(in crate::cuda) positions: Region,
    /// The sequence of each row, or none for one that only fills up.
    pub(in crate::cuda) sequence_of: Region,
    /// Block tables, `[sequence][width]`.
    pub(in crate::cuda) tables: Region,
    /// Blocks of a table.
    pub(in crate::cuda) width: u32,
}

/// Rotates query and key heads of fused rows and stores keys and values.
pub(in crate::cuda) fn rope_write_kv(
    qkv: Rows,
    query_heads: u32,
    rope: Option<Angles>,
    places: Places,
    kv: &KvLayer,
) -> Result<Call, DeviceError> {
    Ok(Call {
        name: by_type!(qkv.dtype, "rope_write_kv"),
        geometry: geometry([qkv.rows.into(), 1, 1], 256, 0)?,
        args: vec![
            Arg::Out(qkv.at),
            Arg::U32(query_heads),
            rope.map_or(Arg::Null, |rope| Arg::In(rope.at)),
            Arg::U32(rope.map_or(0, |rope| rope.pairs)),
            Arg::In(places.positions),
            Arg::In(places.sequence_of),
            Arg::In(places.tables),
            Arg::U32(places.width),
            kv.arg(),
        ],
    })
}

/// Rotates the ends of query heads and of latent rows and stores the rows.
pub(in crate::cuda) fn write_latent(
    (query, latent): (Rows, Rows),
    (heads, query_dim): (u32, u32),
    (rope, neighbors): (Angles, bool),
    places: Places,
    kv: &KvLayer,
) -> Result<Call, DeviceError> {
    Ok(Call {
        name: by_type!(query.dtype, "write_latent"),
        geometry: geometry([query.rows.into(), 1, 1], 256, 0)?,
        args: vec![
            Arg::Out(query.at),
            Arg::Out(latent.at),
            Arg::U32(heads),
            Arg::U32(query_dim),
            Arg::In(rope.at),
            Arg::U32(rope.pairs),
            Arg::U32(neighbors.into()),
            Arg::In(places.positions),
            Arg::In(places.sequence_of),
            Arg::In(places.tables),
            Arg::U32(places.width),
            kv.arg(),
        ],
    })
}

/// Copies `runs` runs of `run_bytes`, each from and to its own offset (`u64` each, in device
/// memory).
pub(in crate::cuda) fn copy_runs(
    (from, from_first): (Region, Region),
    (to, to_first): (Region, Region),
    (runs, run_bytes): (u64, u64),
) -> Result<Call, DeviceError> {
    Ok(Call {
        name: "copy_runs",
        geometry: geometry([runs, 1, 1], 256, 0)?,
        args: vec![
            Arg::In(from),
            Arg::In(from_first),
            Arg::Out(to),
            Arg::In(to_first),
            Arg::U64(run_bytes),
        ],
    })
}

/// Whether rows with scales leave a pool or come into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cuda) enum Way {
    /// From the pool.
    Pack,
    /// Into it.
    Unpack,
}

/// Copies rows of bytes whose scale stands behind them where blocks travel.
pub(in crate::cuda) fn copy_scaled_rows(
    kv: &KvLayer,
    (pool_rows, rows): (Region, u64),
    packed: Region,
    way: Way,
) -> Result<Call, DeviceError> {
    let Some(scales) = kv.scales else {
        return Err(DeviceError::Contract(format!("{} has no scales", kv.dtype)));
    };
    Ok(Call {
        name: "copy_scaled_rows",
        geometry: geometry([rows, 1, 1], 64, 0)?,
        args: vec![
            Arg::Out(kv.data),
            Arg::Out(scales),
            Arg::In(pool_rows),
            Arg::Out(packed),
            Arg::U32(kv.head_dim),
            Arg::U32((way == Way::Pack).into()),
        ],
    })
}
