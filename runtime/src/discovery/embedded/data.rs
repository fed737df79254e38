//! The embedded store's core: keys, leases and a bounded history, as a plain value.
//!
//! It follows etcd where a caller could tell the difference: versions count from 1 since a key was
//! made, a comparison with the value of an absent key never holds, version 0 means absent, and a
//! reader that comes back after too many writes has to list again.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use crate::discovery::{
    Compare, Entry, Incarnation, Op, RegistryError, Txn,
    store::{self, Change, Held, Hold, LeaseId, Released, Stand},
};

/// Changes that are remembered. Any number is right, because a reader that falls further behind
/// lists again; this is some seconds of a busy cluster's writes.
const HISTORY: usize = 1024;

/// The most bytes in one request, as etcd's default has it.
const MAX_REQUEST: usize = 3 * 512 * 1024;

/// The store.
#[derive(Clone, Debug, Default)]
pub(in crate::discovery) struct Data {
    records: BTreeMap<String, Record>,
    leases: BTreeMap<LeaseId, LeaseRecord>,
    /// Counts wipes: a position of an older life is none.
    life: u64,
    /// Changes ever made in this life.
    revision: u64,
    history: VecDeque<Change>,
    last_lease: LeaseId,
}

#[derive(Clone, Debug)]
struct Record {
    value: Vec<u8>,
    version: i64,
    lease: Option<LeaseId>,
}

#[derive(Clone, Debug)]
struct LeaseRecord {
    ttl: Duration,
    expires: Duration,
    keys: BTreeSet<String>,
}

/// How far a reader has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::discovery) struct Position {
    life: u64,
    revision: u64,
}

impl Position {
    pub(in crate::discovery) fn stand(self) -> Stand {
        Stand { store: self.life, revision: self.revision }
    }
}

/// What a reader has missed.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::discovery) enum Since {
    /// All of it, and the position behind it.
    Changes(Vec<Change>, Position),
    /// More than is remembered.
    Gone,
}

impl Data {
    pub(in crate::discovery) fn revision(&self) -> u64 {
        self.revision
    }

    pub(in crate::discovery) fn position(&self) -> Position {
        Position { life: self.life, revision: self.revision }
    }

    pub(in crate::discovery) fn get(&self, key: &str) -> Option<Entry> {
        self.records.get(key).map(|record| entry(key, record))
    }

    pub(in crate::discovery) fn list(&self, prefix: &str) -> Vec<Entry> {
        let under = self.records.range(prefix.to_owned()..);
        let under = under.take_while(|(key, _)| key.starts_with(prefix));
        under.map(|(key, record)| entry(key, record)).collect()
    }

    pub(in crate::discovery) fn commit(&mut self, txn: Txn) -> Result<bool, RegistryError> {
        store::check(&txn)?;
        let bytes = txn.then.iter().map(|op| match op {
            Op::Put(key, value) => key.len() + value.len(),
            Op::Delete(key) => key.len(),
        });
        check_size(bytes.sum())?;
        if !txn.compare.iter().all(|compare| self.holds(compare)) {
            return Ok(false);
        }
        for op in txn.then {
            match op {
                Op::Put(key, value) => self.put(key, value, None),
                Op::Delete(key) => self.delete(&key),
            }
        }
        Ok(true)
    }

    pub(in crate::discovery) fn grant(&mut self, ttl: Duration, now: Duration) -> LeaseId {
        self.last_lease += 1;
        let lease = LeaseRecord { ttl, expires: now + ttl, keys: BTreeSet::new() };
        self.leases.insert(self.last_lease, lease);
        self.last_lease
    }

    /// `false` if there is no such lease.
    pub(in crate::discovery) fn renew(&mut self, lease: LeaseId, now: Duration) -> bool {
        let Some(lease) = self.leases.get_mut(&lease) else {
            return false;
        };
        lease.expires = now + lease.ttl;
        true
    }

    pub(in crate::discovery) fn ensure(
        &mut self,
        lease: LeaseId,
        hold: &Hold,
        life: &Incarnation,
    ) -> Result<Held, RegistryError> {
        let Hold { key, value, by } = hold;
        if key.is_empty() {
            return Err(RegistryError::Refused("a key is empty".into()));
        }
        check_size(key.len() + value.len())?;
        if !self.holds(&life.compare()) {
            return Ok(Held::OtherLife);
        }
        if !self.leases.contains_key(&lease) {
            return Ok(Held::NoLease);
        }
        match self.records.get(key) {
            Some(record) if record.lease == Some(lease) && record.value == *value => {}
            found if by.yields(found.map(|record| &*record.value), value) => {
                return Ok(Held::Theirs);
            }
            _ => self.put(key.clone(), value.clone(), Some(lease)),
        }
        Ok(Held::Ours)
    }

    /// Removes a key if it is under this lease.
    pub(in crate::discovery) fn release(
        &mut self,
        lease: LeaseId,
        key: &str,
        life: &Incarnation,
    ) -> Released {
        if !self.holds(&life.compare()) {
            return Released::OtherLife;
        }
        if self.records.get(key).is_some_and(|record| record.lease == Some(lease)) {
            self.delete(key);
        }
        Released::Done
    }

    pub(in crate::discovery) fn revoke(&mut self, lease: LeaseId) {
        let Some(lease) = self.leases.remove(&lease) else {
            return;
        };
        lease.keys.iter().for_each(|key| self.delete(key));
    }

    /// Gives every lease its whole time again, as a store does that was away itself.
    pub(in crate::discovery) fn renew_all(&mut self, now: Duration) {
        self.leases.values_mut().for_each(|lease| lease.expires = now + lease.ttl);
    }

