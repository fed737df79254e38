"""Tool calls: the golden ones word for word, forced ones, and the client's own types."""

import json
from typing import Any

import pytest
from openai import BadRequestError

from served import GREEDY, Served

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Paris", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
ASKED = [{"role": "user", "content": "What is the weather in Paris?"}]


def with_tools(served: Served) -> list[dict[str, Any]]:
    chats = served.golden("golden_chat.json")["chats"]
    return [chat for chat in chats if chat["tools"] is not None]


def calls_of(chat: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(call["name"], call["arguments"]) for call in chat.get("tool_calls") or []]


def test_golden_calls_are_made(tiny_chat: Served) -> None:
    for chat in with_tools(tiny_chat):
        choice = tiny_chat.chat(chat["messages"], tools=chat["tools"], **GREEDY).choices[0]
        calls = choice.message.tool_calls or []
        told = [(call.function.name, json.loads(call.function.arguments)) for call in calls]
        assert told == calls_of(chat), chat["id"]
        assert choice.finish_reason == chat["finish_reason"], chat["id"]


def test_golden_calls_stream_as_they_are_whole(tiny_chat: Served) -> None:
    for chat in with_tools(tiny_chat):
        calls: dict[int, list[str]] = {}
        for chunk in tiny_chat.chat(chat["messages"], tools=chat["tools"], stream=True, **GREEDY):
            for part in chunk.choices[0].delta.tool_calls or []:
                call = calls.setdefault(part.index, ["", ""])
                call[0] += part.function.name or ""
                call[1] += part.function.arguments or ""
        told = [(name, json.loads(arguments)) for name, arguments in calls.values()]
        assert told == calls_of(chat), chat["id"]


@pytest.mark.parametrize(
    ("choice", "finish"),
    [
        ("required", "tool_calls"),
        ({"type": "function", "function": {"name": "get_weather"}}, "stop"),
    ],
)
def test_a_call_can_be_forced(tiny_chat: Served, choice: Any, finish: str) -> None:
    answer = tiny_chat.chat(
        [{"role": "user", "content": "Tell me a story."}], tools=[WEATHER], tool_choice=choice,
        temperature=1.5, seed=1, max_tokens=300, parallel_tool_calls=False,
        extra_body={"chat_template_kwargs": {"enable_thinking": False}},
    ).choices[0]
    [call] = answer.message.tool_calls
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome")
    assert answer.finish_reason == finish


def test_a_call_can_be_forbidden(tiny_chat: Served) -> None:
    answer = tiny_chat.chat(ASKED, tools=[WEATHER], tool_choice="none", **GREEDY).choices[0]
    assert not answer.message.tool_calls
    assert answer.finish_reason == "stop"


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": []},
        {"tool_choice": "required"},
        {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "other"}}},
        {"tools": [WEATHER], "tool_choice": "sometimes"},
    ],
)
def test_what_cannot_be_called_is_refused(tiny_chat: Served, fields: dict[str, Any]) -> None:
    with pytest.raises(BadRequestError):
        tiny_chat.chat(ASKED, **fields)
