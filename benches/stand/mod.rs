//! What the benches of real processes stand on: the test suite's own processes, store, clients and
//! loads, mounted once. Each of the benches uses a part of it, at its root, where these modules
//! look for each other.

#![allow(dead_code, unused_imports)]

#[path = "../../tests/support/etcd.rs"]
pub(crate) mod etcd_process;
#[path = "../../tests/support/golden.rs"]
pub(crate) mod golden;
#[path = "../../tests/support/http.rs"]
pub(crate) mod http;
#[path = "../../tests/support/joining.rs"]
pub(crate) mod joining;
#[path = "../../tests/support/load/mod.rs"]
pub(crate) mod load;
#[path = "../../tests/support/operator.rs"]
pub(crate) mod operator;
#[path = "../../tests/support/process.rs"]
pub(crate) mod process;
#[path = "../../tests/support/question.rs"]
pub(crate) mod question;
#[path = "../../src/bench/random.rs"]
pub(crate) mod random;
