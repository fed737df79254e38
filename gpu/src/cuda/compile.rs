//! NVRTC: kernel sources become images for one architecture, on a machine that need not have a GPU.
//!
//! The library is looked for when it is wanted (a host that has only a driver has none, and needs
//! none for the architectures whose images are in the binary). What comes out is a cubin, machine
//! code for one architecture, and not PTX, which a driver older than the compiler refuses. Images
//! are kept on disk under a hash of everything that they follow from.
//!
//! This file knows nothing of the crate, so that a build script can include it too.

use std::{
    ffi::{CStr, CString, c_char, c_int, c_void},
    fmt, fs, io,
    path::{Path, PathBuf},
    ptr,
};

use super::sources::{HEADERS, Source};

/// A loaded NVRTC.
pub struct Compiler {
    functions: Functions,
    version: (i32, i32),
    /// Functions are of this library and live as long as it.
    _library: libloading::Library,
}

/// What became of a source.
#[derive(Clone, Debug)]
pub struct Image {
    /// Machine code for one architecture.
    pub cubin: Vec<u8>,
    /// What the compiler and the assembler said: of each kernel its registers, stack and spills.
    pub log: String,
}

/// Why there is no image.
#[derive(Debug)]
pub enum CompileError {
    /// NVRTC is nowhere; tells where it was looked for.
    NotFound(String),
    /// What was found is no NVRTC that has all functions.
    Unusable(String),
    /// The compiler refuses the source; its log.
    Refused {
        /// The source.
        name: &'static str,
        /// The architecture.
        architecture: String,
        /// What the compiler said.
        log: String,
    },
}

/// Images on disk.
#[derive(Clone, Debug)]
pub struct Cache {
    directory: PathBuf,
}

type Program = *mut c_void;

/// NVRTC's functions under their own names; each returns 0 or the number of an error.
#[allow(non_snake_case, reason = "functions have the names that NVIDIA gave them")]
struct Functions {
    nvrtcVersion: unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int,
    nvrtcCreateProgram: unsafe extern "C" fn(
        *mut Program,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> c_int,
    nvrtcDestroyProgram: unsafe extern "C" fn(*mut Program) -> c_int,
    nvrtcCompileProgram: unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int,
    nvrtcGetCUBINSize: unsafe extern "C" fn(Program, *mut usize) -> c_int,
    nvrtcGetCUBIN: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
    nvrtcGetProgramLogSize: unsafe extern "C" fn(Program, *mut usize) -> c_int,
    nvrtcGetProgramLog: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
}

/// Where `make test-tools` puts NVRTC below a checkout, if it did.
pub fn installed_below(checkout: &Path) -> Option<PathBuf> {
    let pythons = fs::read_dir(checkout.join("target/nvrtc/lib")).ok()?;
    let of = |python: PathBuf| python.join("site-packages/nvidia/cuda_nvrtc/lib");
    pythons.flatten().map(|python| of(python.path())).find(|path| path.join(LIBRARY).exists())
}

impl Compiler {
    /// Opens NVRTC in the first of `directories` that has it, else wherever the loader finds one.
    ///
    /// # Errors
    /// [`CompileError::NotFound`], [`CompileError::Unusable`].
    pub fn open(directories: &[PathBuf]) -> Result<Self, CompileError> {
        let inside = directories.iter().map(|directory| directory.join(LIBRARY));
        let places: Vec<PathBuf> = inside
            .filter(|path| path.exists())
            .chain([PathBuf::from(LIBRARY), PathBuf::from("libnvrtc.so.13")])
            .collect();
        let mut why = String::new();
        for place in &places {
            // SAFETY: the name is that of NVIDIA's library, whose initializers may run at any time
            // and on any thread.
            match unsafe { libloading::Library::new(place) } {
                Ok(library) => return Self::of(library),
                Err(error) => why = error.to_string(),
            }
        }
        let looked: Vec<String> =
            directories.iter().chain(&places).map(|path| path.display().to_string()).collect();
        Err(CompileError::NotFound(format!("{} ({why})", looked.join(", "))))
    }

