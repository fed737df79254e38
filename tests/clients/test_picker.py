"""The Endpoint Picker Protocol, spoken by a proxy that is made of the protocol's own messages.

What Envoy does is done here by hand: it tells the picker of a request, does to the request what the
picker says, sends it where the picker says, and tells the picker of the answer.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from envoy.config.core.v3 import base_pb2
from envoy.extensions.filters.http.ext_proc.v3 import processing_mode_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc
from google.protobuf import struct_pb2

from conftest import told
from served import PATIENCE_SECONDS

Mode = processing_mode_pb2.ProcessingMode
DESTINATION = "x-gateway-destination-endpoint"
CHAT = [{"role": "user", "content": "Hello!"}]


class Conversation:
    """One request that the proxy tells of; the picker's words come out of `hear`."""

    def __init__(self, channel: grpc.Channel, mode: int = Mode.FULL_DUPLEX_STREAMED) -> None:
        process = channel.stream_stream(
            "/envoy.service.ext_proc.v3.ExternalProcessor/Process",
            request_serializer=ext_proc.ProcessingRequest.SerializeToString,
            response_deserializer=ext_proc.ProcessingResponse.FromString,
        )
        self.mode = mode
        self.said: list[ext_proc.ProcessingRequest] = []
        self.process = process
        self.heard: Iterator[ext_proc.ProcessingResponse] = iter(())

    def say(self, *requests: ext_proc.ProcessingRequest) -> list[ext_proc.ProcessingResponse]:
        """Says all of it, then hears all that there is to hear."""
        return list(self.process(iter(requests), timeout=PATIENCE_SECONDS))

    def headers(
        self, path: str, more: dict[str, str] | None = None, end: bool = False
    ) -> ext_proc.ProcessingRequest:
        method = "GET" if end else "POST"
        headers = {":method": method, ":path": path, ":authority": "a.b", ":scheme": "http"}
        headers |= {"content-type": "application/json", "x-request-id": "of-the-proxy"}
        values = [
            base_pb2.HeaderValue(key=key, raw_value=value.encode())
            for key, value in (headers | (more or {})).items()
        ]
        return ext_proc.ProcessingRequest(
            request_headers=ext_proc.HttpHeaders(
                headers=base_pb2.HeaderMap(headers=values), end_of_stream=end
            ),
            protocol_config=ext_proc.ProtocolConfiguration(
                request_body_mode=self.mode, response_body_mode=self.mode
            ),
        )


def parts(body: bytes, size: int = 40_000) -> list[ext_proc.ProcessingRequest]:
    cut = [body[at : at + size] for at in range(0, len(body), size)]
    return [
        ext_proc.ProcessingRequest(
            request_body=ext_proc.HttpBody(body=part, end_of_stream=number == len(cut))
        )
        for number, part in enumerate(cut, 1)
    ]


def answer_headers(status: int) -> ext_proc.ProcessingRequest:
    value = base_pb2.HeaderValue(key=":status", raw_value=str(status).encode())
    headers = base_pb2.HeaderMap(headers=[value])
    return ext_proc.ProcessingRequest(response_headers=ext_proc.HttpHeaders(headers=headers))


def set_headers(response: Any) -> dict[str, str]:
    return {
        option.header.key: option.header.raw_value.decode()
        for option in response.response.header_mutation.set_headers
    }


@pytest.fixture(scope="module", params=["plain", "tls"])
def channel(request: pytest.FixtureRequest) -> Iterator[grpc.Channel]:
    if request.param == "plain":
        channel = grpc.insecure_channel(told("TROUPE_PICKER"))
    else:
        roots = Path(told("TROUPE_PICKER_CERT")).read_bytes()
        credentials = grpc.ssl_channel_credentials(root_certificates=roots)
        channel = grpc.secure_channel(told("TROUPE_PICKER_TLS"), credentials)
    with channel:
        yield channel


@pytest.fixture(scope="module")
def elsewhere() -> str:
    """The model that only the other server has, and where that is."""
    return told("TROUPE_CHAT_URL").removeprefix("http://")


def foreign_model() -> str:
    key = os.environ["OPENAI_API_KEY"]
    url = told("TROUPE_CHAT_URL") + "/v1/models"
    answer = httpx.get(url, headers={"authorization": f"Bearer {key}"})
    return answer.json()["data"][0]["id"]


def test_a_request_goes_where_the_picker_says_and_is_answered(
    channel: grpc.Channel, elsewhere: str
) -> None:
    body = {"model": foreign_model(), "messages": CHAT, "max_tokens": 8}
    # Longer than what a proxy takes at once.
    body["messages"] = [{"role": "system", "content": " " * 100_000}, *CHAT]
    sent = json.dumps(body).encode()
    talk = Conversation(channel)
    heard = talk.say(
        talk.headers("/v1/chat/completions?a=b"),
        *parts(sent),
        answer_headers(200),
        ext_proc.ProcessingRequest(
            response_body=ext_proc.HttpBody(body=b"{}", end_of_stream=True)
        ),
    )
    first, *bodies, served, passed = heard
    assert first.WhichOneof("response") == "request_headers"
    headers = set_headers(first.request_headers)
    assert headers[DESTINATION] == elsewhere
    assert headers[":path"] == "/v1/chat/completions?a=b"
    assert headers["authorization"] == f"Bearer {os.environ['OPENAI_API_KEY']}"
    assert headers["content-length"] == str(len(sent))
    assert first.request_headers.response.clear_route_cache
    assert first.dynamic_metadata["envoy.lb"][DESTINATION] == elsewhere

    streamed = [part.request_body.response.body_mutation.streamed_response for part in bodies]
    assert b"".join(part.body for part in streamed) == sent
    assert all(len(part.body) <= 64 << 10 for part in streamed)
    assert [part.end_of_stream for part in streamed] == [False] * (len(streamed) - 1) + [True]

    assert set_headers(served.response_headers)[f"{DESTINATION}-served"] == elsewhere
    assert passed.response_body.response.body_mutation.streamed_response.body == b"{}"

    # And there it is taken; a chat so long is refused in the server's own words.
    short = json.dumps(body | {"messages": CHAT}).encode()
    answer = httpx.post(
        f"http://{headers[DESTINATION]}{headers[':path']}",
        content=short,
        headers={
            "authorization": headers["authorization"], "content-type": "application/json"
        },
        timeout=PATIENCE_SECONDS,
    )
    assert answer.status_code == 200, answer.text


