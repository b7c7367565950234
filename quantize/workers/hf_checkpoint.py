"""Worker of the llmcompressor toolchain: an unquantized Hugging Face checkpoint, out of a GGUF or of a checkpoint in
another precision.

A GGUF is read by transformers; what its reading loses is put back from the GGUF's metadata: the tokenizer (see
`tokenizer_of`), special tokens, context length, and numbers as they were before they were stored in 32 bits. A GGUF
that says more than transformers reads is refused. No code of a checkpoint runs.
"""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

Progress = Callable[..., None]

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
#: What config.json calls the types.
NAMES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
#: Tensors that scale rotary positions: transformers' GGUF reader leaves them out and the model would be another.
ROTARY = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")

CONTROL, USER_DEFINED, UNKNOWN = 3, 4, 2

WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CASELESS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
#: `tokenizer.ggml.pre` → how a text is cut before byte pairs are merged: digits alone first, then a pattern. Each is
#: held against llama.cpp by tests/integration/quantize/test_unquantized.py.
PRE_TOKENIZERS: dict[str, tuple[bool, str]] = {
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"), (True, WORDS)),
    **dict.fromkeys(("gpt-2", "mpt", "olmo", "phi-2"), (False, WORDS)),
    **dict.fromkeys(("llama-bpe", "llama3", "dbrx", "smaug-bpe"), (False, CASELESS % "{1,3}")),
    **dict.fromkeys(("qwen2", "stablelm2"), (False, CASELESS % "")),
}
#: Where a token of the vocabulary is taken whole, without merging up to it; and where a BOS is added unless said.
WHOLE_TOKENS = ("llama-bpe", "llama3")


class CheckpointError(Exception):
    """A failure with a kind of its own for the reply."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def run(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Write the checkpoint into the folder `out`, which must be new."""
    source, out = Path(request["source"]), Path(request["out"])
    out.mkdir(parents=True)
    transformers.utils.logging.disable_progress_bar()
    write = from_gguf if request["task"] == "gguf" else cast_folder
    return {**write(source, out, request["dtype"], progress), "transformers": transformers.__version__}


def from_gguf(source: Path, out: Path, dtype: str, progress: Progress) -> dict[str, Any]:
    """GGUF → safetensors, configuration, generation configuration and tokenizer."""
    metadata = Metadata(source)
    refuse_what_is_not_read(metadata)
    tokenizer, warnings = tokenizer_of(metadata)
    # What is beyond the range of 16 bits would be infinite once it is loaded so: `cast` looks at it before.
    model = load_gguf(source, torch.float32 if dtype == "fp16" else DTYPES[dtype], progress)
    config = plain_config(model.config)
    state = {name: cast(name, tensor, DTYPES[dtype]) for name, tensor in model.state_dict().items()}
    with torch.device("meta"):
        plain = type(model)(config)
    plain.load_state_dict(state, assign=True)
    plain.tie_weights()
    config.dtype = DTYPES[dtype]
    config.architectures = [type(model).__name__]
    plain.generation_config = generation_config(metadata)
    plain.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return {"architecture": type(model).__name__, "warnings": warnings}


class Metadata:
    """The header of a GGUF: values by key."""

    def __init__(self, path: Path) -> None:
        import gguf

        reader = gguf.GGUFReader(path)
        self._fields = reader.fields
        self.tensors: list[str] = [tensor.name for tensor in reader.tensors]
        self.architecture: str = self.get("general.architecture")

    def get(self, key: str, default: Any = None) -> Any:
        """The value of `key`; a list for an array."""
        field = self._fields.get(key)
        return default if field is None else field.contents()

    def of_model(self, key: str, default: Any = None) -> Any:
        """The value of a key that stands below the architecture's name."""
        return self.get(f"{self.architecture}.{key}", default)

    def token_id(self, name: str) -> int | None:
        """A special token's number by its name in the vocabulary, None where the GGUF names none."""
        found = self.get(f"tokenizer.ggml.{name}_token_id")
        return None if found is None else int(found)


def refuse_what_is_not_read(metadata: Metadata) -> None:
    """Raise CheckpointError(unsupported) where transformers would leave out something that changes the model."""
    scaling = metadata.of_model("rope.scaling.type", "none")
    rotary = [name for name in ROTARY if name in metadata.tensors]
    if rotary or (scaling != "none" and metadata.architecture != "gpt-oss"):
        what = rotary[0] if rotary else f"rope.scaling.type={scaling}"
        raise CheckpointError("unsupported", f"it scales rotary positions ({what}), which transformers does not read")


