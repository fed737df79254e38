//! The scripts: read by shellcheck, and the install script run into a folder, whose units systemd
//! itself reads.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{file, run, skip::skipped, succeed};

#[test]
fn scripts_are_clean() {
    let scripts = [
        "deploy/gpu-check.sh",
        "deploy/image.sh",
        "deploy/install.sh",
        "tests/hosts/cluster.sh",
        ".ci/run",
    ];
    let mut shellcheck = Command::new("shellcheck");
    shellcheck.args(scripts.map(file));
    match succeed(&mut shellcheck, LIMIT) {
        Err(why) if why.contains("No such file") => skipped("shellcheck is not installed"),
        done => drop(done.unwrap_or_else(|why| panic!("{why}"))),
    }
}

#[test]
fn what_is_installed_can_be_installed_again_and_taken_away() {
    let root = tempfile::tempdir().expect("a folder");
    let at = |path: &str| root.path().join(path);
    install(root.path(), &["control", "node", "gateway", "etcd"]);
    let mode = |path: &str| fs::metadata(at(path)).expect("it is there").permissions().mode();
    assert_eq!(mode("usr/local/bin/troupe") & 0o777, 0o755);
    // It may name keys.
    assert_eq!(mode("etc/troupe/control.env") & 0o777, 0o640);

    // Settings are people's, units are ours.
    let (settings, unit) = (at("etc/troupe/node.env"), at(&unit("node")));
    fs::write(&settings, "TROUPE_DEVICES=7\n").expect("written");
    let ours = fs::read(&unit).expect("a unit");
    fs::write(&unit, "[Unit]\n").expect("written");
    install(root.path(), &["node"]);
    assert_eq!(fs::read_to_string(&settings).expect("settings"), "TROUPE_DEVICES=7\n");
    assert_eq!(fs::read(&unit).expect("a unit"), ours);

    let uninstall = ["--uninstall"].as_slice();
    install(root.path(), uninstall);
    assert!(!at("usr/local/bin/troupe").exists() && !unit.exists());
    assert!(settings.exists(), "settings stay until they are purged");
    install(root.path(), &["--uninstall", "--purge"]);
    assert_eq!(files(root.path()), Vec::<PathBuf>::new());
}

#[test]
fn nothing_is_done_dry_and_mistakes_are_named() {
    let root = tempfile::tempdir().expect("a folder");
    let said = install(root.path(), &["control", "--dry-run"]);
    assert!(said.contains("would run: install -D -m 755"), "{said}");
    assert_eq!(files(root.path()), Vec::<PathBuf>::new());
    for (args, code, word) in [
        (&["contrl"][..], 2, "unknown argument contrl"),
        (&[], 2, "name at least one role"),
        (&["node", "--binary"], 2, "--binary needs a value"),
        (&["node", "--binary", "/nowhere"], 1, "no binary at /nowhere"),
    ] {
        let mut script = Command::new(file("deploy/install.sh"));
        let said = run(script.arg("--prefix").arg(root.path()).args(args), LIMIT);
        let said = said.expect("it ends");
        assert_eq!(said.code, Some(code), "{}", said.text);
        assert!(said.text.contains(word), "{}", said.text);
    }
}

#[test]
fn systemd_understands_every_unit() {
    let root = tempfile::tempdir().expect("a folder");
    let roles = ["control", "gateway", "node", "etcd"];
    install(root.path(), &roles);
    // What every system has, so that nothing else is missing.
    let system = root.path().join("usr/lib/systemd");
    fs::create_dir_all(&system).expect("a folder");
    fs::create_dir_all(root.path().join("usr/bin")).expect("a folder");
    std::os::unix::fs::symlink("usr/lib", root.path().join("lib")).expect("a link");
    fs::copy(env!("CARGO_BIN_EXE_troupe"), root.path().join("usr/bin/etcd")).expect("a program");
    let mut copy = Command::new("cp");
    let copied = succeed(copy.args(["-r", "/usr/lib/systemd/system"]).arg(&system), LIMIT);
    if copied.is_err() {
        return skipped("systemd's own units are not installed");
    }
    let verify = |what: &str| {
        let mut analyze = Command::new("systemd-analyze");
        analyze.arg(format!("--root={}", root.path().display())).arg("verify");
        run(analyze.args(roles.map(|role| format!("troupe-{role}.service"))), LIMIT)
            .map(|said| (said.code, said.text))
            .unwrap_or_else(|why| panic!("{what}: {why}"))
    };
    if run(Command::new("systemd-analyze").arg("--version"), LIMIT).is_err() {
        return skipped("systemd-analyze is not installed");
    }
    assert_eq!(verify("as they are"), (Some(0), String::new()));
    // It only warns of what it does not know, so a warning has to count.
    let node = root.path().join(unit("node"));
    let text = fs::read_to_string(&node).expect("a unit");
    fs::write(&node, text.replace("NoNewPrivileges", "NoNewPriveleges")).expect("written");
    let (_, said) = verify("with a mistake");
    assert!(said.contains("NoNewPriveleges"), "{said}");
}

fn unit(role: &str) -> String {
    format!("etc/systemd/system/troupe-{role}.service")
}

/// Runs the install script on a folder.
fn install(root: &Path, args: &[&str]) -> String {
    let mut script = Command::new(file("deploy/install.sh"));
    script.args(["--binary", env!("CARGO_BIN_EXE_troupe"), "--prefix"]).arg(root).args(args);
    succeed(&mut script, LIMIT).unwrap_or_else(|why| panic!("{why}"))
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder can be read");
    let paths = entries.map(|entry| entry.expect("an entry can be read").path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Much longer than any of them takes.
const LIMIT: Duration = Duration::from_secs(60);
