//! Endpoints that are not ours: any server of OpenAI's API can stand behind this gateway.
//!
//! They are named in a file or by an `InferencePool`, asked for their models and scraped for their
//! load (vLLM's and SGLang's metrics). Requests for their models are let in and placed like all
//! others, and then handed on as they came: what a foreign server makes of a field is its own
//! affair. What only our own leaders give is not there: streams that go on elsewhere, block events,
//! tokens counted exactly.
//!
//! - [`config`]: what names them
//! - `tls`: how its certificate is checked
//! - `line`: connections to it, each driven by who uses it
//! - [`upstream`]: one endpoint, as far as this gateway knows it
//! - [`choose`]: which of them answers
//! - [`scrape`]: load out of a metrics text (pure)
//! - [`keeper`]: asks it again and again
//! - `hand`: a request's way there
//! - [`proxy`]: hands one request on, elsewhere if it fails before its answer begins

pub(crate) mod choose;
pub(crate) mod config;
mod hand;
pub(crate) mod keeper;
mod line;
pub(crate) mod proxy;
pub(crate) mod scrape;
mod tls;
pub(crate) mod upstream;
