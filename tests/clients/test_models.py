"""What the server says of its model: the list, the tokenizer."""

from served import Served


def test_the_list_has_the_one_model(tiny_chat: Served) -> None:
    [card] = tiny_chat.client.models.list().data
    assert (card.object, card.id) == ("model", tiny_chat.model)
    assert tiny_chat.client.models.retrieve(card.id) == card


def test_text_becomes_tokens_and_text_again(tiny_chat: Served) -> None:
    case = tiny_chat.golden("golden_chat.json")["completions"][0]
    for text, tokens in [(case["prompt"], case["prompt_ids"]), ("Grüß Gott, 日本", None)]:
        told = post(tiny_chat, "/tokenize", {"prompt": text})
        assert told["count"] == len(told["tokens"])
        assert tokens is None or told["tokens"] == tokens
        assert post(tiny_chat, "/detokenize", {"tokens": told["tokens"]})["prompt"] == text


def test_a_conversation_becomes_its_tokens(tiny_chat: Served, golden_chat: dict) -> None:
    chat = {field: golden_chat[field] for field in ["messages", "chat_template_kwargs"]}
    assert post(tiny_chat, "/tokenize", chat)["tokens"] == golden_chat["prompt_ids"]


def post(served: Served, path: str, body: dict) -> dict:
    answer = served.http.post(path, json={"model": served.model, **body})
    return answer.raise_for_status().json()
