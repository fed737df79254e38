"""Vectors of texts, scores of pairs, orders of documents."""

import base64
import math
import struct

import openai
import pytest

from served import Served


def test_vectors_are_golden_in_both_encodings(bert: Served) -> None:
    # The client asks for base64 and decodes it, unless it is told to ask for numbers; what it decodes
    # does not fit its own types before.
    sentences = bert.golden("golden.json")["sentences"]
    texts = [sentence["text"] for sentence in sentences]
    default = bert.lenient.embeddings.create(model=bert.model, input=texts)
    floats = bert.client.embeddings.create(model=bert.model, input=texts, encoding_format="float")
    for answer in [default, floats]:
        assert [data.index for data in answer.data] == list(range(len(texts)))
        for sentence, data in zip(sentences, answer.data, strict=True):
            assert cosine(data.embedding, sentence["embedding"]) > 0.9999, sentence["text"]
        tokens = sum(len(sentence["ids"]) for sentence in sentences)
        assert answer.usage.prompt_tokens == answer.usage.total_tokens == tokens
    for coded, plain in zip(default.data, floats.data, strict=True):
        assert coded.embedding == pytest.approx(plain.embedding, abs=1e-7)


def test_base64_is_of_little_endian_floats(bert: Served) -> None:
    body = {"model": bert.model, "input": "The boat is small.", "encoding_format": "base64"}
    answer = bert.http.post("/v1/embeddings", json=body).raise_for_status().json()
    coded = base64.b64decode(answer["data"][0]["embedding"])
    floats = bert.http.post("/v1/embeddings", json=body | {"encoding_format": "float"}).json()
    assert list(struct.unpack(f"<{len(coded) // 4}f", coded)) == pytest.approx(
        floats["data"][0]["embedding"], abs=1e-7
    )


def test_tokens_are_as_good_as_text(bert: Served) -> None:
    [first, second, *_] = bert.golden("golden.json")["sentences"]
    texts, lists = ([sentence[field] for sentence in (first, second)] for field in ("text", "ids"))
    [of_texts, of_lists, of_list] = [
        bert.client.embeddings.create(model=bert.model, input=given, encoding_format="float")
        for given in [texts, lists, lists[0]]
    ]
    assert of_texts.data == of_lists.data
    assert of_list.data == of_texts.data[:1]


def test_vectors_are_not_cut_where_the_model_does_not_bear_it(bert: Served) -> None:
    with pytest.raises(openai.BadRequestError, match="matryoshka") as raised:
        bert.client.embeddings.create(model=bert.model, input="x", dimensions=8)
    assert raised.value.param == "dimensions"


def test_models_are_asked_only_for_what_they_do(bert: Served, tiny_chat: Served) -> None:
    with pytest.raises(openai.BadRequestError, match="does not support Embeddings API"):
        tiny_chat.client.embeddings.create(model=tiny_chat.model, input="x")
    messages = [{"role": "user", "content": "x"}]
    with pytest.raises(openai.BadRequestError, match="does not support Chat Completions API"):
        bert.client.chat.completions.create(model=bert.model, messages=messages)


def test_what_is_too_long_is_told_or_cut(bert: Served) -> None:
    long = "boat " * 500
    with pytest.raises(openai.BadRequestError, match="maximum context length is 128 tokens"):
        bert.client.embeddings.create(model=bert.model, input=long)
    cut = bert.lenient.embeddings.create(
        model=bert.model, input=long, extra_body={"truncate_prompt_tokens": -1}
    )
    assert cut.usage.prompt_tokens == 128


def test_scores_and_ranks_are_cosines(bert: Served) -> None:
    sentences = bert.golden("golden.json")["sentences"][:4]
    texts = [sentence["text"] for sentence in sentences]
    expected = [cosine(sentences[0]["embedding"], other["embedding"]) for other in sentences[1:]]
    pairs = {"model": bert.model, "text_1": texts[0], "text_2": texts[1:]}
    answer = bert.http.post("/v1/score", json=pairs).raise_for_status().json()
    assert [data["score"] for data in answer["data"]] == pytest.approx(expected, abs=1e-4)
    query = {"model": bert.model, "query": texts[0], "documents": texts[1:], "top_n": 2}
    answer = bert.http.post("/v2/rerank", json=query).raise_for_status().json()
    order = sorted(range(3), key=lambda at: -expected[at])[:2]
    assert [result["index"] for result in answer["results"]] == order
    assert answer["results"][0]["document"]["text"] == texts[1 + order[0]]


def cosine(one: list[float], other: list[float]) -> float:
    def dot(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    return dot(one, other) / math.sqrt(dot(one, one) * dot(other, other))
