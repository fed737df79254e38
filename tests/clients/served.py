"""A running server as tests see it: clients, goldens, metrics."""

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from openai import OpenAI

# Longer than any answer takes on a busy machine: past it something hangs.
PATIENCE_SECONDS = 30

HELLO = [{"role": "user", "content": "Hello!"}]
GREEDY: dict[str, Any] = {"temperature": 0}
# Hot enough that tiny-chat, which was trained on a few texts, does not say the same every time.
HOT: dict[str, Any] = {"temperature": 2, "max_tokens": 16}
# Greedy, to the last token allowed: as the goldens were made.
EXACT: dict[str, Any] = {"temperature": 0, "extra_body": {"ignore_eos": True}}


class Served:
    """A server, the one model that it serves, and the folder that this model came from."""

    def __init__(self, url: str, folder: str) -> None:
        key = os.environ["OPENAI_API_KEY"]
        self.url = url
        self.folder = Path(folder)
        # Retries would hide failures.
        options = {"base_url": f"{url}/v1", "max_retries": 0, "timeout": PATIENCE_SECONDS}
        # Strict: a body that does not fit the client's types raises.
        self.client = OpenAI(**options, api_key=key, _strict_response_validation=True)
        # OpenAI's own server does not fit them in one place: until a text completion has ended its
        # `finish_reason` is null, and so are the log-probabilities of an echoed first token.
        self.lenient = OpenAI(**options, api_key=key)
        headers = {"authorization": f"Bearer {key}"}
        self.http = httpx.Client(base_url=url, headers=headers, timeout=PATIENCE_SECONDS)
        [card] = self.client.models.list().data
        self.model = card.id

    def __enter__(self) -> "Served":
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.lenient.close()
        self.http.close()

    def golden(self, name: str) -> Any:
        """A JSON file of the model's folder."""
        return golden(self.folder, name)

    def prompt(self, name: str) -> dict[str, Any]:
        """One of the model's golden prompts, with the tokens that greedily follow it."""
        prompts = self.golden("golden.json")["prompts"]
        return next(prompt for prompt in prompts if prompt["id"] == name)

    def complete(self, **fields: Any) -> Any:
        """A text completion, whole or (with `stream`) an iterator of chunks."""
        client = self.lenient if fields.keys() & {"stream", "echo"} else self.client
        return client.completions.create(model=self.model, **fields)

    def chat(self, messages: list[Any], **fields: Any) -> Any:
        """A chat completion, whole or (with `stream`) an iterator of chunks."""
        return self.client.chat.completions.create(model=self.model, messages=messages, **fields)

    def metric(self, name: str, **labels: str) -> float:
        """The sum over a metric's series that have these labels."""
        text = self.http.get("/metrics").raise_for_status().text
        series = re.findall(rf"^{re.escape(name)}(?:{{(.*)}})? (\S+)$", text, re.MULTILINE)
        wanted = {f'{label}="{value}"' for label, value in labels.items()}
        values = [float(value) for names, value in series if wanted <= set(names.split(","))]
        assert values, f"{name} {labels} is not among\n{text}"
        return sum(values)


def golden(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def plain_chats(folder: Path) -> list[dict[str, Any]]:
    """The golden chats without tools."""
    chats = golden(folder, "golden_chat.json")["chats"]
    return [chat for chat in chats if chat["tools"] is None]


def content(chat: dict[str, Any]) -> str:
    """What a golden chat's answer says after the model has thought, if it does think."""
    return chat.get("content_after_reasoning", chat["completion_text"])


def until(what: str, holds: Callable[[], bool]) -> None:
    """Waits for what can only be waited for by asking."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.005)
