"""What the unsplit model says, by `transformers` itself."""

import importlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    GenerationConfig,
)
from transformers.utils import logging as transformers_logging

from hat.verify.compare import Reference, Text
from hat.verify.dequantised import dequantised_model, is_quantised
from hat.verify.own_answers import OwnAnswers
from hat.verify.settings import DRAWN_TEMPERATURE, DRAWN_TOKENS, DRAWN_TOP_K, Dtype
from submodels.checkpoint.checkpoint import CONFIG_FILE, read_json
from submodels.checkpoint.gguf.names import part_paths
from submodels.checkpoint.opening import opened_checkpoint
from submodels.checkpoint.other_forms import is_adapter

Advance = Callable[[], None]

_READ_BY_TRANSFORMERS = ("llama", "mistral", "qwen2", "qwen3")


def place_for_transformers(model: Path) -> dict[str, Any]:
    """How `from_pretrained` of transformers is told of a checkpoint's folder or a GGUF file.

    Raises:
        ValueError: a GGUF model in parts, of which transformers would make up all but the first.
    """
    if model.is_dir():
        return {"pretrained_model_name_or_path": model}
    if len(part_paths(model)) > 1:
        raise ValueError("it reads no GGUF model in parts; join them with llama-gguf-split --merge")
    return {"pretrained_model_name_or_path": model.parent, "gguf_file": model.name}


