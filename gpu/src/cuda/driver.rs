//! The narrow cut towards a CUDA driver: what the device's host side needs of it, and no more.
//!
//! [`Driver`] stands for one context with one stream on one device. All calls of one driver happen
//! in the order in which they are made; only [`Driver::download`], [`Driver::synchronize`] and
//! [`Driver::end_capture`] wait. There are two: [`super::nvidia`] speaks to the driver library, and
//! [`super::fake`] keeps device memory on the host, records each launch and fails on demand, so
//! that everything above this line is tested without a device.
//!
//! Addresses are numbers here, not references: nothing above the cut can read device memory by
//! mistake, and only the implementations are unsafe.

use std::fmt::{self, Debug};

use crate::error::DeviceError;

/// One context and stream of one device. See the module for what all calls share.
pub trait Driver: Debug + Send + Sync + 'static {
    /// What the device is; asked once, when it was opened.
    fn facts(&self) -> &DeviceFacts;

    /// Free and total bytes of the device now, whoever uses the rest.
    ///
    /// # Errors
    /// [`DriverError`].
    fn memory(&self) -> Result<DeviceMemory, DriverError>;

    /// Reserves `bytes`, aligned to 256 at least; what they hold is not said.
    ///
    /// # Errors
    /// [`Fault::OutOfMemory`].
    fn allocate(&self, bytes: u64) -> Result<Address, DriverError>;

    /// Gives back what [`Driver::allocate`] gave. Failures are logged: there is nobody to tell.
    fn free(&self, address: Address);

    /// Loads a cubin.
    ///
    /// # Errors
    /// [`Fault::WrongImage`] if it was made for another architecture.
    fn load(&self, image: &[u8]) -> Result<Module, DriverError>;

    /// Finds a kernel of a module and allows it the shared memory that it may ask for.
    ///
    /// # Errors
    /// [`Fault::Other`] naming the kernel that is not there.
    fn function(&self, module: Module, name: &str) -> Result<Function, DriverError>;

    /// Enqueues a kernel.
    ///
    /// # Errors
    /// [`DriverError`]; also of earlier work that has failed since.
    fn launch(&self, launch: &Launch<'_>) -> Result<(), DriverError>;

    /// Whether [`Driver::product`] can serve: a library of matrix products was found.
    fn has_products(&self) -> bool;

    /// Enqueues `out = x * weight^T` (added to what is there, if the call says so) by the vendor's
    /// library.
    ///
    /// # Errors
    /// [`Fault::Other`] if there is no such library or it has no kernel for the shape.
    fn product(&self, call: &Product) -> Result<(), DriverError>;

    /// Enqueues a copy from the host; `from` may be reused as soon as the call returns.
    ///
    /// # Errors
    /// [`DriverError`].
    fn upload(&self, from: &[u8], to: Address) -> Result<(), DriverError>;

    /// Waits for what was enqueued, then fills `to`.
    ///
    /// # Errors
    /// [`DriverError`]; of earlier work too.
    fn download(&self, from: Address, to: &mut [u8]) -> Result<(), DriverError>;

    /// Enqueues a copy within the device; the two must not overlap.
    ///
    /// # Errors
    /// [`DriverError`].
    fn copy(&self, from: Address, to: Address, bytes: u64) -> Result<(), DriverError>;

    /// Enqueues `byte`, so many times.
    ///
    /// # Errors
    /// [`DriverError`].
    fn fill(&self, at: Address, byte: u8, bytes: u64) -> Result<(), DriverError>;

    /// Waits for all that was enqueued.
    ///
    /// # Errors
    /// [`DriverError`]; what went wrong since the last wait.
    fn synchronize(&self) -> Result<(), DriverError>;

    /// From here on launches are written down and not run, until [`Driver::end_capture`].
    ///
    /// # Errors
    /// [`DriverError`].
    fn begin_capture(&self) -> Result<(), DriverError>;

    /// Makes a graph of what was written down. To be called after every beginning, also after an
    /// error between.
    ///
    /// # Errors
    /// [`DriverError`] if something in between cannot be captured, or the graph does not fit.
    fn end_capture(&self) -> Result<Graph, DriverError>;

    /// Enqueues all launches of a graph, with the arguments that they had.
    ///
    /// # Errors
    /// [`DriverError`].
    fn launch_graph(&self, graph: Graph) -> Result<(), DriverError>;

    /// Gives a graph back. Failures are logged.
    fn free_graph(&self, graph: Graph);
}

