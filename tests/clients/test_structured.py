"""Answers that are held to a form: JSON, a schema, a regular expression, a choice, a grammar."""

import json
import re
from typing import Any

import pytest
from openai import APIStatusError, BadRequestError
from pydantic import BaseModel

from served import HELLO, Served

# Hot: what holds the answer to its form is the form, not what the model was trained to say.
HOT: dict[str, Any] = {"temperature": 1.5, "max_tokens": 300}
# Held from the first token on: what comes behind a thought is test_thinking.py's.
AT_ONCE: dict[str, Any] = {"chat_template_kwargs": {"enable_thinking": False}}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}, "n": {"type": "integer"}},
    "required": ["city", "n"],
    "additionalProperties": False,
}


def of_schema(text: str) -> bool:
    value = json.loads(text)
    return set(value) == {"city", "n"} and value["city"] in ("Paris", "Rome")


def named(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


@pytest.mark.parametrize("seed", range(4))
def test_a_schema_holds_whole_and_streaming(tiny_chat: Served, seed: int) -> None:
    fields = {"response_format": named(SCHEMA), "seed": seed, "extra_body": AT_ONCE, **HOT}
    whole = tiny_chat.chat(HELLO, **fields).choices[0]
    stream = tiny_chat.chat(HELLO, stream=True, **fields)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    assert text == whole.message.content
    if whole.finish_reason == "stop":
        assert of_schema(text), text


def test_the_clients_own_parser_gets_its_model(tiny_chat: Served) -> None:
    class Answer(BaseModel):
        yes: bool

    answer = tiny_chat.client.chat.completions.parse(
        model=tiny_chat.model, messages=HELLO, response_format=Answer, temperature=0,
        max_tokens=60,
    )
    assert isinstance(answer.choices[0].message.parsed, Answer)


def test_any_json_object_is_one(tiny_chat: Served) -> None:
    for seed in range(3):
        choice = tiny_chat.chat(
            HELLO, response_format={"type": "json_object"}, seed=seed, extra_body=AT_ONCE, **HOT
        ).choices[0]
        if choice.finish_reason == "stop":
            assert isinstance(json.loads(choice.message.content), dict)


@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        ({"choice": ["red", "green", "deep blue"]}, "red|green|deep blue"),
        ({"regex": r"[0-9]{3}-[a-f]{2}"}, r"[0-9]{3}-[a-f]{2}"),
        ({"grammar": 'start: "a" ("b" | "c") "d"'}, "a[bc]d"),
        ({"grammar": 'root ::= pair{2}\npair ::= [a-c] "-" [^a-z\\n]? # GBNF'},
         "([a-c]-[^a-z\n]?){2}"),
        ({"structural_tag": {"format": {"type": "tag", "begin": "<b>", "end": ["</b>", "<br>"],
                                        "content": {"type": "regex", "pattern": "[0-9]{2}"}}}},
         "<b>[0-9]{2}(</b>|<br>)"),
    ],
)
def test_other_forms_hold_for_every_choice(
    tiny_chat: Served, form: dict[str, Any], pattern: str
) -> None:
    answer = tiny_chat.complete(prompt="x", n=4, seed=1, extra_body={"structured_outputs": form},
                                **HOT)
    for choice in answer.choices:
        assert re.fullmatch(pattern, choice.text), choice.text
        assert choice.finish_reason == "stop"


@pytest.mark.parametrize(
    "form",
    [
        {"regex": "a", "choice": ["b"]},
        {"regex": "("},
        {"choice": []},
        {"grammar": "nonsense"},
        {"grammar": "root ::= nowhere"},
        {"structural_tag": {"format": {"type": "nonsense"}}},
        {"json": {"type": "nonsense"}},
        {"json": {"type": "string", "minLength": 5, "maxLength": 2}},
        {"json": {"enum": ["x" * 200_000]}},
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_form_that_cannot_be_is_refused_before_anything_is_said(
    tiny_chat: Served, form: dict[str, Any], stream: bool
) -> None:
    with pytest.raises(BadRequestError):
        tiny_chat.complete(prompt="x", stream=stream, extra_body={"structured_outputs": form})


@pytest.mark.parametrize(
    "regex", ["((((a{1,999}){1,999}){1,999}){1,999}){1,999}", "(a|aa|aaa)*(a?){500}a{500}c"]
)
def test_a_form_that_explodes_costs_nobody_anything(tiny_chat: Served, regex: str) -> None:
    """It is refused, fails alone or is served as far as it goes; others are served meanwhile."""
    try:
        answer = tiny_chat.complete(prompt="x", max_tokens=20,
                                    extra_body={"structured_outputs": {"regex": regex}})
        assert set(answer.choices[0].text) <= {"a"}
    except APIStatusError:
        pass
    assert tiny_chat.complete(prompt="x", max_tokens=1).usage.completion_tokens == 1
