"""Answers as server-sent events: the same words as whole, in order, ended as clients expect; and
clients that go away."""

import asyncio
import http.client
import json
from typing import Any

import pytest
from openai import AsyncOpenAI

from served import (
    GREEDY,
    HELLO,
    HOT,
    PATIENCE_SECONDS,
    Served,
    content,
    plain_chats,
    until,
)

USAGE = {"include_usage": True}
# Choices that differ, and are the same whenever they are asked for.
SEEDED: dict[str, Any] = {**HOT, "n": 3, "seed": 7}


def test_golden_chats_stream_word_for_word(tiny_chat: Served, golden_chat: dict) -> None:
    kwargs = golden_chat["chat_template_kwargs"]
    stream = tiny_chat.chat(
        golden_chat["messages"],
        stream=True,
        stream_options=USAGE,
        extra_body={"chat_template_kwargs": kwargs},
        **GREEDY,
    )
    *chunks, last = stream
    assert {chunk.id for chunk in chunks} == {last.id}
    assert chunks[0].choices[0].delta.role == "assistant"
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(texts) == content(golden_chat)
    thoughts = [getattr(chunk.choices[0].delta, "reasoning", None) or "" for chunk in chunks]
    assert "".join(thoughts) == golden_chat.get("reasoning", "")
    # Characters of several tokens come whole.
    assert not any("\ufffd" in text for text in texts)
    reasons = [chunk.choices[0].finish_reason for chunk in chunks]
    assert reasons == [None] * (len(reasons) - 1) + [golden_chat["finish_reason"]]
    assert last.choices == []
    wanted = golden_chat["usage"]
    assert last.usage.prompt_tokens == wanted["prompt_tokens"]
    assert last.usage.completion_tokens == wanted["completion_tokens"]


def test_usage_comes_only_when_asked_for(tiny_chat: Served) -> None:
    chunks = list(tiny_chat.chat(HELLO, stream=True, **GREEDY))
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)
    *chunks, last = tiny_chat.chat(HELLO, stream=True, stream_options=USAGE, **GREEDY)
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)
    assert last.usage == tiny_chat.chat(HELLO, **GREEDY).usage
    # And all along, if that is asked for.
    along = {"include_usage": True, "continuous_usage_stats": True}
    counts = [
        chunk.usage.completion_tokens
        for chunk in tiny_chat.chat(HELLO, stream=True, stream_options=along, **GREEDY)
    ]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (0, last.usage.completion_tokens)


def test_the_choices_of_a_chat_stream_as_they_are_whole(tiny_chat: Served) -> None:
    whole = tiny_chat.chat(HELLO, logprobs=True, top_logprobs=1, **SEEDED)
    texts, ends, tokens = [""] * 3, [None] * 3, [[], [], []]
    for chunk in tiny_chat.chat(HELLO, logprobs=True, top_logprobs=1, stream=True, **SEEDED):
        [choice] = chunk.choices
        assert ends[choice.index] is None, "a choice went on after its end"
        texts[choice.index] += choice.delta.content or ""
        ends[choice.index] = choice.finish_reason
        tokens[choice.index] += choice.logprobs.content if choice.logprobs else []
    assert texts == [choice.message.content for choice in whole.choices]
    assert ends == [choice.finish_reason for choice in whole.choices]
    assert tokens == [choice.logprobs.content for choice in whole.choices]


def test_the_choices_of_a_batch_stream_as_they_are_whole(tiny_chat: Served) -> None:
    ask: dict[str, Any] = {"prompt": ["down to the pi", "letter, or"], "stop": [" "], **SEEDED}
    whole = tiny_chat.complete(**ask)
    texts, ends = [""] * 6, [None] * 6
    *chunks, last = tiny_chat.complete(**ask, stream=True, stream_options=USAGE)
    for chunk in chunks:
        [choice] = chunk.choices
        assert ends[choice.index] is None, "a choice went on after its end"
        texts[choice.index] += choice.text
        ends[choice.index] = choice.finish_reason
    assert texts == [choice.text for choice in whole.choices]
    assert ends == [choice.finish_reason for choice in whole.choices]
    assert last.usage == whole.usage


