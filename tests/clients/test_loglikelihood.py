"""How likely a text is after another, asked for and read as lm-eval's `local-completions` does.

The package itself wants 760 MB of others; what it sends and how it reads the answer is little: the
text with what precedes it as one prompt, echoed, and of its log-probabilities those behind the
context, without the one token that is generated on top. Compared with the goldens' numbers, which
transformers computed.
"""

import math
from typing import Any

import pytest

from served import Served

# The goldens' numbers are rounded and were computed in another order of additions.
TOLERANCE = 1e-3


def ask(served: Served, prompt: Any) -> list[dict[str, Any]]:
    """What lm-eval 0.4.13 sends for a batch; the choices in the order of the prompts."""
    body = {
        "model": served.model,
        "prompt": prompt,
        "temperature": 0,
        "max_tokens": 1,
        "logprobs": 1,
        "seed": 1234,
        "echo": True,
    }
    answer = served.http.post("/v1/completions", json=body).raise_for_status().json()
    return sorted(answer["choices"], key=lambda choice: choice["index"])


def likelihood(choice: dict[str, Any], context: int) -> tuple[float, bool]:
    """The sum over what follows the context, and whether each token is the likeliest there."""
    told = choice["logprobs"]["token_logprobs"][context:-1]
    top = choice["logprobs"]["top_logprobs"][context:-1]
    greedy = all(mine == max(others.values()) for mine, others in zip(told, top, strict=True))
    return sum(told), greedy


def parts(served: Served) -> list[tuple[list[int], int, float, bool | None]]:
    """Tokens, how many of them are context, and the golden sum over the rest; a prompt's own
    tokens may be anything, those that greedily follow it are the likeliest."""
    found: list[tuple[list[int], int, float, bool | None]] = []
    for prompt in served.golden("golden.json")["prompts"]:
        ids, told = prompt["ids"], prompt["prompt_logprobs"]
        for context in {1, len(ids) // 2, len(ids) - 1} - {0}:
            greedy = False if len(ids) - context > 5 else None
            found.append((ids, context, math.fsum(told[context:]), greedy))
        likeliest = math.fsum(step[0] for step in prompt["top5_logprobs"][:24])
        found.append((ids + prompt["greedy_ids"][:24], len(ids), likeliest, True))
    return [part for part in found if len(part[0]) > part[1]]


def check(choice: dict[str, Any], part: tuple[list[int], int, float, bool | None]) -> None:
    tokens, context, wanted, greedy = part
    assert len(choice["logprobs"]["tokens"]) == len(tokens) + 1
    told, is_greedy = likelihood(choice, context)
    assert told == pytest.approx(wanted, abs=TOLERANCE)
    assert greedy is None or is_greedy == greedy


def test_one_by_one(tiny_chat: Served) -> None:
    for part in parts(tiny_chat):
        [choice] = ask(tiny_chat, [part[0]])
        check(choice, part)


def test_in_batches_of_different_lengths(tiny_chat: Served) -> None:
    # lm-eval sorts by length, the longest first.
    sorted_parts = sorted(parts(tiny_chat), key=lambda part: -len(part[0]))
    assert len(sorted_parts) > 8
    for start in range(0, len(sorted_parts), 4):
        batch = sorted_parts[start : start + 4]
        choices = ask(tiny_chat, [part[0] for part in batch])
        assert [choice["index"] for choice in choices] == list(range(len(batch)))
        for choice, part in zip(choices, batch, strict=True):
            check(choice, part)


def test_as_text(tiny_chat: Served) -> None:
    """With `tokenized_requests=False`, and with one text as such."""
    for golden in tiny_chat.golden("golden_chat.json")["completions"]:
        text = golden["prompt"] + golden["completion_text"]
        context = len(golden["prompt_ids"])
        for prompt in (text, [text]):
            [choice] = ask(tiny_chat, prompt)
            assert choice["text"].startswith(text)
            told, is_greedy = likelihood(choice, context)
            assert is_greedy and -0.1 < told < 0


def test_a_model_with_real_weights(stories: Served) -> None:
    for part in parts(stories):
        [choice] = ask(stories, [part[0]])
        check(choice, part)
