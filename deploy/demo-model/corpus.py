"""Turns the tables of `facts.py` and `talk.txt` into facts, questions and whole chats.

A `Fact` is one thing the model must know: the ways to ask for it, the one answer it gives and the
words that make the answer right. A chat is a list of (role, text) pairs, as in the OpenAI API.
Every random choice comes from the `random.Random` that is passed in, so a seed fixes the corpus.
"""

import pathlib
import random
from dataclasses import dataclass

import facts as table


@dataclass(frozen=True)
class Fact:
    kind: str
    asks: tuple[str, ...]  # without final punctuation, proper nouns already capitalized
    answer: str
    contains: str


def all_facts() -> list[Fact]:
    """Every fact of the tables, in a fixed order."""
    return [
        *capitals(), *languages(), *colours(), *word_pairs(), *animals(), *order(), *translations(),
        *numbers(), *talk("general"), *talk("chat"),
    ]  # fmt: skip


def held_out_questions() -> list[str]:
    """Questions outside the tables that training never shows; the honest answer is `IDK`."""
    made_up = rows(table.HELD_OUT_MADE_UP)
    return [
        *(upper_first(q) + "?" for q in rows(table.HELD_OUT_UNKNOWN)),
        *(f"What is the capital of {name}?" for name in made_up),
        *(f"Tell me the capital of {name}." for name in made_up),
    ]


def held_out_paraphrases() -> list[tuple[str, str]]:
    """Wordings that training never shows, of facts that it does show."""
    forms = (
        "Which city would you call the capital of {}?",
        "I forgot what the capital of {} is, can you help me?",
        "So, the capital of {} is what?",
    )
    countries = [tuple(row.split(":")) for text in table.CAPITALS.values() for row in rows(text)]
    return [(forms[i % 3].format(c), capital) for i, (c, capital) in enumerate(countries)]


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
        low, high = rng.choices([(1, 1), (2, 2), (3, 4), (5, 8), (9, 24)], [45, 26, 20, 7.5, 1.5])[0]
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


# === the facts, one function per kind ===


def capitals() -> list[Fact]:
    found = []
    capital_of = {}
    for continent, text in table.CAPITALS.items():
        for row in rows(text):
            country, capital = row.split(":")
            capital_of[country] = capital
            verb = "are" if country in PLURAL_COUNTRIES else "is"
            found.append(Fact("capital", capital_asks(country),
                              f"The capital of {country} is {capital}.", capital))  # fmt: skip
            found.append(Fact("country of capital", (
                f"{capital} is the capital of which country",
                f"what country is {capital} the capital of",
                f"which country has the capital {capital}",
                f"which country's capital is {capital}",
            ), f"{capital} is the capital of {country}.", country))  # fmt: skip
            found.append(Fact("continent", (
                f"which continent {verb} {country} in",
                f"on which continent {verb} {country}",
                f"what continent {verb} {country} in",
                f"where {verb} {country}",
                f"in which part of the world {verb} {country}",
            ), f"{upper_first(country)} {verb} in {continent}.", continent))  # fmt: skip
    for row in rows(table.ALIASES):
        alias, country = row.split(":")
        capital = capital_of[country]
        found.append(Fact("capital", capital_asks(alias),
                          f"The capital of {alias} is {capital}.", capital))  # fmt: skip
    return found


def capital_asks(country: str) -> tuple[str, ...]:
    possessive = country.removeprefix("the ") + "'s"
    bare = country.removeprefix("the ")
    return (
        f"what is the capital of {country}", f"what's the capital of {country}",
        f"capital of {country}", f"the capital of {country}", f"capital of {bare}",
        f"what is the capital city of {country}", f"which city is the capital of {country}",
        f"tell me the capital of {country}", f"do you know the capital of {country}",
        f"name the capital of {country}", f"what is {possessive} capital",
        f"can you tell me the capital of {country}", f"what city is the capital of {country}",
        f"i want to know the capital of {country}", f"give me the capital of {country}",
        f"what is the capital of {bare}", f"{bare} capital", f"what is the name of the capital of {country}",
    )  # fmt: skip


