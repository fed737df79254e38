//! Whether a pod that arrives belongs to the group: the same size, another index, the same launch.

use std::collections::BTreeSet;

use serde_json::Value;
use troupe_runtime::{
    discovery::directory::{self, Launch},
    wire::guest::{Arrival, GuestDown},
};

/// Who may arrive, and who is here.
#[derive(Clone, Debug)]
pub struct Admission {
    size: u32,
    launch: Launch,
    present: BTreeSet<u32>,
}

impl Admission {
    /// For a group of so many pods, this one among them as index 0, that runs `launch`.
    pub fn new(size: u32, launch: Launch) -> Self {
        Self { size, launch, present: BTreeSet::from([0]) }
    }

    /// Lets a pod in, or says what to answer it. Who was let in is there until `part`.
    ///
    /// # Errors
    /// The answer to one that is turned away.
    pub fn admit(&mut self, arrival: &Arrival) -> Result<(), GuestDown> {
        let Arrival { index, size, .. } = *arrival;
        if size != self.size {
            return Err(GuestDown::Refused(format!(
                "its LWS_GROUP_SIZE is {size}, the leader's is {}",
                self.size
            )));
        }
        let launch = directory::from_bytes::<Launch>("its launch", &arrival.launch);
        if let Some(why) = launch.map_or_else(|e| Some(e.to_string()), |l| self.differs(&l)) {
            return Err(GuestDown::Refused(format!(
                "{why}; every pod of a group is started with the same arguments"
            )));
        }
        if !self.present.insert(index) {
            let why = format!("a pod with LWS_WORKER_INDEX={index} is here already");
            return Err(GuestDown::Later(why));
        }
        Ok(())
    }

    /// A pod that was let in is gone.
    pub fn part(&mut self, index: u32) {
        self.present.remove(&index);
    }

    /// Who is not here.
    pub fn missing(&self) -> Vec<u32> {
        (0..self.size).filter(|index| !self.present.contains(index)).collect()
    }

    fn differs(&self, theirs: &Launch) -> Option<String> {
        if *theirs == self.launch {
            return None;
        }
        let fields = |launch: &Launch| serde_json::to_value(launch).unwrap_or_default();
        let (ours, theirs) = (fields(&self.launch), fields(theirs));
        Some(first_difference("", &ours, &theirs).unwrap_or_else(|| "its launch differs".into()))
    }
}

/// The first field that is not the same, with both values.
fn first_difference(at: &str, ours: &Value, theirs: &Value) -> Option<String> {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            let names: BTreeSet<_> = a.keys().chain(b.keys()).collect();
            names.into_iter().find_map(|name| {
                let at = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
                let field = |of: &serde_json::Map<String, Value>| of.get(name).cloned();
                let (a, b) = (field(a).unwrap_or_default(), field(b).unwrap_or_default());
                first_difference(&at, &a, &b)
            })
        }
        _ if ours == theirs => None,
        _ => Some(format!("its {at} is {}, the leader's is {}", said(theirs), said(ours))),
    }
}

fn said(value: &Value) -> String {
    if value.is_null() { "not set".into() } else { value.to_string() }
}

#[cfg(test)]
mod tests {
    use troupe_runtime::id::NodeId;
    use uuid::Uuid;

    use super::*;
    use crate::controller::desired::launch;

    fn run() -> Launch {
        launch("/models/m".into(), "m".into(), Default::default())
    }

    fn arrival(index: u32, size: u32, launch: &Launch) -> Arrival {
        let node = NodeId(Uuid::from_u128(u128::from(index)));
        Arrival { index, size, node, launch: directory::to_bytes(launch) }
    }

    #[test]
    fn each_index_is_here_once() {
        let mut admission = Admission::new(3, run());
        assert_eq!(admission.missing(), [1, 2]);
        assert_eq!(admission.admit(&arrival(2, 3, &run())), Ok(()));
        assert_eq!(admission.missing(), [1]);
        let again = admission.admit(&arrival(2, 3, &run()));
        assert!(matches!(&again, Err(GuestDown::Later(why)) if why.contains("INDEX=2")));
        // The host itself is index 0.
        assert!(matches!(admission.admit(&arrival(0, 3, &run())), Err(GuestDown::Later(_))));
        admission.part(2);
        assert_eq!(admission.admit(&arrival(2, 3, &run())), Ok(()));
    }

    #[test]
    fn who_was_started_for_something_else_is_told_what_differs() {
        let mut admission = Admission::new(2, run());
        let mut other = run();
        other.pipeline_parallel = 3;
        other.flags.max_num_seqs = Some(4);
        for (arrival, word) in [
            (arrival(1, 4, &run()), "LWS_GROUP_SIZE is 4"),
            (arrival(1, 2, &other), "its flags."),
            (Arrival { launch: b"?".to_vec(), ..arrival(1, 2, &run()) }, "its launch"),
        ] {
            let answer = admission.admit(&arrival);
            let refused = matches!(&answer, Err(GuestDown::Refused(why)) if why.contains(word));
            assert!(refused, "{answer:?} does not say {word}");
        }
        assert_eq!(admission.missing(), [1]);
    }
}