/// What a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceFacts {
    /// Its number among those that the driver shows.
    pub ordinal: u32,
    /// Such as `NVIDIA H200`.
    pub name: String,
    /// Which of all devices it is, whatever number it has here: 32 hexadecimal digits.
    pub uuid: String,
    /// Compute capability, such as (9, 0).
    pub capability: (u32, u32),
    /// Bytes of memory.
    pub memory: u64,
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// The most shared memory that a block may ask for, in bytes.
    pub shared_memory: u32,
    /// The CUDA version that the driver speaks, such as 13000 for 13.0.
    pub driver_version: u32,
}

/// Memory of a device, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceMemory {
    /// That nobody has.
    pub free: u64,
    /// All.
    pub total: u64,
}

/// A place in device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(pub u64);

/// A loaded module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Module(pub u64);

/// A kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Function(pub u64);

/// A captured graph that can be launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Graph(pub u64);

/// A run of device memory that an operation reads or writes, for which somebody has checked that it
/// lies within one allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Its first byte.
    pub address: Address,
    /// Its length.
    pub bytes: u64,
}

/// How many blocks of how many threads, and the shared memory that each block asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Blocks in x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y and z.
    pub block: [u32; 3],
    /// Bytes of shared memory beside what the kernel declares.
    pub shared: u32,
}

/// A kernel to be run.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// Its name, for messages.
    pub name: &'static str,
    /// The kernel.
    pub function: Function,
    /// How often.
    pub geometry: Geometry,
    /// In the order of its parameters.
    pub args: &'a [Arg],
}

/// One argument of a kernel.
#[derive(Clone, Debug, PartialEq)]
pub enum Arg {
    /// A pointer to what the kernel reads.
    In(Region),
    /// A pointer to what it writes, or reads and writes.
    Out(Region),
    /// A pointer to nothing: what it stands for is optional.
    Null,
    /// A number.
    U32(u32),
    /// A large number.
    U64(u64),
    /// A float.
    F32(f32),
    /// A structure by value: its fields in order, each where C puts it.
    Struct(Vec<Self>),
}

/// Element types that a library's products take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    /// Brain floats.
    Bf16,
    /// IEEE halves.
    F16,
    /// IEEE singles.
    F32,
}

/// `out[m][n] = sum over k of x[m][k] * weight[n][k]`, all row-major without gaps; summed in `f32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Product {
    /// Rows.
    pub m: u32,
    /// Outputs.
    pub n: u32,
    /// Inputs.
    pub k: u32,
    /// Of `x` and `weight`.
    pub input: Element,
    /// Of `out`.
    pub output: Element,
    /// Whether to add to what `out` holds.
    pub accumulate: bool,
    /// `[m][k]`
    pub x: Region,
    /// `[n][k]`
    pub weight: Region,
    /// `[m][n]`
    pub out: Region,
}

/// A call of the driver that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{call}: {detail}")]
pub struct DriverError {
    /// What kind of failure it is, which decides what helps.
    pub fault: Fault,
    /// The call, as NVIDIA names it.
    pub call: &'static str,
    /// What it said.
    pub detail: String,
}

/// Kinds of failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The device stopped answering, or a kernel broke its context: nothing works from here on.
    Lost,
    /// An allocation does not fit.
    OutOfMemory,
    /// A cubin for another architecture.
    WrongImage,
    /// Anything else.
    Other,
}

// === impl DriverError ===

