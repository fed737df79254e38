"""The fields of vLLM's that no other file speaks of, each by what it changes."""

from typing import Any

import pytest
from openai import BadRequestError

from served import GREEDY, HELLO, Served


def test_a_request_may_bring_its_name(tiny_chat: Served) -> None:
    named = {"request_id": "mine-1"}
    assert tiny_chat.complete(prompt="x", max_tokens=1, extra_body=named).id == "cmpl-mine-1"
    assert tiny_chat.chat(HELLO, max_tokens=1, extra_body=named).id == "chatcmpl-mine-1"


def test_a_stream_speaks_as_often_as_asked(tiny_chat: Served) -> None:
    def told(interval: int) -> list[str]:
        chunks = tiny_chat.chat(
            HELLO, stream=True, extra_body={"stream_interval": interval}, **GREEDY
        )
        texts = [chunk.choices[0].delta.content for chunk in chunks]
        return [text for text in texts if text]

    often, seldom = told(1), told(8)
    assert "".join(often) == "".join(seldom) == "Hello! How can I help you today?"
    assert len(seldom) < len(often) / 2


def test_either_side_of_a_prompt_may_be_cut(tiny_chat: Served) -> None:
    ids = list(range(5, 45))
    for side, kept in [(None, ids[-7:]), ("left", ids[-7:]), ("right", ids[:7])]:
        body = {"truncate_prompt_tokens": 7, "truncation_side": side, "return_token_ids": True}
        answer = tiny_chat.complete(prompt=ids, max_tokens=1, extra_body=body)
        assert answer.choices[0].prompt_token_ids == kept
        assert answer.usage.prompt_tokens == 7


def test_a_message_can_be_gone_on_with(tiny_chat: Served) -> None:
    begun = [*HELLO, {"role": "assistant", "content": "Hello! How can"}]
    body = {"continue_final_message": True, "add_generation_prompt": False}
    answer = tiny_chat.chat(begun, extra_body=body, **GREEDY)
    assert answer.choices[0].message.content == " I help you today?"
    body["echo"] = True
    answer = tiny_chat.chat(begun, extra_body=body, **GREEDY)
    assert answer.choices[0].message.content == "Hello! How can I help you today?"


def test_reasoning_may_be_left_out(tiny_chat: Served) -> None:
    chats = tiny_chat.golden("golden_chat.json")["chats"]
    golden = next(chat for chat in chats if chat["id"] == "think")
    answer = tiny_chat.chat(
        golden["messages"], extra_body={"include_reasoning": False}, **GREEDY
    )
    message = answer.choices[0].message
    assert getattr(message, "reasoning", None) is None
    assert message.content == golden["content_after_reasoning"]
    assert answer.usage.completion_tokens == golden["usage"]["completion_tokens"]


def test_what_a_template_does_not_use_changes_nothing(tiny_chat: Served) -> None:
    body = {"documents": [{"title": "t", "text": "x"}], "user": "me", "session_id": "s"}
    answer = tiny_chat.chat(HELLO, reasoning_effort="low", extra_body=body, **GREEDY)
    assert answer.choices[0].message.content == "Hello! How can I help you today?"


def test_tokens_are_told_as_the_vocabulary_writes_them(tiny_chat: Served) -> None:
    body = {"prompt": "Hello there", "return_token_strs": True}
    answer = tiny_chat.http.post("/tokenize", json=body).raise_for_status().json()
    assert len(answer["token_strs"]) == answer["count"] == len(answer["tokens"])
    assert "".join(answer["token_strs"]).replace("\u0120", " ") == "Hello there"


@pytest.mark.parametrize(
    "fields",
    [
        {"use_beam_search": True},
        {"logprob_token_ids": [5]},
        {"repetition_detection": {}},
        {"prompt_embeds": "AAAA"},
        {"suffix": "x"},
    ],
)
def test_what_is_not_offered_is_refused_by_name(tiny_chat: Served, fields: dict[str, Any]) -> None:
    with pytest.raises(BadRequestError) as refused:
        tiny_chat.complete(prompt="x", max_tokens=1, extra_body=fields)
    assert refused.value.body["param"] == next(iter(fields))