def load_gguf(source: Path, dtype: torch.dtype, progress: Progress) -> Any:
    """The model with dequantized weights; raises CheckpointError when one of them did not come from the GGUF."""
    report_tensors(progress)
    try:
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            source.parent, gguf_file=source.name, dtype=dtype, output_loading_info=True, local_files_only=True
        )
    except (ValueError, KeyError, NotImplementedError) as error:
        raise CheckpointError("unsupported", f"transformers cannot read it: {error}") from error
    for problem in ("missing_keys", "mismatched_keys", "unexpected_keys", "error_msgs"):
        if info.get(problem):
            raise CheckpointError("unsupported", f"transformers reads it with {problem}: {sorted(info[problem])[:3]}")
    return model


def report_tensors(progress: Progress) -> None:
    """Have transformers' reader report the tensors it dequantizes; it only knows bars on a terminal."""
    from transformers import modeling_gguf_pytorch_utils as reader

    def counted(tensors: Any, **_: Any) -> Iterator[Any]:
        for index, tensor in enumerate(tensors):
            yield tensor
            progress(index + 1, len(tensors), "tensors", tensor.name)

    if hasattr(reader, "tqdm"):
        reader.tqdm = counted


def plain_config(config: Any) -> Any:
    """The configuration without what says that the weights came out of a GGUF, and with its numbers as they were.

    GGUF stores numbers in 32 bits, so that an epsilon of 1e-5 is read as 9.999999747378752e-06.
    """
    plain = type(config)(**shortest(config.to_dict()))
    for name in ("quantization_config", "_model_name_or_path"):
        if hasattr(plain, name):
            delattr(plain, name)
    return plain


def shortest(value: Any) -> Any:
    """The shortest decimal that is the same number in 32 bits, in all of `value`."""
    if isinstance(value, dict):
        return {name: shortest(member) for name, member in value.items()}
    if isinstance(value, float) and math.isfinite(value) and float(np.float32(value)) == value:
        return float(str(np.float32(value)))
    return value


def generation_config(metadata: Metadata) -> Any:
    """Where an answer begins and ends; an end of turn that is not the end of text ends it too."""
    ids = {name: metadata.token_id(name) for name in ("bos", "eos", "eot")}
    pad = metadata.token_id("padding")
    ends = [token for token in dict.fromkeys((ids["eos"], ids["eot"])) if token is not None]
    eos: int | list[int] | None = ends if len(ends) > 1 else next(iter(ends), None)
    chosen = {"bos_token_id": ids["bos"], "eos_token_id": eos, "pad_token_id": pad}
    return transformers.GenerationConfig(**{name: token for name, token in chosen.items() if token is not None})


def tokenizer_of(metadata: Metadata) -> tuple[Any, list[str]]:
    """The tokenizer as llama.cpp runs it on this vocabulary, and warnings.

    transformers' own conversion of byte-level vocabularies keeps one pre-tokenizer for all of them (5.17:
    `GGUFLlamaConverter.converted` sets ByteLevel, so that digits are not split) and takes BOS for EOS; so it is built
    here. Raises CheckpointError(unsupported) for a pre-tokenizer that was never held against llama.cpp.
    """
    kind = metadata.get("tokenizer.ggml.model")
    if kind != "gpt2":
        return converted_tokenizer(metadata, kind)
    name = metadata.get("tokenizer.ggml.pre", "default")
    if name not in PRE_TOKENIZERS:
        raise CheckpointError(
            "unsupported", f"its pre-tokenizer '{name}' is not one of those that are taken over: {known_names()}"
        )
    tokens = metadata.get("tokenizer.ggml.tokens")
    special = special_tokens(metadata, tokens)
    return wrapped(metadata, byte_level(metadata, name, tokens, special)), []


def known_names() -> str:
    """The pre-tokenizers by name."""
    return ", ".join(sorted(PRE_TOKENIZERS))


