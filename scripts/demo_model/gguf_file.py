"""Write a Llama-architecture Hugging Face folder as a GGUF file in 16-bit floats."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from .layout import need

if TYPE_CHECKING:
    from pathlib import Path

NAME = "model-tiny"
LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def write_gguf(folder: Path, file: Path) -> None:
    """Convert the model in *folder* (safetensors and tokenizer, tied embeddings) to *file*.

    llama.cpp's own converter knows only registered tokenizers; the names are those of its
    gguf-py constants.
    """
    gguf = need("gguf")
    config = read_json(folder / "config.json")
    writer = gguf.GGUFWriter(file, "llama")
    add_shape(writer, config)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    add_tokenizer(writer, folder, gguf.TokenType)
    add_tensors(writer, folder, config)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_json(file: Path) -> dict[str, Any]:
    """Read the JSON object in *file*."""
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def add_shape(writer: Any, config: dict[str, Any]) -> None:
    """Write the sizes of the model."""
    writer.add_name(NAME)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])


def add_tokenizer(writer: Any, folder: Path, token_type: Any) -> None:
    """Write the tokenizer: llama.cpp's pre-tokenizer "gpt-2" splits as tokenizers' ByteLevel."""
    tokenizer = read_json(folder / "tokenizer.json")
    names = read_json(folder / "tokenizer_config.json")
    special = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    ids = {**tokenizer["model"]["vocab"], **special}
    tokens = sorted(ids, key=ids.__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(
        [token_type.CONTROL if token in special else token_type.NORMAL for token in tokens]
    )
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(ids[names["bos_token"]])
    writer.add_eos_token_id(ids[names["eos_token"]])
    writer.add_pad_token_id(ids[names["pad_token"]])
    writer.add_add_bos_token(False)
    writer.add_chat_template((folder / "chat_template.jinja").read_text(encoding="utf-8"))


def add_tensors(writer: Any, folder: Path, config: dict[str, Any]) -> None:
    """Write the weights: matrices in 16 bits, norms in 32."""
    weights = need("safetensors.numpy").load_file(folder / "model.safetensors")
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    writer.add_tensor("token_embd.weight", half(weights["model.embed_tokens.weight"]))
    writer.add_tensor("output_norm.weight", half(weights["model.norm.weight"]))
    for layer in range(config["num_hidden_layers"]):
        for target, source in LAYER_TENSORS.items():
            tensor = weights[f"model.layers.{layer}.{source}.weight"]
            if target in heads:
                tensor = interleave(tensor, heads[target])
            writer.add_tensor(f"blk.{layer}.{target}.weight", half(tensor))


def half(tensor: Any) -> Any:
    """Give *tensor* the precision that llama.cpp expects: 32 bits for vectors, else 16."""
    numpy = need("numpy")
    return numpy.ascontiguousarray(tensor, numpy.float32 if tensor.ndim == 1 else numpy.float16)


def interleave(tensor: Any, heads: int) -> Any:
    """Reorder rows from halves of a rotated head, as in transformers, to llama.cpp's pairs."""
    rows, columns = tensor.shape
    return tensor.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, -1)
