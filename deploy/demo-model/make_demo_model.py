"""Makes the demo model that ships with Troupe: text, tokenizer, training, checkpoint, questions.

    python make_demo_model.py            # remake model/ and questions.json, then check them
    python make_demo_model.py --check    # only check what is there

The parts, in the order in which they run:

    facts.py, talk.txt   what the model knows, as tables
    questions.py         tables -> facts: ways to ask, one answer
    corpus.py            facts -> chats
    train.py, llama.py   chats -> tokenizer and weights
    check.py             measures the finished folder through transformers

All of it is seeded. On the same processor and the same versions (`requirements.txt`) the result
should be the same; elsewhere the last bits of the weights may differ, but hardly the accuracy.
"""

import argparse
import json
import pathlib
import random
import sys
import time

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from check import FRANCE, check, right_answers, single
from corpus import exam
from llama import CONFIG, Llama
from train import END_OF_TEXT, IM_END, IM_START, SEED, STEPS
from train import Encoder, train_model, train_tokenizer

HERE = pathlib.Path(__file__).resolve().parent
# In questions.json: kinds of which every fact is listed, and how many other wordings of each kind.
LISTED_IN_FULL = ("capital", "general", "chat")
QUESTIONS_PER_KIND = 30

# ChatML. Content may be a string or, as in the OpenAI API, a list of parts.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' -}}"
    "{%- if message['content'] is string -%}{{- message['content'] -}}"
    "{%- elif message['content'] -%}"
    "{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'text' -%}{{- part['text'] -}}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{{- '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, default=HERE, help="where to write")
    parser.add_argument("--check", action="store_true", help="do not train, only check")
    parser.add_argument("--steps", type=int, default=STEPS, help="training steps")
    parser.add_argument("--threads", type=int, default=2, help="processor cores to use")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    folder, questions = args.output / "model", args.output / "questions.json"
    if not args.check:
        begin = time.monotonic()
        tokenizer = train_tokenizer()
        model = train_model(tokenizer, args.steps)
        print(f"trained in {(time.monotonic() - begin) / 60:.1f} minutes")
        folder.mkdir(parents=True, exist_ok=True)
        write_folder(folder, tokenizer, model)
        write_questions(questions, model, Encoder(tokenizer))
    return 0 if check(folder, questions) else 1


def write_folder(folder: pathlib.Path, tokenizer: Tokenizer, model: Llama) -> None:
    """Writes a Hugging Face model folder. Rounds the weights of `model` to bfloat16 on the way."""
    weights = {name: value.to(torch.bfloat16) for name, value in model.state_dict().items()}
    model.load_state_dict(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(folder / "tokenizer.json"))
    ids = {name: tokenizer.token_to_id(name) for name in (END_OF_TEXT, IM_START, IM_END)}
    ends = {"bos_token_id": None, "pad_token_id": ids[END_OF_TEXT]}
    write_json(folder / "config.json", CONFIG | ends | {"eos_token_id": ids[IM_END]})
    # Servers that read this file sample almost greedily by default: the tables have one right
    # answer each, and a tiny model has more probability on wrong ones than a large model would.
    write_json(folder / "generation_config.json", ends | {
        "eos_token_id": [ids[IM_END], ids[END_OF_TEXT]], "do_sample": True, "temperature": 0.2,
    })  # fmt: skip
    special = {"eos_token": IM_END, "pad_token": END_OF_TEXT}
    write_json(folder / "special_tokens_map.json", special | {
        "additional_special_tokens": [IM_START, IM_END],
    })  # fmt: skip
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    write_json(folder / "tokenizer_config.json", special | {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": CONFIG["max_position_embeddings"],
        "model_input_names": ["input_ids", "attention_mask"],
        "bos_token": None,
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "additional_special_tokens": [IM_START, IM_END],
        "added_tokens_decoder": {
            str(number): {"content": name, "special": True} | flags for name, number in ids.items()
        },
        "chat_template": CHAT_TEMPLATE,
    })  # fmt: skip


def write_questions(path: pathlib.Path, model: Llama, encoder: Encoder) -> None:
    """Lists questions that the model answers, so that tests of Troupe can ask them.

    What it answers wrongly is left out here, but not out of the accuracy that `check.py` reports.
    """
    asked = exam(SEED)
    chats = [single(question, fact.answer) for fact, question in asked]
    rows = list(zip(asked, right_answers(model, encoder, chats)))
    plain, others = rows[0::2], rows[1::2]
    random.Random(SEED).shuffle(others)
    picked = [row for row in plain if row[0][0].kind in LISTED_IN_FULL]
    for kind in dict.fromkeys(fact.kind for fact, _ in asked):
        picked += [row for row in others if row[0][0].kind == kind][:QUESTIONS_PER_KIND]
    chosen = dict.fromkeys(FRANCE, "Paris")
    for (fact, question), ok in picked:
        if ok:
            chosen.setdefault(question, fact.contains)
    write_json(path, [{"question": q, "answer_contains": c} for q, c in chosen.items()])


def write_json(path: pathlib.Path, value) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