def byte_level(metadata: Metadata, name: str, tokens: list[str], special: dict[str, str]) -> Any:
    """Byte pairs over bytes written as letters, cut as `tokenizer.ggml.pre` says."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

    merges = [tuple(merge.split(" ")) for merge in metadata.get("tokenizer.ggml.merges")]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    built = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=name in WHOLE_TOKENS))
    single_digits, pattern = PRE_TOKENIZERS[name]
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if single_digits else []
    if pattern == WORDS:
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True))
    else:
        steps.append(pre_tokenizers.Split(Regex(pattern), behavior="isolated"))
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    built.pre_tokenizer = pre_tokenizers.Sequence(steps) if len(steps) > 1 else steps[0]
    built.decoder = decoders.ByteLevel()
    kinds = metadata.get("tokenizer.ggml.token_type", [])
    for token, kind in zip(tokens, kinds, strict=False):
        if kind in (CONTROL, UNKNOWN):
            built.add_special_tokens([AddedToken(token, normalized=False, special=True)])
        elif kind == USER_DEFINED:
            built.add_tokens([AddedToken(token, normalized=False, special=False)])
    begins = metadata.get("tokenizer.ggml.add_bos_token", name in WHOLE_TOKENS) and "bos_token" in special
    ends = metadata.get("tokenizer.ggml.add_eos_token", False) and "eos_token" in special
    if begins or ends:
        before, after = [special["bos_token"]] if begins else [], [special["eos_token"]] if ends else []
        words = [*before, "$A", *after]
        placed = [(word, vocabulary[word]) for word in (*before, *after)]
        built.post_processor = processors.TemplateProcessing(single=words, special_tokens=placed)
    return built


def special_tokens(metadata: Metadata, tokens: list[str]) -> dict[str, str]:
    """The texts of the special tokens by their names in transformers."""
    names = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
    ids = {ours: metadata.token_id(theirs) for theirs, ours in names.items()}
    return {name: tokens[token] for name, token in ids.items() if token is not None and token < len(tokens)}


def wrapped(metadata: Metadata, backend: Any) -> Any:
    """A tokenizer of transformers with the GGUF's special tokens, chat template and context length."""
    tokens = metadata.get("tokenizer.ggml.tokens")
    context = metadata.of_model("context_length")
    wrapper = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        clean_up_tokenization_spaces=False,
        **({} if context is None else {"model_max_length": int(context)}),
        **special_tokens(metadata, tokens),
    )
    template = metadata.get("tokenizer.chat_template")
    if template is not None:
        wrapper.chat_template = template
    return wrapper


def converted_tokenizer(metadata: Metadata, kind: str) -> tuple[Any, list[str]]:
    """transformers' own conversion of another kind of vocabulary, with the special tokens the GGUF names."""
    from transformers.integrations.ggml import convert_gguf_tokenizer
    from transformers.modeling_gguf_pytorch_utils import GGUF_TO_TRANSFORMERS_MAPPING

    names = GGUF_TO_TRANSFORMERS_MAPPING["tokenizer"]["tokenizer"]
    values = {ours: metadata.get(f"tokenizer.{theirs}") for theirs, ours in names.items()}
    try:
        backend, _ = convert_gguf_tokenizer(
            metadata.architecture, {name: value for name, value in values.items() if value is not None}
        )
    except (KeyError, ValueError) as error:
        raise CheckpointError("unsupported", f"transformers cannot read its '{kind}' tokenizer: {error}") from error
    warning = (
        f"its tokenizer ('{kind}') is as transformers converts it, which was not held against llama.cpp: texts may be "
        "cut into other tokens; prefer the original checkpoint"
    )
    return wrapped(metadata, backend), [warning]


def cast_folder(source: Path, out: Path, dtype: str, progress: Progress) -> dict[str, Any]:
    """The weights of a checkpoint in another precision, file by file; its configuration says so.

    Only floating point numbers are cast. The other files are the caller's.
    """
    from safetensors import safe_open
    from safetensors.torch import save_file

    shards = sorted(source.glob("model*.safetensors"))
    size = 0
    for index, shard in enumerate(shards):
        with safe_open(shard, framework="pt") as opened:
            kept = opened.metadata() or {"format": "pt"}
            tensors = {name: cast(name, opened.get_tensor(name), DTYPES[dtype]) for name in opened.keys()}  # noqa: SIM118
        size += sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        save_file(tensors, out / shard.name, metadata=kept)
        progress(index + 1, len(shards), "files", shard.name)
    named = source / "model.safetensors.index.json"
    if named.is_file():
        table = json.loads(named.read_text(encoding="utf-8"))
        table["metadata"] = {**(table.get("metadata") or {}), "total_size": size}
        write_json(out / named.name, table)
    write_json(out / "config.json", retyped(json.loads((source / "config.json").read_text(encoding="utf-8")), dtype))
    return {"warnings": []}


def retyped(config: dict[str, Any], dtype: str) -> dict[str, Any]:
    """The configuration, those of its parts included, with the type its weights now have."""
    changed = {name: retyped(part, dtype) if isinstance(part, dict) else part for name, part in config.items()}
    present = [name for name in ("dtype", "torch_dtype") if isinstance(config.get(name), str)]
    return {**changed, **dict.fromkeys(present, NAMES[dtype])}


def cast(name: str, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A floating point tensor in `dtype`, rounded to the nearest; raises CheckpointError where numbers do not fit."""
    if not tensor.is_floating_point() or tensor.dtype == dtype:
        return tensor
    if tensor.element_size() == 1:
        raise CheckpointError("unsupported", f"{name} is {tensor.dtype}, which needs its scales to be understood")
    found = tensor.to(dtype)
    if not torch.isfinite(found).all() and torch.isfinite(tensor).all():
        raise CheckpointError("out_of_range", f"{name} holds numbers beyond the range of {dtype}")
    return found


def write_json(path: Path, content: Any) -> None:
    """In the layout that transformers writes."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
