"""A GGUF as a Hugging Face checkpoint, and casts: weights, configuration and tokenizer against llama.cpp's own."""

from __future__ import annotations

import itertools
import json
import random
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.base.errors import CellFailure, FailureKind
from bench.base.paths import cache_dir
from bench.base.progress import Progress
from bench.engines.llama_cpp_scoring import LlamaCppScorer
from bench.engines.scoring import TokenWindows
from bench.engines.transformers_scoring import TransformersScorer
from bench.toolchains.toolchain import Toolchain
from bench.toolchains.worker import run_worker
from quantize.artefact import Artefact
from quantize.models import LocalConfig
from quantize.run import quantize
from quantize.schemes.gguf import GgufType
from quantize.schemes.unquantized import FloatType, UnquantizedConfig
from quantize.source import resolve
from tests.integration.quantize.real_llama_cpp import artefact, packaged_model, scorable, toolchain
from tests.integration.quantize.real_transformers import packaged_checkpoint, transformers_toolchain
from tests.support import CHECKOUT
from tests.unit.quantize.gguf_writer import ARRAY, FLOAT32, STRING, UINT32, pair, strings, text, write_gguf

pytestmark = pytest.mark.toolchains

HERE = Path(__file__).parent
INT32 = 5
LLAMA = pair("general.architecture", STRING, text("llama"))
WORKER = CHECKOUT / "quantize" / "workers" / "hf_checkpoint.py"
TEXT = CHECKOUT / "bench" / "quality" / "texts" / "default.txt"


def read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((packaged_checkpoint().directory / name).read_text(encoding="utf-8"))
    return content


def test_the_checkpoint_is_the_model_that_llama_cpp_runs(tmp_path: Path) -> None:
    """Perplexity of BF16 weights in float32 arithmetic against F16 weights, on the same ids."""
    gguf = scorable(artefact(GgufType.F16))
    llama, ours = LlamaCppScorer(toolchain()), TransformersScorer(transformers_toolchain())
    tokens = llama.tokenize(gguf, TEXT, work_dir=tmp_path / "tokens", progress=Progress())
    same = ours.tokenize(scorable(packaged_checkpoint()), TEXT, work_dir=tmp_path / "own", progress=Progress())
    assert same.ids.tolist() == tokens.ids.tolist()
    assert same.byte_lengths.tolist() == tokens.byte_lengths.tolist()
    assert int(same.byte_lengths.sum()) == len(TEXT.read_bytes().removesuffix(b"\n"))
    assert (same.bos_id, same.vocabulary) == (tokens.bos_id, tokens.vocabulary)
    windows = TokenWindows(ids=tokens.ids[: 2 * 192].reshape(2, 192), first=63)

    def nll(scorer: LlamaCppScorer | TransformersScorer, made: Artefact) -> NDArray[np.float64]:
        work = tmp_path / scorer.engine
        scores = scorer.score(windows, variant=scorable(made), baseline=None, work_dir=work, progress=Progress())
        assert scores.non_finite == 0
        return scores.nll

    expected, found = nll(llama, artefact(GgufType.F16)), nll(ours, packaged_checkpoint())
    assert found.shape == expected.shape == (2, 128)
    assert expected.mean() > 2, "the text is not trivial"
    assert found.mean() == pytest.approx(expected.mean(), abs=0.01)
    assert np.abs(found - expected).mean() < 0.05


def test_configuration_and_special_tokens() -> None:
    config, generation, tokenizer = read("config.json"), read("generation_config.json"), read("tokenizer_config.json")
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["rms_norm_eps"] == 1e-5, "and not 9.999999747378752e-06, as a GGUF holds it"
    assert config["dtype"] == "bfloat16"
    assert config["rope_parameters"]["rope_theta"] == 100_000
    assert config["max_position_embeddings"] == 8192
    assert "quantization_config" not in config
    ids = {name: generation[f"{name}_token_id"] for name in ("bos", "eos", "pad")}
    assert ids == {"bos": 1, "eos": 2, "pad": 2}
    assert tokenizer["model_max_length"] == 8192
    assert (tokenizer["bos_token"], tokenizer["eos_token"]) == ("<|im_start|>", "<|im_end|>")
    assert "<|im_start|>assistant" in (packaged_checkpoint().directory / "chat_template.jinja").read_text()
    manifest = packaged_checkpoint().manifest
    assert (manifest["label"], manifest["parameters"], manifest["warnings"]) == ("BF16", 134_515_008, [])
    assert {row["type"] for row in manifest["tensor_types"]} == {"BF16"}


