//! What is said in a conversation, made of what was decided; and the request that a proxy tells of.

use std::collections::BTreeMap;

use axum::http::{
    HeaderName, HeaderValue as HttpValue, Method, Request, StatusCode,
    header::{AUTHORIZATION, CONTENT_LENGTH, HOST},
    request, response,
};
use bytes::Bytes;
use prost_types::{ListValue, Struct, Value, value::Kind};

use super::{
    messages::{
        self as m, BodyMutation, Common, CommonResponse, HeaderMutation, HeaderValue,
        HeaderValueOption, HttpStatus, Immediate, Metadata, ProcessingResponse, StreamedBody, Told,
    },
    pick::{DESTINATION, Pick, To},
};
use crate::foreign::proxy::SERVED;

/// Where a proxy's load balancer looks for the destination.
const METADATA: &str = "envoy.lb";
/// Where a proxy says which endpoints may be picked.
const SUBSET_METADATA: &str = "envoy.lb.subset_hint";
const SUBSET: &str = "x-gateway-destination-endpoint-subset";
/// `OVERWRITE_IF_EXISTS_OR_ADD`.
const OVERWRITE: i32 = 2;
/// A proxy takes at most 64 KiB of a streamed body at once.
const PART_BYTES: usize = 62_000;

/// The request whose headers these are, without its body.
///
/// # Errors
/// What of them cannot be.
pub(super) fn request(
    headers: &m::HttpHeaders,
    metadata: Option<&Metadata>,
) -> Result<request::Parts, String> {
    let mut request = Request::new(());
    let all = headers.headers.iter().flat_map(|map| &map.headers);
    for header in all {
        let (key, bytes) = (&header.key, bytes_of(header));
        let text = || std::str::from_utf8(bytes).map_err(|_| format!("{key} is no text"));
        match key.as_str() {
            ":method" => {
                let method = Method::from_bytes(bytes);
                *request.method_mut() = method.map_err(|_| format!("{key} is no method"))?;
            }
            ":path" => {
                let path = text()?.parse();
                *request.uri_mut() = path.map_err(|_| format!("{key} is no path"))?;
            }
            ":authority" => drop(request.headers_mut().insert(HOST, value_of(key, bytes)?)),
            // `:scheme`, and what may come to be.
            key if key.starts_with(':') => {}
            key => {
                let name = HeaderName::from_bytes(key.as_bytes());
                let name = name.map_err(|_| format!("{key:?} is no name of a header"))?;
                request.headers_mut().append(name, value_of(key, bytes)?);
            }
        }
    }
    if let Some(subset) = metadata.and_then(subset) {
        request.headers_mut().insert(HeaderName::from_static(SUBSET), value_of(SUBSET, &subset)?);
    }
    Ok(request.into_parts().0)
}

fn value_of(name: &str, bytes: &[u8]) -> Result<HttpValue, String> {
    HttpValue::from_bytes(bytes).map_err(|_| format!("the value of {name} cannot be one"))
}

/// The endpoints that a proxy allows, separated by commas.
fn subset(metadata: &Metadata) -> Option<Vec<u8>> {
    let hint = metadata.filter_metadata.get(SUBSET_METADATA)?.fields.get(SUBSET)?;
    let text = |value: &Value| match &value.kind {
        Some(Kind::StringValue(text)) => Some(text.clone()),
        _ => None,
    };
    match &hint.kind {
        Some(Kind::ListValue(ListValue { values })) => {
            let all: Vec<_> = values.iter().filter_map(text).collect();
            Some(all.join(",").into_bytes())
        }
        _ => text(hint).map(String::into_bytes),
    }
}

/// The status of an answer.
pub(super) fn status(headers: &m::HttpHeaders) -> Option<StatusCode> {
    let mut all = headers.headers.iter().flat_map(|map| &map.headers);
    StatusCode::from_bytes(bytes_of(all.find(|header| header.key == ":status")?)).ok()
}

fn bytes_of(HeaderValue { value, raw_value, .. }: &HeaderValue) -> &[u8] {
    if raw_value.is_empty() { value.as_bytes() } else { raw_value }
}

