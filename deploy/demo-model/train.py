"""Trains the tokenizer and the model on the chats of `corpus.py`."""

import random
import time

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from corpus import Chats
from llama import CONFIG, Llama

END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SEED = 20260101
STEPS = 4400
BATCH_TOKENS = 2048  # per step, padding included
PEAK_RATE, WARMUP_STEPS = 2e-3, 150


def train_tokenizer() -> Tokenizer:
    """Byte-level BPE: every text can be encoded, and the words of the tables are short."""
    chats = Chats(SEED)
    texts = [text for _ in range(20_000) for _, text in chats.next()]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=CONFIG["vocab_size"], show_progress=False,
        special_tokens=[END_OF_TEXT, IM_START, IM_END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    ))  # fmt: skip
    return tokenizer


class Encoder:
    """Chats to token ids, exactly as the chat template renders them, plus what to learn."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.seen: dict[str, list[int]] = {}

    def ids(self, text: str) -> list[int]:
        if text not in self.seen:
            self.seen[text] = self.tokenizer.encode(text).ids
        return self.seen[text]

    def chat(self, chat: list[tuple[str, str]]) -> tuple[list[int], list[bool]]:
        """Token ids, and for each whether it belongs to an answer."""
        ids, learn = [], []
        for role, text in chat:
            body = self.ids(text) + self.ids(IM_END)
            head = self.ids(f"{IM_START}{role}\n")
            ids += head + body + self.ids("\n")
            learn += [False] * len(head) + [role == "assistant"] * len(body) + [False]
        return ids, learn

    def statement(self, text: str, known: str) -> tuple[list[int], list[bool]]:
        """A plain sentence, for the completions API: learned from the word `known` on."""
        start = text.rindex(known)
        head, tail = self.ids(text[:start].rstrip()), self.ids(text[len(text[:start].rstrip()) :])
        tail = tail + self.ids(END_OF_TEXT)
        return head + tail, [False] * len(head) + [True] * len(tail)


def batches(encoder: Encoder, seed: int):
    """Endless (ids, learn) tensors, right-padded; chats of one batch have similar lengths."""
    chats, rng = Chats(seed), random.Random(seed)
    facts = [fact for kind in chats.kinds for fact in chats.by_kind[kind] if kind != "chat"]
    facts = [fact for fact in facts if fact.answer.rindex(fact.contains) > 0]
    while True:
        pool = []
        for _ in range(3000):
            if rng.random() < 0.08:
                fact = rng.choice(facts)
                pool.append(encoder.statement(fact.answer, fact.contains))
            else:
                pool.append(encoder.chat(chats.next()))
        pool = [row for row in pool if len(row[0]) <= CONFIG["max_position_embeddings"]]
        pool.sort(key=lambda row: len(row[0]))
        groups, group = [], []
        for row in pool:
            if (len(group) + 1) * len(row[0]) > BATCH_TOKENS and group:
                groups.append(group)
                group = []
            group.append(row)
        rng.shuffle(groups)  # the last, unfinished group is dropped
        for group in groups:
            yield pad(group)


def pad(group: list[tuple[list[int], list[bool]]]) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.zeros(len(group), max(len(row[0]) for row in group), dtype=torch.long)
    learn = torch.zeros(ids.shape, dtype=torch.bool)
    for i, (tokens, flags) in enumerate(group):
        ids[i, : len(tokens)] = torch.tensor(tokens)
        learn[i, : len(flags)] = torch.tensor(flags)
    return ids, learn


def train_model(tokenizer: Tokenizer, steps: int = STEPS, report=print) -> Llama:
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    model = Llama(CONFIG)
    count = sum(p.numel() for p in model.parameters())
    report(f"{count} parameters, {steps} steps")
    decayed = [p for p in model.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}],
        betas=(0.9, 0.98), fused=True,
    )  # fmt: skip
    source = batches(Encoder(tokenizer), SEED + 1)
    begin, total, tokens = time.monotonic(), 0.0, 0
    for step in range(1, steps + 1):
        rate = PEAK_RATE * min(step / WARMUP_STEPS, (steps + 1 - step) / (steps - WARMUP_STEPS))
        for group in optimizer.param_groups:
            group["lr"] = rate
        ids, learn = next(source)
        hidden = model.hidden(ids[:, :-1])[learn[:, 1:]]
        loss = F.cross_entropy(model.logits(hidden), ids[:, 1:][learn[:, 1:]])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        total, tokens = total + loss.item(), tokens + ids.numel()
        if step % 100 == 0:
            seconds = time.monotonic() - begin
            report(f"step {step} loss {total / 100:.4f} {tokens / seconds:.0f} tokens/s "
                   f"{seconds:.0f} s")  # fmt: skip
            total = 0.0
    return model