    fn of(library: libloading::Library) -> Result<Self, CompileError> {
        macro_rules! functions {
            ($($name:ident),+) => {
                Functions {
                    $($name: {
                        // SAFETY: the type is that of NVRTC's header, which has not changed since
                        // the function got this name; the pointer is used only while the library
                        // is kept open beside it.
                        let found = unsafe { library.get(stringify!($name).as_bytes()) };
                        *found.map_err(|error| CompileError::Unusable(error.to_string()))?
                    },)+
                }
            };
        }
        let functions = functions!(
            nvrtcVersion,
            nvrtcCreateProgram,
            nvrtcDestroyProgram,
            nvrtcCompileProgram,
            nvrtcGetCUBINSize,
            nvrtcGetCUBIN,
            nvrtcGetProgramLogSize,
            nvrtcGetProgramLog
        );
        let (mut major, mut minor) = (0, 0);
        // SAFETY: both pointers are to integers that live for the call.
        let code = unsafe { (functions.nvrtcVersion)(&raw mut major, &raw mut minor) };
        if code != 0 {
            return Err(CompileError::Unusable(format!("it gives no version (error {code})")));
        }
        Ok(Self { functions, version: (major, minor), _library: library })
    }

    /// Major and minor version.
    pub fn version(&self) -> (i32, i32) {
        self.version
    }

    /// Compiles a source for an architecture such as `sm_90a`.
    ///
    /// # Errors
    /// [`CompileError::Refused`] with the compiler's log.
    pub fn compile(&self, source: &Source, architecture: &str) -> Result<Image, CompileError> {
        let text = c_string(source.text);
        let name = c_string(&format!("{}.cu", source.name));
        let header_texts: Vec<CString> = HEADERS.iter().map(|h| c_string(h.text)).collect();
        let header_names: Vec<CString> =
            HEADERS.iter().map(|header| c_string(&format!("{}.cuh", header.name))).collect();
        let (texts, names) = (pointers(&header_texts), pointers(&header_names));
        let mut program: Program = ptr::null_mut();
        // SAFETY: all strings end in a zero and live for the call, which copies them; there are as
        // many header texts and names as it is told.
        let code = unsafe {
            (self.functions.nvrtcCreateProgram)(
                &raw mut program,
                text.as_ptr(),
                name.as_ptr(),
                texts.len() as c_int,
                texts.as_ptr(),
                names.as_ptr(),
            )
        };
        let refused = |log: String| CompileError::Refused {
            name: source.name,
            architecture: architecture.to_owned(),
            log,
        };
        if code != 0 {
            return Err(refused(format!("no program could be made (error {code})")));
        }
        let outcome = self.compiled(program, architecture);
        // SAFETY: the program was made above and is not used again.
        unsafe { (self.functions.nvrtcDestroyProgram)(&raw mut program) };
        outcome.map_err(refused)
    }

    fn compiled(&self, program: Program, architecture: &str) -> Result<Image, String> {
        let options: Vec<CString> = options(architecture).iter().map(|o| c_string(o)).collect();
        let options = pointers(&options);
        let functions = &self.functions;
        // SAFETY: the program is alive, and so are the options.
        let code = unsafe {
            (functions.nvrtcCompileProgram)(program, options.len() as c_int, options.as_ptr())
        };
        let log = read(program, functions.nvrtcGetProgramLogSize, functions.nvrtcGetProgramLog)?;
        let log = CStr::from_bytes_until_nul(&log)
            .map_or_else(|_| String::new(), |text| text.to_string_lossy().into_owned());
        if code != 0 {
            return Err(format!("error {code}\n{log}"));
        }
        let cubin = read(program, functions.nvrtcGetCUBINSize, functions.nvrtcGetCUBIN)?;
        Ok(Image { cubin, log })
    }
}

/// What a pair of functions tells of a program: first how many bytes, then the bytes.
fn read(
    program: Program,
    size_of: unsafe extern "C" fn(Program, *mut usize) -> c_int,
    bytes_of: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
) -> Result<Vec<u8>, String> {
    let mut size = 0usize;
    // SAFETY: the program is alive and `size` is a number that the call may write to.
    let code = unsafe { size_of(program, &raw mut size) };
    let mut bytes = vec![0u8; size];
    // SAFETY: the function writes as many bytes as the other said, and there is room for them.
    let second = unsafe { bytes_of(program, bytes.as_mut_ptr().cast()) };
    match (code, second) {
        (0, 0) => Ok(bytes),
        _ => Err(format!("a result could not be read (errors {code}, {second})")),
    }
}

/// What sources are compiled with. Multiply-adds are rounded once where a source says so and
/// nowhere else.
fn options(architecture: &str) -> [String; 4] {
    [
        format!("--gpu-architecture={architecture}"),
        "--std=c++17".to_owned(),
        "--fmad=false".to_owned(),
        "--ptxas-options=-v".to_owned(),
    ]
}

fn c_string(text: &str) -> CString {
    // Sources, names and options are text of ours; what follows a zero would be lost, no more.
    CString::new(text.replace('\0', "")).expect("zeros were taken out")
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).collect()
}