def test_the_clients_own_collector_understands_the_stream(tiny_chat: Served) -> None:
    ask: dict[str, Any] = {"model": tiny_chat.model, "messages": HELLO, **GREEDY}
    with tiny_chat.client.chat.completions.stream(**ask) as stream:
        kinds = [event.type for event in stream]
        collected = stream.get_final_completion()
    assert kinds.count("content.done") == 1
    assert collected.choices[0].message.content == "Hello! How can I help you today?"
    assert collected.choices[0].finish_reason == "stop"


def test_all_chats_at_once_stay_apart(tiny_chat: Served) -> None:
    chats = [chat for chat in plain_chats(tiny_chat.folder) if not chat["chat_template_kwargs"]]

    async def tell(client: AsyncOpenAI, chat: dict) -> str:
        stream = await client.chat.completions.create(
            model=tiny_chat.model, messages=chat["messages"], stream=True, **GREEDY
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def tell_all() -> list[str]:
        async with AsyncOpenAI(base_url=f"{tiny_chat.url}/v1", max_retries=0) as client:
            tasks = asyncio.gather(*(tell(client, chat) for chat in chats * 3))
            return await asyncio.wait_for(tasks, PATIENCE_SECONDS)

    assert asyncio.run(tell_all()) == [content(chat) for chat in chats * 3]


def test_a_story_is_told(stories: Served) -> None:
    run = stories.golden("golden_long.json")["runs"][0]
    ask: dict[str, Any] = {"prompt": run["ids"], "max_tokens": 480, **GREEDY}
    *chunks, last = stories.complete(**ask, stream=True, stream_options=USAGE)
    story = "".join(chunk.choices[0].text for chunk in chunks)
    assert story.startswith("Once upon a time, there was a little girl named Lily.")
    assert run["greedy_text"].startswith(story)
    assert chunks[-1].choices[0].finish_reason == "stop"
    # It is told as it is made up, not at the end.
    assert len(chunks) > 100
    assert last.usage.completion_tokens == run["tokens_until_eos"]
    assert stories.complete(**ask).choices[0].text == story


@pytest.mark.parametrize("stream", [True, False])
def test_who_goes_away_frees_what_was_held(slow: Served, stream: bool) -> None:
    before = endings(slow)
    # A bare connection: the official client offers no way to go away before the answer has begun.
    host = slow.url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=PATIENCE_SECONDS)
    body = {"model": slow.model, "prompt": [5], "max_tokens": LONG, "ignore_eos": True}
    headers = {"content-type": "application/json"}
    connection.request("POST", "/v1/completions", json.dumps(body | {"stream": stream}), headers)
    until("it is under way", lambda: running(slow) == 1)
    until("it holds blocks", lambda: slow.metric("vllm:kv_cache_usage_perc") > 0)
    connection.close()
    until_given_up(slow, before)


def test_leaving_a_stream_of_the_official_client_ends_it(slow: Served) -> None:
    before = endings(slow)
    ignore_eos = {"ignore_eos": True}
    stream = slow.complete(prompt=[5], max_tokens=LONG, stream=True, extra_body=ignore_eos)
    with stream:
        next(iter(stream))
        until("it is under way", lambda: running(slow) == 1)
    until_given_up(slow, before)


# At the slow server's pace 40 s of work: nothing that is waited for comes from its own end.
LONG = 2000


def running(served: Served) -> float:
    return served.metric("vllm:num_requests_running")


def endings(served: Served) -> tuple[float, float]:
    """How many requests were given up, and how many went on to their last token."""
    ended = "vllm:request_success_total"
    return (
        served.metric(ended, finished_reason="abort"),
        served.metric(ended, finished_reason="length"),
    )


def until_given_up(served: Served, before: tuple[float, float]) -> None:
    """Waits until one more request was given up, and holds nothing any more."""
    aborted, complete = before
    until("it is given up", lambda: endings(served) == (aborted + 1, complete))
    until("it does not run", lambda: running(served) == 0)
    # The step that is under way keeps its blocks until its end.
    until("its blocks are free", lambda: served.metric("vllm:kv_cache_usage_perc") == 0)