def test_a_model_of_this_cluster_is_answered_by_this_gateway(channel: grpc.Channel) -> None:
    sent = json.dumps({"model": "ours", "messages": CHAT, "max_tokens": 4}).encode()
    talk = Conversation(channel)
    first, body = talk.say(talk.headers("/v1/chat/completions"), *parts(sent))
    destination = set_headers(first.request_headers)[DESTINATION]
    assert body.request_body.response.body_mutation.streamed_response.body == sent
    answer = httpx.post(
        f"http://{destination}/v1/chat/completions",
        content=sent,
        headers={"content-type": "application/json"},
        timeout=PATIENCE_SECONDS,
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == "ours"


def test_what_has_no_body_is_answered_by_this_gateway(channel: grpc.Channel) -> None:
    talk = Conversation(channel)
    (first,) = talk.say(talk.headers("/v1/models", end=True))
    headers = set_headers(first.request_headers)
    assert "content-length" not in headers
    models = httpx.get(f"http://{headers[DESTINATION]}/v1/models").json()["data"]
    assert {"ours", foreign_model()} <= {model["id"] for model in models}


def test_a_proxy_that_buffers_is_told_with_the_body(channel: grpc.Channel, elsewhere: str) -> None:
    talk = Conversation(channel, Mode.BUFFERED)
    sent = json.dumps({"model": foreign_model(), "messages": CHAT}).encode()
    first, second = talk.say(talk.headers("/v1/chat/completions"), *parts(sent))
    assert first.request_headers == ext_proc.HeadersResponse(response=ext_proc.CommonResponse())
    assert set_headers(second.request_body)[DESTINATION] == elsewhere
    assert not second.request_body.response.HasField("body_mutation")


def test_trailers_end_a_body_too(channel: grpc.Channel) -> None:
    talk = Conversation(channel)
    sent = json.dumps({"model": "ours", "messages": CHAT}).encode()
    (body,) = parts(sent)
    body.request_body.end_of_stream = False
    trailers = ext_proc.ProcessingRequest(request_trailers=ext_proc.HttpTrailers())
    heard = talk.say(talk.headers("/v1/chat/completions"), body, trailers)
    kinds = [response.WhichOneof("response") for response in heard]
    assert kinds == ["request_headers", "request_body", "request_trailers"]
    streamed = heard[1].request_body.response.body_mutation.streamed_response
    assert (streamed.body, streamed.end_of_stream) == (sent, False)


def test_what_the_proxy_allows_is_all_that_is_picked(channel: grpc.Channel) -> None:
    talk = Conversation(channel)
    sent = json.dumps({"model": foreign_model(), "messages": CHAT}).encode()
    head = talk.headers("/v1/chat/completions")
    hint = struct_pb2.Struct()
    hint.update({f"{DESTINATION}-subset": ["10.0.0.1:80"]})
    head.metadata_context.filter_metadata["envoy.lb.subset_hint"].CopyFrom(hint)
    heard = talk.say(head, *parts(sent))
    assert heard[0].immediate_response.status.code == 503, heard


@pytest.mark.parametrize(
    ("body", "path", "status"),
    [
        (b'"text"', "/v1/chat/completions", 400),
        (b"[]", "/v1/completions", 400),
        (json.dumps({"a": " " * (33 << 20)}).encode(), "/v1/chat/completions", 413),
    ],
)
def test_what_is_wrong_is_answered_by_the_picker(
    channel: grpc.Channel, body: bytes, path: str, status: int
) -> None:
    talk = Conversation(channel)
    heard = talk.say(talk.headers(path), *parts(body, 1 << 20))
    assert [one.WhichOneof("response") for one in heard] == ["immediate_response"]
    told = heard[0].immediate_response
    assert told.status.code == status
    assert json.loads(told.body)["error"]["code"] == status
    headers = {option.header.key: option.header.raw_value for option in told.headers.set_headers}
    assert headers["content-type"] == b"application/json"


def test_what_is_no_conversation_is_ended_with_the_reason(channel: grpc.Channel) -> None:
    talk = Conversation(channel)
    for requests, code in [
        ([parts(b"{}")[0]], grpc.StatusCode.INVALID_ARGUMENT),
        ([talk.headers("no path")], grpc.StatusCode.INVALID_ARGUMENT),
        ([talk.headers("/v1/completions"), answer_headers(200)], grpc.StatusCode.INVALID_ARGUMENT),
    ]:
        with pytest.raises(grpc.RpcError) as error:
            talk.say(*requests)
        assert error.value.code() == code
    streamed = Conversation(channel, Mode.STREAMED)
    with pytest.raises(grpc.RpcError) as error:
        streamed.say(streamed.headers("/v1/completions"), *parts(b"{}"))
    assert error.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert "FULL_DUPLEX_STREAMED" in error.value.details()


def test_it_says_whether_it_is_well(channel: grpc.Channel) -> None:
    check = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=lambda request: request,
        response_deserializer=lambda response: response,
    )
    assert check(b"", timeout=PATIENCE_SECONDS) == b"\x08\x01", "SERVING"
