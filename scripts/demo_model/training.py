"""Train the tokenizer and the model, and save them as any Hugging Face reader expects them."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .conversations import BEGIN, END
from .layout import need

if TYPE_CHECKING:
    from pathlib import Path

PAD = "<|endoftext|>"
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
VOCABULARY = 2048
CONTEXT = 1024
SHAPE = {
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": CONTEXT,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}
"""A Llama of 3.67 million parameters; vLLM's attention on CPU takes head sizes from 32 upwards."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train: AdamW, a short warm-up, then half a cosine over the time."""

    minutes: float
    seed: int
    sequences: int = 8
    tokens: int = 256
    peak_rate: float = 2e-3
    warmup_steps: int = 60
    report_every: int = 50

    def rate(self, step: int, done: float) -> float:
        """Learning rate at *step* (from 0) when the fraction *done* of the time has passed."""
        cosine = 0.5 * (1 + math.cos(math.pi * done))
        return self.peak_rate * min(1, (step + 1) / self.warmup_steps) * (0.95 * cosine + 0.05)


def train_tokenizer(conversations: list[str]) -> Any:
    """Train a byte-level BPE tokenizer with the ChatML template on *conversations*."""
    tokenizers, transformers = need("tokenizers"), need("transformers")
    byte_level = tokenizers.pre_tokenizers.ByteLevel
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = byte_level(add_prefix_space=False, use_regex=True)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, BEGIN, END],
        initial_alphabet=byte_level.alphabet(),
    )
    plain = (text.replace(BEGIN, "\n").replace(END, "\n") for text in conversations)
    bpe.train_from_iterator(plain, trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=PAD,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[BEGIN],
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def train(conversations: list[str], schedule: Schedule, folder: Path) -> None:
    """Train tokenizer and model on *conversations* and save both, in 32 bits, to *folder*."""
    torch, numpy = need("torch"), need("numpy")
    torch.manual_seed(schedule.seed)
    tokenizer = train_tokenizer(conversations)
    encoded = tokenizer.backend_tokenizer.encode_batch(conversations)
    data = numpy.array([token for text in encoded for token in text.ids], dtype=numpy.int64)
    model = new_model(tokenizer)
    optimise(model, torch.from_numpy(data), schedule)
    model.eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def new_model(tokenizer: Any) -> Any:
    """Make an untrained model for *tokenizer*."""
    transformers = need("transformers")
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **SHAPE,
    )
    return transformers.LlamaForCausalLM(config)


def optimise(model: Any, data: Any, schedule: Schedule) -> None:
    """Train *model* on random windows of *data* (tokens, one dimension) until the time is up."""
    torch = need("torch")
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True)
    start, step, smooth = time.monotonic(), 0, None
    while (done := (time.monotonic() - start) / (60 * schedule.minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step, done)
        loss = one_step(model, optimizer, windows(data, schedule))
        step += 1
        smooth = loss if smooth is None else 0.95 * smooth + 0.05 * loss
        if step % schedule.report_every == 0:
            print(f"step {step}: loss {smooth:.3f}, {done:.0%} of the time", flush=True)


def windows(data: Any, schedule: Schedule) -> Any:
    """Draw a batch of windows, one token longer than a sequence, from *data*."""
    torch = need("torch")
    starts = torch.randint(len(data) - schedule.tokens - 1, (schedule.sequences, 1))
    return data[starts + torch.arange(schedule.tokens + 1)]


def one_step(model: Any, optimizer: Any, batch: Any) -> float:
    """Make one step of gradient descent on *batch* and return its loss."""
    torch = need("torch")
    logits = model(batch[:, :-1], use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return float(loss.detach())


def export(checkpoint: Path, folder: Path) -> None:
    """Save the model of *checkpoint* in 16-bit floats to *folder*, readable for everybody."""
    torch, transformers = need("torch"), need("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float16)
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # transformers 5 writes names that transformers 4, and servers built on it, do not know.
    edit_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": TEMPLATE},
        drop=("backend", "is_local", "local_files_only"),
    )
    edit_json(folder / "config.json", {"rope_theta": SHAPE["rope_theta"]})
    for file in folder.iterdir():
        file.chmod(0o644)


def edit_json(file: Path, changes: dict[str, Any], drop: tuple[str, ...] = ()) -> None:
    """Set and drop keys of the JSON object in *file*."""
    old = json.loads(file.read_text(encoding="utf-8"))
    content = {key: value for key, value in old.items() if key not in drop} | changes
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
