"""A GGUF file opened as a checkpoint."""

import json
from pathlib import Path

from submodels.checkpoint.checkpoint import CONFIG_FILE, Checkpoint
from submodels.checkpoint.gguf.config import check_supported, gguf_config
from submodels.checkpoint.gguf.file import read_gguf
from submodels.checkpoint.gguf.tensors import gguf_tensors
from submodels.checkpoint.gguf.tokenizer import write_tokenizer
from submodels.checkpoint.gguf.vocabulary import read_vocabulary
from submodels.errors import CheckpointError


def open_gguf(path: Path, folder: Path) -> Checkpoint:
    """The checkpoint in a GGUF file, with configuration and tokenizer written into `folder`.

    Raises:
        UnsupportedModelError: a model, number format or tokenizer that is refused by name.
        CheckpointError: a file is missing, cut short, or corrupt.
    """
    file = read_gguf(path)
    check_supported(file)
    config = gguf_config(file)
    tensors = gguf_tensors(file, config["head_dim"])
    vocabulary = read_vocabulary(file)
    if len(vocabulary.tokens) > config["vocab_size"]:
        raise CheckpointError(
            f"{path} has {len(vocabulary.tokens)} tokens, but {config['vocab_size']} embeddings"
        )
    config |= {
        "bos_token_id": vocabulary.special_id("bos"),
        "eos_token_id": list(vocabulary.end_ids),
        # Else it is that of a family's first model, which may be no token of this one.
        "pad_token_id": vocabulary.special_id("padding"),
    }
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
    write_tokenizer(vocabulary, folder)
    return Checkpoint(path, folder, tensors)