/// Go on as it is.
pub(super) fn go_on(told: impl FnOnce(Common) -> Told) -> ProcessingResponse {
    let response = Some(told(Common { response: Some(CommonResponse::default()) }));
    ProcessingResponse { response, dynamic_metadata: None }
}

/// Of trailers: go on.
pub(super) fn trailers(told: Told) -> ProcessingResponse {
    ProcessingResponse { response: Some(told), dynamic_metadata: None }
}

/// The answer is this, and the request goes nowhere.
pub(super) fn immediate(parts: &response::Parts, body: Bytes) -> ProcessingResponse {
    let headers = parts.headers.iter().filter(|(name, _)| **name != CONTENT_LENGTH);
    let set = headers.map(|(name, value)| set(name.as_str(), value.as_bytes())).collect();
    let response = Immediate {
        status: Some(HttpStatus { code: parts.status.as_u16().into() }),
        headers: Some(HeaderMutation { set_headers: set, remove_headers: Vec::new() }),
        body,
        details: "troupe".to_owned(),
    };
    ProcessingResponse { response: Some(Told::Immediate(response)), dynamic_metadata: None }
}

/// What is to be done with a request that was placed; `here` is this gateway's own address.
pub(super) fn placed(pick: &Pick, here: &str, had_body: bool) -> (CommonResponse, Struct) {
    let address = match &pick.to {
        To::Here => here.to_owned(),
        To::There(chosen) => chosen.address(),
    };
    let mut headers = vec![set(DESTINATION, address.as_bytes())];
    if let To::There(chosen) = &pick.to {
        headers.push(set(":path", chosen.path.as_bytes()));
        if let Some(key) = chosen.authorization() {
            headers.push(set(AUTHORIZATION.as_str(), key.as_bytes()));
        }
    }
    if had_body {
        headers.push(set(CONTENT_LENGTH.as_str(), pick.body.len().to_string().as_bytes()));
    }
    let mutation = HeaderMutation { set_headers: headers, remove_headers: Vec::new() };
    let response = CommonResponse {
        header_mutation: Some(mutation),
        body_mutation: None,
        // Routes may look at the header.
        clear_route_cache: true,
    };
    let text = |text: String| Value { kind: Some(Kind::StringValue(text)) };
    let of = |name: &str, value| Struct { fields: BTreeMap::from([(name.to_owned(), value)]) };
    let inner = Value { kind: Some(Kind::StructValue(of(DESTINATION, text(address)))) };
    (response, of(METADATA, inner))
}

/// All of a body, in place of the one that came.
pub(super) fn whole(body: &Bytes) -> BodyMutation {
    BodyMutation { mutation: Some(m::Body::Whole(body.clone())) }
}

/// A body in parts, each in a message of its own; the last ends it, unless trailers do.
pub(super) fn parts(body: &Bytes, ends: bool) -> impl Iterator<Item = ProcessingResponse> + '_ {
    let count = body.len().div_ceil(PART_BYTES).max(1);
    (0..count).map(move |at| {
        let part = body.slice(at * PART_BYTES..body.len().min((at + 1) * PART_BYTES));
        streamed(Told::RequestBody, part, ends && at + 1 == count)
    })
}

/// A part of a body that is passed on.
pub(super) fn streamed(
    told: impl FnOnce(Common) -> Told,
    body: Bytes,
    end_of_stream: bool,
) -> ProcessingResponse {
    let part = m::Body::Streamed(StreamedBody { body, end_of_stream });
    let response = CommonResponse {
        body_mutation: Some(BodyMutation { mutation: Some(part) }),
        ..CommonResponse::default()
    };
    let response = Some(told(Common { response: Some(response) }));
    ProcessingResponse { response, dynamic_metadata: None }
}

/// What is said of an answer's headers: who gave it.
pub(super) fn served(by: Option<&str>) -> ProcessingResponse {
    let headers = by.map(|by| HeaderMutation {
        set_headers: vec![set(SERVED.as_str(), by.as_bytes())],
        remove_headers: Vec::new(),
    });
    let response = CommonResponse { header_mutation: headers, ..CommonResponse::default() };
    let response = Some(Told::ResponseHeaders(Common { response: Some(response) }));
    ProcessingResponse { response, dynamic_metadata: None }
}

