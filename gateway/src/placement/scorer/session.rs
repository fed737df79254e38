//! Prefers the endpoint that the request's session is at.

use std::sync::Arc;

use super::{Query, Scene, Scorer};
use crate::placement::session::Session;

/// See the file.
#[derive(Clone, Debug)]
pub(crate) struct SessionScorer(pub(crate) Arc<Session>);

impl Scorer for SessionScorer {
    fn score(&self, query: &Query<'_>, scene: &Scene<'_>, scores: &mut [f32]) {
        let Some(at) = self.0.at(query) else { return };
        for (score, row) in scores.iter_mut().zip(scene.rows()) {
            *score = f32::from(u8::from(at.is(&row.info.endpoint)));
        }
    }

    fn chosen(&self, query: &Query<'_>, scene: &Scene<'_>, row: usize) {
        self.0.bind(query, &scene.rows()[row].info.endpoint);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        ingress::hints::Hints,
        placement::{
            endpoint::tests::{candidate, info, query},
            filter::{Filter, Mask, SessionFilter},
        },
    };

    #[test]
    fn a_session_goes_where_it_went() {
        let infos = [info("a", 0), info("a", 1)];
        let scene = Scene::of(infos.iter().map(candidate));
        let session = Session::by_id(Duration::from_secs(300), Duration::from_secs(10));
        let session = Arc::new(session);
        let scorer = SessionScorer(Arc::clone(&session));
        let hints = Hints { session_id: Some("s".into()), ..Hints::NONE };
        let query = Query { hints: &hints, ..query("a") };
        let mut scores = [0.0; 2];
        scorer.score(&query, &scene, &mut scores);
        assert_eq!(scores, [0.0, 0.0], "it has been nowhere");
        scorer.chosen(&query, &scene, 1);
        scorer.score(&query, &scene, &mut scores);
        assert_eq!(scores, [0.0, 1.0]);
        let mut mask = Mask::all(2);
        SessionFilter(session).filter(&query, &scene, &mut mask);
        assert_eq!(mask.rows().collect::<Vec<_>>(), [1]);
    }
}
