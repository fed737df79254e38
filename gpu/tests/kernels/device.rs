//! Where there is a device, every launch of these tests also happens on it, and what it leaves is
//! what the tests then judge: the shim's result has been held against itself by then.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Mutex, OnceLock, PoisonError},
};

use troupe_gpu::cuda::{
    compile::{Cache, Compiler, installed_below},
    driver::{Address, Arg, Driver, Geometry, Launch, Module},
    nvidia::Nvidia,
    sources::KERNELS,
};

use crate::shim;

/// A device, what compiles for it, and the modules that it has so far.
struct Device {
    driver: Nvidia,
    compiler: Compiler,
    modules: Mutex<BTreeMap<String, Module>>,
}

/// The device of this machine, if it has one and there is NVRTC.
fn device() -> Option<&'static Device> {
    static DEVICE: OnceLock<Option<Device>> = OnceLock::new();
    let open = || {
        let driver = Nvidia::open(0, false).ok()?;
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?;
        let directories: Vec<_> = installed_below(checkout).into_iter().collect();
        let compiler = Compiler::open(&directories).ok()?;
        Some(Device { driver, compiler, modules: Mutex::default() })
    };
    DEVICE.get_or_init(open).as_ref()
}

/// Runs a launch over `blocks` (addresses on the host with their contents), which then hold what
/// the device left. Says whether it did: not without a device, nor kernels that are none of ours.
pub(crate) fn run(
    launch: shim::Launch<'_>,
    args: &[shim::Arg],
    blocks: &mut [(u64, Vec<u8>)],
) -> bool {
    let Some(device) = device() else { return false };
    let Some(source) = KERNELS.iter().find(|source| source.name == launch.file) else {
        return false;
    };
    let driver = &device.driver;
    let module = {
        let mut modules = device.modules.lock().unwrap_or_else(PoisonError::into_inner);
        *modules.entry(launch.file.to_owned()).or_insert_with(|| {
            let (major, minor) = driver.facts().capability;
            // Hopper's own instructions need its own name.
            let suffix = if (major, minor) == (9, 0) { "a" } else { "" };
            let architecture = format!("sm_{major}{minor}{suffix}");
            let cache = Cache::new(Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernels"));
            driver.load(&cache.image(&device.compiler, source, &architecture).unwrap()).unwrap()
        })
    };

    // Where each block is there, and back.
    let mut there: BTreeMap<u64, u64> = BTreeMap::new();
    for (address, content) in &*blocks {
        there.insert(*address, driver.allocate(content.len().max(1) as u64).unwrap().0);
    }
    let back: BTreeMap<u64, u64> = there.iter().map(|(here, there)| (*there, *here)).collect();
    for (address, content) in &*blocks {
        driver.upload(&moved(content, &there), Address(there[address])).unwrap();
    }

    let word = |word: u64| there.get(&word).copied().unwrap_or(word);
    let args: Vec<Arg> = args
        .iter()
        .map(|arg| match arg {
            shim::Arg::Wide(value) => Arg::U64(word(*value)),
            shim::Arg::Word(value) => Arg::U32(*value),
            shim::Arg::Float(value) => Arg::F32(*value),
            shim::Arg::Struct(_) => {
                Arg::Struct(arg.words().into_iter().map(|own| Arg::U64(word(own))).collect())
            }
        })
        .collect();
    // Names of kernels are few, and the driver keeps them.
    let name: &'static str = String::leak(launch.kernel.to_owned());
    let function = driver.function(module, name).unwrap();
    let geometry = Geometry {
        grid: launch.grid.map(|blocks| blocks as u32),
        block: [launch.threads, 1, 1],
        shared: launch.shared as u32,
    };
    driver.launch(&Launch { name, function, geometry, args: &args }).unwrap();
    driver.synchronize().unwrap();
    for (address, content) in blocks {
        let mut left = vec![0; content.len()];
        driver.download(Address(there[address]), &mut left).unwrap();
        *content = moved(&left, &back);
        driver.free(Address(there[address]));
    }
    true
}

/// The same bytes, with whatever is an address made the one that it is elsewhere: kernels read
/// addresses of groups' weights out of memory.
fn moved(content: &[u8], to: &BTreeMap<u64, u64>) -> Vec<u8> {
    let (words, rest) = content.as_chunks::<8>();
    let mut bytes: Vec<u8> = words
        .iter()
        .flat_map(|word| {
            let word = u64::from_le_bytes(*word);
            to.get(&word).copied().unwrap_or(word).to_le_bytes()
        })
        .collect();
    bytes.extend_from_slice(rest);
    bytes
}

#[test]
fn addresses_are_moved_and_nothing_else() {
    let to = BTreeMap::from([(0x1000u64, 0x7000u64)]);
    let bytes =
        |words: [u64; 3]| -> Vec<u8> { words.iter().flat_map(|w| w.to_le_bytes()).collect() };
    let mut content = bytes([0x1000, 5, 0x1001]);
    content.push(9);
    let mut expected = bytes([0x7000, 5, 0x1001]);
    expected.push(9);
    assert_eq!(moved(&content, &to), expected);
}