TEXTS = [
    *("Hello world", "1 22 333 4444 55555 1234567890", " 1  2   3\t4\n5", "3.14159, 1,000,000 and ½ ² Ⅷ ٣٤", "A1b2C3"),
    *("I'm he'll WE'VE don'T 'S 1's", "  leading", "trailing  ", "a\n\n\nb\r\n\r\nc", " \t \n mixed \n\t ", "\n" * 9),
    *(
        "日本語のテキスト 中文 한국어",
        "😀👩‍👩‍👧 e\u0301 n\u0303 \u200d\ufeff",
        "שלום عليكم",
        "naïve Ünïcödé",
        "ſ ﬁ İ ı",
    ),
    *(
        "def f(x):\n    return x ** 2  # !!\n\n\nclass A: pass",
        "http://x.y/z?q=1&r=2",
        "...!!!???",
        "a_b__c--d",
        "$5 €6 +7",
    ),
    *("<|im_start|>user\nHi<|im_end|>", "<|endoftext|>", "a<|im_end|>b", "<|im_start|", "\x00\x01\x7f", "'", "''s"),
    *("\u00a0nbsp\u3000wide\u2028sep\x85nel", " " * 40 + "x" + " " * 17, "\t\t\tif"),
]
_LETTERS = "aZé 1２½٣  \t\n\r'’.,!-_日の한😀\u0301\u200d<|>$sSmtT"


def drawn_texts(count: int) -> list[str]:
    """Letters of every kind in every neighbourhood."""
    draw = random.Random(7)
    return ["".join(draw.choice(_LETTERS) for _ in range(draw.randint(1, 24))) for _ in range(count)]


def byte_letters() -> list[str]:
    """The letter that stands for each byte in byte-level vocabularies."""
    plain = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = itertools.count(256)
    return [chr(byte if byte in plain else next(others)) for byte in range(256)]


def telltale_vocabulary(target: Path, pre_tokenizer: str) -> Path:
    """A GGUF of a vocabulary alone, in which all pairs and the digits' triples merge: it shows where a text is cut.

    The packaged one, for example, has no token of two digits. Some tokens cannot be reached by merges.
    """
    letters = byte_letters()
    used = sorted({letters[byte] for byte in _LETTERS.encode()})
    digits = [letter for letter in used if letter.isdecimal() and letter.isascii()]
    pairs = [first + second for first in used for second in used]
    triples = [(first + second, third) for first in digits for second in digits for third in digits]
    merges = [*(f"{pair[0]} {pair[1]}" for pair in pairs), *(f"{pair} {third}" for pair, third in triples)]
    words = ["ZZZZ", "tttt", "sSmt"]
    special = {"<s>": 3, "<|": 4, "|>|": 3}
    tokens = [*letters, *dict.fromkeys([*pairs, *map("".join, triples), *words])]
    tokens = [token for token in tokens if token not in special] + list(special)
    kinds = [special.get(token, 1) for token in tokens]
    metadata = [
        LLAMA,
        pair("tokenizer.ggml.model", STRING, text("gpt2")),
        pair("tokenizer.ggml.pre", STRING, text(pre_tokenizer)),
        pair("tokenizer.ggml.tokens", ARRAY, strings(tokens)),
        pair("tokenizer.ggml.token_type", ARRAY, struct.pack(f"<IQ{len(kinds)}i", INT32, len(kinds), *kinds)),
        pair("tokenizer.ggml.merges", ARRAY, strings([merge for merge in merges if merge != "< |"])),
        pair("tokenizer.ggml.bos_token_id", UINT32, struct.pack("<I", tokens.index("<s>"))),
    ]
    return write_gguf(target, [], pairs=metadata, odd=False)