impl Cache {
    /// A cache in a directory, which is made when the first image is written.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// The image of a source, compiled unless it is there. Whatever goes wrong with the disk costs
    /// time and no more.
    ///
    /// # Errors
    /// As [`Compiler::compile`].
    pub fn image(
        &self,
        compiler: &Compiler,
        source: &Source,
        architecture: &str,
    ) -> Result<Vec<u8>, CompileError> {
        let path = self.path(compiler.version(), source, architecture);
        // A cubin is an ELF file, and one that was cut short is compiled anew.
        if let Some(image) = fs::read(&path).ok().and_then(|bytes| sealed(&bytes)) {
            return Ok(image);
        }
        let image = compiler.compile(source, architecture)?.cubin;
        // A disk that is full or read-only is no reason to do without the image.
        self.write(&path, &image).ok();
        Ok(image)
    }

    /// Written beside and renamed, so that nobody reads half of it.
    fn write(&self, path: &Path, image: &[u8]) -> io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        let part = path.with_extension(format!("{}.part", std::process::id()));
        let mut bytes = image.to_vec();
        bytes.extend_from_slice(blake3::hash(image).as_bytes());
        fs::write(&part, bytes)?;
        fs::rename(&part, path)
    }

    fn path(&self, version: (i32, i32), source: &Source, architecture: &str) -> PathBuf {
        let mut hash = blake3::Hasher::new();
        let mut add = |text: &str| {
            hash.update(&(text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        };
        add(&format!("{}.{}", version.0, version.1));
        options(architecture).iter().for_each(|option| add(option));
        for source in HEADERS.iter().chain([source]) {
            add(source.name);
            add(source.text);
        }
        let hash = hash.finalize().to_hex();
        self.directory.join(format!("{}-{architecture}-{}.cubin", source.name, &hash[..16]))
    }
}

/// What was written, if all of it is there.
fn sealed(bytes: &[u8]) -> Option<Vec<u8>> {
    let (image, seal) = bytes.split_last_chunk::<32>()?;
    (blake3::hash(image).as_bytes() == seal).then(|| image.to_vec())
}

// === impl CompileError ===

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound(places) => write!(
                f,
                "NVRTC is not here; it comes with CUDA, or with `pip install \
                 nvidia-cuda-nvrtc-cu12`. Looked for in {places}"
            ),
            Self::Unusable(why) => write!(f, "this NVRTC cannot be used: {why}"),
            Self::Refused { name, architecture, log } => {
                write!(f, "{name}.cu does not compile for {architecture}: {log}")
            }
        }
    }
}

impl std::error::Error for CompileError {}

impl fmt::Debug for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NVRTC {}.{}", self.version.0, self.version.1)
    }
}

const LIBRARY: &str = "libnvrtc.so.12";

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: Source = Source { name: "empty", text: "" };

    #[test]
    fn without_the_library_the_error_says_where_it_was_looked_for() {
        let nowhere = PathBuf::from("no-such-directory");
        // A machine with CUDA has one all the same.
        if let Err(error) = Compiler::open(&[nowhere]) {
            let text = error.to_string();
            assert!(text.contains("no-such-directory") && text.contains(LIBRARY), "{text}");
        }
    }

    #[test]
    fn a_file_that_was_cut_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().join("deep"));
        let path = cache.path((12, 9), &SOURCE, "sm_80");
        cache.write(&path, b"image").unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!(sealed(&bytes).as_deref(), Some(&b"image"[..]));
        assert_eq!(sealed(&bytes[1..]), None);
        assert_eq!(sealed(b""), None);
    }

    #[test]
    fn what_an_image_follows_from_is_in_its_name() {
        let cache = Cache::new("cache");
        let path = cache.path((12, 9), &SOURCE, "sm_80");
        assert_ne!(path, cache.path((12, 8), &SOURCE, "sm_80"));
        assert_ne!(path, cache.path((12, 9), &SOURCE, "sm_89"));
        assert_ne!(path, cache.path((12, 9), &Source { text: "//", ..SOURCE }, "sm_80"));
    }
}
