//! Keeps the endpoint that the request's session is at, if it is among the candidates.

use std::sync::Arc;

use super::{Filter, Mask, Query, Scene};
use crate::placement::session::Session;

/// See the file.
#[derive(Clone, Debug)]
pub(crate) struct SessionFilter(pub(crate) Arc<Session>);

impl Filter for SessionFilter {
    fn filter(&self, query: &Query<'_>, scene: &Scene<'_>, mask: &mut Mask) {
        if let Some(at) = self.0.at(query) {
            let rows = scene.rows();
            mask.prefer(|row| at.is(&rows[row].info.endpoint));
        }
    }

    fn chosen(&self, query: &Query<'_>, scene: &Scene<'_>, row: usize) {
        self.0.bind(query, &scene.rows()[row].info.endpoint);
    }
}
