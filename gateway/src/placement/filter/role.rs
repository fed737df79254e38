//! Keeps endpoints that do what is needed: answer, or compute prompts for those that answer.
//!
//! Who only computes prompts answers when nobody else is there: better slow than not at all.

use super::{Filter, Mask, Query, Scene};

/// See the file.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RoleFilter {
    /// Answers requests.
    Decode,
    /// Computes prompts for others.
    Prefill,
}

impl Filter for RoleFilter {
    fn filter(&self, _: &Query<'_>, scene: &Scene<'_>, mask: &mut Mask) {
        let rows = scene.rows();
        match self {
            Self::Decode if scene.all_decode() => {}
            Self::Decode => mask.prefer(|row| rows[row].decodes()),
            Self::Prefill => mask.retain(|row| rows[row].prefills()),
        }
    }

    fn says_who_helps(&self) -> bool {
        matches!(self, Self::Prefill)
    }
}

#[cfg(test)]
mod tests {
    use troupe_runtime::wire::status::Role;

    use super::*;
    use crate::placement::{
        endpoint::tests::{candidate, info, query},
        filter::tests::left,
    };

    #[test]
    fn each_keeps_those_that_do_it() {
        let mut infos = [info("a", 0), info("a", 1), info("a", 2)];
        infos[1].role = Role::Prefill;
        infos[2].role = Role::Decode;
        let of = |filter: RoleFilter| left(&filter, &query("a"), infos.iter().map(candidate));
        assert_eq!(of(RoleFilter::Decode), [0, 2]);
        assert_eq!(of(RoleFilter::Prefill), [0, 1]);
    }

    #[test]
    fn a_prefill_endpoint_answers_if_nobody_else_is_there() {
        let mut alone = [info("a", 0)];
        alone[0].role = Role::Prefill;
        let kept = left(&RoleFilter::Decode, &query("a"), alone.iter().map(candidate));
        assert_eq!(kept, [0]);
    }
}
