"""`/v1/chat/completions`, whole answers."""

import pytest

from served import GREEDY, HELLO, HOT, Served, content


def test_golden_chats_are_answered_word_for_word(tiny_chat: Served, golden_chat: dict) -> None:
    kwargs = golden_chat["chat_template_kwargs"]
    answer = tiny_chat.chat(
        golden_chat["messages"], extra_body={"chat_template_kwargs": kwargs}, **GREEDY
    )
    [choice] = answer.choices
    assert choice.message.role == "assistant"
    assert choice.message.content == content(golden_chat)
    # A field that the official client does not know but keeps.
    assert getattr(choice.message, "reasoning", None) == golden_chat.get("reasoning")
    assert choice.finish_reason == golden_chat["finish_reason"]
    usage = golden_chat["usage"]
    assert answer.usage.prompt_tokens == usage["prompt_tokens"]
    assert answer.usage.completion_tokens == usage["completion_tokens"]
    assert answer.usage.total_tokens == usage["prompt_tokens"] + usage["completion_tokens"]


def test_an_answer_names_itself(tiny_chat: Served) -> None:
    answers = [tiny_chat.chat(HELLO, **GREEDY) for _ in range(2)]
    for answer in answers:
        assert answer.object == "chat.completion"
        assert answer.model == tiny_chat.model
        assert answer.id.startswith("chatcmpl-")
    assert answers[0].id != answers[1].id


def test_content_may_come_in_parts(tiny_chat: Served) -> None:
    parts = [{"type": "text", "text": "Hello!"}]
    whole = tiny_chat.chat(HELLO, **GREEDY)
    told = tiny_chat.chat([{"role": "user", "content": parts}], **GREEDY)
    assert told.choices == whole.choices


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_an_answer_ends_at_its_limit(tiny_chat: Served, field: str) -> None:
    answer = tiny_chat.chat(HELLO, **GREEDY, **{field: 3})
    assert answer.choices[0].message.content == "Hell"
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 3


def test_a_stop_string_ends_the_answer(tiny_chat: Served) -> None:
    answer = tiny_chat.chat(HELLO, stop="How", **GREEDY)
    assert answer.choices[0].message.content == "Hello! "
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].stop_reason == "How"


def test_choices_differ_and_a_seed_repeats_them(tiny_chat: Served) -> None:
    def texts(seed: int) -> list[str]:
        choices = tiny_chat.chat(HELLO, n=4, seed=seed, **HOT).choices
        assert [choice.index for choice in choices] == [0, 1, 2, 3]
        return [choice.message.content for choice in choices]

    assert len(set(texts(7))) > 1
    assert texts(7) == texts(7) != texts(8)


def test_logprobs_tell_every_token(tiny_chat: Served) -> None:
    chats = tiny_chat.golden("golden_chat.json")["chats"]
    # Its characters are longer than its tokens, so that only bytes can tell them.
    golden = next(chat for chat in chats if chat["id"] == "unicode")
    answer = tiny_chat.chat(golden["messages"], logprobs=True, top_logprobs=3, **GREEDY)
    tokens = answer.choices[0].logprobs.content
    assert len(tokens) == len(golden["completion_ids"])
    # The last token is the end, which is not part of the text.
    told = b"".join(bytes(token.bytes) for token in tokens[:-1])
    assert told.decode() == golden["completion_text"]
    for token in tokens:
        best, *others = token.top_logprobs
        assert (best.bytes, best.logprob) == (token.bytes, token.logprob)
        assert len(others) == 2
        assert 0 >= best.logprob >= others[0].logprob >= others[1].logprob
    least = min(token.logprob for token in tokens)
    assert least == pytest.approx(golden["min_token_logprob"], abs=1e-3)


def test_logprobs_come_only_when_asked_for(tiny_chat: Served) -> None:
    assert tiny_chat.chat(HELLO, **GREEDY).choices[0].logprobs is None
    told = tiny_chat.chat(HELLO, logprobs=True, **GREEDY).choices[0].logprobs.content
    assert all(token.top_logprobs == [] for token in told)
