"""The fields that say how tokens are chosen and when an answer ends, one after the other."""

from typing import Any

import pytest

from served import EXACT, GREEDY, HOT, Served

# vLLM's fields that the official client does not know go into `extra_body`.
IDS: dict[str, Any] = {"return_token_ids": True, "ignore_eos": True}


def tokens(served: Served, max_tokens: int = 12, extra: dict[str, Any] | None = None,
           **fields: Any) -> list[int]:
    """The output's tokens for the longest golden prompt."""
    body = {**IDS, **(extra or {})}
    answer = served.complete(
        prompt=served.prompt("p33")["ids"], max_tokens=max_tokens, extra_body=body,
        **{**GREEDY, **fields},
    )
    return answer.choices[0].token_ids


def test_a_bias_forces_and_forbids(tiny_chat: Served) -> None:
    assert tokens(tiny_chat, logit_bias={"100": 100}) == [100] * 12
    usual = tokens(tiny_chat)
    assert usual[0] not in tokens(tiny_chat, logit_bias={str(usual[0]): -100})


def test_only_allowed_tokens_are_chosen(tiny_chat: Served) -> None:
    allowed = [97, 98, 99]
    assert set(tokens(tiny_chat, extra={"allowed_token_ids": allowed})) <= set(allowed)


def test_bad_words_do_not_appear(tiny_chat: Served) -> None:
    usual = tokens(tiny_chat, 24)

    def word_of(token: int) -> str:
        body = {"tokens": [token]}
        return tiny_chat.http.post("/detokenize", json=body).raise_for_status().json()["prompt"]

    def is_word(token: int) -> bool:
        body = {"prompt": word_of(token), "add_special_tokens": False}
        answer = tiny_chat.http.post("/tokenize", json=body).raise_for_status().json()
        return word_of(token).isalpha() and answer["tokens"] == [token]

    banned = next(token for token in usual if is_word(token))
    assert banned not in tokens(tiny_chat, 24, extra={"bad_words": [word_of(banned)]})


@pytest.mark.parametrize(
    "fields",
    [{"presence_penalty": 2}, {"frequency_penalty": 2}, {"extra": {"repetition_penalty": 5}}],
)
def test_penalties_make_repeats_rare(tiny_chat: Served, fields: dict[str, Any]) -> None:
    # Nothing but three tokens may be said, so what is not repeated is seen at once.
    few = {"allowed_token_ids": [97, 98, 99]}
    extra = {**few, **fields.pop("extra", {})}
    assert len(set(tokens(tiny_chat, 6, extra=extra, **fields))) >= 2


def test_filters_that_keep_one_token_are_greedy(tiny_chat: Served) -> None:
    greedy = tokens(tiny_chat)
    for extra in [{"top_k": 1}, {"min_p": 1}]:
        assert tokens(tiny_chat, temperature=2, extra=extra) == greedy, extra
    assert tokens(tiny_chat, temperature=2, top_p=1e-6) == greedy


def test_min_tokens_puts_the_end_off(tiny_chat: Served) -> None:
    said = tiny_chat.complete(prompt="down to the pi", max_tokens=60, temperature=0,
                              extra_body={"min_tokens": 50})
    assert said.usage.completion_tokens >= 50


def test_a_stop_token_is_named_as_the_reason(tiny_chat: Served) -> None:
    usual = tokens(tiny_chat)
    answer = tiny_chat.complete(
        prompt=tiny_chat.prompt("p33")["ids"], max_tokens=12, temperature=0,
        extra_body={**IDS, "stop_token_ids": [usual[3]]},
    ).choices[0]
    assert (answer.finish_reason, answer.stop_reason) == ("stop", usual[3])
    assert answer.token_ids == usual[: usual.index(usual[3]) + 1]


def test_a_prompt_is_cut_to_its_end(tiny_chat: Served) -> None:
    prompt = tiny_chat.prompt("p33")["ids"]
    answer = tiny_chat.complete(
        prompt=prompt, max_tokens=4, temperature=0,
        extra_body={**IDS, "truncate_prompt_tokens": 10},
    )
    alone = tiny_chat.complete(prompt=prompt[-10:], max_tokens=4, temperature=0, extra_body=IDS)
    assert answer.usage.prompt_tokens == 10
    assert answer.choices[0].token_ids == alone.choices[0].token_ids


def test_tokens_may_be_told_as_ids(tiny_chat: Served) -> None:
    choice = tiny_chat.complete(
        prompt="down to the pi", max_tokens=5, logprobs=2, temperature=0,
        extra_body={**IDS, "return_tokens_as_token_ids": True},
    ).choices[0]
    assert choice.logprobs.tokens == [f"token_id:{token}" for token in choice.token_ids]


def test_prompt_logprobs_score_every_token_but_the_first(tiny_chat: Served) -> None:
    prompt = tiny_chat.prompt("p33")
    answer = tiny_chat.complete(prompt=prompt["ids"], max_tokens=1, temperature=0,
                                extra_body={"prompt_logprobs": 0})
    scored = answer.choices[0].prompt_logprobs
    assert scored[0] is None
    for token, told, golden in zip(
        prompt["ids"][1:], scored[1:], prompt["prompt_logprobs"][1:], strict=True
    ):
        assert abs(told[str(token)]["logprob"] - golden) < 1e-3


def test_a_seen_prompt_comes_out_of_the_cache_unless_salted(tiny_chat: Served) -> None:
    prompt = [5 + at % 90 for at in range(64)]

    def cached(salt: str) -> int:
        answer = tiny_chat.complete(prompt=prompt, max_tokens=1, extra_body={"cache_salt": salt})
        return answer.usage.prompt_tokens_details.cached_tokens

    assert cached("mine") == 0
    assert cached("mine") == len(prompt) - 1
    assert cached("somebody-elses") == 0


def test_a_stopped_answer_tells_what_was_cached(tiny_chat: Served) -> None:
    for _ in range(2):
        usage = tiny_chat.complete(prompt="The quick brown fox jumps over", stop=["e", "a", " "],
                                   max_tokens=40, **GREEDY).usage
    assert usage.prompt_tokens_details.cached_tokens == usage.prompt_tokens - 1


def test_priorities_are_taken(tiny_chat: Served) -> None:
    for priority in [-5, 0, 9]:
        tiny_chat.complete(prompt="x", max_tokens=1, extra_body={"priority": priority})


def test_usage_may_run_along(tiny_chat: Served) -> None:
    stream = tiny_chat.chat(
        [{"role": "user", "content": "Hello!"}], stream=True, **GREEDY,
        stream_options={"include_usage": True, "continuous_usage_stats": True},
    )
    counts = [chunk.usage.completion_tokens for chunk in stream]
    assert counts == sorted(counts)
    assert counts[-1] > 1


def test_choices_share_their_prompt(tiny_chat: Served) -> None:
    """Every choice after the first finds the prompt computed."""
    before = tiny_chat.metric("vllm:prefix_cache_hits_total")
    prompt = [7 + at % 80 for at in range(70)]
    tiny_chat.complete(prompt=prompt, n=4, seed=3, extra_body={"cache_salt": "choices"}, **HOT)
    assert tiny_chat.metric("vllm:prefix_cache_hits_total") - before == 3 * (len(prompt) - 1)
