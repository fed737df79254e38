"""What a mistake becomes: the exception that users of the official client catch, and its words."""

from typing import Any

import openai
import pytest

from served import GREEDY, HELLO, Served

# The field at fault, words that say what would be right, and a chat that has the fault.
FAULTS: list[tuple[str, str, dict[str, Any]]] = [
    ("temperature", "in [0, 2], got 3", {"temperature": 3}),
    ("temperature", "non-negative, got -1", {"temperature": -1}),
    ("body.temperature", "expected a number", {"temperature": "hot"}),
    ("top_p", "in (0, 1], got 0", {"top_p": 0}),
    ("presence_penalty", "in [-2, 2], got 2.5", {"presence_penalty": 2.5}),
    ("max_tokens", "at least 1, got 0", {"max_tokens": 0}),
    ("n", "at least 1, got 0", {"n": 0}),
    ("n", "must be 1 when using greedy", {"n": 2, "temperature": 0}),
    ("stop", "empty string", {"stop": [""]}),
    ("logit_bias", "Vocabulary size: 512", {"logit_bias": {"512": 1}}),
    ("top_logprobs", "`logprobs` must be set", {"top_logprobs": 2}),
    ("top_logprobs", "max allowed: 20", {"logprobs": True, "top_logprobs": 21}),
    ("stream_options", "when `stream=True`", {"stream_options": {"include_usage": True}}),
    ("body.messages", "at least one message", {"messages": []}),
    ("body.messages.0", "expected an object", {"messages": ["Hello!"]}),
    ("tool_choice", "`tools` must be set", {"tool_choice": "required"}),
]


@pytest.mark.parametrize(("param", "words", "fields"), FAULTS)
def test_a_wrong_field_is_named(
    tiny_chat: Served, param: str, words: str, fields: dict[str, Any]
) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        tiny_chat.chat(**{"messages": HELLO, **fields})
    error = raised.value
    assert error.param == param
    assert error.body["code"] == error.status_code == 400
    assert words in error.body["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_model_that_is_not_there(tiny_chat: Served, stream: bool) -> None:
    client = tiny_chat.client
    asks = [
        lambda: client.chat.completions.create(model="none", messages=HELLO, stream=stream),
        lambda: client.completions.create(model="none", prompt="Hello", stream=stream),
        lambda: client.models.retrieve("none"),
    ]
    for ask in asks:
        with pytest.raises(openai.NotFoundError) as raised:
            ask()
        assert raised.value.param == "model"
        assert raised.value.type == "NotFoundError"
        # Its name, and which one there is.
        assert "`none`" in raised.value.body["message"]
        assert tiny_chat.model in raised.value.body["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_is_too_long(tiny_chat: Served, stream: bool) -> None:
    limit = 2048
    long = [{"role": "user", "content": "one two " * limit}]
    for ask in [
        lambda: tiny_chat.complete(prompt=[5] * limit, stream=stream),
        lambda: tiny_chat.complete(prompt=[5] * (limit + 1), stream=stream),
        lambda: tiny_chat.complete(prompt=[[5], [5] * (limit + 1)], stream=stream),
        lambda: tiny_chat.chat(long, stream=stream),
    ]:
        with pytest.raises(openai.BadRequestError) as raised:
            ask()
        # Libraries look for these words before they shorten a conversation.
        assert f"maximum context length is {limit} tokens" in raised.value.body["message"]
    # One token less leaves room for one.
    answer = tiny_chat.complete(prompt=[5] * (limit - 1), max_tokens=8, **GREEDY)
    assert answer.usage.completion_tokens == 1


@pytest.mark.parametrize("prompt", ["", [], [512]], ids=["no text", "no token", "unknown token"])
def test_a_prompt_that_is_none(tiny_chat: Served, prompt: Any) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        tiny_chat.complete(prompt=prompt)
    assert raised.value.param == "prompt"


def test_a_wrong_key(tiny_chat: Served) -> None:
    stranger = tiny_chat.client.with_options(api_key="wrong")
    for ask in [
        stranger.models.list,
        lambda: stranger.chat.completions.create(model=tiny_chat.model, messages=HELLO),
    ]:
        with pytest.raises(openai.AuthenticationError):
            ask()


def test_a_path_or_a_method_that_is_not_there(tiny_chat: Served) -> None:
    with pytest.raises(openai.NotFoundError):
        tiny_chat.client.post("/nothing", cast_to=object)
    assert tiny_chat.http.get("/v1/completions").status_code == 405


@pytest.mark.parametrize(
    ("body", "kind", "word"),
    [
        (b'{"model": ', "application/json", "JSON"),
        (b"[1, 2]", "application/json", "object"),
        (b"", "application/json", "empty"),
        (b"\xff\xfe{}", "application/json", "JSON"),
        (b"[" * 100_000, "application/json", "nested"),
        (b'{"prompt": "x"}', "text/plain", "application/json"),
    ],
)
def test_a_body_that_is_no_request(tiny_chat: Served, body: bytes, kind: str, word: str) -> None:
    answer = tiny_chat.http.post("/v1/completions", content=body, headers={"content-type": kind})
    assert answer.status_code == 400
    assert word in answer.json()["error"]["message"]