impl From<DriverError> for DeviceError {
    /// With what helps against it.
    fn from(error: DriverError) -> Self {
        match error.fault {
            Fault::OutOfMemory => Self::OutOfMemory(format!(
                "{error}. What helps: a lower --gpu-memory-utilization if others use the device \
                 too, a smaller --max-num-batched-tokens or --max-num-seqs, --quantization, or \
                 more ranks (--tensor-parallel-size)"
            )),
            Fault::Lost => Self::Failed(format!(
                "the device is lost: {error}. Its member ends and the group is formed anew; if it \
                 fails again, `nvidia-smi` and `dmesg | grep NVRM` say whether the device needs a \
                 reset"
            )),
            Fault::WrongImage => Self::Unsupported(format!(
                "{error}. The kernels of this binary are for other devices: put NVRTC \
                 (libnvrtc.so.12, pip package nvidia-cuda-nvrtc-cu12) where the loader finds it, \
                 and they are compiled for this one when it is first used"
            )),
            Fault::Other => Self::Failed(error.to_string()),
        }
    }
}

// === impl Region ===

impl Region {
    /// Its end.
    pub const fn end(&self) -> u64 {
        self.address.0 + self.bytes
    }
}

// === impl Address ===

impl Address {
    /// So many bytes further.
    #[must_use]
    pub const fn after(self, bytes: u64) -> Self {
        Self(self.0 + bytes)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

// === impl Arg ===

impl Arg {
    /// What it points to, or what its fields do.
    pub fn regions(&self) -> Vec<Region> {
        match self {
            Self::In(region) | Self::Out(region) => vec![*region],
            Self::Null | Self::U32(_) | Self::U64(_) | Self::F32(_) => Vec::new(),
            Self::Struct(fields) => fields.iter().flat_map(Self::regions).collect(),
        }
    }

    /// Bytes that it takes; a structure's are a multiple of 8, as ours are.
    pub fn size(&self) -> usize {
        match self {
            Self::In(_) | Self::Out(_) | Self::Null | Self::U64(_) => 8,
            Self::U32(_) | Self::F32(_) => 4,
            Self::Struct(_) => self.words().len() * 8,
        }
    }

    /// As it lies in memory, in whole words: little-endian, as all machines are that have such
    /// devices.
    pub fn words(&self) -> Vec<u64> {
        let mut bytes = Vec::new();
        self.write(&mut bytes);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect()
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        let align = if matches!(self, Self::U32(_) | Self::F32(_)) { 4 } else { 8 };
        bytes.resize(bytes.len().next_multiple_of(align), 0);
        match self {
            Self::In(region) | Self::Out(region) => {
                bytes.extend_from_slice(&region.address.0.to_le_bytes());
            }
            Self::Null => bytes.extend_from_slice(&[0; 8]),
            Self::U32(value) => bytes.extend_from_slice(&value.to_le_bytes()),
            Self::U64(value) => bytes.extend_from_slice(&value.to_le_bytes()),
            Self::F32(value) => bytes.extend_from_slice(&value.to_le_bytes()),
            Self::Struct(fields) => {
                fields.iter().for_each(|field| field.write(bytes));
                bytes.resize(bytes.len().next_multiple_of(8), 0);
            }
        }
    }
}

// === impl Element ===

impl Element {
    /// Bytes of one.
    pub const fn size(self) -> u64 {
        match self {
            Self::Bf16 | Self::F16 => 2,
            Self::F32 => 4,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_lie_as_c_puts_them() {
        let region = |at| Region { address: Address(at), bytes: 8 };
        let inner = Arg::Struct(vec![Arg::Out(region(9)), Arg::U32(1), Arg::U32(2)]);
        let fields = vec![Arg::In(region(7)), inner, Arg::U32(3), Arg::F32(1.0), Arg::U32(5)];
        let arg = Arg::Struct(fields);
        assert_eq!(arg.words(), [7, 9, 1 | 2 << 32, 3 | 0x3f80_0000 << 32, 5]);
        assert_eq!(arg.size(), 40);
        assert_eq!(arg.regions(), [region(7), region(9)]);
        let holes = Arg::Struct(vec![Arg::U32(1), Arg::Null, Arg::U32(2)]);
        assert_eq!(holes.words(), [1, 0, 2]);
    }
}
