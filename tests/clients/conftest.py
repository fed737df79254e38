"""Judges of the server that did not grow up with it: the clients that users have.

`tests/clients.rs` starts the real binary and runs these files against it, as part of `make test`,
which also makes their virtual environment in target/clients. Answers are compared with the golden
models' own words, and the official client checks every body against its own types.

One file per subject; a new feature of the API gets a file of its own. Some of them alone:

    PYTEST_ADDOPTS="-k stream" cargo test --release --test clients

What `tests/clients.rs` tells these files, in the environment:

  TROUPE_CHAT_MODEL   folder of the golden model tiny-chat
  TROUPE_CHAT_URL     a server of it that asks for the key OPENAI_API_KEY
  TROUPE_SLOW_URL     one that needs no key, and at least 20 ms for each step
  TROUPE_BERT_MODEL, TROUPE_BERT_URL   tiny-bert, which makes vectors of texts; asks for the key;
                      only the full set of goldens has it
  TROUPE_PICKER       where a server that has the model as `ours`, and TROUPE_CHAT_URL as a foreign
                      endpoint, is asked by proxies
  TROUPE_STORIES_MODEL, TROUPE_STORIES_URL   stories260k; only the full set of goldens has it
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from served import Served, plain_chats


@pytest.fixture(scope="session")
def tiny_chat() -> Iterator[Served]:
    """A model that was trained to answer the chats in its folder word for word."""
    with Served(told("TROUPE_CHAT_URL"), told("TROUPE_CHAT_MODEL")) as served:
        yield served


@pytest.fixture(scope="session")
def slow() -> Iterator[Served]:
    """The same at a pace that leaves time to go away in the middle of an answer."""
    with Served(told("TROUPE_SLOW_URL"), told("TROUPE_CHAT_MODEL")) as served:
        yield served


@pytest.fixture(scope="session")
def bert() -> Iterator[Served]:
    """A model that makes vectors of texts."""
    if "TROUPE_BERT_URL" not in os.environ:
        pytest.skip("tiny-bert is only in the full set of golden models (TROUPE_GOLDEN_DIR)")
    with Served(told("TROUPE_BERT_URL"), told("TROUPE_BERT_MODEL")) as served:
        yield served


@pytest.fixture(scope="session")
def stories() -> Iterator[Served]:
    """A small model with real weights, which tells stories."""
    if "TROUPE_STORIES_URL" not in os.environ:
        pytest.skip("stories260k is only in the full set of golden models (TROUPE_GOLDEN_DIR)")
    with Served(told("TROUPE_STORIES_URL"), told("TROUPE_STORIES_MODEL")) as served:
        yield served


def told(name: str) -> str:
    if name not in os.environ:
        raise pytest.UsageError(f"{name} is not set: see the top of tests/clients/conftest.py")
    return os.environ[name]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests with an argument `golden_chat` run once per golden chat without tools."""
    if "golden_chat" in metafunc.fixturenames:
        chats = plain_chats(Path(told("TROUPE_CHAT_MODEL")))
        metafunc.parametrize("golden_chat", chats, ids=[chat["id"] for chat in chats])
