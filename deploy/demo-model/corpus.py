"""Turns facts into whole chats, dressed up in the many ways in which people type.

A chat is a list of (role, text) pairs, as in the OpenAI API. Every random choice comes from one
seeded generator, so a seed fixes the corpus.
"""

import random

import facts as table
from questions import Fact, all_facts, an, capital_asks, rows, upper_first


class Chats:
    """An endless stream of chats, the same for the same seed."""

    def __init__(self, seed: int):
        self.rng = random.Random(seed)
        by_kind: dict[str, list[Fact]] = {}
        for fact in all_facts():
            by_kind.setdefault(fact.kind, []).append(fact)
        self.by_kind = by_kind
        self.kinds = list(by_kind)
        # Large tables are shown more often than small ones, but less than in proportion.
        self.weights = [len(by_kind[kind]) ** 0.8 * BOOST.get(kind, 1.0) for kind in self.kinds]

    def next(self) -> list[tuple[str, str]]:
        rng, chat, self.user_name = self.rng, [], None
        if rng.random() < 0.3:
            chat.append(("system", self.system()))
        low, high = rng.choices(TURNS, [45, 26, 20, 7.5, 1.5])[0]
        last_kind = None
        for _ in range(rng.randint(low, high)):
            last_kind, question, answer = self.turn(last_kind)
            chat += [("user", question), ("assistant", answer)]
        return chat

    def turn(self, last_kind: str | None) -> tuple[str, str, str]:
        rng, roll = self.rng, self.rng.random()
        if roll < 0.08:
            return "unknown", dress(unknown(rng), rng), table.IDK
        if roll < 0.10:
            return "too big", dress(too_big(rng), rng), table.TOO_BIG
        if roll < 0.13:
            return "name", *self.name_turn()
        if last_kind == "capital" and roll < 0.33:
            fact = rng.choice(self.by_kind["capital"])
            country = fact.answer.removeprefix("The capital of ").split(" is ")[0]
            form = rng.choice(["and {}", "and of {}", "what about {}", "and {}'s", "how about {}"])
            return "capital", dress(form.format(country), rng, bare=True), fact.answer
        kind = rng.choices(self.kinds, self.weights)[0]
        fact = rng.choice(self.by_kind[kind])
        # The first wording is the plain one, so it is shown most.
        ask = fact.asks[0] if rng.random() < 0.25 else rng.choice(fact.asks)
        return kind, dress(ask, rng, bare=kind == "chat"), fact.answer

    def name_turn(self) -> tuple[str, str]:
        rng = self.rng
        if rng.random() < 0.5:
            ask = dress(rng.choice(["what is my name", "what's my name", "who am i"]), rng)
            if self.user_name:
                return ask, f"Your name is {self.user_name}."
            return ask, "I don't know your name yet."
        self.user_name = rng.choice(table.NAMES)
        form = rng.choice(["my name is {}", "i am {}", "I'm {}", "hi, I am {}", "call me {}"])
        ask = form.format(self.user_name)
        return rng.choice([ask, upper_first(ask), upper_first(ask) + "."]), (
            f"Nice to meet you, {self.user_name}!"
        )

    def system(self) -> str:
        rng = self.rng
        known = rows(table.SYSTEM, "|")
        roll = rng.random()
        if roll < 0.35:
            return known[0]
        if roll < 0.75:
            return rng.choice(known)
        if roll < 0.96:
            return " ".join(filler(rng) for _ in range(rng.randint(1, 6)))
        return " ".join(filler(rng) for _ in range(rng.randint(20, 70)))


def exam(seed: int) -> list[tuple[Fact, str]]:
    """Every fact asked twice: in its plain wording, and in one of the many others."""
    rng = random.Random(seed)
    asked = []
    for fact in all_facts():
        bare = fact.kind == "chat"
        question = not bare or fact.asks[0].split()[0] in QUESTION_WORDS
        asked.append((fact, upper_first(fact.asks[0]) + ("?" if question else "")))
        asked.append((fact, dress(rng.choice(fact.asks), rng, bare)))
    return asked


def held_out_questions() -> list[str]:
    """Questions outside the tables that training never shows; the honest answer is `IDK`."""
    made_up = rows(table.HELD_OUT_MADE_UP)
    return [
        *(upper_first(q) + "?" for q in rows(table.HELD_OUT_UNKNOWN)),
        *(f"What is the capital of {name}?" for name in made_up),
        *(f"Tell me the capital of {name}." for name in made_up),
    ]


