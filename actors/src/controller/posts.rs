//! Tasks of which there is one for each thing that is wanted, by where that thing is reached: the
//! followers of loads, the connections to hosts. They end with what holds them.

use std::collections::BTreeMap;

use tokio::task::{AbortHandle, JoinSet};

/// See the file.
pub(super) struct Posts<K> {
    standing: BTreeMap<K, (String, AbortHandle)>,
    tasks: JoinSet<()>,
}

// === impl Posts ===

impl<K: Ord + Clone> Posts<K> {
    /// None yet.
    pub(super) fn new() -> Self {
        Self { standing: BTreeMap::new(), tasks: JoinSet::new() }
    }

    /// Has a task for each of these and for no others; one that is reached elsewhere now begins
    /// anew.
    pub(super) fn keep<F>(&mut self, wanted: BTreeMap<K, String>, task: impl Fn(K, String) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        while self.tasks.try_join_next().is_some() {}
        self.standing.retain(|key, (address, task)| {
            let stays = wanted.get(key) == Some(address);
            if !stays {
                task.abort();
            }
            stays
        });
        for (key, address) in wanted {
            if !self.standing.contains_key(&key) {
                let task = self.tasks.spawn(task(key.clone(), address.clone()));
                self.standing.insert(key, (address, task));
            }
        }
    }
}
