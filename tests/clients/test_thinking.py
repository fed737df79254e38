"""Forms of a model that reasons: what it thinks is free, what it says is held to the form."""

import json
import re
from typing import Any

import pytest

from served import GREEDY, HELLO, Served

SUM = r"17 \+ 25 is [0-9]+\."


def thinking(served: Served) -> dict[str, Any]:
    """The golden chat whose answer begins with a thought."""
    chats = served.golden("golden_chat.json")["chats"]
    return next(chat for chat in chats if chat["id"] == "think")


def regex(pattern: str) -> dict[str, Any]:
    return {"structured_outputs": {"regex": pattern}}


def told(answer: Any) -> tuple[str | None, str | None]:
    message = answer.choices[0].message
    return getattr(message, "reasoning", None), message.content


def streamed(chunks: Any) -> tuple[str, str]:
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    thoughts = [getattr(delta, "reasoning", None) or "" for delta in deltas]
    return "".join(thoughts), "".join(delta.content or "" for delta in deltas)


def test_it_thinks_as_ever_and_says_what_it_may(tiny_chat: Served) -> None:
    golden = thinking(tiny_chat)
    free = golden["reasoning"], golden["content_after_reasoning"]
    ask: dict[str, Any] = {"extra_body": regex(SUM), **GREEDY}
    whole = tiny_chat.chat(golden["messages"], **ask)
    assert told(whole) == free
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage.completion_tokens_details.reasoning_tokens > 10
    assert streamed(tiny_chat.chat(golden["messages"], stream=True, **ask)) == free
    # The form is what decides what is said, and nothing else has changed.
    other = tiny_chat.chat(golden["messages"], extra_body=regex("(yes|no)!"), **GREEDY)
    assert told(other)[0] == free[0]
    assert told(other)[1] in ("yes!", "no!")


def test_a_prompt_that_has_thought_is_held_at_once(tiny_chat: Served) -> None:
    body = {**regex(SUM), "chat_template_kwargs": {"enable_thinking": False}}
    answer = tiny_chat.chat(thinking(tiny_chat)["messages"], extra_body=body, **GREEDY)
    assert told(answer) == (None, "17 + 25 is 42.")


def test_an_answer_without_a_thought_is_held_too(tiny_chat: Served) -> None:
    """The model does not think about everything: then the form holds from the first token on."""
    answer = tiny_chat.chat(HELLO, extra_body=regex("Hell[a-z]{3}"), **GREEDY)
    thought, said = told(answer)
    assert thought is None and re.fullmatch("Hell[a-z]{3}", said)


@pytest.mark.parametrize("seed", range(3))
def test_every_choice_has_its_own_thought(tiny_chat: Served, seed: int) -> None:
    ask: dict[str, Any] = {
        "n": 4, "temperature": 1.5, "seed": seed, "max_tokens": 150, "extra_body": regex(SUM),
    }
    messages = thinking(tiny_chat)["messages"]
    whole = tiny_chat.chat(messages, **ask)
    thoughts = set()
    for choice in whole.choices:
        thoughts.add(getattr(choice.message, "reasoning", None))
        # So hot, it may end in the midst of a thought.
        if choice.finish_reason == "stop" and choice.message.content is not None:
            assert re.fullmatch(SUM, choice.message.content), choice.message.content
    assert len(thoughts) > 1
    texts = ["" for _ in whole.choices]
    for chunk in tiny_chat.chat(messages, stream=True, **ask):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [choice.message.content or "" for choice in whole.choices]


def test_a_schema_comes_behind_the_thought(tiny_chat: Served) -> None:
    messages = thinking(tiny_chat)["messages"]
    schema = {"type": "object", "properties": {"sum": {"enum": [41, 42]}}, "required": ["sum"],
              "additionalProperties": False}
    form = {"structured_outputs": {"json": schema, "disable_any_whitespace": True}}
    answer = tiny_chat.chat(messages, extra_body=form, max_tokens=200, **GREEDY)
    thought, said = told(answer)
    assert thought and json.loads(said)["sum"] in (41, 42)


def test_a_text_that_ends_in_a_thought_goes_on_with_it(tiny_chat: Served) -> None:
    golden = thinking(tiny_chat)
    prompt = golden["prompt"] + "<think>\n"
    answer = tiny_chat.complete(prompt=prompt, max_tokens=100, extra_body=regex(SUM), **GREEDY)
    thought, said = answer.choices[0].text.split("</think>")
    assert thought.strip() == golden["reasoning"]
    assert re.fullmatch(SUM, said)


def test_tags_stand_in_free_text(tiny_chat: Served) -> None:
    """vLLM's older style of structural tags: what follows a trigger is held, the rest is free."""
    city = {"type": "object", "properties": {"city": {"enum": ["Oslo", "Lima"]}},
            "required": ["city"], "additionalProperties": False}
    structure = {"begin": '<tool_call>\n{"name": "get_weather", "arguments": ', "schema": city,
                 "end": "}\n</tool_call>"}
    form = {"type": "structural_tag", "structures": [structure], "triggers": ["<tool_call>"]}
    chats = tiny_chat.golden("golden_chat.json")["chats"]
    golden = next(chat for chat in chats if chat["id"] == "tool-call-with-text")
    answer = tiny_chat.chat(golden["messages"], tools=golden["tools"], max_tokens=120,
                            extra_body={"response_format": form}, **GREEDY)
    [call] = answer.choices[0].message.tool_calls
    # It wanted to say Paris.
    assert json.loads(call.function.arguments)["city"] in ("Oslo", "Lima")
    assert answer.choices[0].message.content == golden["completion_text"].split("\n<tool")[0]
    # Without a trigger nothing is held.
    free = tiny_chat.chat(HELLO, extra_body={"response_format": form}, **GREEDY)
    assert free.choices[0].message.content == "Hello! How can I help you today?"