fn set(name: &str, value: &[u8]) -> HeaderValueOption {
    let raw_value = Bytes::copy_from_slice(value);
    let header = HeaderValue { key: name.to_owned(), value: String::new(), raw_value };
    HeaderValueOption { header: Some(header), append_action: OVERWRITE }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(all: &[(&str, &[u8])]) -> m::HttpHeaders {
        let header = |(key, value): &(&str, &[u8])| HeaderValue {
            key: (*key).to_owned(),
            value: String::new(),
            raw_value: Bytes::copy_from_slice(value),
        };
        let headers = all.iter().map(header).collect();
        m::HttpHeaders { headers: Some(m::HeaderMap { headers }), end_of_stream: false }
    }

    fn allowing(subset: &[&str]) -> Metadata {
        let text = |text: &&str| Value { kind: Some(Kind::StringValue((*text).to_owned())) };
        let values = subset.iter().map(text).collect();
        let list = Value { kind: Some(Kind::ListValue(ListValue { values })) };
        let hint = Struct { fields: BTreeMap::from([(SUBSET.to_owned(), list)]) };
        Metadata { filter_metadata: [(SUBSET_METADATA.to_owned(), hint)].into() }
    }

    #[test]
    fn a_request_is_what_its_headers_say_and_the_proxy_says_who_may_be_picked() {
        let told = headers(&[
            (":method", b"POST"),
            (":path", b"/v1/completions?a=b"),
            (":authority", b"host"),
            (":scheme", b"http"),
            (SUBSET, b"what a client likes"),
            ("x-a", b"1"),
            ("x-a", b"2"),
        ]);
        let parts = request(&told, Some(&allowing(&["a:1", "b:2"]))).expect("a request");
        assert_eq!(
            (parts.method, parts.uri.to_string()),
            (Method::POST, "/v1/completions?a=b".into())
        );
        assert_eq!(parts.headers[HOST], "host");
        assert_eq!(parts.headers[SUBSET], "a:1,b:2");
        assert_eq!(parts.headers.get_all("x-a").iter().count(), 2);
    }

    #[test]
    fn headers_that_cannot_be_are_named() {
        for (name, value, why) in [
            (":method", &b"a b"[..], ":method is no method"),
            (":path", b"\xff", ":path is no text"),
            (":path", b"no path", ":path is no path"),
            ("a b", b"", "\"a b\" is no name of a header"),
            ("a", b"\n", "the value of a cannot be one"),
        ] {
            assert_eq!(request(&headers(&[(name, value)]), None).expect_err(name), why);
        }
        assert_eq!(status(&headers(&[(":status", b"503")])), Some(StatusCode::SERVICE_UNAVAILABLE));
        assert_eq!(status(&headers(&[(":status", b"x")])), None);
    }

    #[test]
    fn a_body_is_cut_into_parts_that_a_proxy_takes() {
        let body = Bytes::from(vec![7; 2 * PART_BYTES + 1]);
        let told: Vec<_> = parts(&body, true).collect();
        let streamed = |response: &ProcessingResponse| match &response.response {
            Some(Told::RequestBody(Common { response: Some(common) })) => {
                match common.body_mutation.as_ref().and_then(|body| body.mutation.clone()) {
                    Some(m::Body::Streamed(part)) => part,
                    other => panic!("{other:?}"),
                }
            }
            other => panic!("{other:?}"),
        };
        let told: Vec<_> = told.iter().map(streamed).collect();
        let lengths: Vec<_> =
            told.iter().map(|part| (part.body.len(), part.end_of_stream)).collect();
        assert_eq!(lengths, [(PART_BYTES, false), (PART_BYTES, false), (1, true)]);
        let nothing: Vec<_> = parts(&Bytes::new(), true).collect();
        assert_eq!(nothing.len(), 1, "its end is told, if nothing else");
    }
}
