//! The chart and the manifests, by Helm's engine and Kubernetes' schemas: `tests/manifests`, run by
//! pytest in an environment that `make test` makes.

use std::{process::Command, time::Duration};

use crate::{file, succeed};

#[test]
fn manifests_are_what_kubernetes_takes() {
    let python = file("target/manifests/bin/python");
    assert!(
        python.exists(),
        "{} is missing: `make test` makes it, and so does `make test-tools`",
        python.display()
    );
    let mut pytest = Command::new(python);
    // Isolated from whatever Python is told by the environment, and leaving no bytecode behind.
    pytest.args(["-I", "-B", "-m", "pytest"]).arg(file("tests/manifests"));
    succeed(&mut pytest, DEADLINE).unwrap_or_else(|why| panic!("{why}"));
}

/// Many times what all of it takes.
const DEADLINE: Duration = Duration::from_secs(120);