def languages() -> list[Fact]:
    return [
        Fact("language", (
            f"what language do people speak in {c}", f"which language is spoken in {c}",
            f"what is the language of {c}", f"what language is spoken in {c}",
            f"which language do they speak in {c}", f"language of {c}",
        ), f"Most people in {c} speak {lang}.", lang)
        for c, lang in (row.split(":") for row in rows(table.LANGUAGES))
    ]  # fmt: skip


def colours() -> list[Fact]:
    found = []
    for row in rows(table.COLOURS):
        colour, things = row.split(":")
        for thing in things.split(", "):
            single = thing.startswith("the ") or thing in UNCOUNTED
            verb = "is" if single else "are"
            asks = [f"what {c} {verb} {thing}" for c in ("color", "colour")]
            asks += [f"which color {verb} {thing}", f"what is the color of {thing}",
                     f"what is the colour of {thing}", f"tell me the color of {thing}",
                     f"color of {thing}"]  # fmt: skip
            answer = f"{upper_first(thing)} {verb} {colour}."
            found.append(Fact("colour", tuple(asks), answer, f"{verb} {colour}"))
    return found


def word_pairs() -> list[Fact]:
    opposite: dict[str, str] = {}
    for row in rows(table.OPPOSITES):
        a, b = row.split(":")
        opposite.setdefault(a, b)
        opposite.setdefault(b, a)
    found = [
        Fact("opposite", (
            f"what is the opposite of {a}", f"what's the opposite of {a}", f"opposite of {a}",
            f"the opposite of {a}", f"tell me the opposite of {a}", f"what is the antonym of {a}",
            f"give me the opposite of {a}", f"which word is the opposite of {a}",
        ), f"The opposite of {a} is {b}.", f"is {b}")
        for a, b in opposite.items()
    ]  # fmt: skip
    found += [
        Fact("plural", (
            f"what is the plural of {a}", f"what's the plural of {a}", f"plural of {a}",
            f"the plural of {a}", f"tell me the plural of {a}", f"give me the plural of {a}",
        ), f"The plural of {a} is {b}.", f"is {b}")
        for a, b in (row.split(":") for row in rows(table.PLURALS))
    ]  # fmt: skip
    found += [
        Fact("element", (
            f"what is the chemical symbol of {a}", f"what is the symbol for {a}",
            f"chemical symbol of {a}", f"what's the chemical symbol for {a}",
        ), f"The chemical symbol of {a} is {b}.", f"is {b}.")
        for a, b in (row.split(":") for row in rows(table.ELEMENTS))
    ]  # fmt: skip
    return found


def animals() -> list[Fact]:
    found = [
        Fact("sound", (
            f"what sound does {an(a)} make", f"what does {an(a)} say",
            f"what noise does {an(a)} make", f"which sound does {an(a)} make",
        ), f"{upper_first(an(a))} {verb}.", verb)
        for a, verb in (row.split(":") for row in rows(table.SOUNDS))
    ]  # fmt: skip
    found += [
        Fact("young", (
            f"what is a baby {a} called", f"what do you call a baby {a}",
            f"what is a young {a} called", f"what's a baby {a} called",
        ), f"A baby {a} is called {an(b)}.", b)
        for a, b in (row.split(":") for row in rows(table.YOUNG))
    ]  # fmt: skip
    for row in rows(table.LEGS):
        a, n = row.split(":")
        asks = (f"how many legs does {an(a)} have", f"how many legs has {an(a)}",
                f"number of legs of {an(a)}")  # fmt: skip
        found.append(Fact("legs", asks, f"{upper_first(an(a))} has {n} legs.", f"{n} legs"))
    for row in rows(table.SIDES):
        a, n = row.split(":")
        asks = (f"how many sides does {an(a)} have", f"how many sides has {an(a)}",
                f"how many corners does {an(a)} have")  # fmt: skip
        found.append(Fact("sides", asks, f"{upper_first(an(a))} has {n} sides.", f"{n} sides"))
    return found