    /// Ends every lease whose time is over.
    pub(in crate::discovery) fn expire(&mut self, now: Duration) {
        let over = self.leases.iter().filter(|(_, lease)| lease.expires <= now);
        let over: Vec<LeaseId> = over.map(|(id, _)| *id).collect();
        over.into_iter().for_each(|lease| self.revoke(lease));
    }

    /// When the next lease runs out, if nobody renews it.
    pub(in crate::discovery) fn next_expiry(&self) -> Option<Duration> {
        self.leases.values().map(|lease| lease.expires).min()
    }

    /// What changed under a prefix since a reader's position.
    pub(in crate::discovery) fn since(&self, position: Position, prefix: &str) -> Since {
        let missed = self.revision.checked_sub(position.revision);
        let missed = missed.and_then(|missed| usize::try_from(missed).ok());
        let (true, Some(missed)) = (position.life == self.life, missed) else {
            return Since::Gone;
        };
        let Some(start) = self.history.len().checked_sub(missed) else {
            return Since::Gone;
        };
        let changes = self.history.range(start..).filter(|change| match change {
            Change::Put(entry) => entry.key.starts_with(prefix),
            Change::Delete(key) => key.starts_with(prefix),
        });
        Since::Changes(changes.cloned().collect(), self.position())
    }

    pub(in crate::discovery) fn wipe(&mut self) {
        // Lease numbers go on: a lease of the lost life must not be taken for a new one.
        *self = Self { life: self.life + 1, last_lease: self.last_lease, ..Self::default() };
    }

    /// Holds what it held when this was copied, as a store does that was put back to a backup.
    pub(in crate::discovery) fn restore(&mut self, backup: &Self, now: Duration) {
        let last_lease = self.last_lease.max(backup.last_lease);
        *self = Self { life: self.life + 1, last_lease, ..backup.clone() };
        self.renew_all(now);
    }

    pub(in crate::discovery) fn leases(&self) -> impl Iterator<Item = LeaseId> {
        self.leases.keys().copied()
    }

    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::Absent(key) => !self.records.contains_key(key),
            Compare::Value(key, value) => {
                self.records.get(key).is_some_and(|record| record.value == *value)
            }
            Compare::Version(key, version) => {
                self.records.get(key).map_or(0, |record| record.version) == *version
            }
        }
    }

    fn put(&mut self, key: String, value: Vec<u8>, lease: Option<LeaseId>) {
        let previous = self.records.get(&key);
        let version = previous.map_or(0, |record| record.version) + 1;
        self.detach(&key);
        if let Some(lease) = lease.and_then(|lease| self.leases.get_mut(&lease)) {
            lease.keys.insert(key.clone());
        }
        let record = Record { value, version, lease };
        self.remember(Change::Put(entry(&key, &record)));
        self.records.insert(key, record);
    }

    fn delete(&mut self, key: &str) {
        self.detach(key);
        if self.records.remove(key).is_some() {
            self.remember(Change::Delete(key.to_owned()));
        }
    }

    /// Takes a key from the lease that holds it, if one does.
    fn detach(&mut self, key: &str) {
        let lease = self.records.get(key).and_then(|record| record.lease);
        if let Some(lease) = lease.and_then(|lease| self.leases.get_mut(&lease)) {
            lease.keys.remove(key);
        }
    }

    fn remember(&mut self, change: Change) {
        self.revision += 1;
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(change);
    }
}

fn entry(key: &str, record: &Record) -> Entry {
    Entry { key: key.to_owned(), value: record.value.clone(), version: record.version }
}

fn check_size(bytes: usize) -> Result<(), RegistryError> {
    if bytes <= MAX_REQUEST {
        return Ok(());
    }
    Err(RegistryError::Refused(format!(
        "a request of {bytes} bytes, at most {MAX_REQUEST} are possible"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::store::By;

    fn put(data: &mut Data, key: &str) {
        let txn = Txn { compare: vec![], then: vec![Op::Put(key.into(), b"v".to_vec())] };
        assert!(data.commit(txn).is_ok_and(|done| done));
    }

    #[test]
    fn a_reader_that_fell_behind_the_history_has_to_list() {
        let mut data = Data::default();
        let start = data.position();
        for n in 0..HISTORY {
            put(&mut data, &format!("k/{n}"));
        }
        let Since::Changes(changes, _) = data.since(start, "k/") else {
            panic!("exactly the history is still there")
        };
        assert_eq!(changes.len(), HISTORY);
        put(&mut data, "k/one-more");
        assert_eq!(data.since(start, "k/"), Since::Gone);
    }

    #[test]
    fn a_position_of_an_older_life_is_none() {
        let mut data = Data::default();
        put(&mut data, "a");
        let position = data.position();
        data.wipe();
        put(&mut data, "a");
        assert_eq!(data.since(position, ""), Since::Gone);
    }

    /// The incarnation that these tests' store has.
    fn life(data: &mut Data) -> Incarnation {
        put(data, "life");
        Incarnation::of(data.get("life").expect("it was put"))
    }

    #[test]
    fn a_key_put_for_good_survives_the_lease_it_was_under() {
        let mut data = Data::default();
        let lease = data.grant(Duration::from_secs(1), Duration::ZERO);
        let hold = Hold { key: "a".into(), value: b"v".to_vec(), by: By::Put };
        let life = life(&mut data);
        assert!(data.ensure(lease, &hold, &life).is_ok_and(|held| held == Held::Ours));
        put(&mut data, "a");
        data.expire(Duration::from_secs(1));
        assert_eq!(data.get("a").map(|entry| entry.version), Some(2));
        assert_eq!(data.next_expiry(), None);
    }
}