def ids_of(source: Path, files: dict[str, Path], texts: list[str], work: Path) -> tuple[Any, Any]:
    """Ours of the vocabulary in `source` under each name in `files`, and llama.cpp's of each file, by name."""

    def ask(tools: Toolchain, name: str, **asked: Any) -> Any:
        return run_worker(
            tools, HERE / name, {**asked, "texts": texts}, work_dir=work, log=work / "log", progress=Progress()
        )["ids"]

    ours = ask(transformers_toolchain(), "gguf_tokens.py", source=str(source), names=list(files), worker=str(WORKER))
    theirs = ask(toolchain(), "llama_tokens.py", files=[str(file) for file in files.values()])
    return ours, {name: theirs[str(file)] for name, file in files.items()}


def differences(ours: Any, theirs: Any, texts: list[str]) -> list[Any]:
    """Texts with other ids, as texts and as prompts."""
    return [
        (name, kind, content, mine, other)
        for name in theirs
        for kind in ("text", "prompt")
        for content, mine, other in zip(texts, ours[name][kind], theirs[name][kind], strict=True)
        if mine != other
    ]


def pre_tokenizers() -> list[str]:
    """The names that are taken over: the table's source alone, because its module needs the toolchain."""
    source, found = WORKER.read_text(encoding="utf-8"), dict[str, Any]()
    exec(source[source.index("WORDS = r") : source.index("#: Where a token")], found)
    return list(found["PRE_TOKENIZERS"])


def test_every_pre_tokenizer_cuts_as_llama_cpp_does(tmp_path: Path) -> None:
    names, texts = pre_tokenizers(), TEXTS + drawn_texts(300)
    assert len(names) == 16
    files = {name: telltale_vocabulary(tmp_path / f"{name}.gguf", name) for name in names}
    ours, theirs = ids_of(files["smollm"], files, texts, tmp_path)
    assert differences(ours, theirs, texts)[:5] == []
    one_of_each = {name: str(ours[name]["text"]) for name in ("smollm", "gpt-2", "llama-bpe", "dbrx", "qwen2")}
    assert len(set(one_of_each.values())) == len(one_of_each), "the names make a difference"


def test_the_packaged_models_tokenizer_is_llama_cpps(tmp_path: Path) -> None:
    source = resolve(packaged_model(), cache=cache_dir(), progress=Progress()).path
    texts = TEXTS + drawn_texts(300)
    ours, theirs = ids_of(source, {"": source}, texts, tmp_path)
    assert differences(ours, theirs, texts)[:5] == []
    assert ours[""]["decoded"] == texts, "nothing is lost"


# GGUFs that say more than is read


@pytest.mark.parametrize(
    ("tensor", "pairs", "expected"),
    [
        ("rope_freqs.weight", [], r"it scales rotary positions \(rope_freqs\.weight\)"),
        ("x", [pair("llama.rope.scaling.type", STRING, text("yarn"))], r"\(rope\.scaling\.type=yarn\)"),
        (
            "x",
            [
                pair("tokenizer.ggml.model", STRING, text("gpt2")),
                pair("tokenizer.ggml.pre", STRING, text("imaginary")),
                pair("llama.rope.scaling.factor", FLOAT32, struct.pack("<f", 1.0)),
            ],
            "its pre-tokenizer 'imaginary' is not one of those that are taken over: codeshell, ",
        ),
    ],
)
def test_a_gguf_that_says_more_is_refused(tensor: str, pairs: list[bytes], expected: str, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "m.gguf", [(tensor, (32, 4), 0)], pairs=[LLAMA, *pairs], odd=False)
    with pytest.raises(CellFailure, match=expected) as caught:
        quantize(LocalConfig(path=str(file)), UnquantizedConfig(), cache=tmp_path / "cache", progress=Progress())
    assert caught.value.kind is FailureKind.QUANTIZER
    assert "use a checkpoint in safetensors" in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


# Casts

Values = Mapping[str, NDArray[Any]]
_KINDS = {"float32": "F32", "float16": "F16", "uint16": "BF16", "int32": "I32"}