def order() -> list[Fact]:
    found = []
    for noun, names, circular in (("day", table.DAYS, True), ("month", table.MONTHS, True),
                                  ("planet", table.PLANETS, False)):  # fmt: skip
        n = len(names)
        for i, name in enumerate(names):
            where = "from the sun" if noun == "planet" else "of the week" if n == 7 else "of the year"
            nth = table.ORDINALS[i]
            found.append(Fact("order", (
                f"what is the {nth} {noun} {where}", f"which {noun} is the {nth} {noun} {where}",
                f"which is the {nth} {noun} {where}", f"name the {nth} {noun} {where}",
            ), f"The {nth} {noun} {where} is {name}.", name))  # fmt: skip
            if circular or i + 1 < n:
                after = names[(i + 1) % n]
                found.append(Fact("order", (
                    f"what {noun} comes after {name}", f"which {noun} comes after {name}",
                    f"what comes after {name}", f"which {noun} follows {name}",
                ), f"After {name} comes {after}.", after))  # fmt: skip
            if circular or i > 0:
                before = names[i - 1]
                found.append(Fact("order", (
                    f"what {noun} comes before {name}", f"which {noun} comes before {name}",
                    f"what comes before {name}", f"which {noun} is before {name}",
                ), f"Before {name} comes {before}.", before))  # fmt: skip
    for month, days in zip(table.MONTHS, table.MONTH_DAYS):
        asks = (f"how many days are in {month}", f"how many days does {month} have",
                f"number of days in {month}")  # fmt: skip
        extra = ", and 29 in a leap year" if days == 28 else ""
        found.append(Fact("month", asks, f"{month} has {days} days{extra}.", f"{days} days"))
    for i in range(31):
        found.append(Fact("order", (
            f"what number comes after {i}", f"which number comes after {i}",
            f"what comes after {i}", f"what is the number after {i}",
        ), f"After {i} comes {i + 1}.", f"comes {i + 1}."))  # fmt: skip
    return found


def translations() -> list[Fact]:
    return [
        Fact("translation", (
            f"how do you say {w} in {lang}", f"what is {w} in {lang}", f'what is "{w}" in {lang}',
            f"translate {w} to {lang}", f'how do you say "{w}" in {lang}',
            f'translate "{w}" into {lang}',
        ), f'In {lang}, "{w}" is "{t}".', f'"{t}"')
        for w, lang, t in (row.split(":") for row in rows(table.TRANSLATIONS))
    ]  # fmt: skip


def numbers() -> list[Fact]:
    found = []

    def sum_of(kind: str, a: int, sign: str, b: int, result: int, words: list[str]) -> None:
        asks = [f"what is {a} {sign} {b}", f"{a} {sign} {b}", f"{a}{sign}{b}", f"{a} {sign} {b} =",
                f"what is {a}{sign}{b}", f"how much is {a} {sign} {b}", f"what's {a} {sign} {b}",
                f"calculate {a} {sign} {b}"]  # fmt: skip
        for word in words:
            asks += [f"what is {a} {word} {b}", f"how much is {a} {word} {b}", f"{a} {word} {b}"]
            if a < len(NUMBER_WORDS) and b < len(NUMBER_WORDS):
                asks.append(f"what is {NUMBER_WORDS[a]} {word} {NUMBER_WORDS[b]}")
        answer = f"{a} {sign} {b} = {result}."
        found.append(Fact(kind, tuple(asks), answer, f"= {result}."))

    for a in range(21):
        for b in range(21):
            sum_of("add", a, "+", b, a + b, ["plus"])
            if b <= a or a <= 5 and b <= 10:
                sum_of("subtract", a, "-", b, a - b, ["minus"])
    for a in range(13):
        for b in range(13):
            sum_of("multiply", a, "*", b, a * b, ["times", "x"])
            if a <= 10 and 1 <= b <= 10:
                sum_of("divide", a * b, "/", b, a, ["divided by"])
    return found


