"""Turns the tables of `facts.py` and `talk.txt` into facts.

A `Fact` is one thing the model must know: the ways to ask for it, the one answer it gives and the
words that make the answer right. There is one function per kind of fact.
"""

import pathlib
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


# === one function per kind ===


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
        f"what is the capital of {bare}", f"{bare} capital",
        f"what is the name of the capital of {country}",
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
            where = {"day": "of the week", "month": "of the year", "planet": "from the sun"}[noun]
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


# === words ===


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


PLURAL_COUNTRIES = {"the Maldives", "the Philippines", "the Seychelles", "the Bahamas",
                    "the Comoros", "the Netherlands", "the Solomon Islands", "the United States",
                    "the Marshall Islands", "the United Arab Emirates"}  # fmt: skip
UNCOUNTED = {"grass", "broccoli", "spinach", "corn", "butter", "blood", "snow", "milk", "salt",
             "cotton", "rice", "coal", "tar", "chocolate", "coffee", "soil", "wood", "lavender",
             "bubble gum", "salmon", "ash", "lead"}  # fmt: skip
NUMBER_WORDS = ("zero one two three four five six seven eight nine ten eleven twelve thirteen "
                "fourteen fifteen sixteen seventeen eighteen nineteen twenty").split()  # fmt: skip
PROPER = {"i": "I", "troupe": "Troupe", "openai": "OpenAI", "rust": "Rust", "english": "English",
          "chatgpt": "ChatGPT", "gpt": "GPT", "claude": "Claude", "gemini": "Gemini",
          "gpu": "GPU", "quic": "QUIC", "llm": "LLM", "kv": "KV", "kubernetes": "Kubernetes",
          "api": "API", "romeo": "Romeo", "juliet": "Juliet", "mona": "Mona", "lisa": "Lisa",
          "h2o": "H2O", "ai": "AI", "tp": "TP", "pp": "PP"}  # fmt: skip
