//! The registry: one contract for both stores, and what each store alone can suffer.

mod contract;
mod embedded;
mod etcd;

use std::{collections::BTreeMap, time::Duration};

use troupe_runtime::discovery::{Entry, Op, Registry, Txn, Watch, WatchEvent};

/// Longer than anything here takes on a busy machine: past it something hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// The key of the store's incarnation.
const LIFE: &str = "life";

/// What a watch's reader knows, by applying what it was told.
#[derive(Debug)]
struct Mirror {
    watch: Watch,
    entries: BTreeMap<String, Entry>,
    /// `Synced`, `Disconnected` and `Rewound` events so far.
    synced: usize,
    disconnected: Vec<String>,
    rewound: usize,
}

impl Mirror {
    async fn of(registry: &dyn Registry, prefix: &str) -> Self {
        let watch = registry.watch(prefix).await.expect("the first list succeeds");
        let mut mirror = Self {
            watch,
            entries: BTreeMap::new(),
            synced: 0,
            disconnected: Vec::new(),
            rewound: 0,
        };
        mirror.until("the first list", |mirror| mirror.synced == 1).await;
        mirror
    }

    /// Applies events until something holds.
    async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        while !holds(self) {
            let event = tokio::time::timeout(PATIENCE, self.watch.next()).await;
            let event = event.unwrap_or_else(|_| panic!("waited for {what}, have {self:?}"));
            match event.expect("the registry is open") {
                WatchEvent::Put(entry) => {
                    self.entries.insert(entry.key.clone(), entry);
                }
                WatchEvent::Delete(key) => {
                    let known = self.entries.remove(&key);
                    assert!(known.is_some(), "{key} was deleted but never told");
                }
                WatchEvent::Synced => self.synced += 1,
                WatchEvent::Disconnected(why) => self.disconnected.push(why),
                WatchEvent::Rewound => self.rewound += 1,
            }
        }
    }

    fn value(&self, key: &str) -> Option<String> {
        self.entries.get(key).map(|entry| String::from_utf8_lossy(&entry.value).into_owned())
    }
}

fn put_op(key: &str, value: &str) -> Op {
    Op::Put(key.into(), value.into())
}

async fn put(registry: &dyn Registry, key: &str, value: &str) {
    let txn = Txn { compare: vec![], then: vec![put_op(key, value)] };
    assert!(registry.commit(txn).await.expect("the store takes writes"));
}

async fn delete(registry: &dyn Registry, key: &str) {
    let txn = Txn { compare: vec![], then: vec![Op::Delete(key.into())] };
    assert!(registry.commit(txn).await.expect("the store takes writes"));
}

async fn value(registry: &dyn Registry, key: &str) -> Option<String> {
    let entry = registry.get(key).await.expect("the store answers");
    entry.map(|entry| String::from_utf8(entry.value).expect("tests write text"))
}

/// Asks again until the store has it so.
async fn until_value(registry: &dyn Registry, key: &str, wanted: Option<&str>) {
    let asking = async {
        loop {
            let entry = registry.get(key).await.ok().flatten();
            let found = entry.map(|entry| String::from_utf8_lossy(&entry.value).into_owned());
            if found.as_deref() == wanted {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let outcome = tokio::time::timeout(PATIENCE, asking).await;
    outcome.unwrap_or_else(|_| panic!("waited for {key} to be {wanted:?}"));
}