def tokenizer_place(model: Path) -> dict[str, Any]:
    """The same for the tokenizer: of an adapter without one its base model's.

    Raises:
        ValueError: as `place_for_transformers`.
    """
    own = any((model / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json"))
    return place_for_transformers(_base(model) if is_adapter(model) and not own else model)


def _base(model: Path) -> Path:
    """What an adapter is merged into; of a model itself."""
    if not is_adapter(model):
        return model
    from submodels.checkpoint.lora.opening import base_of

    return base_of(model)


class UnsplitModel:
    """The whole model of a checkpoint. `stop_ids` are those that transformers reads there.

    `long_context`: LongRoPE's frequencies for texts beyond the original length hold for all.

    Raises:
        OSError, ValueError, NotImplementedError: transformers cannot load it.
    """

    def __init__(self, model: Path, dtype: Dtype, long_context: bool = False) -> None:
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        place = place_for_transformers(_base(model))
        with _told_in_a_line(place):
            self._model: Any = _loaded(place, model, getattr(torch, dtype), long_context)
            tokenizer = AutoTokenizer.from_pretrained(**tokenizer_place(model))
        if tokenizer.chat_template is None:
            tokenizer.chat_template = template_of_processor(model)
        self.stop_ids = _ends_of_text(tokenizer, self._model)
        self.own = OwnAnswers(self._model, tokenizer, self.stop_ids)
        """Answers with nothing of ours in the way to them."""
        self.has_template = tokenizer.chat_template is not None
        # The checkpoint's own settings may hold penalties, which greedy must not mean.
        self._model.generation_config = GenerationConfig()

    def greedy(self, prompt_ids: Sequence[int], max_tokens: int) -> Reference:
        """Greedy continuation; a stop token that ended it is included.

        With a sliding window of one key, transformers' cache keeps every key instead of none and
        `generate` contradicts the model's own forward pass; there it runs without a cache.
        """
        with torch.inference_mode():
            out = self._model.generate(
                torch.tensor([list(prompt_ids)]),
                attention_mask=torch.ones(1, len(prompt_ids), dtype=torch.long),
                do_sample=False,
                max_new_tokens=max_tokens,
                use_cache=getattr(self._model.config.get_text_config(), "sliding_window", None)
                != 1,
                return_dict_in_generate=True,
                output_logits=True,
                eos_token_id=sorted(self.stop_ids) or None,
                pad_token_id=0,
            )
        logits = torch.stack(out.logits)[:, 0].float()
        ids = out.sequences[0, len(prompt_ids) :]
        top = logits.topk(2, dim=-1).values
        logprobs = logits.log_softmax(-1).gather(1, ids.unsqueeze(1))[:, 0]
        margins = (top[:, 0] - top[:, 1]).tolist()
        return Reference(tuple(ids.tolist()), tuple(logprobs.tolist()), tuple(margins))

    def target(self, prompt_ids: Sequence[int], advance: Advance) -> dict[Text, float]:
        """The exact probability of every text that may be drawn."""
        beginnings: dict[Text, float] = {(): 1.0}
        for _ in range(DRAWN_TOKENS):
            rows = torch.tensor([[*prompt_ids, *text] for text in beginnings])
            with torch.inference_mode():
                logits = self._model(rows).logits[:, -1].double()
            top = (logits / DRAWN_TEMPERATURE).topk(DRAWN_TOP_K)
            shares = top.values.softmax(-1)
            beginnings = {
                (*text, int(token)): probability * float(share)
                for (text, probability), tokens, weights in zip(
                    beginnings.items(), top.indices, shares, strict=True
                )
                for token, share in zip(tokens, weights, strict=True)
            }
            advance()
        return beginnings


@contextmanager
def _told_in_a_line(place: Mapping[str, Any]) -> Iterator[None]:
    """transformers' reader of GGUF files raises whatever it comes upon.

    Raises:
        ValueError: instead of that.
    """
    try:
        yield
    except (OSError, ValueError, NotImplementedError):
        raise
    except Exception as error:
        if "gguf_file" not in place:
            raise
        reason = " ".join(f"{type(error).__name__} {error}".split())
        raise ValueError(f"its reader of GGUF files ends with {reason}") from error


def _loaded(place: Mapping[str, Any], model: Path, dtype: torch.dtype, long_context: bool) -> Any:
    config = _config_of_gguf(place, model) if "gguf_file" in place else None
    if long_context:
        config = config or AutoConfig.from_pretrained(**place)
        config.rope_parameters = _long_rope(config.rope_parameters)
    loaded = whole_model(place, dtype, config)
    return _with_adapter(loaded, model) if is_adapter(model) else loaded


def whole_model(place: Mapping[str, Any], dtype: torch.dtype, config: Any = None) -> Any:
    """The model by the class that transformers has for it, also where it sees pictures as well.

    `config`: instead of the one that transformers reads.

    Raises:
        OSError, ValueError, NotImplementedError: transformers cannot load it.
    """
    config = config or AutoConfig.from_pretrained(**place)
    if getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None:
        # Others leave the cap out, which releases before 5.24 do not say.
        config._attn_implementation = "eager"
    classes: Any = AutoModelForCausalLM
    if type(config) not in AutoModelForCausalLM._model_mapping:
        classes = AutoModelForImageTextToText
    if is_quantised(place, config):
        return dequantised_model(classes, place, config).to(dtype).eval()
    return classes.from_pretrained(**place, config=config, dtype=dtype).eval()


def _config_of_gguf(place: Mapping[str, Any], model: Path) -> Any:
    """A GGUF file's configuration, of which transformers would not read all.

    Of some families it reads all but the scaling of rotary embeddings; of the others ours is taken,
    so that what is compared are its tensors.
    """
    with opened_checkpoint(model) as checkpoint:
        ours = read_json(checkpoint.folder / CONFIG_FILE)
        if ours["model_type"] not in _READ_BY_TRANSFORMERS:
            return AutoConfig.from_pretrained(checkpoint.folder)
    config = AutoConfig.from_pretrained(**place)
    config.rope_parameters = ours["rope_parameters"]
    return config


def _long_rope(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {**parameters, "short_factor": parameters["long_factor"]}


def _with_adapter(model: Any, adapter: Path) -> Any:
    """The model with an adapter merged into it by peft.

    Raises:
        ValueError: peft is not installed, or cannot load it.
    """
    try:
        peft = importlib.import_module("peft")
    except ImportError as error:
        raise ValueError(f"{adapter} is an adapter; comparing it needs peft") from error
    return peft.PeftModel.from_pretrained(model, adapter).merge_and_unload().eval()


def template_of_processor(folder: Path) -> str | None:
    """What a checkpoint's processor has; asked for by name, since it needs more packages."""
    path = folder / "chat_template.json"
    if not path.is_file():
        return None
    template: str | None = json.loads(path.read_text()).get("chat_template")
    return template


def _ends_of_text(tokenizer: Any, model: Any) -> frozenset[int]:
    """The ids that end a text by transformers' own reading of model and tokenizer.

    Nothing of ours takes part in it: a check that shares its assumptions finds nothing.
    """
    named = model.generation_config.eos_token_id
    config = model.config.get_text_config()
    named = config.eos_token_id if named is None else named
    ids = set(named if isinstance(named, list) else [] if named is None else [named])
    own = tokenizer.eos_token_id
    if own is not None:
        ids.add(own)
    return frozenset(token_id for token_id in ids if token_id < config.vocab_size)