def bf16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Rounded to nearest, ties to even, as bits."""
    bits = values.view(np.uint32).astype(np.uint64)
    rounded: NDArray[np.uint16] = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return rounded


def write_values(path: Path, tensors: Values) -> None:
    """A safetensors file; 16-bit unsigned integers stand for the bits of BF16."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, values in tensors.items():
        end = len(data) + values.nbytes
        header[name] = {"dtype": _KINDS[values.dtype.name], "shape": values.shape, "data_offsets": [len(data), end]}
        data += values.tobytes()
    head = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + data)


def read_values(path: Path) -> dict[str, NDArray[Any]]:
    raw = path.read_bytes()
    (length,) = struct.unpack_from("<Q", raw)
    kinds = {kind: np.dtype(name) for name, kind in _KINDS.items()}
    found = {}
    for name, entry in json.loads(raw[8 : 8 + length]).items():
        if name != "__metadata__":
            start, end = (8 + length + offset for offset in entry["data_offsets"])
            found[name] = np.frombuffer(raw[start:end], kinds[entry["dtype"]]).reshape(entry["shape"])
    return found


def folder(path: Path, shards: Mapping[str, Values]) -> Path:
    path.mkdir()
    config = {"model_type": "llama", "torch_dtype": "float32", "text_config": {"dtype": "float32", "hidden_size": 8}}
    (path / "config.json").write_text(json.dumps(config))
    (path / "tokenizer.json").write_text('{"kept": true}')
    for name, tensors in shards.items():
        write_values(path / name, tensors)
    if len(shards) > 1:
        table = {"weight_map": {tensor: name for name, tensors in shards.items() for tensor in tensors}}
        (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": 1}, **table}))
    return path


def cast(path: Path, dtype: FloatType, cache: Path) -> Artefact:
    return quantize(LocalConfig(path=str(path)), UnquantizedConfig(dtype=dtype), cache=cache, progress=Progress())


def test_casts_round_to_nearest_and_say_so(tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    matrix = draw.normal(size=(16, 8)).astype(np.float32)
    tie = np.array([[1 + 2**-8, 1 + 3 * 2**-8, -65504.0, 1e-9]], dtype=np.float32)
    counts = np.arange(4, dtype=np.int32)
    shards: dict[str, Values] = {
        "model-00001-of-00002.safetensors": {"a.weight": matrix},
        "model-00002-of-00002.safetensors": {"b.weight": tie, "c": counts},
    }
    source = folder(tmp_path / "m", shards)
    narrow = cast(source, FloatType.bf16, tmp_path / "cache")
    first, second = (read_values(narrow.directory / name) for name in shards)
    assert first["a.weight"].tolist() == bf16(matrix).tolist()
    assert second["b.weight"].tolist() == bf16(tie).tolist()
    assert second["c"].tolist() == counts.tolist()
    config = json.loads((narrow.directory / "config.json").read_text())
    assert (config["torch_dtype"], config["text_config"]["dtype"]) == ("bfloat16", "bfloat16")
    index = json.loads((narrow.directory / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 2 * (matrix.size + tie.size) + 4 * 4
    assert json.loads((narrow.directory / "tokenizer.json").read_text()) == {"kept": True}
    half = cast(source, FloatType.fp16, tmp_path / "cache")
    assert read_values(half.directory / "model-00001-of-00002.safetensors")["a.weight"].tolist() == (
        matrix.astype(np.float16).tolist()
    )
    wide = cast(folder(tmp_path / "w", {"model.safetensors": {"a": bf16(matrix)}}), FloatType.fp32, tmp_path / "cache")
    values = read_values(wide.directory / "model.safetensors")["a"]
    assert values.dtype == np.float32
    assert bf16(values).tolist() == bf16(matrix).tolist()
    assert np.array_equal(values.view(np.uint32) & 0xFFFF, np.zeros(values.shape, dtype=np.uint32))


def test_numbers_beyond_the_range_are_refused_and_named(tmp_path: Path) -> None:
    source = folder(tmp_path / "m", {"model.safetensors": {"wide.weight": np.full((4, 4), 1e5, dtype=np.float32)}})
    with pytest.raises(CellFailure, match=r"^m: wide\.weight holds numbers beyond the range of torch\.float16; choose"):
        cast(source, FloatType.fp16, tmp_path / "cache")
