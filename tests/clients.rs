//! The clients that users have, against the real binary: `tests/clients/*.py`, run by pytest.
//!
//! This starts the servers that the Python files ask for, hands them the addresses, and shows what
//! pytest said. `make test` makes the virtual environment that it runs in; without one this fails
//! rather than pass unnoticed.

use std::{fs, io::Write, path::Path, process::Stdio, time::Duration};

use tokio::{process::Command, time::timeout};

#[allow(dead_code)]
#[path = "support/golden.rs"]
mod golden;
#[allow(dead_code)]
#[path = "support/http.rs"]
mod http;
#[allow(dead_code)]
#[path = "support/process.rs"]
mod process;

use process::{Server, Troupe};

/// Many times what all of it takes: past it something hangs that no limit in the files stopped.
const DEADLINE: Duration = Duration::from_secs(180);

/// What the first server asks its clients for.
const KEY: &str = "the-key-of-these-tests";

#[tokio::test]
async fn official_clients_get_what_they_expect() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join("target/clients/bin/python");
    assert!(
        python.exists(),
        "{} is missing: `make test` makes it, and so does `make test-tools`",
        python.display()
    );
    let model = golden::model("tiny-chat").expect("both sets have it");
    let chat = Server::serve(&model, &["--api-key", KEY]);
    let slow = Server::serve(&model, &["--stage-time-min-ms", "20"]);
    let folder = tempfile::tempdir().expect("a folder");
    let foreign = folder.path().join("foreign.yaml");
    let endpoints = serde_json::json!({
        "endpoints": [{"name": "chat", "url": url(&chat), "apiKey": KEY}],
    });
    fs::write(&foreign, endpoints.to_string()).expect("it can be written");
    let foreign = foreign.display().to_string();
    let path = model.display().to_string();
    let mut args = vec!["serve", &path, "--host", "127.0.0.1", "--port", "0"];
    args.extend(["--served-model-name", "ours", "--log-format", "json"]);
    args.extend(["--foreign-endpoints", &foreign, "--grpc-port", "0"]);
    let [cert, key] = certificate(folder.path());
    let secure: Vec<&str> =
        args.iter().copied().chain(["--grpc-tls-cert", &cert, "--grpc-tls-key", &key]).collect();
    let mut picking = [Troupe::start(&args), Troupe::start(&secure)];
    let pickers = picking.each_mut().map(|picking| {
        let picker = picking.address("endpoint picker on ");
        picking.address("Troupe serves ours on ");
        picker.to_string()
    });
    // Only the full set has it; without it pytest says which test it skips.
    let bert =
        golden::model("tiny-bert").map(|model| (Server::serve(&model, &["--api-key", KEY]), model));
    let stories = golden::model("stories260k").map(|model| (Server::serve(&model, &[]), model));

    let said = folder.path().join("said");
    let mut pytest = Command::new(python);
    pytest
        // Isolated from whatever Python is told by the environment, and leaving no bytecode behind.
        .args(["-I", "-B", "-m", "pytest"])
        .arg(root.join("tests/clients"))
        .env("OPENAI_API_KEY", KEY)
        // Or a proxy's variables would send the clients there.
        .env("NO_PROXY", "127.0.0.1")
        .env("no_proxy", "127.0.0.1")
        .env("TROUPE_CHAT_MODEL", &model)
        .env("TROUPE_CHAT_URL", url(&chat))
        .env("TROUPE_SLOW_URL", url(&slow))
        .env("TROUPE_PICKER", &pickers[0])
        .env("TROUPE_PICKER_TLS", &pickers[1])
        .env("TROUPE_PICKER_CERT", &cert)
        .env_remove("TROUPE_STORIES_URL")
        .env_remove("TROUPE_BERT_URL")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    if let Some((server, model)) = &stories {
        pytest.env("TROUPE_STORIES_URL", url(server)).env("TROUPE_STORIES_MODEL", model);
    }
    if let Some((server, model)) = &bert {
        pytest.env("TROUPE_BERT_URL", url(server)).env("TROUPE_BERT_MODEL", model);
    }
    let passed = run(pytest, &said).await;
    let said = fs::read_to_string(&said).expect("pytest writes UTF-8");
    assert!(passed, "the clients' tests failed\n{said}");
    // Not by `eprint!`, which the test harness keeps to itself: what was skipped has to be seen.
    std::io::stderr().write_all(said.as_bytes()).expect("stderr can be written");
}

/// The files of a certificate for this host and of its key.
fn certificate(folder: &Path) -> [String; 2] {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("made");
    let files = [("cert.pem", made.cert.pem()), ("key.pem", made.signing_key.serialize_pem())];
    files.map(|(name, pem)| {
        let file = folder.join(name);
        fs::write(&file, pem).expect("it can be written");
        file.display().to_string()
    })
}

/// Whether it passes in time; what it says goes to a file.
async fn run(mut pytest: Command, said: &Path) -> bool {
    let file = fs::File::create(said).expect("a file");
    pytest.stdout(file.try_clone().expect("a second handle")).stderr(file);
    let mut pytest = pytest.spawn().expect("python can be started");
    match timeout(DEADLINE, pytest.wait()).await {
        Ok(status) => status.expect("its status can be read").success(),
        Err(_) => {
            pytest.kill().await.expect("it can be killed");
            false
        }
    }
}

fn url(server: &Server) -> String {
    format!("http://{}", server.address)
}