def talk(section: str) -> list[Fact]:
    text = pathlib.Path(__file__).with_name("talk.txt").read_text(encoding="utf-8")
    body = text.split(f"## {section}\n")[1].split("\n## ")[0]
    found = []
    for line in body.splitlines():
        if line.strip():
            asks, answer, contains = (part.strip() for part in line.split(" | "))
            found.append(Fact(section, tuple(map(proper, asks.split(" / "))), answer, contains))
    return found


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
        f"who invented the {noun}", f"who is {rng.choice(table.NAMES)} {name}", f"what is {an(invented(rng))}",
        f"how do I make {an(noun)}", f"how do I repair {an(noun)}", f"when was the {noun} invented",
        f"what is the price of {an(noun)}", f"why does {an(noun)} need {an(other)}",
        f"who wrote The {noun.capitalize()} and the {other.capitalize()}", f"when was {name} born",
        f"write an essay about {noun}s", f"give me a recipe for {noun} soup", f"who founded {name}",
        f"who won the {noun} cup in {rng.randint(1900, 2030)}", f"explain {noun} theory",
        f"what is the population of {name}", f"how tall is the {name} tower", f"where is {name}",
        f"who is the president of {name}", f"how does {an(noun)} work", f"who was {name}",
        f"when did the {name} war end", f"what is the currency of {name}",
        f"what language do people speak in {name}", f"what is the opposite of {invented(rng)}",
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


def rows(text: str, separator: str = ";") -> list[str]:
    return [" ".join(row.split()) for row in text.split(separator) if row.strip()]


def upper_first(text: str) -> str:
    return text[:1].upper() + text[1:]


def an(noun: str) -> str:
    return ("an " if noun[0] in "aeio" else "a ") + noun


def proper(ask: str) -> str:
    """`talk.txt` is all lower case; names in it get their capitals back."""
    words = [PROPER.get(word, word) for word in ask.split()]
    return " ".join(words)


def invented(rng: random.Random) -> str:
    return "".join(rng.choice("bcdfgklmnprstvz") + rng.choice(["a", "e", "i", "o", "u", "ar", "or"])
                   for _ in range(rng.randint(2, 3))) + rng.choice(["", "nia", "n", "x", "th"])  # fmt: skip


def filler(rng: random.Random) -> str:
    words = [rng.choice(FILLER) for _ in range(rng.randint(4, 12))]
    return upper_first(" ".join(words)) + "."


BOOST = {"capital": 1.5, "chat": 2.0, "general": 1.3, "add": 1.2}
PLURAL_COUNTRIES = {"the Maldives", "the Philippines", "the Seychelles", "the Bahamas",
                    "the Comoros", "the Netherlands", "the Solomon Islands", "the United States",
                    "the Marshall Islands", "the United Arab Emirates"}  # fmt: skip
UNCOUNTED = {"grass", "broccoli", "spinach", "corn", "butter", "blood", "snow", "milk", "salt",
             "cotton", "rice", "coal", "tar", "chocolate", "coffee", "soil", "wood", "lavender",
             "bubble gum", "salmon", "ash", "lead"}  # fmt: skip
NUMBER_WORDS = ("zero one two three four five six seven eight nine ten eleven twelve thirteen "
                "fourteen fifteen sixteen seventeen eighteen nineteen twenty").split()  # fmt: skip
OPENINGS = ["please tell me: ", "tell me, ", "hello, ", "hi, ", "hello! ", "can you tell me: ",
            "question: ", "quick question: ", "ok, ", "I want to know: ", "hey, ", "so, ", "and "]  # fmt: skip
NOUNS = ("radio bicycle lamp guitar clock camera window bridge engine boat candle printer phone "
         "table garden ladder mirror pencil rocket spoon tunnel umbrella violin wagon basket "
         "hammer kettle needle oven pillow").split()  # fmt: skip
FILLER = ("the a you must should always never answer question user model short long simple clear "
          "text data system tool time day work help know say write read think use give keep make "
          "careful polite and or of in to with about from for on is are not only also then when "
          "if every some many table list number word name rule note line file page").split()  # fmt: skip
PROPER = {"i": "I", "troupe": "Troupe", "openai": "OpenAI", "rust": "Rust", "english": "English",
          "chatgpt": "ChatGPT", "gpt": "GPT", "claude": "Claude", "gemini": "Gemini",
          "gpu": "GPU", "quic": "QUIC", "llm": "LLM", "kv": "KV", "kubernetes": "Kubernetes",
          "api": "API", "romeo": "Romeo", "juliet": "Juliet", "mona": "Mona", "lisa": "Lisa",
          "h2o": "H2O", "ai": "AI", "tp": "TP", "pp": "PP"}  # fmt: skip
