"""`/v1/completions`, whole answers: prompts of every form, choices, ends, log-probabilities."""

import math

import pytest

from served import EXACT, GREEDY, HOT, Served

# The goldens' numbers were computed in another order of additions.
TOLERANCE = 1e-3


def test_prompts_as_token_ids_give_the_golden_tokens(tiny_chat: Served) -> None:
    prompts = tiny_chat.golden("golden.json")["prompts"]
    answer = tiny_chat.complete(
        prompt=[prompt["ids"] for prompt in prompts],
        max_tokens=48,
        temperature=0,
        extra_body={"ignore_eos": True, "return_token_ids": True},
    )
    assert [choice.index for choice in answer.choices] == list(range(len(prompts)))
    for choice, prompt in zip(answer.choices, prompts, strict=True):
        assert choice.token_ids == prompt["greedy_ids"], prompt["id"]
        assert choice.finish_reason == "length"
    assert answer.usage.prompt_tokens == sum(len(prompt["ids"]) for prompt in prompts)
    assert answer.usage.completion_tokens == 48 * len(prompts)


def test_text_and_its_tokens_are_the_same_prompt(tiny_chat: Served) -> None:
    case = tiny_chat.golden("golden_chat.json")["completions"][0]
    for prompt in [case["prompt"], [case["prompt"]], case["prompt_ids"], [case["prompt_ids"]]]:
        answer = tiny_chat.complete(prompt=prompt, max_tokens=32, **GREEDY)
        [choice] = answer.choices
        assert (choice.text, choice.finish_reason) == (case["completion_text"], "stop")
        assert answer.usage.prompt_tokens == len(case["prompt_ids"])
        assert answer.usage.completion_tokens == len(case["completion_ids"])
        assert answer.usage.total_tokens == len(case["prompt_ids"] + case["completion_ids"])


def test_a_batch_answers_each_prompt_as_if_alone(tiny_chat: Served) -> None:
    prompts = ["The quick brown fox", "down to the pi", "letter, or"]
    together = tiny_chat.complete(prompt=prompts, **EXACT).choices
    alone = [tiny_chat.complete(prompt=prompt, **EXACT).choices[0].text for prompt in prompts]
    assert [choice.text for choice in together] == alone
    assert len(set(alone)) == len(prompts)


def test_sixteen_tokens_are_the_default(tiny_chat: Served) -> None:
    answer = tiny_chat.complete(prompt="down to the pi", **EXACT)
    assert answer.usage.completion_tokens == 16
    assert answer.choices[0].finish_reason == "length"


def test_choices_differ_and_come_prompt_by_prompt(tiny_chat: Served) -> None:
    prompts = ["down to the pi", "letter, or"]
    # The echo shows which prompt a choice belongs to.
    answer = tiny_chat.complete(prompt=prompts, n=4, seed=7, echo=True, **HOT)
    assert [choice.index for choice in answer.choices] == list(range(8))
    for at, prompt in enumerate(prompts):
        texts = [choice.text for choice in answer.choices[4 * at : 4 * at + 4]]
        assert all(text.startswith(prompt) for text in texts)
        assert len(set(texts)) > 1, texts


def test_a_seed_repeats_an_answer(tiny_chat: Served) -> None:
    def texts(**fields: int) -> list[str]:
        answer = tiny_chat.complete(prompt="down to the pi", n=3, **HOT, **fields)
        return [choice.text for choice in answer.choices]

    assert texts(seed=7) == texts(seed=7)
    assert texts(seed=7) != texts(seed=8)
    # Without one, somebody draws it, each time anew.
    assert texts() != texts()


@pytest.mark.parametrize("include", [False, True])
def test_a_stop_string_ends_the_text(tiny_chat: Served, include: bool) -> None:
    case = tiny_chat.golden("golden_chat.json")["completions"][0]
    answer = tiny_chat.complete(
        prompt=case["prompt"],
        # Found across tokens; of several, the one that comes first counts.
        stop=["dog", "r the la"],
        extra_body={"include_stop_str_in_output": include},
        **GREEDY,
    )
    [choice] = answer.choices
    end = case["completion_text"].index("r the la") + (len("r the la") if include else 0)
    assert choice.text == case["completion_text"][:end]
    assert (choice.finish_reason, choice.stop_reason) == ("stop", "r the la")
    assert answer.usage.completion_tokens < len(case["completion_ids"])


def test_logprobs_are_the_golden_ones(tiny_chat: Served) -> None:
    golden = tiny_chat.prompt("p33")
    answer = tiny_chat.complete(
        prompt=golden["ids"],
        max_tokens=48,
        logprobs=5,
        temperature=0,
        # Two tokens may have one text (half a character each), but not one id.
        extra_body={"ignore_eos": True, "return_tokens_as_token_ids": True},
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs.tokens == [f"token_id:{token}" for token in golden["greedy_ids"]]
    for step, told in enumerate(logprobs.top_logprobs):
        tokens = [f"token_id:{token}" for token in golden["top5_ids"][step]]
        wanted = dict(zip(tokens, golden["top5_logprobs"][step], strict=True))
        assert told == pytest.approx(wanted, abs=TOLERANCE), step
        assert logprobs.token_logprobs[step] == told[logprobs.tokens[step]]


def test_an_echo_comes_with_the_prompts_logprobs(tiny_chat: Served) -> None:
    golden = tiny_chat.prompt("p33")
    answer = tiny_chat.complete(
        prompt=golden["text"],
        echo=True,
        logprobs=1,
        max_tokens=4,
        temperature=0,
        # This text goes on with such tokens, which the log-probabilities name.
        extra_body={"skip_special_tokens": False},
    )
    [choice] = answer.choices
    assert choice.text.startswith(golden["text"])
    logprobs, count = choice.logprobs, len(golden["ids"])
    assert len(logprobs.tokens) == count + 4
    assert logprobs.token_logprobs[0] is None and logprobs.top_logprobs[0] is None
    wanted = golden["prompt_logprobs"][1:]
    assert logprobs.token_logprobs[1:count] == pytest.approx(wanted, abs=TOLERANCE)
    # Every token begins where it says.
    assert "".join(logprobs.tokens) == choice.text
    for offset, token in zip(logprobs.text_offset, logprobs.tokens, strict=True):
        assert choice.text.startswith(token, offset)


def test_an_echo_alone_scores_a_text(tiny_chat: Served) -> None:
    golden = tiny_chat.prompt("p7")
    answer = tiny_chat.complete(prompt=golden["text"], echo=True, logprobs=0, max_tokens=0)
    [choice] = answer.choices
    assert choice.text == golden["text"]
    wanted = math.fsum(golden["prompt_logprobs"][1:])
    assert math.fsum(choice.logprobs.token_logprobs[1:]) == pytest.approx(wanted, abs=0.01)