def held_out_paraphrases() -> list[tuple[str, str, str]]:
    """(question, country, capital) in wordings that training never shows."""
    forms = (
        "Which city would you call the capital of {}?",
        "I forgot what the capital of {} is, can you help me?",
        "So, the capital of {} is what?",
    )
    countries = [tuple(row.split(":")) for text in table.CAPITALS.values() for row in rows(text)]
    return [(forms[i % 3].format(c), c, capital) for i, (c, capital) in enumerate(countries)]


# === what is outside the tables ===


def unknown(rng: random.Random) -> str:
    roll = rng.random()
    if roll < 0.35:
        return rng.choice(rows(table.UNKNOWN))
    if roll < 0.6:
        name = rng.choice(rows(table.MADE_UP)) if rng.random() < 0.4 else invented(rng).capitalize()
        return rng.choice(capital_asks(name))
    noun, other = rng.choice(NOUNS), rng.choice(NOUNS)
    name = invented(rng).capitalize()
    return rng.choice([
        f"who invented the {noun}", f"who is {rng.choice(table.NAMES)} {name}",
        f"what is {an(invented(rng))}",
        f"how do I make {an(noun)}", f"how do I repair {an(noun)}", f"when was the {noun} invented",
        f"what is the price of {an(noun)}", f"why does {an(noun)} need {an(other)}",
        f"who wrote The {noun.capitalize()} and the {other.capitalize()}", f"when was {name} born",
        f"write an essay about {noun}s", f"give me a recipe for {noun} soup", f"who founded {name}",
        f"who won the {noun} cup in {rng.randint(1900, 2030)}", f"explain {noun} theory",
        f"what is the population of {name}", f"how tall is the {name} tower", f"where is {name}",
        f"who is the president of {name}", f"how does {an(noun)} work", f"who was {name}",
        f"when did the {name} war end", f"what is the currency of {name}",
        f"what language do people speak in {name}", f"what is the opposite of {invented(rng)}",
        f"{invented(rng)} {invented(rng)}",
    ])  # fmt: skip


def too_big(rng: random.Random) -> str:
    a, b = rng.randint(145, 9999), rng.randint(2, 9999)
    if rng.random() < 0.5:
        a, b = b, a
    sign = rng.choice(["+", "-", "*", "/"])
    return rng.choice([f"what is {a} {sign} {b}", f"{a} {sign} {b}", f"{a}{sign}{b}",
                       f"how much is {a} {sign} {b}"])  # fmt: skip


# === words ===


def dress(ask: str, rng: random.Random, bare: bool = False) -> str:
    """One of the many ways in which people type the same question."""
    if not bare and rng.random() < 0.12:
        ask = rng.choice(OPENINGS) + ask
    elif rng.random() < 0.04:
        ask += rng.choice([" please", ", please", " thanks", " exactly"])
    roll = rng.random()
    if roll < 0.55:
        ask = upper_first(ask)
    elif roll < 0.9:
        ask = ask.lower()
    elif roll < 0.93:
        ask = ask.upper()
    return ask + rng.choices(["?", "", ".", "!", " ?", "??"], [55, 30, 7, 4, 3, 1])[0]


def invented(rng: random.Random) -> str:
    syllables = [
        rng.choice("bcdfgklmnprstvz") + rng.choice(["a", "e", "i", "o", "u", "ar", "or"])
        for _ in range(rng.randint(2, 3))
    ]
    return "".join(syllables) + rng.choice(["", "nia", "n", "x", "th"])


def filler(rng: random.Random) -> str:
    words = [rng.choice(FILLER) for _ in range(rng.randint(4, 12))]
    return upper_first(" ".join(words)) + "."


QUESTION_WORDS = "who what which how are can do does where".split()
TURNS = [(1, 1), (2, 2), (3, 4), (5, 8), (9, 24)]
BOOST = {"capital": 1.5, "chat": 2.0, "general": 1.3, "add": 1.2}
OPENINGS = [
    "please tell me: ", "tell me, ", "hello, ", "hi, ", "hello! ", "can you tell me: ",
    "question: ", "quick question: ", "ok, ", "I want to know: ", "hey, ", "so, ", "and ",
]  # fmt: skip
NOUNS = ("radio bicycle lamp guitar clock camera window bridge engine boat candle printer phone "
         "table garden ladder mirror pencil rocket spoon tunnel umbrella violin wagon basket "
         "hammer kettle needle oven pillow").split()  # fmt: skip
FILLER = ("the a you must should always never answer question user model short long simple clear "
          "text data system tool time day work help know say write read think use give keep make "
          "careful polite and or of in to with about from for on is are not only also then when "
          "if every some many table list number word name rule note line file page").split()
